"""Fill a dataclass of options (ernie_m/utils/options.py) from YAML files and a command line.

The form is `--config file.yaml` and `--section.key value`, with values as in YAML. Some commands also have
words without a flag, as in `ernie-m convert FROM TO`.
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any, TypeVar, get_origin

from ernie_m.utils.command_line import (
    advice_on,
    exit_after_help,
    positional_form,
    read_flags,
    takes_many_words,
)
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import shipped
from ernie_m.utils.options import Option, options_of, sections_of
from ernie_m.utils.yaml_files import read_yaml, yaml_value

T = TypeVar("T")
CONFIG = Option(key="config", kind=str, default=MISSING)  # --config is a flag, but no field of a dataclass
YAML_NULLS = ("null", "Null", "NULL", "~")


def load_config(cls: type[T], arguments: Sequence[str] | None, description: str = "") -> T:
    """Make a dataclass from YAML files and a command line; nested dataclasses are the sections of a file.

    Args:
        arguments: `--config file.yaml`, any number of times, where a later file overrides an earlier one; and
            `--section.key value`, which overrides the files. A list is written en,de or `"[en, de]"`, as in
            YAML. Other words are the values of the positional options. None: the arguments of this process.
        description: the beginning of `--help`.

    Raises:
        UserError: a file is missing or is no YAML, a key is unknown, or a value is not accepted. The message
            names the file or the flag. `__post_init__` of the dataclass may raise other errors.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    options = options_of(cls)
    usage = [positional_form(option) for option in options.values() if option.positional]
    usage += ["[--config FILE]", "[--key VALUE]"]
    exit_after_help(arguments, cls, " ".join(usage), description)
    flags = read_flags(arguments, {CONFIG.key: CONFIG, **options}, sections_of(cls))
    # The files come first, because the command line overrides them, wherever --config stands in it.
    values: dict[str, Any] = {}
    place_of: dict[str, str] = {}  # key -> where its value stands
    config_paths = [text for name, text in flags if name == CONFIG.key]
    for path in config_paths:
        override(values, read_file(path, options, sections_of(cls)), options, path, place_of)
    on_command_line: dict[str, Any] = {}
    for name, text in flags:
        if name == CONFIG.key:
            continue
        option = options[name]
        if takes_many_words(option):  # each word is one item of the list; any text is accepted
            on_command_line.setdefault(name, []).append(text)
        else:
            on_command_line[name] = option.accept(yaml_form(option, text), f"{option.flag} {text}")
    override(values, on_command_line, options, "command line", place_of)
    missing = [
        option.flag for name, option in options.items() if option.default is MISSING and name not in values
    ]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given (--help lists the flags)")
    try:
        return build(cls, values)
    except UserError as error:  # from `__post_init__`, which does not know where the values come from
        places = [*config_paths, "command line"] if config_paths and on_command_line else config_paths
        raise UserError(": ".join([*places, str(error)])) from error


def yaml_form(option: Option, text: str) -> Any:
    """The value of a flag's text, before `Option.accept`: `a,b` or `[a, b]`, `{a: 1}`, `true`, `null`.

    A number stays a text, which `Option.accept` reads, because YAML 1.1 takes 1e-4 for a text.
    """
    if text in YAML_NULLS and option.may_be_none:
        return None
    if get_origin(option.kind) is list and not text.startswith("["):
        return [part.strip() for part in text.split(",")]
    if option.kind is bool or get_origin(option.kind) in (list, dict):
        return yaml_value(text)
    return text


def read_file(path: str, options: Mapping[str, Option], sections: Iterable[str]) -> dict[str, Any]:
    """The values of a YAML file, by their keys.

    Raises:
        UserError: the file cannot be read, a key is unknown, or a value is not accepted.
    """
    values: dict[str, Any] = {}
    for key, value in keys_and_values(read_yaml(shipped(path)), sections, path):
        if key in values:  # as "a.b: 1" and as "a: {b: 1}"
            raise UserError(f"{path}: the key '{key}' is there twice")
        if key not in options:
            raise UserError(f"{path}: unknown key '{key}'; {advice_on(key, options) or 'docs name the keys'}")
        if value is None and not options[key].may_be_none:
            raise UserError(f"{path}: {key}: it has no value; give one, or leave the key out")
        values[key] = options[key].accept(value, f"{path}: {key} is {value}")
    return values


def keys_and_values(
    tree: Mapping[Any, Any], sections: Iterable[str], path: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """The keys of a YAML file with their values; those in a section as "section.key".

    Raises:
        UserError: a section has a value instead of keys.
    """
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key not in sections:
            yield key, value
        elif isinstance(value, dict):
            yield from keys_and_values(value, sections, path, f"{key}.")
        else:
            raise UserError(f"{path}: {key}: it is a section; give its keys ({key}.key)")


def override(
    values: dict[str, Any],
    later: Mapping[str, Any],
    options: Mapping[str, Option],
    place: str,
    place_of: dict[str, str],
) -> None:
    """Override values by later ones, those of a file or of the command line.

    One option may replace another, as a number of tokens replaces a number of steps (`replaces` of
    `ernie_m.utils.options.option`). Of the two, the one that is given last counts: the other one is removed
    from the earlier values, and so returns to its default.

    Args:
        place: where the later values stand, the beginning of the error.
        place_of: key -> where its earlier value stands; the later ones are added.

    Raises:
        UserError: the later values have both an option and the one that it replaces; or they have an option,
            and only the earlier values have the next one (`next_one` of `ernie_m.utils.options.option`).
    """
    for key, option in options.items():
        section, dot, _ = key.rpartition(".")  # the names in `option` are those of keys in the same section
        next_one = f"{section}{dot}{option.next_one}"
        if option.next_one and key in later and next_one not in later and values.get(next_one):
            raise UserError(
                f"{place}: {key} is given alone, and {next_one} of {place_of[next_one]} would take its place "
                f"later in the run: give --{next_one}, too ('{{}}': none)"
            )
        if not option.replaces:
            continue
        replaced = f"{section}{dot}{option.replaces}"
        # An option with its default replaces nothing: a saved configuration has both keys.
        is_replacing = key in later and later[key] != option.default
        has_replaced = replaced in later and later[replaced] != options[replaced].default
        if is_replacing and has_replaced:
            raise UserError(f"{place}: {key} replaces {replaced}; give one of them")
        if is_replacing:
            values.pop(replaced, None)
        elif replaced in later:
            # The later values bring back the replaced option, so an earlier replacement no longer counts.
            values.pop(key, None)
    values |= later
    place_of |= dict.fromkeys(later, place)


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Make a dataclass and its sections from the values of their keys."""
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(field.type):
            arguments[field.name] = build(field.type, values, f"{key}.")
        elif key in values:
            arguments[field.name] = values[key]
    return cls(**arguments)
