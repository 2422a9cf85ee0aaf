"""The tables that random_tables.py and damaged_tables.py make up: each holds what it says, and is read so.

Each is read with the flags that its owner would give, and without: then it is asked about, or read right.

RANDOM_TABLES=600 RANDOM_SEED=7 python -m pytest -s tests/reader/test_random_tables.py   # more, others
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import shlex
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from ernie_m.fit.rows import read_rows
from ernie_m.reader.files.labelled_tables import read_labelled
from ernie_m.reader.files.own_files import LabelledFile
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.table_options import LabelOptions, TableOptions
from ernie_m.reader.label_map import ALL_LANGUAGES
from ernie_m.utils.errors import UserError
from ernie_m.utils.options import parse_options
from tests.reader.damaged_tables import DAMAGES, SHAPES, Damaged, write_damaged
from tests.reader.random_tables import Row, Table, as_lines, count_readings, value_at, write_table

SEED = int(os.environ.get("RANDOM_SEED", 0))
TABLES = int(os.environ.get("RANDOM_TABLES", 60))
UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


def read(path: Path, kind: str, several: bool | None = None, **flags) -> list[Row]:
    """Read a table with the package's reader, as `count_readings` wants it.

    Whether its labels may be several of a text is asked where `several` does not say it.
    """
    if kind == "pairs":
        return [tuple(row) for row in PairRows(path, TableOptions(**flags), all_splits=True)]
    options = LabelOptions(**flags)
    rows = read_labelled(path, options, several=bool(several)).rows
    if several is None:
        read_rows([LabelledFile(path, "train", ALL_LANGUAGES)], options)
    return [(*row.texts, tuple(row.label) if several else row.label) for row in rows]


def flags_of(table: Table) -> dict:
    """What its owner says of a table: how it is written, its columns, and which rows are meant.

    A column is named, or, in a table without a header, numbered.
    """
    layout = table.layout
    records = _records(table)
    header = _records(table, header=True) if layout.form == "cells" else []
    if header[:1] == ["sep="]:  # which the delimiter ends
        header = []
    if len(header) < len(records[0]):  # R writes no name above its row names
        header = header and ["", *header]

    def name(place) -> str:
        if isinstance(place, dict):
            return ",".join(place)
        if layout.form == "cells":
            return header[place] if header else str(place + 1)
        return str(place[0] if isinstance(place, tuple) else place)

    names = list(map(name, table.columns))
    flags = {"columns": ",".join(names), "text_as_it_stands": True}
    if table.kind == "labels":
        flags = dict(zip(("text", "label") if len(names) == 2 else ("text", "text_b", "label"), names))
        label = value_at(records[0], table.columns[-1])
        flags["several"] = bool(table.split_labels) or isinstance(label, tuple)
    if layout.form == "cells":
        flags["delimiter"] = {"\t": "tab"}.get(layout.delimiter, layout.delimiter)
        flags["quotes"] = layout.quoting != "raw"
        flags["encoding"] = "cp1252" if layout.encoding == "cp1252" else None
    if "labels: prodigy" in table.habits:
        flags["only"] = "answer=accept"
    elif table.kind == "pairs":
        flags["only"] = "all"
    if table.ambiguous == "a column judges the pairs":
        verdict = "label" if layout.form != "cells" else len(records[0]) - 1
        good = sorted({str(records[i][verdict]) for i in table.kept})
        sign = "=" if len(good) == 1 else ">="
        flags["only"] = f"{name(verdict)}{sign}{good[0]}"
    return flags


def table_of(path: Path) -> Table:
    """The table that stands at a path, written once more."""
    return write_table(path.parent, SEED, int(path.name[:4]))


def test_tables_are_read_right_with_their_flags_or_refused_with_a_place(tmp_path):
    """Those that are refused, and why, are printed."""
    counts, wrong = count_readings(
        lambda path, kind: read(path, kind, **flags_of(table_of(path))), UserError, tmp_path, SEED, TABLES
    )
    messages = [line.partition("): ")[2] for line in wrong]
    reasons = Counter(re.sub(r"^\S+?(, line \d+)?: |'.*?'|\d+", "", message) for message in messages)
    print("", *as_lines(counts), *wrong, *(f"{n} {what}" for what, n in reasons.most_common()), sep="\n")
    assert counts["all", "silent"] == counts["all", "broken"] == 0
    assert counts["all", "right"] >= 505 / 600 * TABLES
    assert all(re.match(r"\S+, line \d+: |--delimiter ", message) for message in messages)


def test_tables_without_flags_are_asked_about_and_the_answer_is_the_command_line(tmp_path, monkeypatch):
    """With its names filled in, a table is read as with its flags; none is read as something else."""

    def answered(path: Path, kind: str) -> list[Row]:
        """Read a table, and answer each question about it."""
        right = flags_of(table_of(path))
        several = {"several": right.pop("several")} if kind == "labels" else {}
        words = {f"--{flag}": str(value) for flag, value in right.items() if value is not None}
        monkeypatch.setattr(sys, "argv", ["fit"])
        while True:
            given = parse_options(LabelOptions if kind == "labels" else TableOptions, sys.argv[1:], "")
            try:
                return read(path, kind, **several, **vars(given))
            except UserError as error:
                asked = re.search(r"name them: ernie-m fit (.*)", str(error))
                command = shlex.split(asked[1]) if asked else sys.argv[1:]
                named = [word for word in re.findall(r"--\w+", str(error)) if word in words]
                if asked and "--text" in named:
                    named += {"--text_b"} & words.keys()
                if not [flag for flag in named if flag not in sys.argv]:
                    raise
                flags = dict(zip(command[::2], command[1::2])) | {flag: words[flag] for flag in named}
                sys.argv[1:] = chain.from_iterable(flags.items())

    counts, wrong = count_readings(read, UserError, tmp_path, SEED, TABLES)
    print("", *as_lines(counts), *wrong, sep="\n")
    assert counts["all", "silent"] == counts["all", "broken"] == 0
    counts, wrong = count_readings(answered, UserError, tmp_path, SEED, TABLES)
    print("", *as_lines(counts), *wrong, sep="\n")
    assert counts["all", "silent"] == counts["all", "broken"] == 0
    assert counts["all", "right"] >= 505 / 600 * TABLES


def test_damage_is_never_passed_over_and_its_line_is_named(tmp_path):
    """Eight kinds of it in 25 tables. A lone quote may be text where nothing is quoted."""
    elsewhere = []
    for number in range(len(SHAPES)):
        flags = flags_of_shape(number)
        whole = write_damaged(tmp_path, SEED, number, [])
        assert len(read(whole.path, whole.kind, **flags)) >= 25
        for damage in DAMAGES:
            table = write_damaged(tmp_path, SEED, number, [damage])
            try:
                assert read(table.path, table.kind, **flags) == table.rows_with_quote, table.path
            except UserError as error:
                if _named_lines(error)[:1] != [table.lines[damage]]:
                    elsewhere.append(f"{table.path}, line {table.lines[damage]}: {error}")
    assert not elsewhere, "\n".join(elsewhere)


def flags_of_shape(number: int) -> dict:
    """What the owner of a table in damaged_tables.py says of it."""
    shape = SHAPES[number]
    names = shape.header.split() or [str(place) for place in range(1, len(shape.cells) + 1)]
    columns = [names[shape.cells.index(part)] for part in "TOL" if part in shape.cells]
    flags = {"columns": ",".join(columns)}
    if shape.kind == "labels":
        flags = dict(zip(("text", "label") if len(columns) == 2 else ("text", "text_b", "label"), columns))
    if shape.quoting != "json":
        flags["delimiter"] = {"\t": "tab"}.get(shape.delimiter, shape.delimiter)
        flags["quotes"] = shape.quoting != "raw"
    return flags


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_all_faults_of_a_file_are_named_at_once(tmp_path, number):
    table = write_damaged(tmp_path, SEED, number, ("missing cell", "extra cell", "empty text", "empty label"))
    with pytest.raises(UserError) as error:
        read(table.path, table.kind, **flags_of_shape(number))
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


def _records(table: Table, header: bool = False) -> list:
    """The records of the file, by its layout, without header and blank ones; or the header, or nothing."""
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
    whole = [cells for cells in records if any(cells)]
    return whole[: table.above][-1:] and whole[table.above - 1] if header else whole[table.above :]
