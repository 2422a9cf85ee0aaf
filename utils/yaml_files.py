"""YAML files of others: whatever is wrong with them is one line, and none grows far beyond its size."""

import os
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError

MOST_VALUES = 100_000  # with each alias counted as what it stands for
# What PyYAML's constructors raise of a value that is not of its tag, beside their own kind of error.
_BROKEN = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class _Loader(yaml.SafeLoader):
    """Merges (`<<: [*a, *a]`) of merges double the keys; here they come to an end."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, "merges without end", node.start_mark)


def read_yaml(path: str | os.PathLike) -> dict:
    """A YAML file as a dict.

    Raises:
        UserError: no such file, not YAML, aliases that grow without end, or its top level is not a mapping.
    """
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected 'key: value' lines at the top level")
    return values


def load_yaml(path: str | os.PathLike) -> Any:
    """The value that a YAML file holds; None where it is empty.

    Raises:
        UserError: as `read_yaml`.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1})") from error
    try:
        values = yaml.load(text, _Loader)
        count = _count(values, {})
    except _BROKEN as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{place}: not YAML ({getattr(error, 'problem', None) or error})") from error
    except RecursionError as error:
        raise UserError(f"{path}: not YAML (nested too deeply)") from error
    if count > MOST_VALUES:
        raise UserError(f"{path}: its aliases stand for more than {MOST_VALUES:,} values")
    return values


def _count(value: Any, known: dict[int, int]) -> int:
    """Values within a value. RecursionError: it is deep; it holds itself."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]
