"""Dataclasses from command lines in the official form: `--do_train 1`, `--random_seed 1,2`, `--test_set ""`.

jsonargparse refuses such values, so argparse reads them.
"""

import argparse
import dataclasses
import difflib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from utils.errors import UserError
from utils.logging import logger

T = TypeVar("T")


def flag(
    default: Any, help: str, interval: str | None = None, choices: tuple[str, ...] | None = None, **more: Any
) -> Any:
    """A flag that decides what is learned. `interval`: see `utils.config.within`."""
    metadata = {"help": help, "interval": interval, "choices": choices, **more}
    return dataclasses.field(default=default, metadata=metadata)


def free(*arguments: Any, **options: Any) -> Any:
    """A `flag` that may change when a run is resumed, because it does not decide what is learned."""
    return flag(*arguments, **options, free=True)


def unused(default: Any, why: str) -> Any:
    """A flag that is accepted without effect; the log says why."""
    return dataclasses.field(default=default, metadata={"unused": why})


def boolean(text: str) -> bool:
    """`true`, `t`, `1`, `yes`, or `false`, `f`, `0`, `no`, in any case.

    The official code takes any other value as false, also a mistyped `ture`. Here it is refused.
    """
    if text.lower() not in ("true", "t", "1", "yes", "false", "f", "0", "no"):
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false (also t, 1, yes, f, 0, no)")
    return text.lower() in ("true", "t", "1", "yes")


def integers(text: str) -> tuple[int, ...]:
    """`1` or `1,2,3`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number or a list like 1,2,3") from None


def number(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a finite number")
    return value


_READERS = {bool: boolean, str: str, float: number, int: int, tuple[int, ...]: integers}


class Parser(argparse.ArgumentParser):
    """For the flags of scripts. UserError instead of argparse's usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Turn an empty value of any type into None: it undoes a flag that a script gives."""
        return None if arg_strings == [""] else super()._get_values(action, arg_strings)


def parse_args(cls: type[T], arguments: Sequence[str], description: str = "") -> T:
    """Make the dataclass `cls` from a command line.

    Its fields are made by `flag`, `free` and `unused`, except `given`, which receives the names on the
    command line; a flag whose value is empty is not given. It checks its values in `__post_init__`.
    UserError: an unknown flag (with the nearest known one), or a value of the wrong type.
    """
    parser = Parser(
        description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name != "given"}
    for name, field in fields.items():
        why, optional = field.metadata.get("unused"), type(None) in get_args(field.type)
        reader = _READERS[get_args(field.type)[0] if optional else field.type]
        shown = f"no effect: {why}" if why else f"{field.metadata['help']} (default: {field.default})"
        scripts, script = shown.split(":")[0], Path(sys.argv[0]).stem
        if script.startswith("run_") and scripts.startswith("run_") and script not in scripts:
            shown = argparse.SUPPRESS  # of another task
        # The official --enable_ce has no value.
        bare = {"nargs": "?", "const": True} if name == "enable_ce" else {}
        choices = field.metadata.get("choices")
        parser.add_argument(f"--{name}", type=reader, choices=choices, help=shown, **bare)
    found, unknown = parser.parse_known_args(arguments)
    if unknown and not unknown[0].startswith("-"):
        raise UserError(f"'{unknown[0]}' is where a flag was expected; a flag is written --name value")
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-")
        near = difflib.get_close_matches(name, fields, 1)
        advice = f"; did you mean --{near[0]}?" if near else " (--help lists the flags)"
        raise UserError(f"unknown flag --{name}{advice}")
    values = {name: value for name, value in vars(found).items() if value is not None}
    return cls(**values, given=tuple(values))


def log_unused(flags: Any) -> None:
    """Log one line for each given flag that has no effect."""
    fields = {field.name: field for field in dataclasses.fields(flags)}
    for name in flags.given:
        if why := fields[name].metadata.get("unused"):
            logger.info("--%s has no effect: %s", name, why)


def deciding(flags: Any) -> dict[str, Any]:
    """The flags that decide what is learned, as JSON values."""
    named = [field for field in dataclasses.fields(flags) if field.name != "given"]
    values = {f.name: getattr(flags, f.name) for f in named if not f.metadata.keys() & {"unused", "free"}}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
