"""The tables that random_tables.py and damaged_tables.py make up: each holds what it says, and is read so.

RANDOM_TABLES=2000 RANDOM_SEED=7 python -m pytest -s tests/reader/test_random_tables.py   # more, others
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ernie_m.reader.check_labels import check_labels
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.table.labelled import read_table
from ernie_m.utils.errors import UserError
from tests.reader.damaged_tables import DAMAGES, SHAPES, Damaged, write_damaged
from tests.reader.random_tables import Row, Table, as_lines, count_readings, value_at, write_table

SEED = int(os.environ.get("RANDOM_SEED", 0))
TABLES = int(os.environ.get("RANDOM_TABLES", 200))
UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


def read(path: Path, kind: str) -> list[Row]:
    """Read a table with the package's reader, as `count_readings` wants it.

    Where it says that texts have several labels, it is asked for these.
    """
    if kind == "pairs":
        return [tuple(row) for row in PairRows(path, all_splits=True)]
    try:
        table = read_table(path)
        counts = Counter(row[-1] for row in table.rows)
        no_rows = np.zeros(0, np.int64)
        is_several = any("--multi_label" in fault for fault in check_labels(no_rows, no_rows, str, counts))
    except UserError as error:
        if "--multi_label" not in str(error):
            raise
        is_several = True
    if not is_several:
        return [tuple(row) for row in table.rows]
    table = read_table(path, multi_label=True)
    return [(*row[:-1], tuple(labels)) for row, labels in zip(table.rows, table.labels())]


def test_nearly_all_tables_are_read_right_and_hardly_any_wrong_in_silence(tmp_path):
    """Texts, labels and pairs of the file, or a question. Each wrong one is printed."""
    counts, wrong = count_readings(read, UserError, tmp_path, SEED, TABLES)
    print("", *as_lines(counts), *wrong, sep="\n")
    assert counts["all", "right"] >= 0.95 * TABLES
    assert counts["all", "silent"] <= 0.015 * TABLES
    assert counts["all", "broken"] == 0


def test_damage_is_never_passed_over_and_its_line_is_named(tmp_path):
    """Eight kinds of it in 25 tables. A lone quote may be text where nothing is quoted."""
    counts, wrong = Counter(), []
    for number in range(len(SHAPES)):
        for damage in DAMAGES:
            table = write_damaged(tmp_path, SEED, number, [damage])
            try:
                outcome = "as text" if read(table.path, table.kind) == table.rows_with_quote else "silent"
            except UserError as error:
                outcome = "named" if _named_lines(error)[:1] == [table.lines[damage]] else "elsewhere"
                wrong += (
                    [f"{table.path}, line {table.lines[damage]}: {error}"] if outcome == "elsewhere" else []
                )
            counts[outcome] += 1
            wrong += [f"{table.path}, line {table.lines[damage]}: silent"] if outcome == "silent" else []
    print(counts, *wrong, sep="\n")
    assert counts["silent"] == 0
    assert counts["named"] >= 0.95 * (counts["named"] + counts["elsewhere"])


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_all_faults_of_a_file_are_named_at_once(tmp_path, number):
    table = write_damaged(tmp_path, SEED, number, ("missing cell", "extra cell", "empty text", "empty label"))
    with pytest.raises(UserError) as error:
        read(table.path, table.kind)
    assert set(table.lines.values()) <= set(_named_lines(error.value))


def _named_lines(error: UserError) -> list[int]:
    """The numbers of lines that a message names: after "line", or after the file and a colon."""
    named = re.findall(r"(?:\blines? |:)(\d+(?:(?:, | and )\d+)*)", str(error))
    return [int(number) for numbers in named for number in re.findall(r"\d+", numbers)]


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_damage_is_on_its_line_and_nowhere_else(tmp_path, number):
    """Beside the same table without."""
    whole = _lines(write_damaged(tmp_path, SEED, number, []))
    for damage in DAMAGES:
        table = write_damaged(tmp_path, SEED, number, [damage])
        damaged = _lines(table)
        differ = [i + 1 for i, (one, other) in enumerate(zip(whole, damaged, strict=False)) if one != other]
        assert differ == [table.lines[damage]], damage
    several = write_damaged(tmp_path, SEED, number, list(DAMAGES))
    assert len(set(several.lines.values())) == len(DAMAGES)


def _lines(table: Damaged) -> list[bytes]:
    data = table.path.read_bytes()
    return (gzip.decompress(data) if table.path.suffix == ".gz" else data).split(b"\n")


def test_seed_and_index_alone_draw_a_table(tmp_path):
    """Whatever was drawn before."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    first = {index: write_table(folders[0], SEED, index) for index in range(40)}
    for index in reversed(range(40)):
        again = write_table(folders[1], SEED, index)
        assert again.path.name == first[index].path.name
        assert again.path.read_bytes() == first[index].path.read_bytes()
        assert again.rows == first[index].rows
    assert write_table(folders[1], SEED + 1, 3).path.read_bytes() != first[3].path.read_bytes()


def test_each_table_holds_its_rows(tmp_path):
    """Read by who knows how it was written."""
    forms = set()
    for index in range(TABLES):
        table = write_table(tmp_path, SEED, index)
        records = _records(table)
        rows = [tuple(value_at(records[i], place) for place in table.columns) for i in table.kept]
        if table.split_labels:
            rows = [(*row[:-1], row[-1].split(table.split_labels)) for row in rows]
        assert len(rows) > 1 and table.read_as(rows), table
        forms.add(table.habits[1])
    assert len(forms) > min(TABLES, 200) / 10


def test_how_readings_are_counted(tmp_path):
    """What must be asked is right both ways; each other reading is one of the three faults."""
    tables = {table.path: table for table in (write_table(tmp_path, SEED, index) for index in range(40))}
    must_ask = sum(bool(table.ambiguous) for table in tables.values())

    def count(read):
        counts, wrong = count_readings(read, UserError, tmp_path, SEED, 40)
        assert len(wrong) == 40 - counts["all", "right"]
        return Counter({outcome: number for (habit, outcome), number in counts.items() if habit == "all"})

    def refuse(error):
        raise error

    assert count(lambda path, kind: tables[path].rows) == Counter(right=40)
    assert count(lambda path, kind: tables[path].rows[1:]) == Counter(silent=40)
    assert count(lambda path, kind: refuse(UserError("?"))) == Counter(right=must_ask, asked=40 - must_ask)
    assert count(lambda path, kind: refuse(IndexError("?"))) == Counter(broken=40)


def test_many_pairs_stand_below_names_that_no_list_has(tmp_path):
    """The case that a reader with a list of names does not know."""
    tables = [write_table(tmp_path, SEED, index) for index in range(TABLES)]
    pairs = [table for table in tables if table.kind == "pairs"]
    assert sum("header: odd" in table.habits for table in pairs) >= len(pairs) / 10


def _records(table: Table) -> list:
    """The records of the file, by its layout, without header and blank ones."""
    suffix = table.path.suffix
    data = UNPACK.get(suffix, bytes)(table.path.read_bytes())
    content = data.decode(table.layout.encoding)
    layout = table.layout
    if layout.form == "json lines":
        return [json.loads(line) for line in content.split("\n") if line]
    if layout.form != "cells":
        read = json.loads(content)
        if layout.form == "json list":
            return read
        return [{key: read[key][i] for key in read} for i in next(iter(read.values()))]
    if layout.quoting == "raw":
        records = [line.split(layout.delimiter) for line in content.split(layout.line_end)]
    else:
        escape = {"doublequote": False, "escapechar": "\\"} if layout.quoting == "backslash" else {}
        records = list(
            csv.reader(io.StringIO(content, newline=""), delimiter=layout.delimiter, strict=True, **escape)
        )
    return [cells for cells in records if any(cells)][table.above :]
