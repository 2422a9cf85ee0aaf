"""A typed configuration: a dataclass filled from YAML, then from `--a.b value` on the command line."""

import dataclasses
import difflib
import math
import os
import re
from argparse import ArgumentError
from typing import Any, TypeVar, get_args

import yaml

from utils.errors import UserError
from utils.files import atomic_file
from utils.yaml_files import load_yaml

T = TypeVar("T")


def load_config(cls: type[T], arguments: list[str], description: str = "") -> T:
    """Build the dataclass `cls` from a command line.

    Args:
        cls: a dataclass; nested dataclasses are the sections of the YAML file. Types are checked, values that
            no type can express are checked in the dataclass's own `__post_init__` (raise `UserError`). A
            class variable RENAMED says what to write in place of a key that is gone.
        arguments: `--config file.yaml` (any number, later ones win) and `--section.key value`, in any order;
            what stands later on the command line wins. Lists are written as YAML: `--languages "[en, de]"`.
        description: shown by `--help`.

    Raises:
        UserError: no such file, not YAML, an unknown key, a value of the wrong type. It names file and key.
    """
    # Imported here, not above: processes that only unpickle a configuration do not parse command lines.
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        "--config",
        action="config",
        help="a YAML file; --section.key on the command line overrides it",
    )
    parser.add_class_arguments(cls, None)
    files = _config_files(arguments)
    for file in files:  # the parser's own words on what is no YAML are less clear
        load_yaml(file)
    where = f"{', '.join(files)}: " if files else ""
    try:
        parsed = parser.parse_args(arguments)
        _check_parsed(cls, parsed)
        values = vars(parser.instantiate(parsed))
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
    except ArgumentError as error:
        raise UserError(f"{where or 'configuration: '}{_explain(str(error), cls)}") from error
    except OverflowError as error:
        raise UserError(f"{where or 'configuration: '}a number is too large ({error})") from error
    except UserError as error:
        raise UserError(f"{where}{error}") from error


def _check_parsed(cls: type, parsed: Any, prefix: str = "") -> None:
    """What the parser lets pass.

    Raises:
        UserError: a key stands there with nothing behind it, a number is not finite, or a section is a single
            value.
    """
    for field in dataclasses.fields(cls):
        value, kind = getattr(parsed, field.name), field.type
        if value is None and type(None) not in get_args(kind):
            raise UserError(f"{prefix}{field.name}: nothing stands behind it; give a value, or leave it out")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{prefix}{field.name} is {value}: it must be a finite number")
        if dataclasses.is_dataclass(kind):
            if not all(hasattr(value, key.name) for key in dataclasses.fields(kind)):
                raise UserError(f"{prefix}{field.name}: a section, whose keys stand below it, and no value")
            _check_parsed(kind, value, f"{prefix}{field.name}.")


def _config_files(arguments: list[str]) -> list[str]:
    """The files that --config names."""
    found = []
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        name, equals, value = argument.partition("=")
        if name == "--config":
            found.append(value if equals else following)
    return found


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, in the order of the dataclass; `load_config` reads it back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True, width=110)


def save_config(config: Any, path: str | os.PathLike) -> None:
    """Write `to_yaml(config)` to `path`, atomically."""
    with atomic_file(path, "w") as file:
        file.write(to_yaml(config))


def differences(old: Any, new: Any) -> list[str]:
    """The keys in which two configurations (dataclasses or nested dicts) differ, as "a.b: old -> new"."""
    was, now = _flatten(old), _flatten(new)
    absent = "(absent)"
    return [
        f"{key}: {was.get(key, absent)} -> {now.get(key, absent)}"
        for key in dict.fromkeys([*was, *now])
        if was.get(key, absent) != now.get(key, absent)
    ]


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    items = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    flat: dict[str, Any] = {}
    for key, value in items.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _explain(message: str, cls: type) -> str:
    """One line from a parser's message, with the nearest known key where a key is unknown."""
    line = _one_line(message).replace("Parser key ", "").replace("Expected a typing.", "expected ")
    line = re.sub(r"Expected a <class '(\w+)'>", r"expected \1", line)
    unknown = re.search(r"option '([\w.]+)'|unrecognized arguments: --([\w.]+)|Option '([\w.]+)'", line)
    if unknown:
        name = next(group for group in unknown.groups() if group)
        for old, new in getattr(cls, "RENAMED", {}).items():
            if name in (old, old.split(".")[-1]):
                return f"{old} is gone: {new}"
        near = _nearest(name, _keys(cls))
        line = f"unknown key '{name}' ({line})" + (f"; did you mean '{near}'?" if near else "")
    return line


def _nearest(name: str, keys: list[str]) -> str | None:
    """The known key that looks most like `name`, whole or by its last part."""
    by_leaf = {key.split(".")[-1]: key for key in reversed(keys)}
    for candidates in ({key: key for key in keys}, by_leaf):
        found = difflib.get_close_matches(
            name.split(".")[-1] if candidates is by_leaf else name, candidates, 1
        )
        if found:
            return candidates[found[0]]
    return None


def _keys(cls: type, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(cls):
        names.append(prefix + field.name)
        if dataclasses.is_dataclass(field.type):
            names += _keys(field.type, f"{prefix}{field.name}.")
    return names


def _one_line(text: str) -> str:
    return " ".join(text.split())
