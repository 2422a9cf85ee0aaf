"""What the fields of a class of options say, and the options of every command."""

from dataclasses import MISSING, Field, dataclass, field, fields
from importlib import import_module

import pytest

from ernie_m.utils.args import get_result_options, list_options, option, read_option_docs
from ernie_m.utils.value_types import PositiveInt, Range, UnitInterval, describe_type
from tests.launching import ROOT


@dataclass
class Section:
    rate: UnitInterval = 0.5
    log_steps: PositiveInt = option(10, free=True)


@dataclass
class Options:
    section: Section = field(default_factory=Section)
    seeds: tuple[int, ...] = (1,)
    """Of everything random."""

    verbose: bool = option(False, no_effect="the log is complete")


@dataclass
class Inherited(Options):
    """The base class explains `seeds`."""

    seeds: tuple[int, ...] = (2,)
    """Of the order."""

    verbose: bool = True
    """Whether
    to say more."""


@pytest.mark.parametrize(
    ("range_", "inside", "outside", "words"),
    [
        (Range(at_least=8, at_most=512), (8, 512), (7, 513), ">= 8 and <= 512"),
        (Range(above=0, below=1), (0.5,), (0, 1), "> 0 and < 1"),
        (Range(at_least=0), (0, 1e9), (-1,), ">= 0"),
    ],
)
def test_a_range_includes_what_it_says(range_, inside, outside, words):
    assert all(number in range_ for number in inside)
    assert not any(number in range_ for number in outside)
    assert str(range_) == words


def test_returns_only_options_that_decide_the_result():
    assert get_result_options(Options(seeds=(1, 2))) == {"section.rate": 0.5, "seeds": (1, 2)}


def test_the_string_below_a_field_explains_it():
    assert read_option_docs(Options) == {"seeds": "Of everything random."}
    assert read_option_docs(Inherited) == {"seeds": "Of the order.", "verbose": "Whether to say more."}
    assert [f.name for f in fields(Inherited)] == ["section", "seeds", "verbose"]


# A row: class, option, values, default (empty: required), metadata. Options without `free` decide a run.
ROWS = [row.split("\t") for row in (ROOT / "tests" / "options.tsv").read_text("utf-8").splitlines()]


def describe(name: str, option: Field) -> list[str]:
    """Return the cells of an option in the table, without its class."""
    default = option.default if option.default_factory is MISSING else option.default_factory()
    metadata = ", ".join(f"{key}={value!r}" for key, value in sorted(option.metadata.items()))
    return [name, describe_type(option.type), "" if default is MISSING else repr(default), metadata]


@pytest.mark.parametrize("place", dict.fromkeys(row[0] for row in ROWS))
def test_the_options_of_a_class_are_those_of_the_table(place):
    module, _, name = place.rpartition(".")
    options = list_options(getattr(import_module(module), name))
    assert [describe(*item) for item in options.items()] == [row[1:] for row in ROWS if row[0] == place]
