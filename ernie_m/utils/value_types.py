"""Types of values with constraints, such as numbers in a range, for options and for values in files."""

import builtins
import operator
import sys
import types
import typing
from collections.abc import Mapping
from numbers import Integral, Real
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

# Bound of a `Range` -> its operator and its test.
_BOUNDS = {
    "at_least": (">=", operator.ge),
    "above": (">", operator.gt),
    "at_most": ("<=", operator.le),
    "below": ("<", operator.lt),
}


class Range:
    """A range of numbers, as in `Annotated[float, Range(at_least=0, below=1)]`."""

    def __init__(self, **bounds: float):
        self.bounds = bounds

    def __contains__(self, number: float) -> bool:
        return all(_BOUNDS[name][1](number, bound) for name, bound in self.bounds.items())

    def __str__(self) -> str:
        return " and ".join(f"{_BOUNDS[name][0]} {bound}" for name, bound in self.bounds.items())


class _NonEmptyNames:
    """Constraint that no comma-separated name is empty, which would be the path of the current folder."""

    def __contains__(self, names: str) -> bool:
        return not names or all(map(str.strip, names.split(",")))


Names = Annotated[str, _NonEmptyNames()]
PositiveInt = Annotated[int, Range(at_least=1)]
NonNegativeInt = Annotated[int, Range(at_least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(at_least=0)]
PositiveShare = Annotated[float, Range(above=0, at_most=1)]
UnitInterval = Annotated[float, Range(at_least=0, at_most=1)]
_IN_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Names: "a comma-separated list of names",
    list[str]: "a comma-separated list",
    dict[str, Any]: "a mapping such as {en: news.txt} or {en-de: pairs.tsv}",
    dict[str, float]: "a mapping such as {mmlm: 0.5, tlm: 0.5}",
    tuple[int, ...]: "a comma-separated list of integers",
    Mapping[str, str]: "an object of strings",
    Mapping[str, NonNegativeInt]: "an object of non-negative integers",
}


def describe_type(value_type: Any) -> str:
    """Describe the accepted values of a type, such as "an integer >= 1"."""
    one_of = "one of " if get_origin(value_type) is Literal else ""
    parts = {Annotated: " ", Literal: ", "}.get(get_origin(value_type), " or ").join(
        describe_type(part) for part in get_args(value_type) if part is not NoneType
    )
    # The last one is for a Range, or a value of a Literal.
    return _IN_WORDS.get(value_type) or one_of + parts or str(value_type)


def is_valid(value_type: Any, value: Any) -> bool:
    """Return whether a value is valid for a type.

    True and False are not numbers, nor are NaN, infinity and integers beyond float64.
    """
    item_types = get_args(value_type)
    match get_origin(value_type) or value_type:
        case types.UnionType | typing.Union:
            return any(is_valid(one, value) for one in item_types)
        case typing.Annotated:
            return is_valid(item_types[0], value) and value in item_types[1]
        case typing.Literal:
            return value in item_types
        case builtins.list | builtins.tuple as sequence:
            return isinstance(value, sequence) and all(is_valid(item_types[0], item) for item in value)
        case origin if origin in (dict, Mapping):
            return isinstance(value, dict) and all(
                is_valid(item_types[0], key) and is_valid(item_types[1], value[key]) for key in value
            )
        case builtins.int | builtins.float:
            is_number = isinstance(value, Integral if value_type is int else Real) and not isinstance(
                value, bool
            )
            return is_number and abs(value) <= sys.float_info.max  # False for NaN
    return value_type is Any or isinstance(value, value_type)
