"""What the fields of a dataclass of options say."""

from dataclasses import dataclass, field, fields

import pytest

from ernie_m.utils.args import (
    PositiveInt,
    Range,
    UnitInterval,
    get_result_options,
    option,
    read_option_docs,
)


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
def test_a_range(range_, inside, outside, words):
    assert all(number in range_ for number in inside)
    assert not any(number in range_ for number in outside)
    assert str(range_) == words


def test_what_decides_the_result():
    assert get_result_options(Options(seeds=(1, 2))) == {"section.rate": 0.5, "seeds": (1, 2)}


def test_the_string_below_a_field_explains_it():
    assert read_option_docs(Options) == {"seeds": "Of everything random."}
    assert read_option_docs(Inherited) == {"seeds": "Of the order.", "verbose": "Whether to say more."}
    assert [f.name for f in fields(Inherited)] == ["section", "seeds", "verbose"]
