"""Tables of labelled texts as public data sets and office programs write them: read rightly, or refused."""

import difflib
import gzip
import io
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ernie_m.reader.batching import Example
from ernie_m.reader.check_labels import check_labels
from ernie_m.reader.classification import read_classification
from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.labels import labels_for_none, normal_label, split_labels
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.answered import AnsweredTable
from ernie_m.reader.files.table.form import Form, find_form
from ernie_m.reader.files.table.labelled import read_table
from tests.launching import error_of

MAP = {"no": 0, "yes": 1}
NO_ROWS = np.zeros(0, np.int64)
EXAMPLES = [Example("So, good.", None, 1), Example('A "bad" one', None, 0)]
# name of the file -> content: the rows of EXAMPLES
FORMS = {
    "comma.csv": 'text_a,label\n"So, good.",yes\n"A ""bad"" one",no\n',
    "excel.csv": '\ufeffsep=;\r\ntext_a;label\r\nSo, good.;yes\r\n"A ""bad"" one";no\r\n',
    "packed.csv.gz": 'text_a,label\n"So, good.",yes\n"A ""bad"" one",no\n',
    "packed.tsv.gz": 'text_a\tlabel\nSo, good.\tyes\nA "bad" one\tno\n',
    "other.tsv": 'nr\ttext\tkind\tlabel\n1\tSo, good.\tx\tyes\n2\tA "bad" one\tx\tno\n',
    "quoted.tsv": 'text_a\tlabel\n"So, good."\tyes\n"A ""bad"" one"\tno\n',
    "no_header.tsv": 'So, good.\tyes\nA "bad" one\tno\n',
}


@pytest.fixture
def write(tmp_path):
    """write(name, text) -> the path of a file; it is compressed if its name ends in .gz."""

    def write(name: str, text: str) -> Path:
        content = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return tmp_path / name

    return write


def test_each_delimiter_that_is_named_gives_cells():
    head = ["text,a;label", "Good, one;yes", "Bad, too;no"]
    named = re.findall("--delimiter '(.)'", error_of(find_form, head, Path("a.csv")))
    assert [find_form(head, Path("a.csv"), mark).mark for mark in named] == [",", ";"]


def test_a_compressed_file_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "train.en.tsv.gz"
    path.write_bytes(gzip.compress(bytes(80 << 20), 9))
    assert error_of(read_table, path).startswith(f"{path}: ")


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
def test_the_normal_form_of_a_label(label, normal):
    assert normal_label(label) == normal


WORDS = [
    "good",
    "so so",
    "bad",
    "a dull film",
    "nice",
    "never again",
    "yes, well",
    "fine",
    "old",
    "new",
    "a b",
]
LABELLED = [[word, "yes" if place % 3 else "no"] for place, word in enumerate(WORDS)]


def joined(mark: str, rows, *before: str) -> str:
    return "".join(f"{line}\n" for line in (*before, *map(mark.join, rows)))


# What is particular -> file, content, options, its rows with a label.
PARTICULAR = {
    "pandas' index, without a header": (
        "a.tsv",
        joined("\t", ([str(place), *row] for place, row in enumerate(LABELLED[:2]))),
        {},
        LABELLED[:2],
    ),
    "ids, without a header": (
        "a.tsv",
        joined("\t", ([f"doc-{7 * place:03d}", *row] for place, row in enumerate(LABELLED[:2]))),
        {},
        LABELLED[:2],
    ),
    "a title": ("a.csv", joined(";", LABELLED, "Our films", "text;label"), {}, LABELLED),
    "tabs, and a comma in each row": (
        "a.tsv",
        joined("\t", [[f"{word.replace(',', '')}, or not", label] for word, label in LABELLED]),
        {},
        [[f"{word.replace(',', '')}, or not", label] for word, label in LABELLED],
    ),
    "columns by name": (
        "a.tsv",
        joined("\t", ([label, word] for word, label in LABELLED), "one\tother"),
        {"columns": "other,one"},
        LABELLED,
    ),
    "columns by number": (
        "a.tsv",
        joined("\t", ([label, "x", word] for word, label in LABELLED)),
        {"columns": "3,1"},
        LABELLED,
    ),
    "line ends of Windows in a cell": (
        "a.csv",
        joined(",", ([f'"{word}\r\n\tmore"', label] for word, label in LABELLED), "text_a,label"),
        {},
        [[f"{word} more", label] for word, label in LABELLED],
    ),
}


@pytest.mark.parametrize("name", PARTICULAR)
def test_the_rows_of_particular_tables(write, name):
    file, content, options, rows = PARTICULAR[name]
    table = read_table(write(file, content), TableOptions(**options), say=lambda _: None)
    assert table.rows == rows


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("a,b", ["a", "b"]),
        ("a; b;a", ["a", "b"]),
        ("a | b|c", ["a", "b", "c"]),
        ("C# and F#", ["C# and F#"]),
        ("['joy', 'love']", ["joy", "love"]),
        ("['joy' 'fun, too']", ["joy", "fun, too"]),
        ("[1, 27]", ["1", "27"]),
        ("[1 27]", ["1", "27"]),
        ("[]", []),
        ("", []),
    ],
)
def test_several_labels_in_a_cell(cell, labels):
    assert split_labels(cell) == labels


def test_every_way_in_compares_normal_forms(write):
    """Labels of the file itself, and a label map that was written by another program."""
    two_forms = [unicodedata.normalize(form, "fröhlich") for form in ("NFC", "NFD")]
    labels = [" müde\u200b" if i % 3 == 0 else two_forms[i % 2] for i in range(12)]
    rows = [f"text {i}\t{label}" for i, label in enumerate(labels)]
    path = write("my.tsv", "\n".join(["text_a\tlabel", *rows]))
    assert {cells[-1] for cells in read_table(path).rows} == {"fröhlich", "müde"}
    examples = read_classification(path, {two_forms[1]: 0, "müde ": 1})
    assert [example.label for example in examples] == [1, 0, 0] * 4


def test_a_sentiment_may_be_minus_one():
    assert labels_for_none({"-1": 30, "0": 40, "1": 30}) == set()


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
def test_utf_8_that_is_read_with_another_encoding_is_warned_of(
    tmp_path, caplog, written, asked, is_warned_of
):
    """Wherever the first letter stands that differs; and once."""
    rows = [f"a plain text {n},{n % 2}" for n in range(600)]
    for name, lines in (("plain.csv", rows), ("long.csv", [*rows, "Ärger im März,1"])):
        (tmp_path / name).write_text("\n".join(["text,label", *lines, ""]), encoding=written)
        read_table(tmp_path / name, TableOptions(encoding=asked))
    warnings = [line for line in caplog.messages if "UTF-8" in line]
    assert [line.startswith(f"{tmp_path / 'long.csv'}: ") for line in warnings] == [True] * is_warned_of


def columns_of_labels(write, *rows):
    lines = [f"text {n},{','.join(rows[n % len(rows)])}" for n in range(20)]
    return write("my.csv", "\n".join(["text,billing,service", *lines, ""]))


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), ("x", ""), ("X", ""), ("yes", "no"), ("1", ""), ("Ja", "nein")]
)
def test_a_column_for_each_label(write, yes, no):
    said = []
    path = columns_of_labels(write, [yes, no], [no, no], [yes, yes])
    for columns in (None, "text,billing,service"):
        table = read_table(path, TableOptions(columns=columns), multi_label=True, say=said.append)
        assert table.labels()[:3] == [["billing"], [], ["billing", "service"]]
        assert said.pop().endswith("the text is text, the labels are billing and service")


def test_a_label_that_no_row_of_a_test_has_is_a_column_all_the_same(write):
    path = write("three.csv", "text,a,b,c\n" + "one,x,x,\ntwo,,,\nthree,,x,\n" * 4)
    assert read_table(path, multi_label=True).label_columns == ["a", "b", "c"]


@pytest.mark.parametrize("cell", ["-1", "good", "2"])
def test_a_column_for_a_label_says_yes_or_no(write, cell):
    path = columns_of_labels(write, ["1", "0"], ["0", cell])
    for columns in (None, "text,billing,service"):
        options = TableOptions(columns=columns)
        first, *_ = error_of(read_table, path, options, multi_label=True).splitlines()
        assert "my.csv, line 3: " in first and "service" in first


def test_a_column_for_a_label_has_its_name(write):
    path = write("my.csv", "".join(f"the text {n},{n % 2},{n % 3 % 2}\n" for n in range(20)))
    options = TableOptions(columns="1,2,3", header=False)
    assert "my.csv, line 1: " in error_of(read_table, path, options, multi_label=True)


@pytest.mark.parametrize(("other", "is_offered"), [("billing,service", True), ("service", False)])
def test_an_empty_cell_beside_several_labels_may_be_none_of_them(write, other, is_offered):
    path = write("my.csv", f'text,labels\na,billing\nb,\nc,service\nd,"{other}"\n')
    message = error_of(read_table, path)
    assert "my.csv, line 3: " in message and ("--task multi-label" in message) == is_offered


def test_queries_that_repeat_are_texts_where_numbers_are_learned(write):
    """Neither is the label a column without numbers, nor are the passages read without their queries."""
    rows = [f"Wie geht {n % 3}?;Absatz {n} der Antwort;{n % 8},5" for n in range(24)]
    path = write("pairs.csv", "\n".join(["Frage;Absatz;Wertung", *rows]))
    message = error_of(read_table, path, regression=True)
    assert "pairs.csv, line 1: " in message and "--columns Frage,Absatz,Wertung" in message
    rows = [row.replace(f";{n % 8},5", f";0.{n:02}") for n, row in enumerate(rows)]
    path = write("pairs.csv", "\n".join(["Frage;Absatz;Wertung", *rows]))
    message = error_of(read_table, path)  # where classes are learned, the queries are none for sure
    assert "pairs.csv, line 1: " in message and "'Wertung'" in message


@pytest.mark.parametrize(("yes", "no"), [("x", ""), ("1", "0")])
def test_a_column_of_labels_beside_columns_of_marks_is_asked_about(write, yes, no):
    rows = [
        f"text {n},{'a;b' if n % 2 else 'a'},{yes if n % 3 else no},{no if n % 3 else yes}" for n in range(20)
    ]
    path = write("my.csv", "\n".join(["text,themen,seen,done", *rows]))
    message = error_of(read_table, path, multi_label=True)
    assert "my.csv, line 1: " in message and "'themen'" in message and "'seen'" in message


def test_a_column_of_marks_may_be_called_it_and_have_an_odd_cell(write):
    rows = [f"text {n},{'x' if n % 2 else ''},{'x' if n % 3 else ''}" for n in range(20)]
    path = write("my.csv", "\n".join(["text,IT,service", *rows]))
    assert read_table(path, multi_label=True).label_columns == ["IT", "service"]
    path = write("my.csv", "\n".join(["text,IT,service", *rows, "text 20,?,x"]))
    message = error_of(read_table, path, multi_label=True)
    assert "my.csv, line 22: " in message and "'IT'" in message


def test_a_count_beside_columns_of_labels_is_not_learned_unasked(write):
    rows = [f"text {n},{n % 2 > 0},{n % 3 > 0},{n % 9 + 3}" for n in range(40)]
    path = write("my.csv", "\n".join(["text,billing,service,Anzahl", *rows]))
    message = error_of(read_table, path, regression=True)
    assert "my.csv, line 1: " in message and "'billing'" in message and "'Anzahl'" in message


def test_an_empty_column_without_a_name_is_no_label(write):
    rows = [f"text {n},{'x' if n % 2 else ''},{'x' if n % 3 else ''}," for n in range(20)]
    path = write("my.csv", "\n".join(["text,billing,service,", *rows]))
    assert read_table(path, multi_label=True).label_columns == ["billing", "service"]


@pytest.mark.parametrize("second", ["web", "yes", "no"])
def test_three_columns_are_a_pair_and_its_labels_unless_two_say_yes_or_no(write, second):
    rows = [f"text {n},{second},{'a;b' if n % 2 else 'b'}" for n in range(20)]
    path = write("my.csv", "\n".join(["one,two,three", *rows]))
    table = read_table(path, TableOptions(columns="one,two,three"), multi_label=True)
    assert table.columns == ["text_a", "text_b", "label"] and table.labels()[:2] == [["b"], ["a", "b"]]


def test_per_cents_beside_numbers_are_asked_about(write):
    rows = [f"ein Text mit {n} Wörtern,{50 + n} %,{1 + n % 5}" for n in range(30)]
    message = error_of(
        read_table, write("my.csv", "\n".join(["Satz,Ergebnis,Filiale", *rows])), regression=True
    )
    assert "my.csv, line 1: " in message and "'Ergebnis'" in message and "'Filiale'" in message


def test_a_number_of_any_length_is_read(write):
    path = write("my.csv", f"text,score\na,{'9' * 5000}\nb,0.5\n")
    table = read_table(path, regression=True)
    assert "my.csv, line 2: " in error_of(table.with_numbers, Faults(path))


def test_where_two_columns_may_be_texts_both_answers_are_shown(write):
    rows = [f"A first text of number {n},Another one of number {n},{n % 3}" for n in range(20)]
    message = error_of(read_table, write("my.csv", "\n".join(["one,other,stars", *rows, ""])))
    assert "my.csv, line 1: " in message
    assert "--columns one,stars," in message and "--columns one,other,stars" in message


def test_semicolons_between_labels_are_asked_about():
    labels = ["a", "a;b", "b"]
    counts = Counter(dict.fromkeys(labels, 10))
    (fault,) = check_labels(NO_ROWS, NO_ROWS, str, counts, counts, labels)
    assert fault == "if 'a;b' are several labels of a text, add --multi_label true"


def test_oddities_by_hand():
    """The texts 5 and 7 have two labels each."""
    inputs = np.array([5, 6, 5, 7, 7, 5])
    labels = np.array([0, 0, 1, 1, 2, 0])
    (fault,) = check_labels(inputs, labels, str)
    assert fault.startswith("2 texts have two labels, as in 2 and 5;")
    assert check_labels(np.arange(3), np.array([0, 1, 2]), str) == []
    (fault,) = check_labels(np.arange(200), np.arange(200) == 0, str)
    assert fault.startswith("99.5 % of the rows have one label")


def test_rows_that_are_evaluated_on():
    trained = np.array([1, 2, 3])
    assert check_labels(np.array([4, 5]), NO_ROWS, str, trained_inputs=trained) == []
    (fault,) = check_labels(np.array([3, 5, 3]), NO_ROWS, str, trained_inputs=trained)
    assert fault.startswith("2 of 3 rows have a text that is trained on")


def test_similar_labels_are_looked_for_as_far_as_they_are_named(monkeypatch):
    """Each search compares a label with all others: 20,000 of them would take minutes."""
    searches = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda *_, **__: searches.append(1) or [])
    labels = [f"label {i}" for i in range(50)]
    faults = check_labels(NO_ROWS, NO_ROWS, str, Counter(dict.fromkeys(labels, 2)), labels=labels)
    assert len(searches) == 10 and len(faults) == 11 and faults[-1].startswith("40 more labels")


def test_answers_in_the_cells_of_a_table():
    """Several labels have commas between them, other lists of texts spaces; the rest is JSON."""
    answers = [
        {"labels": ["so so", "bad"], "probabilities": {"so so": 0.9, "bad": 0.8}},
        {"label": "bad", "probabilities": {"so so": 0.25, "bad": 0.75}, "unknown_words": 2},
        {"unknown_words": 1, "words": ["a", "b"], "entities": [{"type": "PER"}], "cut": True},
    ]
    rows = []
    for answer in answers:
        file = io.StringIO()
        AnsweredTable(file, Form("\t", False)).add(["text"], ["a\tb"], answer)
        header, cells = (line.split("\t") for line in file.getvalue().splitlines())
        assert header[0] == "text" and header[-2:] == ["predicted_cut", "predicted_unknown_words"]
        assert cells[0] == "a b"
        rows.append(dict(zip(header[1:], cells[1:], strict=True)))
    several, one, words = rows
    assert several["predicted_labels"] == "so so, bad"
    assert json.loads(several["predicted_probabilities"]) == answers[0]["probabilities"]
    assert (several["predicted_cut"], several["predicted_unknown_words"]) == ("", "")
    assert list(one) == [f"predicted_{key}" for key in ("label", "probability", "cut", "unknown_words")]
    assert list(one.values()) == ["bad", "0.75", "", "2"]
    assert list(words.values()) == ["a b", '[{"type": "PER"}]', "True", "1"]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("text,label,words,tags", "a day,{label},2,x"),
        ("text,tokens,tags", "a day,a b,{label}"),
        ("title,text,tags,words", "one,a day,{label},7"),
    ],
)
def test_columns_named_words_and_tags_may_be_others(tmp_path, header, row):
    path = tmp_path / "my.csv"
    labels = ["good", "bad"] * 6
    rows = [row.format(label=label).replace("day", f"day {number}") for number, label in enumerate(labels)]
    path.write_text("\n".join([header, *rows]) + "\n")
    assert [cells[-1] for cells in read_table(path).rows] == labels


def test_words_of_sentences_in_a_table_are_refused_with_their_names(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("Sentence #,Word,POS,Tag\nSentence: 1,In,IN,O\n,Rome,NNP,B-geo\n")
    message = error_of(read_table, path)
    assert message.startswith(f"{path}, line 1: ") and message.endswith("--columns Word,Tag")
