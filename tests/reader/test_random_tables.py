"""The tables that random_tables.py makes up: read with the flags that their owner would give, and without.

RANDOM_TABLES=600 RANDOM_SEED=7 python -m pytest tests/reader/test_random_tables.py   # more, others
"""

import os
import re

import pytest

from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.rows import LabelOptions, TableOptions
from ernie_m.reader.files.tables import read_labelled
from ernie_m.utils.errors import UserError
from tests.reader.random_tables import DAMAGES, PROGRAMS, Table, write_table

SEED = int(os.environ.get("RANDOM_SEED", 0))
TABLES = int(os.environ.get("RANDOM_TABLES", 60))
DAMAGED = range(7)  # the programs that write cells in UTF-8


def read(table: Table, **flags) -> list[list[str]]:
    if table.kind == "pairs":
        rows = list(PairRows(table.path, TableOptions(**flags)))
    else:
        labelled = read_labelled(table.path, LabelOptions(**flags)).rows
        rows = [[*row.texts, row.label] for row in labelled]
    return [[" ".join(cell.split()) for cell in row] for row in rows]


def test_tables_are_read_right_with_their_flags(tmp_path):
    """What escapes quotation marks by another sign may be refused, with its line."""
    refused = []
    for index in range(TABLES):
        table = write_table(tmp_path, SEED, index)
        try:
            assert read(table, **table.flags) == table.rows, table
        except UserError as error:
            refused += [(str(error), PROGRAMS[index % len(PROGRAMS)].escape)]
    assert all(escape and ", line " in message for message, escape in refused)


def test_without_flags_none_is_read_as_something_else(tmp_path):
    """They are read right, or it is asked: which columns, what separates the cells, the encoding."""
    asked = []
    for index in range(TABLES):
        table = write_table(tmp_path, SEED, index)
        try:
            assert read(table) == table.rows, table
        except UserError as error:
            asked.append(str(error))
    assert all(re.search(r", line \d+: |--delimiter ", message) for message in asked)
    assert TABLES / 4 < len(asked) < TABLES


@pytest.mark.parametrize("index", DAMAGED)
def test_damage_is_never_passed_over_and_its_line_is_named(tmp_path, index):
    whole = write_table(tmp_path, SEED, index, odd=False)
    assert read(whole, **whole.flags) == whole.rows
    for damage in DAMAGES:
        if damage == "quote" and not whole.flags["quotes"]:
            continue  # it is a letter
        table = write_table(tmp_path, SEED, index, [damage], odd=False)
        with pytest.raises(UserError, match=rf"(line |lines ){table.lines[damage]}\b"):
            read(table, **table.flags)


@pytest.mark.parametrize("index", DAMAGED)
def test_all_faults_of_a_file_are_named_at_once(tmp_path, index):
    faults = ["missing cell", "extra cell", "empty text", "empty label"]
    table = write_table(tmp_path, SEED, index, faults, odd=False)
    with pytest.raises(UserError) as error:
        read(table, **table.flags)
    named = re.findall(r"(?:\blines? |:)(\d+(?:(?:, | and )\d+)*)", str(error.value))
    assert set(table.lines.values()) <= {
        int(number) for numbers in named for number in re.findall(r"\d+", numbers)
    }
