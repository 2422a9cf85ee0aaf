"""Any table, however its program writes it, is read as it was written; damage to it is named by its line.

TABLES=2000 python -m pytest tests/reader/files/test_tables_random.py draws more tables, and others.
"""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import re
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ernie_m.reader.files.labeled_tables import read_labeled_table
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.table_options import LabelOptions, TableOptions
from ernie_m.utils.errors import UserError
from tests.helpers.files import write_file
from tests.launching import error_of

EXAMPLES = settings(
    max_examples=int(os.environ.get("TABLES", 150)),
    derandomize="TABLES" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
PACK = {"": bytes, ".gz": partial(gzip.compress, mtime=0), ".bz2": bz2.compress, ".xz": lzma.compress}
LABELS = ["good", "so, so", "1.5", "-1", "0", "True", "好评", "a;b|c", "nötr"]
KINDS = {  # what a row has -> the flag of each part; without one the columns are in --columns
    ("text", "label"): LabelOptions,
    ("text", "text_b", "label"): LabelOptions,
    ("query", "positive"): TableOptions,
}
# Names of columns that say nothing.
NAMES = ["Nr", "Größe", "v1", "c d", "Satz"]


def read_parts(path, kind, several=False, **flags):
    """The rows that the package reads."""
    if KINDS[kind] is TableOptions:
        return [tuple(row) for row in PairRows(path, TableOptions(**flags), all_splits=True)]
    return [(*row.texts, row.label) for row in read_labeled_table(path, LabelOptions(**flags), several).rows]


def make_flags(kind, names):
    """The flags that name the columns of the parts of a row."""
    return {"columns": ",".join(names), "filter": "all"} if "query" in kind else dict(zip(kind, names))


def as_text(rows, mark, quoting, line_end):
    """Rows as a program writes them. Without `quoting` a quotation mark is a letter."""
    if quoting is None:
        return "".join(mark.join(cells) + line_end for cells in rows)
    file = io.StringIO()
    csv.writer(file, delimiter=mark, quoting=quoting, lineterminator=line_end).writerows(rows)
    return file.getvalue()


@st.composite
def tables(draw):
    """A row's parts, ending and bytes of a file, flags, its rows, and whether its names are known."""
    kind = draw(st.sampled_from(list(KINDS)))
    layout = draw(st.sampled_from(["cells"] * 4 + ["lines", "list"]))
    mark, quoting = draw(st.sampled_from([*itertools.product(",;\t|", (0, 1)), ("\t", None), ("|", None)]))
    encoding = (
        "utf-8" if layout != "cells" else draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    )
    line_end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    letters = "ab ,;|\"'.7ß" + "书🙂\u2028" * (encoding != "cp1252") + "\n" * (line_end != "\r")
    labels = [name for name in LABELS if encoding != "cp1252" or name.isascii()]
    if layout == "cells" and quoting is None:
        letters = letters.replace(mark, "").replace("\n", "")
        labels = [name for name in labels if mark not in name]
    text = st.text(letters, max_size=12).map("x{}y".format)
    row = st.tuples(*(st.sampled_from(labels) if part == "label" else text for part in kind))
    rows = draw(st.lists(row, min_size=2, max_size=6))

    # More columns, in any order, and possibly without names.
    others = draw(st.lists(st.sampled_from(["", "7", "train", "https://a.b/c"]), max_size=2))
    order = draw(st.permutations(range(len(kind) + len(others))))
    is_known = draw(st.booleans())
    names = (
        list(kind if is_known else draw(st.permutations(NAMES))[: len(kind)])
        + ["extra", "more"][: len(others)]
    )
    grid = [[(*cells, *others)[part] for part in order] for cells in rows]
    header = [names[part] for part in order]
    has_names = layout != "cells" or draw(st.booleans())
    if has_names:
        flags = make_flags(kind, names[: len(kind)])
    else:
        flags = make_flags(kind, [str(order.index(part) + 1) for part in range(len(kind))])
    if layout == "cells":
        flags |= {"delimiter": "tab" if mark == "\t" else mark, "quoting": quoting is not None}
        flags["encoding"] = "cp1252" if encoding == "cp1252" else None
        blank = [[]] * draw(st.integers(0, 2))
        content = as_text([*[header] * has_names, grid[0], *blank, *grid[1:]], mark, quoting, line_end)
    else:
        objects = [dict(zip(header, cells)) for cells in grid]
        write = partial(json.dumps, ensure_ascii=draw(st.booleans()))
        content = write(objects, indent=1) if layout == "list" else "\n".join(map(write, objects))
    pack = draw(st.sampled_from(list(PACK)))
    ending = {"lines": ".jsonl", "list": ".json"}.get(layout) or draw(
        st.sampled_from([".csv", ".tsv", ".txt"])
    )
    return kind, ending + pack, PACK[pack](content.encode(encoding)), flags, rows, is_known and has_names


def spaced(rows):
    """Rows with one space for any white space."""
    return [tuple(" ".join(cell.split()) for cell in row) for row in rows]


def test_a_table_is_read_as_it_was_written(tmp_path):
    """With flags; without them it is asked about, or its columns are known by their names."""

    @EXAMPLES
    @given(tables())
    def check(table):
        kind, ending, data, flags, rows, is_known = table
        path = write_file(tmp_path / f"a{ending}", data)
        assert spaced(read_parts(path, kind, **flags)) == spaced(rows)
        read = None
        with suppress(UserError):
            read = read_parts(path, kind)
        assert read is None or (is_known and spaced(read) == spaced(rows))

    check()


# How tables are written: what a row has, delimiter, quoting ("raw": none), the ending, and the lines above.
SHAPES = {
    "csv": (("text", "label"), ",", csv.QUOTE_MINIMAL, ".csv"),
    "all quoted": (("text", "text_b", "label"), ";", csv.QUOTE_ALL, ".csv"),
    "tabs": (("text", "label"), "\t", None, ".tsv"),
    "json": (("text", "label"), "", None, ".jsonl"),
    "pairs": (("query", "positive"), ",", csv.QUOTE_MINIMAL, ".csv"),
    "pairs, tabs": (("query", "positive"), "\t", None, ".tsv"),
    "pairs, json": (("query", "positive"), "", None, ".jsonl"),
}
DAMAGES = {  # -> the corrupt line, by its cells, itself, and what writes cells
    "missing cell": lambda cells, line, write: write(cells[:-1]),
    "extra cell": lambda cells, line, write: (
        line[:-1] + ', "x"}' if line[-1] == "}" else write([*cells, "x"])
    ),
    "bad UTF-8": lambda cells, line, write: line[:3] + "\udcff" + line[3:],
    "NUL": lambda cells, line, write: line[:3] + "\0" + line[3:],
    "empty text": lambda cells, line, write: write(["", *cells[1:]]),
    "empty last": lambda cells, line, write: write([*cells[:-1], " "]),
    "lone quote": lambda cells, line, write: line.replace("Satz", '"Satz', 1),
    "cut": lambda cells, line, write: line[: line.index(cells[-1]) - 1],
}
AT_ONCE = ("missing cell", "extra cell", "empty text", "empty last")


def corrupted(path, shape, *damages):
    """Write a table of a shape with these damages; returns what a row has, flags, rows, and the lines."""
    kind, mark, quoting, _ = SHAPES[shape]
    rows = [
        [*(f"Satz {number} {part}" for part in kind[:-1]), ("ab", "cd")[number % 2]] for number in range(20)
    ]

    def write(cells):
        if mark:
            return as_text([cells], mark, quoting, "")
        return json.dumps(dict(zip([*kind, "key"], cells)))

    lines = [write(kind)] * bool(mark) + [write(cells) for cells in rows]
    indices = [len(lines) - 1 if damage == "cut" else 5 + 3 * n for n, damage in enumerate(damages)]
    for damage, index in zip(damages, indices):
        lines[index] = DAMAGES[damage](rows[index - bool(mark)], lines[index], write)
    path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    flags = {"delimiter": "tab" if mark == "\t" else mark, "quoting": quoting is not None} if mark else {}
    return kind, flags | make_flags(kind, kind), rows, [index + 1 for index in indices]


@pytest.mark.parametrize("damages", [*((damage,) for damage in DAMAGES), AT_ONCE], ids=" ".join)
@pytest.mark.parametrize("shape", SHAPES)
def test_damage_is_never_passed_over_and_its_lines_are_named(tmp_path, shape, damages):
    """A lone quotation mark is text where nothing is quoted."""
    path = tmp_path / f"a{SHAPES[shape][-1]}"
    kind, flags, rows, lines = corrupted(path, shape, *damages)
    if "tabs" in shape and damages == ("lone quote",):
        read = read_parts(path, kind, **flags)
        rows[lines[0] - 2][0] = '"' + rows[lines[0] - 2][0]
        assert [*map(list, read)] == rows
    else:
        message = error_of(read_parts, path, kind, **flags)
        assert sorted(map(int, re.findall(r"(?<!to )line (\d+): ", message))) == lines, message
