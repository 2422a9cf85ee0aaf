"""JSON files of others, read in one way: whatever is wrong with them is one line."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from utils.errors import UserError

T = TypeVar("T")


def read_json(path: str | os.PathLike, advice: str = "") -> Any:
    """The value that a JSON file holds; a byte order mark may stand before it.

    Args:
        path: the file.
        advice: said behind a fault: what the file should hold, or what to do.

    Raises:
        UserError: it cannot be read, is empty, not UTF-8 or not JSON; names the file, and line and column.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}){_and(advice)}") from error
    return parse_json(data, str(path), advice)


def parse_json(data: bytes, where: str, advice: str = "") -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        where: what it was read from, for messages.
        advice: as of `read_json`.

    Raises:
        UserError: it is none.
    """
    if not data.strip():
        raise UserError(f"{where}: the file is empty{_and(advice)}")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start + 1}){_and(advice)}") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}, {place}: not JSON ({error.msg}){_and(advice)}") from error
    except ValueError as error:  # Python reads no whole number of more digits
        raise UserError(f"{where}: not JSON (a number of thousands of digits){_and(advice)}") from error
    except RecursionError as error:
        raise UserError(f"{where}: not JSON (nested too deeply){_and(advice)}") from error


def read_dataclass(path: str | os.PathLike, cls: type[T], advice: str = "") -> T:
    """What `dataclasses.asdict` made of a dataclass of numbers, strings and dicts of these.

    Args:
        path, advice: as of `read_json`.

    Raises:
        UserError: as `read_json`; other keys, or values of other types.
    """
    values, kinds = read_json(path, advice), get_type_hints(cls)
    wanted = {field.name: kinds[field.name] for field in dataclasses.fields(cls)}
    if not isinstance(values, dict) or values.keys() != wanted.keys():
        raise UserError(f"{path}: holds no object with the keys {', '.join(wanted)}{_and(advice)}")
    for key, kind in wanted.items():
        if not _fits(values[key], kind):
            raise UserError(f"{path}: {key} is of another type{_and(advice)}")
    return cls(**values)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(item, get_args(kind)[1]) for item in value.values())
    return type(value) in ((int, float) if kind is float else (kind,))


def _and(advice: str) -> str:
    return f"; {advice}" if advice else ""
