"""Typed configurations: dataclasses filled from YAML files and from `--a.b value` on the command line."""

import argparse
import dataclasses
import difflib
import math
import os
import re
from argparse import ArgumentError, RawDescriptionHelpFormatter
from typing import Any, TypeVar, get_args

import yaml

from utils.errors import UserError
from utils.files import atomic_file, read_bytes

T = TypeVar("T")
LARGEST_YAML = 1 << 20  # bytes
# PyYAML raises these on a value that does not fit its tag, besides its own kind of error.
_BROKEN = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class _NoAliases(yaml.SafeLoader):
    """The safe loader without aliases, because aliases of aliases grow without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"*{event.anchor} is an alias; write its value out"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def within(interval: str, default: Any) -> Any:
    """A dataclass field whose value must lie in an interval; `load_config` checks it. None is allowed.

    The notation is that of mathematics: "[0, 1)" is from 0 to below 1, "[1, )" is at least 1.
    """
    return dataclasses.field(default=default, metadata={"interval": interval})


def check_ranges(config: Any) -> None:
    """Check the values of a dataclass, as `load_config` does. UserError: a value outside its interval."""
    for field in dataclasses.fields(config):
        if allowed := _if_outside(field, value := getattr(config, field.name)):
            raise UserError(f"--{field.name} {value}: it must be {allowed}")


def _if_outside(field: dataclasses.Field, value: Any) -> str:
    """What a field allows, if `value` is outside its interval; otherwise an empty string."""
    interval = field.metadata.get("interval")
    if not interval or value is None:
        return ""
    low, high = (bound.strip() for bound in interval[1:-1].split(","))
    above = value >= float(low) if interval[0] == "[" else value > float(low)
    below = not high or (value <= float(high) if interval[-1] == "]" else value < float(high))
    lower = f"at least {low}" if interval[0] == "[" else f"above {low}"
    upper = f"at most {high}" if interval[-1] == "]" else f"below {high}"
    return "" if above and below else f"{lower} and {upper}" if high else lower


def load_config(cls: type[T], arguments: list[str], description: str = "") -> T:
    """Build the dataclass `cls` from a command line; nested dataclasses are the sections of the YAML file.

    The types and the intervals of `within` are checked here, the rest in the dataclass's `__post_init__`.

    Args:
        arguments: `--config file.yaml`, any number of times, of which later ones override earlier ones; then
            `--section.key value`. Lists are written as YAML: `--languages "[en, de]"`.

    Raises:
        UserError: a missing file, invalid YAML, an unknown key or a wrong value; names the file and the key.
            What `__post_init__` raises names no file.
    """
    from jsonargparse import ArgumentParser, DefaultHelpFormatter  # reader processes do not need it

    class Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keeps the lines of the description."""

    parser = ArgumentParser(
        description=description, exit_on_error=False, allow_abbrev=False, formatter_class=Help
    )
    parser.add_argument("--config", action="append", help="a YAML file; --section.key value overrides it")
    parser.add_class_arguments(cls, None)
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    before.add_argument("--config", action="append", default=[])
    parsed, place = parser.get_defaults(), "command line"
    try:
        given, rest = before.parse_known_args(arguments)
        for place in given.config:
            values = read_yaml(place)
            _check_sections(cls, values)
            parsed = parser.parse_object(values, namespace=parsed)
            _check_parsed(cls, parsed)
        place = "command line"
        _check_sections(cls, {name[2:].partition("=")[0]: "" for name in rest if name.startswith("--")})
        parsed = parser.parse_args(rest, namespace=parsed)
        _check_parsed(cls, parsed)
        values = vars(parser.instantiate(parsed))
    except (ArgumentError, OverflowError) as error:
        raise UserError(f"{place}: {_explain(str(error), cls)}") from error
    return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def _check_sections(cls: type, values: dict) -> None:
    """Refuse what the parser would take for the name of a file."""
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type) and not isinstance(values.get(field.name, {}), dict):
            raise ArgumentError(None, f"{field.name}: it is a section; give its keys ({field.name}.key)")
    if "config" in values:
        raise ArgumentError(None, "unknown key 'config'; give each file with a --config of its own")


def _check_parsed(cls: type, parsed: Any, prefix: str = "") -> None:
    """Refuse a key without a value, numbers that are not finite, and those outside their interval."""
    for field in dataclasses.fields(cls):
        value, key = getattr(parsed, field.name), f"{prefix}{field.name}"
        if value is None and type(None) not in get_args(field.type):
            raise ArgumentError(None, f"{key}: it has no value; give one, or leave the key out")
        if isinstance(value, float) and not math.isfinite(value):
            raise ArgumentError(None, f"{key} is {value}: it must be a finite number")
        if allowed := _if_outside(field, value):
            raise ArgumentError(None, f"{key} is {value}: it must be {allowed}")
        if dataclasses.is_dataclass(field.type):
            _check_parsed(field.type, value, f"{key}.")


def read_yaml(path: str | os.PathLike) -> dict:
    """A YAML file as a dict. UserError: it cannot be read, is above 1 MiB, has aliases, or is no mapping."""
    data = read_bytes(path, limit=LARGEST_YAML + 1)
    if len(data) > LARGEST_YAML:
        raise UserError(f"{path}: larger than {LARGEST_YAML >> 20} MiB")
    try:
        values = yaml.load(data.decode("utf-8-sig"), _NoAliases)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1})") from error
    except _BROKEN as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{place}: not YAML ({getattr(error, 'problem', None) or error})") from error
    except RecursionError as error:
        raise UserError(f"{path}: not YAML (nested too deeply)") from error
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: expected 'key: value' lines at the top level")
    return values or {}


def yaml_value(text: str) -> Any:
    """The value that a text has in YAML. A text that is no YAML stands for itself."""
    try:
        return yaml.load(text, _NoAliases)
    except (*_BROKEN, RecursionError):
        return text


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, in the dataclass's order; `load_config` reads it back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True, width=110)


def save_config(config: Any, path: str | os.PathLike) -> None:
    """Write `to_yaml(config)` to `path`, atomically."""
    with atomic_file(path, "w") as file:
        file.write(to_yaml(config))


def differences(old: Any, new: Any) -> list[str]:
    """The keys in which two configurations (dataclasses or nested dicts) differ, as "a.b: old -> new"."""
    was, now = _flatten(old), _flatten(new)
    pairs = {key: (was.get(key, "(absent)"), now.get(key, "(absent)")) for key in was | now}
    return [f"{key}: {before} -> {after}" for key, (before, after) in pairs.items() if before != after]


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in (dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config).items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _explain(message: str, cls: type) -> str:
    """One line from a parser's message, with the nearest known key if a key is unknown."""
    line = " ".join(message.split()).replace("Parser key ", "").replace("Expected a typing.", "expected ")
    line = re.sub(r"Expected a <class '(\w+)'>", r"expected \1", line)
    unknown = re.search(r"(?:option '|unrecognized arguments: --|Option ')([\w.]+)", line)
    if not unknown:
        return line
    keys, leaf = _keys(cls), unknown[1].split(".")[-1]
    near = difflib.get_close_matches(unknown[1], keys.values(), 1)
    near += [keys[name] for name in difflib.get_close_matches(leaf, keys, 1)]
    return f"unknown key '{unknown[1]}' ({line})" + (f"; did you mean '{near[0]}'?" if near else "")


def _keys(cls: type, prefix: str = "") -> dict[str, str]:
    """The last part of each key -> the key."""
    keys = {}
    for field in dataclasses.fields(cls):
        keys |= {field.name: prefix + field.name}
        if dataclasses.is_dataclass(field.type):
            keys |= _keys(field.type, f"{prefix}{field.name}.") | keys
    return keys
