"""Every option of every command: its values, its default, and whether a changed value is another run."""

from dataclasses import MISSING, Field
from importlib import import_module

import pytest

from ernie_m.utils.args import describe_type, list_options
from tests.launching import ROOT

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
