"""Tables of labeled texts as public data sets and office programs write them: read rightly, or refused."""

import gzip
import io
import json
import os
import time
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ernie_m.fit.labeled_rows import load_dataset
from ernie_m.inference.predict_files import write_table
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.files.conll import read_tagged_words
from ernie_m.reader.files.find_files import NamedFile
from ernie_m.reader.files.labeled_tables import (
    is_question_file,
    is_tagged_file,
    open_unlabeled_table,
    read_labeled_table,
)
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.files.tables import Dialect
from ernie_m.reader.labels import (
    ALL_LANGUAGES,
    find_label_issues,
    find_missing_labels,
    is_printed_collection,
    normalize_label,
)
from tests.helpers.files import write_file
from tests.launching import error_of


@pytest.fixture
def write(tmp_path):
    """write(name, text) -> the path of a file; it is compressed if its name ends in .gz."""

    def write(name: str, text: str) -> Path:
        content = text.encode()
        return write_file(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)

    return write


def test_a_compressed_file_that_would_fill_the_memory(tmp_path):
    path = write_file(tmp_path / "train.en.tsv.gz", gzip.compress(bytes(80 << 20), 9))
    assert error_of(read_labeled_table, path, LabelOptions()).startswith(f"{path}: ")


@pytest.mark.parametrize("read", [is_tagged_file, is_question_file])
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path, read):
    """After its beginning, of which its kind is told."""
    path = write_file(
        tmp_path / "a.csv.gz", gzip.compress(np.random.default_rng(0).bytes(30_000).hex().encode())[:9000]
    )
    assert error_of(read, path).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("label", "normal"),
    [
        (unicodedata.normalize("NFD", "fröhlich"), "fröhlich"),
        ("\u200byes\ufeff", "yes"),
        (" not\xa0 so ", "not so"),
        ("1.0", "1"),
        ("-1.00", "-1"),
        ("1.5", "1.5"),
        ("1.000", "1.000"),
        ("v1.0", "v1.0"),
        ("\x1b[31mred\0", "[31mred"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_normalize_label(label, normal):
    assert normalize_label(label) == normal


PRINTED = [
    "['joy', 'love']",
    "['joy' 'fun, too']",
    '["a"]',
    "[1, 27]",
    "[1. 0.]",
    "[ True False]",
    "[]",
    "{}",
    "{'a'}",
    "{a,b}",
    "set()",
    "('a',)",
    "(1, 2)",
    "array([1, 0])",
    "[{'label': 'a', 'score': 1.0}]",
    "tensor(0)",
    "np.int64(1)",
    '{"choices": ["a"]}',
    " [1e-05 -0.5] ",
    "[nan]",
    "frozenset({'a'})",
    "['a',\n 'b']",
]
WRITTEN = [
    "",
    "[a]",
    "(don't know)",
    "{unk}",
    "a, b",
    "[a]|[b]",
    "Art(2)",
    ":)",
    "C#",
    "it's [so] (far)",
    "a [1]",
]


@pytest.mark.parametrize(("cells", "expected"), [(PRINTED, True), (WRITTEN, False)])
def test_cells_that_were_printed(cells, expected):
    assert {cell for cell in cells if is_printed_collection(cell) is not expected} == set()


def test_every_way_in_compares_normal_forms(write):
    """Labels of the file itself, and a label map that was written by another program."""
    two_forms = [unicodedata.normalize(form, "fröhlich") for form in ("NFC", "NFD")]
    labels = [" müde\u200b" if i % 3 == 0 else two_forms[i % 2] for i in range(12)]
    rows = [f"text {i}\t{label}" for i, label in enumerate(labels)]
    path = write("my.tsv", "\n".join(["text_a\tlabel", *rows]))
    assert {row.label for row in read_labeled_table(path, LabelOptions()).rows} == {"fröhlich", "müde"}
    examples = read_classification(path, {two_forms[1]: 0, "müde ": 1})
    assert [example.label for example in examples] == [1, 0, 0] * 4


@pytest.mark.parametrize(
    ("counts", "none"),
    [
        ({"-1": 30, "0": 40, "1": 30}, set()),
        ({"-1": 20, "-2": 5, "0": 40, "1": 30, "2": 5}, set()),
        ({"-1": 2, "0": 15, "1": 15}, set()),
        ({"-1": 1, "0": 15, "1": 15}, {"-1"}),
        ({"-1": 3, "a": 7, "b": 7}, {"-1"}),
        ({"-1": 3, "0": 7, "1": 7, "2": 7}, {"-1"}),
        *(({mark: 2, "a": 7, "b": 7}, {mark}) for mark in ("n/a", "N/A", "NA", "NULL", "None", "none", "?")),
        *(({mark: 2, "a": 7, "b": 7}, {mark}) for mark in ("(blank)", "NaT", "Todo")),
    ],
)
def test_which_labels_stand_for_none(counts, none):
    """A sentiment may be minus one."""
    assert find_missing_labels(counts) == none


@pytest.mark.parametrize(
    ("written", "asked", "is_warned_of"),
    [
        ("utf-8", "cp1252", True),
        ("utf-8", "latin-1", True),
        ("utf-8", "UTF8", False),
        ("cp1252", "cp1252", False),
        ("utf-16", "utf-16", False),
        ("utf-16-le", "utf-16-le", False),
    ],
)
def test_warn_about_wrong_encoding(tmp_path, caplog, written, asked, is_warned_of):
    """Wherever the first letter stands that differs; and once."""
    rows = [f"a plain text {n},{n % 2}" for n in range(600)]
    for name, lines in (("plain.csv", rows), ("long.csv", [*rows, f"{'ä' * 5000},1"])):
        (tmp_path / name).write_text("\n".join(["text,label", *lines, ""]), encoding=written)
        read_labeled_table(tmp_path / name, LabelOptions(encoding=asked))
    warnings = [line for line in caplog.messages if "UTF-8" in line]
    assert [line.startswith(f"{tmp_path / 'long.csv'}: ") for line in warnings] == [True] * is_warned_of


def test_every_column_of_the_wrong_texts_is_named(write):
    path = write("my.csv", "Subject,Body,Label\na,b,c\n")
    table = open_unlabeled_table(path, LabelOptions(text="Subject+Body"), RowErrors(path))
    assert " 'Subject' and 'Body'." in error_of(table.check_text_columns, True)


def test_read_numbers_with_many_digits(write):
    file = NamedFile(write("my.csv", f"text,score\na,{'9' * 5000}\nb,0.5\n"), "train", ALL_LANGUAGES)
    assert "my.csv, line 2: " in error_of(load_dataset, [file], LabelOptions())


@pytest.mark.parametrize(
    ("inputs", "labels", "trained", "issues"),
    [
        # The texts 5 and 7 have two labels each.
        ([5, 6, 5, 7, 7, 5], [0, 0, 1, 1, 2, 0], None, ["2 texts have two labels, as in 2 and 5"]),
        ([5, 5, 5], [0, 1, 2], None, ["1 text has two labels, as in 0 and 1"]),
        ([5, 6, 5], [1, 0, 0], [6], ["1 text has two labels, as in 0 and 2", "1 of 3 lines"]),
        ([0, 1, 2], [0, 1, 2], [3], []),
        ([4, 5], [], [1, 2, 3], []),
        ([3, 5, 3], [], [1, 2, 3], ["2 of 3 lines"]),
    ],
)
def test_equal_texts_with_other_labels_or_trained_on(inputs, labels, trained, issues):
    known = None if trained is None else np.array(trained)
    found = find_label_issues(np.array(inputs), np.array(labels, np.int64), str, known, "lines")
    assert [issue.partition(" have a text of the training data; ")[0] for issue in found] == issues


SCORES = {"so so": 0.9, "bad": 0.8}


@pytest.mark.parametrize(
    ("answer", "cells"),
    [
        (
            {"labels": [*SCORES], "probabilities": SCORES},
            {
                "labels": '["so so", "bad"]',
                "probabilities": json.dumps(SCORES),
                "truncated": "",
                "unknown_words": "",
            },
        ),
        (
            {"label": "bad", "probabilities": SCORES, "unknown_words": 2},
            {"label": "bad", "probability": "0.8", "truncated": "", "unknown_words": "2"},
        ),
        (
            {"unknown_words": 1, "words": ["a", "b"], "entities": [{"type": "PER"}], "truncated": True},
            {"words": "a b", "entities": '[{"type": "PER"}]', "truncated": "True", "unknown_words": "1"},
        ),
    ],
)
def test_format_prediction_cells(caplog, answer, cells):
    """Several labels have commas between them, other lists of texts spaces; the rest is JSON."""
    file = io.StringIO()
    write_table(file, Dialect("\t", False, ""), ["text"], [(["a\tb"], answer)])
    header = "\t".join(["text", *(f"predicted_{key}" for key in cells)])
    assert file.getvalue().splitlines() == [header, "\t".join(["a b", *cells.values()])]
    assert [line[:23] for line in caplog.messages] == ["1 cells contain tabs or"]


def test_a_pipe_is_a_table():
    """As <(...) of a shell. It can be read only once, and the kind of a table takes several looks."""
    reading_end, writing_end = os.pipe()
    os.write(writing_end, b"text;label\nGreat bread;good\n")
    os.close(writing_end)
    pipe = Path(f"/dev/fd/{reading_end}")
    assert not is_tagged_file(pipe) and not is_question_file(pipe)
    assert [row.texts for row in read_labeled_table(pipe, LabelOptions()).rows] == [["Great bread"]]


@pytest.mark.parametrize("first", [False, True])
def test_an_excel_sheet(tmp_path, caplog, first):
    """The first sheet with rows. Numbers are those of the sheet. Another one and hidden rows are named."""
    pytest.importorskip("python_calamine")
    rows = [["Nr", "Text", "Kategorie"], [1, "Great bread", "good"], [2, 7, 1]]
    path = tmp_path / "my.xlsx"
    write_sheet(path, rows, rows * first, hidden=(2, 3))
    table = read_labeled_table(path, LabelOptions(label="Kategorie"))
    assert [[*row.texts, row.label] for row in table.rows] == [[*map(str, cells[1:])] for cells in rows[1:]]
    assert (f"{path}: reading only sheet 'a', ignoring b" in caplog.messages) == first
    assert ("2 hidden rows" in caplog.text) != first
    assert not is_tagged_file(path) and not is_question_file(path)
    write_sheet(path, [[], *rows, [99, "", "good"]])
    assert "my.xlsx, line 5: " in error_of(read_labeled_table, path, LabelOptions(label="Kategorie"))


@pytest.mark.parametrize(
    ("largest", "error"), [(1000, "too large, "), (1 << 20, "no rows"), (0, "cannot be ")]
)
def test_sheets_that_are_refused(tmp_path, monkeypatch, largest, error):
    """One that would fill the memory, before it is read; one of a header alone; and an archive of nothing."""
    pytest.importorskip("python_calamine")
    monkeypatch.setattr("ernie_m.reader.files.tables._LARGEST", largest)
    path = tmp_path / "my.xlsx"
    path.write_bytes(b"PK\5\6" + bytes(18)) if largest == 0 else write_sheet(path, [["text", "label"]])
    assert error_of(read_labeled_table, path, LabelOptions()).startswith(f"{path}: {error}")


def write_sheet(path: Path, rows: list[list], first: Sequence[list] = (), hidden: Sequence[int] = ()) -> None:
    """An Excel file with two sheets, of which the first is empty, unless it has rows.

    Args:
        hidden: the numbers of the rows of the second sheet that a filter hides.
    """
    kinds = "http://schemas.openxmlformats.org"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{kinds}/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{kinds}/package/2006/relationships"><Relationship Id="r" '
        f'Type="{kinds}/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/>'
        "</Relationships>",
        "xl/workbook.xml": f'<workbook xmlns="{kinds}/spreadsheetml/2006/main" '
        f'xmlns:r="{kinds}/officeDocument/2006/relationships"><sheets><sheet name="a" sheetId="1" r:id="r1"/>'
        '<sheet name="b" sheetId="2" r:id="r2"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{kinds}/package/2006/relationships">'
        + "".join(
            f'<Relationship Id="r{n}" Type="{kinds}/officeDocument/2006/relationships/worksheet" '
            f'Target="worksheets/sheet{n}.xml"/>'
            for n in (1, 2)
        )
        + "</Relationships>",
    }
    sheet = f'<worksheet xmlns="{kinds}/spreadsheetml/2006/main"><sheetData>{{}}</sheetData></worksheet>'
    for sheet_number, read_sheet_rows in enumerate((first, rows), 1):
        xml = ""
        for number, row in enumerate(read_sheet_rows, 1):
            cells = "".join(
                f'<c r="{"ABC"[location]}{number}"><v>{cell}</v></c>'
                if isinstance(cell, int)
                else f'<c r="{"ABC"[location]}{number}" t="inlineStr"><is><t>{cell}</t></is></c>'
                for location, cell in enumerate(row)
            )
            attribute = ' hidden="1"' * (sheet_number == 2 and number in hidden)
            xml += f'<row r="{number}"{attribute}>{cells}</row>'
        parts[f"xl/worksheets/sheet{sheet_number}.xml"] = sheet.format(xml)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


READERS = {
    "labels": partial(read_labeled_table, options=LabelOptions()),
    "words": read_tagged_words,
}
BLANK = 1 << 19  # lines; an integer of 8 bytes for each takes 4 MiB, everything else about 2


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_line_ends_take_no_memory(tmp_path, reader):
    """A packed file of 2 kB."""
    path = write_file(tmp_path / "a.tsv.gz", gzip.compress(b"\n" * BLANK, 9))
    tracemalloc.start()
    try:
        assert error_of(READERS[reader], path).startswith(f"{path}: ")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * BLANK


def test_read_large_json_list_in_linear_time(tmp_path):
    """If the rest of the list were copied for each object, this would take minutes."""
    path = tmp_path / "a.json"
    count = 30_000
    long = "a text " * 30
    path.write_text(json.dumps([{"query": f"{long}{n}", "pos": f"a text {n}"} for n in range(count)]))
    start = time.process_time()
    assert len(PairRows(path)) == count
    assert time.process_time() - start < 20
