"""Options as dataclasses: what a field accepts, what it means, and whether it decides the result.

A field is an option, and the string below it explains it, to a reader of the code and in `--help`:

    @dataclass
    class TrainingOptions:
        max_seq_len: Annotated[int, Range(at_least=8, at_most=512)] = 512
        \"\"\"The longest input in tokens, special tokens included.\"\"\"

        log_steps: PositiveInt = option(10, free=True)
        \"\"\"The number of steps between two lines of the log.\"\"\"

`ernie_m/utils/command_line.py` fills such a dataclass from a command line, and `ernie_m/utils/load_config.py`
from YAML files, too.
"""

import ast
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from itertools import pairwise
from operator import attrgetter
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from ernie_m.utils.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts, as in `Annotated[float, Range(at_least=0, below=1)]`."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        bounds = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(f"{name} {bound}" for name, bound in bounds.items() if bound is not None)


PositiveInt = Annotated[int, Range(at_least=1)]
NonNegativeInt = Annotated[int, Range(at_least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(at_least=0)]
UnitInterval = Annotated[float, Range(at_least=0, at_most=1)]


def option(default: Any = MISSING, *, default_factory: Any = MISSING, **properties: Any) -> Any:
    """A field with properties. A field that has none of them needs only its default.

    `Option` has the types and the defaults of the properties; `options_of` refuses others.

    Args:
        default, default_factory: as for `dataclasses.field`.
        free: it does not decide the result, so it may change when a stopped run or build is continued.
        no_effect: why an official flag does nothing here.
        only: the commands that read it, of several that share the dataclass; `--help` of the others omits it.
        bare: `--name` without a value means `--name true`.
        replaces: another option of the same section, which does not count if this one differs from its
            default. Of the two, the one that is given last counts; nobody may give both at once.
        next_one: another mapping of the same section, which takes the place of this one later in the run. A
            user who overrides this one must override both: a value of the other one from a file would end it.
        positional: on a command line its value stands without a flag; a list takes all words that are left.
            In such a command the value of a bare option is the word true or false alone.
    """
    return dataclasses.field(default=default, default_factory=default_factory, metadata=properties)


def not_an_option(default: Any) -> Any:
    """A field that neither a flag nor a key sets."""
    return dataclasses.field(default=default, metadata={"not_an_option": True})


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        key: the name of the field; within a section, "section.name".
        kind: the type, without its range and without None.
        default: `dataclasses.MISSING` if a value must be given.
        range: the range of a number.
        may_be_none: whether None is accepted.
        free, no_effect, only, bare, replaces, next_one, positional: see `option`.
    """

    key: str
    kind: Any
    default: Any
    range: Range | None = None
    may_be_none: bool = False
    free: bool = False
    no_effect: str = ""
    only: tuple[str, ...] = ()
    bare: bool = False
    replaces: str = ""
    next_one: str = ""
    positional: bool = False

    @property
    def flag(self) -> str:
        """What a command line shows: "--key", or "KEY" if it is positional."""
        return self.key.upper() if self.positional else f"--{self.key}"

    def is_read_by(self, command: str) -> bool:
        """Whether a command of several that share the dataclass reads the option."""
        return not self.only or command in self.only

    def accept(self, value: Any, place: str) -> Any:
        """Return a value with the type of the option.

        Args:
            place: where the value stands, the beginning of the error.

        Raises:
            UserError: the value is not accepted; the message says what is, as in "it must be at least 1".
        """
        if value is None and self.may_be_none:
            return None
        try:
            value = convert(self.kind, value)
            if self.range and value not in self.range:
                raise ValueError(str(self.range))
        except ValueError as error:
            raise UserError(f"{place}: it must be {error}") from error
        return value

    def __str__(self) -> str:
        """What is accepted, as in "an integer, at least 1"."""
        return f"{in_words(self.kind)}, {self.range}" if self.range else in_words(self.kind)


def convert(kind: Any, value: Any) -> Any:
    """Return a value as `kind`. A text may stand for a number, because YAML takes 1e-3 for a text.

    Raises:
        ValueError: the value is of another kind; the message says what is expected.
    """
    # For Python True is an int; as a number it is a mistake.
    numeric = isinstance(value, int | float | str) and not isinstance(value, bool)
    origin = get_origin(kind)
    try:
        if kind is Any:
            return value
        if origin is Literal and value in get_args(kind):
            return value
        if origin is list and isinstance(value, list):
            (kind_of_items,) = get_args(kind)
            return [convert(kind_of_items, item) for item in value]
        if origin is dict and isinstance(value, dict):
            kind_of_keys, kind_of_values = get_args(kind)
            return {convert(kind_of_keys, key): convert(kind_of_values, item) for key, item in value.items()}
        # Only `official_form` in command_line.py makes tuples, of integers.
        if origin is tuple and isinstance(value, tuple):
            return value
        if kind in (bool, str) and isinstance(value, kind):
            return value
        if kind is int and numeric and not isinstance(value, float):
            return int(value)
        if kind is float and numeric and math.isfinite(float(value)):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass  # for example a text that is no number
    raise ValueError(in_words(kind))


def in_words(kind: Any) -> str:
    """What an option of a type accepts, as in "an integer"."""
    if get_origin(kind) is Literal:
        *first, last = map(str, get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    words = {
        bool: "true or false",
        int: "an integer",
        float: "a finite number",
        str: "text",
        list[str]: "a list like en,de (in YAML [en, de])",
        list[int]: "a list like 1,2 (in YAML [1, 2])",
        list[float]: "a list like 0.1,0.5 (in YAML [0.1, 0.5])",
        dict[str, Any]: "a mapping like {en: news.txt}",
        dict[str, float]: "a mapping like {mmlm: 0.5, tlm: 0.5}",
        tuple[int, ...]: "an integer, or several like 1,2,3",
    }
    return words[kind]


def options_of(cls: type, prefix: str = "") -> dict[str, Option]:
    """The options of a dataclass and of its sections, by their keys.

    Args:
        prefix: stands before the keys: "section." for those of a section, "" for the others.
    """
    options: dict[str, Option] = {}
    annotations = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(field.type):
            options |= options_of(field.type, f"{key}.")
        elif "not_an_option" not in field.metadata:
            kind, range_, may_be_none = _parts(annotations[field.name])
            default = field.default if field.default_factory is MISSING else field.default_factory()
            options[key] = Option(key, kind, default, range_, may_be_none, **field.metadata)
    return options


def _parts(annotation: Any) -> tuple[Any, Range | None, bool]:
    """The type, the range, and whether None is accepted, of `Annotated[int, Range(...)] | None`."""
    may_be_none = NoneType in get_args(annotation)
    if may_be_none:
        (annotation,) = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Annotated:
        kind, range_ = get_args(annotation)
        return kind, range_, may_be_none
    return annotation, None, may_be_none


def sections_of(cls: type) -> dict[str, type]:
    """The dataclasses that are fields of a dataclass, by the fields' names. A section has none itself."""
    fields = dataclasses.fields(cls)
    return {field.name: field.type for field in fields if dataclasses.is_dataclass(field.type)}


def check_values(options: Any) -> None:
    """Check a dataclass that was made in Python, as a command checks what it reads.

    Raises:
        UserError: a value is not accepted.
    """
    for key, option in options_of(type(options)).items():
        value = attrgetter(key)(options)  # attrgetter, because a key may be "section.name"
        option.accept(value, f"--{key} {value}")


def deciding_options(options: Any) -> dict[str, Any]:
    """The options that decide the result, by their keys. Tuples become lists, as in JSON."""
    values: dict[str, Any] = {}
    for key, option in options_of(type(options)).items():
        if not (option.free or option.no_effect):
            value = attrgetter(key)(options)
            values[key] = list(value) if isinstance(value, tuple) else value
    return values


def explanations(cls: type) -> dict[str, str]:
    """The string below each field of a dataclass and of its base classes, by the name of the field."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (class_definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for statement, below in pairwise(class_definition.body):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(statement, ast.AnnAssign) and is_text:
                texts[statement.target.id] = " ".join(below.value.value.split())
    return texts


def differences(old: Any, new: Any) -> list[str]:
    """The keys in which two configurations (dataclasses or nested dicts) differ, as "a.b: old -> new"."""
    old_values = flatten(old)
    new_values = flatten(new)
    lines = []
    for key in old_values | new_values:  # the keys of both; the values are compared below
        old_value = old_values.get(key, "(absent)")
        new_value = new_values.get(key, "(absent)")
        if old_value != new_value:
            lines.append(f"{key}: {old_value} -> {new_value}")
    return lines


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a dataclass or nested dicts, by keys such as "a.b". Tuples become lists, as in JSON."""
    values: dict[str, Any] = {}
    items: Mapping[str, Any] = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    for name, value in items.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:  # an empty dict has no keys, and is itself a value
            values |= flatten(value, f"{key}.")
        else:
            values[key] = list(value) if isinstance(value, tuple) else value
    return values
