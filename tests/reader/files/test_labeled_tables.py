"""Tables by named columns: what is read, what is asked, and what is refused with its line."""

import codecs
import gzip
import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ernie_m.fit.labeled_rows import load_dataset
from ernie_m.inference.tasks.training_files import QuestionsFile
from ernie_m.reader.files.conll import read_tagged_words
from ernie_m.reader.files.find_files import NamedFile
from ernie_m.reader.files.labeled_tables import open_unlabeled_table, read_labeled_table, read_texts
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.squad import read_squad
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.labels import ALL_LANGUAGES
from ernie_m.utils.args import parse_options
from ernie_m.utils.errors import UserError
from tests.helpers.files import write_file
from tests.launching import error_of
from tests.toys import write_lines


@pytest.fixture
def read(tmp_path):
    """Write a file and read it; returns (texts, label) of each row."""

    def read(name: str, content: str | bytes, several: bool = False, **options) -> list:
        path = write_file(tmp_path / name, content)
        rows = read_labeled_table(path, LabelOptions(**options), multi_label=several).rows
        return [(row.texts, row.label) for row in rows]

    return read


HELLO, BYE = (["Hello, you"], "a"), (["Bye"], "b")
SEVERAL = [(["x"], ["a", "b"]), (["y"], [])]
READ = {  # name of a file -> its content, the flags that it needs, and other rows than HELLO and BYE
    "comma.csv": ('Text,Label\n"Hello, you",a\nBye,b\n', {"text": "", "label": ""}),
    "xnli_mt.tsv": ("premise\thypo\tlabel\na\tb\tc\n", {}, [(["a", "b"], "c")]),
    "semicolon.csv": ("Text;Label\nHello, you;a\nBye;b\n", {}),
    "blank_first.csv": ("\n \ntext;label\nHello, you;a\nBye;b\n", {}),
    "tab.csv": ("Text\tLabel\nHello, you\ta\nBye\tb\n", {}),
    "ending.tsv": ("Text\tx,y\tLabel\nHello, you\t\ta\nBye\tx,y\tb\n", {}),
    "ending.tsv.gz": (gzip.compress(b"Text\tx,y\tLabel\nHello, you\t\ta\nBye\tx,y\tb\n"), {}),
    "bars.csv": ("text|label\nHello, you|a\nBye|b\n", {"delimiter": "|"}),
    "excel.csv": ("sep=;\ntext;label\nHello, you;a\nBye;b\n", {}),
    "index.csv": (',text,label\n0,"Hello, you",a\n1,Bye,b\n', {}),
    "quotes.tsv": ('text\tlabel\n"Hello, you"\ta\nBye\tb\n', {"quoting": True}),
    "lines.jsonl": ('{"text": "Hello, you", "label": "a"}\n{"text": "Bye", "label": "b", "x": [1]}\n', {}),
    "list.json": ('[{"text": "Hello, you", "label": "a"},\n {"text": "Bye", "label": "b"}]', {}),
    "lines.csv": ('"Body\n(all)",Team\n"Hello, you",a\nBye,b\n', {"text": "Body (all)", "label": "Team"}),
    "numbers.csv": ('1,"Hello, you",a\n2,Bye,b\n', {"text": "2", "label": "3"}),
    "first.csv": ("label,a\nBye,b\n", {"text": "1", "label": "2"}, [(["label"], "a"), BYE]),
    "names.csv": ('Body,Team\n"Hello, you",a\nBye,b\n', {"text": "Body", "label": "Team"}),
    "only.csv": ('text,label,n\n"Hello, you",a,2\nno,c,1\nBye,b,3\n', {"filter": "n>=2"}),
    "blank_cell.csv": ('text,label,n\n"Hello, you",a,\nno,c,1\nBye,b,\n', {"filter": "n="}),
    "less.csv": ('text,label,n\n"Hello, you",a,2\nno,c,3\nBye,b,1\n', {"filter": "n<3"}),
    "most.csv": ('text,label,n\n"Hello, you",a,2\nno,c,3\nBye,b,1\n', {"filter": "n<=2"}),
    "more.csv": ('text,label,n\n"Hello, you",a,2\nno,c,1\nBye,b,3\n', {"filter": "n>1"}),
    "not.csv": ('text,label\n"Hello, you",a\nno,c\nBye,b\n', {"filter": "label!=c"}),
    "float.csv": ('text,label,n\n"Hello, you",a,2.0\nno,c,1\nBye,b,2\n', {"filter": "n=2"}),
    "numbers_of_two.csv": (
        "Hello,you,a\n,Bye,b\n",
        {"text": "1+2", "label": "3"},
        [(["Hello\nyou"], "a"), BYE],
    ),
    "return.tsv": (
        f"text\tlabel\n{'a' * 5000}\r{'b' * 5000}\tc\n",
        {"encoding": "cp1252"},
        [([f"{'a' * 5000} {'b' * 5000}"], "c")],
    ),
    "mac.csv": ('text,label\r"Hello, you",a\rBye,b', {}),
    "excel_otherwise.csv": ("sep=,\ntext;label\nHello, you;a\nBye;b\n", {"delimiter": ";"}),
    "tab_in_text.csv": ("te\txt,label\na\tb,c\n", {"text": "te xt"}, [(["a b"], "c")]),
    "prodigy.jsonl": (
        '{"text": "Bye", "label": "b", "_task_hash": 1, "answer": "accept"}\n'
        '{"text": "no", "label": "b", "_task_hash": 2, "answer": "reject"}',
        {"filter": "answer=accept"},
        [BYE],
    ),
    "numbers.json": (
        '[{"text": "x", "label": 12345678901234567890}, {"text": "Bye", "label": "b"}]',
        {},
        [(["x"], "12345678901234567890"), BYE],
    ),
    "mail.csv": (
        "Subject,Body,label\nHello,you,a\n,Bye,b\n",
        {"text": "Subject+Body"},
        [(["Hello\nyou"], "a"), BYE],
    ),
    "line_end.csv": (
        '"Body\n(all)",Team\n"Hello, you",a\nBye,b\n',
        {"text": "Body\n(all)", "label": "Team"},
    ),
    "lists.jsonl": (
        '{"text": "x", "label": ["a", "b"]}\n{"text": "y", "label": []}\n{"text": "z", "label": null}\n'
        '{"text": "z"}\n',
        {"several": True},
        [*SEVERAL, (["z"], None), (["z"], None)],
    ),
    "lists_of_forms.jsonl": (
        '{"text": "x", "label": [" cafe\u0301", "b\u200b"]}\n',
        {"several": True},
        [(["x"], ["caf\u00e9", "b"])],
    ),
    "marked.csv": (
        "text,a,b\nx,TRUE,1.0\ny,,false\n",
        {"several": True, "label": "a,b,c"},
        [(["x"], {"a": True, "b": True}), (["y"], {"a": None, "b": False})],
    ),
    "lists_of_numbers.jsonl": (
        '{"text": "x", "label": [1, 2.0]}\n{"text": "y", "label": []}\n',
        {"several": True},
        [(["x"], ["1", "2"]), (["y"], [])],
    ),
    "no_marks.csv": ("text,labels\nx,\ny, \n", {"several": True}, [(["x"], None), (["y"], None)]),
    "marks.csv": ("text,labels\nx,a;b; a\ny,[]\n", {"several": True, "label_separator": ";"}, SEVERAL),
    "names.jsonl": (
        '{"text": "[x]", "labels": "a, b|c"}\n{"text": "{y}", "labels": ["a, b"]}',
        {"several": True, "label_separator": "|"},
        [(["[x]"], ["a, b", "c"]), (["{y}"], ["a, b"])],
    ),
    "rows.csv": ('text,label\n"x,y\na,b\nc",a\n', {"quoting": True}, [(["x,y a,b c"], "a")]),
    # The delimiter is that of the rows; the beginning of the file that tells it ends in a cell.
    "long.csv": (
        "text;label,x\n" + f'"a\n{"b" * 400}";c\n' * 700,
        {"label": "label,x"},
        [([f"a {'b' * 400}"], "c")] * 700,
    ),
    "numbers.jsonl": (
        '{"text": 2.0, "label": 1.0}\n{"text": 3, "label": true}',
        {},
        [(["2"], "1"), (["3"], "true")],
    ),
    "utf-16-be.csv": (codecs.BOM_UTF16_BE + "text,label\nBye,b\n".encode("utf-16-be"), {}, [BYE]),
    "utf-16.csv": ('text,label\n"Hello, you",a\nBye,b\n'.encode("utf-16"), {}),
}


@pytest.mark.parametrize("name", READ)
def test_texts_and_labels_are_found_in_each_format(read, name):
    content, flags, *rows = READ[name]
    assert [read(name, content, **flags)] == (rows or [[HELLO, BYE]])


def test_language_split_and_group_are_read_where_they_are_named(tmp_path, caplog, info_log):
    """Rows for dev and test are not trained on, and the names of the columns are kept."""
    path = write_file(
        tmp_path / "massive.csv",
        "utt,intent,locale,partition,by,,n,more\na,x,de,train,1,,,\nb,y, en ,dev,2,,,\nc,z,fr,,1,,,\n"
        "d,x,,test,,,,\n",
    )
    flags = {
        "text": "utt+more",
        "label": "intent",
        "language": "locale",
        "group": "by",
        "split": "partition",
    }
    table = read_labeled_table(path, LabelOptions(**flags))
    rows = [
        (["a"], "x", "de", "1", "train", 2),
        (["b"], "y", "en", "2", "dev", 3),
        (["c"], "z", "fr", "1", "train", 4),
        (["d"], "x", "", "", "test", 5),
    ]
    assert table == (path, rows, flags, [])
    columns = ", ".join(map(": ".join, flags.items())).replace("+", " + ")
    assert caplog.messages == [f"{path}: 4 rows ({columns}; ignored: n)"]
    for purpose, kept, skipped in (
        ("train", rows[::2], {"dev": 1, "test": 1}),
        ("dev", rows[1::2], {"train": 2}),
    ):
        caplog.clear()
        assert table.select_split(purpose) == (path, kept, flags, [])
        assert caplog.messages == [
            f"{path}: skipped {count} rows of the split '{split}'" for split, count in skipped.items()
        ]
    trained = table._replace(rows=table.rows[::2])
    caplog.clear()
    assert trained.select_split("dev") is trained and not caplog.messages  # it has no other rows
    # No row is compared with another, which numpy would refuse: a table may have a million.
    table._replace(rows=[row._replace(texts=np.zeros(2)) for row in table.rows]).select_split("train")


@pytest.mark.parametrize("skip", [False, True])
def test_errors_of_rows_are_reported_by_kind(skip):
    """Ten of each kind, and each once. To drop a row that is alone is not advised."""
    one, many = RowErrors("a"), RowErrors("a", skip)
    one.add(3, "wide", "Mend it")
    assert error_of(one.report, print) == "a, line 3: wide. Mend it"
    for line in range(1, 13):
        with many.record_errors(line):
            raise UserError(f"a, line {line}: wide. Mend it")
    many.add(20, "blank", "")
    lines = [
        *(f"line {line}: wide" for line in range(1, 10)),
        "line 10: wide. Mend it",
        "and 2 more such rows",
        "line 20: blank",
    ]
    assert (many.count, many.lines) == (13, {*range(1, 13), 20})
    if not skip:
        expected = [f"a, {lines[0]}", *lines[1:], "To drop these rows, set --on_error skip"]
        assert error_of(many.report, print) == "\n  ".join(expected)
        return
    said = []
    many.report(said.append)
    many.add(21, "wide", "Mend it")
    many.report(said.append, kept_rows=[1])
    assert said == [f"a: dropped: {line}" for line in [*lines, "line 21: wide. Mend it"]]
    assert error_of(many.report, print, [], "n>1") == "a: no rows left after --filter n>1"


@pytest.mark.parametrize(
    ("content", "kept", "wrong"),
    [
        (b"text,label\nx,a\nno label,-\nof a database,\\N\nz\ny,b\n", [2, 6], ["5"]),
        (b"text,label\nx,a\nno label,-\nof a database,\\N\ny,b\n", [2, 5], ["3", "4"]),
        # A cell with a line that is not UTF-8 is dropped as a whole.
        (b'text,label\n"x\nx",a\n"its second\nline is\xff\nLatin-1",b\ny,b\n', [2, 7], ["5"]),
    ],
)
def test_skip_empty_labels_and_other_errors(tmp_path, content, kept, wrong):
    path = write_file(tmp_path / "a.csv", content)
    file = NamedFile(path, "train", ALL_LANGUAGES)
    rows = load_dataset([file], LabelOptions(on_error="skip"))
    assert rows.locations == [f"{path}, line {number}" for number in kept]
    assert re.findall(r"line (\d+): ", error_of(load_dataset, [file], LabelOptions())) == wrong


def test_label_columns_are_normalized(tmp_path):
    """In one normal form: a second file may be in another."""
    path = write_file(tmp_path / "a.csv", "text,cafe\u0301,\u00a0b \nx,1,0\ny,0,1\n")
    table = read_labeled_table(path, LabelOptions(text="text", label="cafe\u0301,b"), multi_label=True)
    labels = [row.label for row in table.rows]
    marks = [{"caf\u00e9": True, "b": False}, {"caf\u00e9": False, "b": True}]
    assert (labels, table.label_columns) == (marks, ["caf\u00e9", "b"])


def test_columns_by_number_and_ids_are_not_kept(tmp_path):
    path = write_file(tmp_path / "ids.csv", "text,label,qid\na,b,7\n")
    kept = {"text": "text", "label": "label"}
    assert read_labeled_table(path, LabelOptions()).columns == kept
    several = read_labeled_table(path, LabelOptions(label_separator=";"), multi_label=True)
    assert several.columns == {**kept, "label_separator": ";"}
    path = write_file(tmp_path / "a.csv", "a,b\nc,d\n")
    table = read_labeled_table(path, LabelOptions(text="1", label="2"))
    rows = [(["a"], "b", "", "", "", 1), (["c"], "d", "", "", "", 2)]
    assert table == (path, rows, {}, [])


REFUSED = {  # name of a file -> its content, flags, and what the message says: locations and names
    "width.csv": ("text,label\na,b\nc\nd,e,f\n", {}, ("line 3: 1 column", "line 4: 3 columns")),
    "indexed.csv": (",0,1\n0,x,a\n", {"text": "2", "label": "3"}, ("line 1: expected no header",)),
    "numbered.csv": (",1,2\n0,x,a\n", {"text": "2", "label": "3"}, ("line 1: expected no header",)),
    "unnamed.csv": ("text,,label\na,b,c\n", {"text": "text+"}, ("line 1: --text : ",)),
    "header_later.csv": (
        "sep=,\n\ntext,label\na,b\nc\n",
        {},
        ("line 5: 1 column (expected 2, as in line 3)",),
    ),
    "key_later.jsonl": (
        '{"text": "a", "label": "b"}\n' * 1000 + '{"text": "a", "label": "b", "more": 1}\n',
        {},
        ("line 1001: ", "'more'"),
    ),
    "all.csv": ("text,label\na\nb\n", {}, ("line 2: 1 column", "line 3: 1 column")),
    "quote.csv": ('text,label\na,b\n"c" d,e\n', {}, ("line 3",)),
    "open.csv": ('text,label\na,b\n"c,d\ne,f\n', {}, ("line 3", "to line 4")),
    "return.csv": ("text,label\na\rb,c\n", {}, ("line 2: carriage return",)),
    "tabs.tsv": ('text\tlabel\na\tb\n"c"\td\n', {}, ("line 3", "--quoting")),
    "cp1252.csv": ('text;label\na;b\n"Größe\r\nx\n'.encode("cp1252"), {}, ("line 3: not UTF-8: '\"Größe'",)),
    "later.tsv": (
        b"text\tlabel\n" + (b"a" * 1000 + b"\tb\n") * 1201 + b"\xdf\tb\n",
        {},
        ("line 1203: not UTF-8",),
    ),
    "cp1252.tsv": ("text\tlabel\na b\tGröße\n".encode("cp1252"), {}, ("line 2: not UTF-8: 'Größe'",)),
    "header_cp1252.csv": ("text;label;Größe\na;b;1\n".encode("cp1252"), {}, ("line 1: not UTF-8",)),
    "header_skipped.csv": (
        "sep=;\ntext;label;Größe\na;b;1\n".encode("cp1252"),
        {"on_error": "skip"},
        ("line 2: not UTF-8",),
    ),
    "utf-16-le.csv": ("text,label\na,b\n".encode("utf-16-le"), {}, ("utf-16-le.csv: ", "--encoding")),
    "two_marks.csv": ("text||label\na||b\n", {"delimiter": "||"}, ("--delimiter ||",)),
    "marks.txt": ("text,x;label\na,b;c\n", {}, ("line 1", "--delimiter")),
    "twice.jsonl": (
        '{"text": "a", "label": "b"}\n{"text": "a", "label": "b", "text": "c"}\n',
        {},
        ("line 2", "'text'"),
    ),
    "twice.json": (
        '[{"text": "a", "label": "b"},\n{"text": "a", "label": "b", "c": {"b": 1, "b": 2}}]',
        {},
        ("line 2", "'b'"),
    ),
    "text.jsonl": ('{"text": ["a"], "label": "b"}\n', {}, ("line 1", "'text'")),
    "object.jsonl": ('{"text": {"en": "a"}, "label": "b"}\n', {}, ("line 1", "'text'")),
    "cp1252.json": (
        '[{"text": "a", "label": "b"},\n{"text": "ä"},\n{"text": "c"}]'.encode("cp1252"),
        {},
        ("line 2: not UTF-8",),
    ),
    "both_empty.csv": (
        "Subject,Body,label\nx,,a\n,\u200b,b\n",
        {"text": "Subject+Body"},
        ("line 3", "'Subject'"),
    ),
    "second_object.jsonl": (
        '{"Subject": "a", "Body": {"b": 1}, "label": "c"}\n',
        {"text": "Subject+Body"},
        ("line 1", "'Body'"),
    ),
    "language.jsonl": (
        '{"text": "a", "label": "b", "language": ["de"]}\n',
        {},
        ("line 1", "'language'"),
    ),
    "invisible.csv": ("text,label\na,b\n\u200b\ufeff,c\n", {}, ("line 3", "'text'")),
    "ambiguous.csv": ("text,sentence,label\na,b,c\n", {}, ("line 1", "'text'", "'sentence'")),
    "rows.json": ('{"data": [{"text": "a", "label": "b"}]}', {}, ("line 1", "'data'")),
    "key.json": ('[\n{"text": "a", "label": "b"},\n5]', {}, ("line 3",)),
    "split.csv": ("text,label,split\na,b,train\nc,d,tran\n", {}, ("line 3", "'tran'")),
    "header.csv": ("text,label\na,b\n", {"text": "1", "label": "2"}, ("line 1", "text, label")),
    "pandas.csv": ("0,1\na,b\n", {"text": "1", "label": "2"}, ("line 1",)),
    "numbers.csv": ("1,2\na,b\n", {"text": "1", "label": "2"}, ("line 1",)),
    "rows.csv": ('text,label\n"x,y\na,b\nc",a\n', {}, ("line 2: to line 4",)),
    "infinity.jsonl": (
        '{"text": "a", "label": "b"}\n{"text": "c", "label": Infinity}\n',
        {},
        ("line 2",),
    ),
    "infinity_below.jsonl": ('{"text": -Infinity, "label": "b"}\n', {}, ("line 1: 'text' is empty",)),
    "surrogate.jsonl": (
        '{"text": "a", "label": "b"}\n{"text": "\\ud800", "label": "b"}\n',
        {},
        ("line 2", "surrogates"),
    ),
    "absent.csv": ("text,label\na,b\n", {"text": "Body"}, ("line 1: --text Body",)),
    "twice.csv": ("Body,Body,label\na,b,c\n", {"text": "Body"}, ("line 1: --text Body",)),
    "absent_filter.csv": ("text,label\na,b\n", {"filter": "n=1"}, ("line 1: --filter n",)),
    "printed.csv": ("text,label\na,b\nc,['d']\n", {}, ("line 3", "'label'", "JSON lines")),
    "printed_several.csv": (
        "text,label\na,{b}\nc,{'d'}\n",
        {"several": True, "label_separator": ","},
        ("line 3", "'label'", "JSON lines"),
    ),
    "objects.jsonl": ('{"text": "a", "label": [{"b": 1}]}\n', {"several": True}, ("line 1", "'label'")),
    "mixed.jsonl": ('{"text": "a", "label": ["b", true]}\n', {"several": True}, ("line 1", "True")),
    "undivided.csv": ('text,label\na,b\nc,"d, e"\n', {"several": True}, ("line 3", "--label_separator")),
    "one_label.csv": ("text,label\na,b\n", {"label_separator": ";"}, ("--label_separator ;",)),
    "label.jsonl": ('{"text": "a", "label": ["b", "c"]}\n', {}, ("line 1", "--task multi-label")),
    "unread.csv": ("text,label\na,b\n", {"columns": "text,label"}, ("unread.csv", "--columns")),
    "tags.tsv": ("Mira\tB-PER\nmoved\tO\n", {}, ("line 1", "--text", "--task token-classification")),
    "tags.txt": ("1\tMira\tB-PER\n", {"columns": "2,3"}, ("--columns", "--task token-classification")),
    "only.csv": ("text,label,n\na,b,x\nc,d,2\n", {"filter": "n>=2"}, ("line 2: invalid 'n' 'x'",)),
    "parquet.csv": (b"PAR1\x15\x04\x15\n", {}, ("parquet.csv: Parquet",)),
    "long_line.csv": (b"text,label\n" + b"a" * (5 << 20), {}, ("long_line.csv: line ",)),
    "hex.csv": ("text,label\na,b\n", {"encoding": "hex"}, ("--encoding hex",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_reject_what_is_no_table_of_texts(read, name):
    content, flags, said = REFUSED[name]
    message = error_of(read, name, content, **flags)
    assert all(words in message for words in said), message


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("a.txt", "a\n", lambda path, options: open_unlabeled_table(path, options, RowErrors(path))),
        (
            "a.csv",
            "a,b\nc,d\n",
            lambda path, options: open_unlabeled_table(path, options, RowErrors(path), are_questions=True),
        ),
        ("a.csv", "text,label\na,b\n", lambda path, options: read_texts(path, options)),
        (
            "a.jsonl",
            '{"text": "a", "label": "b"}',
            lambda path, options: open_unlabeled_table(path, options, RowErrors(path), are_requests=True),
        ),
        ("a.conll", "a O\n", lambda path, options: read_tagged_words(path, options=options)),
        (
            "a.jsonl",
            '{"tokens": ["a"], "tags": ["O"]}',
            lambda path, options: read_tagged_words(path, options=options),
        ),
        ("a.tmx", "<tmx/>", PairRows),
        ("a.json", "{}", QuestionsFile),
    ],
)
def test_options_that_a_file_is_not_read_with(tmp_path, name, content, read):
    (tmp_path / name).write_text(content)
    assert error_of(read, tmp_path / name, LabelOptions(label="x")).startswith(f"{tmp_path / name}: ")


# Name of a file -> its content, whether it has questions, its requests and columns of labels, or the question
# that is asked about it, and flags.
ASKED = {
    "lines.txt": (
        "a\n\n\u200b\nb\n",
        False,
        ([{"text_a": "a", "text": "a"}, {"text_a": "b", "text": "b"}], []),
    ),
    "tab.txt": ("a\tb\n", False, "unexpected tab in a .txt file"),
    "id.csv": ("ID,text,label\n7,a,b\n", False, ([{"id": "7", "text_a": "a", "text": "a"}], [2])),
    "language.csv": ("lang,text\nde,a\n", False, ([{"language": "de", "text_a": "a", "text": "a"}], [])),
    "two_labels.csv": ("text,label,score\na,b,c\n", False, ([{"text_a": "a", "text": "a"}], [])),
    "questions.csv": ("context,question\na,b\n", True, ([{"question": "b", "context": "a"}], [])),
    "columns.txt": ("c\tq\na\tb\n", True, ([{"question": "b", "context": "a"}], []), {"columns": "q,c"}),
    "no_question.csv": ("context,text\na,b\n", True, "missing columns of question and context."),
    "number_columns.csv": (
        "context,question\na,b\n",
        True,
        "expected no header",
        {"columns": "2,1"},
    ),
    "learned.csv": ("text,Body\na,b\n", False, ([{"text_a": "b", "text": "b"}], [])),
    "other_case.csv": (
        "text,body\na,b\n",
        False,
        "missing or ambiguous column of the text (trained on 'Body'",
    ),
    "joined.csv": (
        "Title,Text\n ,a\nb,c\n",
        False,
        ([{"text_a": "a", "text": "a"}, {"text_a": "b\nc", "text": "b\nc"}], []),
        {"text": "Title+Text"},
    ),
    "flag.csv": (
        "text,body\na,b\n",
        False,
        ([{"text_a": "a", "text": "a"}], []),
        {"text": "text", "label_separator": "|"},
    ),
    "pair_flag.csv": ("text,Title\na,b\n", False, ([{"text_a": "a", "text": "a"}], []), {"text": "text"}),
    "pair_without.csv": (
        "text,Body\na,b\n",
        False,
        "missing or ambiguous column of the second text (trained on 'Title'",
    ),
    "several.csv": ("Body,A,B\na,1,0\n", False, ([{"text_a": "a", "text": "a"}], [1, 2])),
    "several_of_them.csv": ("Body,A\na,1\n", False, ([{"text_a": "a", "text": "a"}], [])),
    "list.json": (
        '[{"text": "a", "Body": "b", "n": 0}]',
        False,
        ([{"Body": "b", "n": 0, "text_a": "b", "text": "b"}], []),
    ),
    "learned.jsonl": (
        '{"id": 7, "BODY": "a", "Body": "b", "several": true}\n{"Body": "c"}\n',
        False,
        (
            [
                {"id": 7, "BODY": "a", "Body": "b", "several": True, "text_a": "b", "text": "b"},
                {"Body": "c", "text_a": "c", "text": "c"},
            ],
            [],
        ),
    ),
    "other_key.jsonl": ('{"text": "a"}\n', False, ([{"text_a": "a", "text": "a"}], [])),
    "other_pair.jsonl": (
        '{"text_a": "a", "text_b": "b"}\n',
        False,
        ([{"text_a": "a", "text": "a", "text_b": "b"}], []),
    ),
    "other_name.jsonl": (
        '{"sentence": "a"}\n',
        False,
        "missing or ambiguous column of the text (trained on 'Body'",
    ),
    "words.jsonl": ('{"words": ["a"]}\n', False, ([{"words": ["a"]}], [])),
    "filter.jsonl": (
        '{"text": "a", "n": true}\n{"text": "b", "n": null}\n{"text": "c", "n": "true"}',
        False,
        ([{"n": True, "text_a": "a", "text": "a"}, {"n": "true", "text_a": "c", "text": "c"}], []),
        {"filter": "n=true"},
    ),
    "encoding.jsonl": (
        '{"text": "Schön"}\n'.encode("cp1252"),
        False,
        ([{"text_a": "Schön", "text": "Schön"}], []),
        {"encoding": "cp1252"},
    ),
}
# Beginnings of names of files -> the columns of the training table.
BODY = {"text": "Body", "label_separator": ";"}
LEARNED = {
    "learned": BODY,
    "other": BODY,
    "flag": BODY,
    "list": BODY,
    "pair": {"text": "Body", "text_b": "Title"},
    "several": {"text": "Body", "label": "A,B"},
}


@pytest.mark.parametrize("name", ASKED)
def test_reads_requests_as_the_model_learned_its_rows(tmp_path, caplog, name):
    content, questions, expected, *flags = ASKED[name]
    path = write_file(tmp_path / name, content)
    options = LabelOptions(**dict(*flags))
    of_model = next((LEARNED[begin] for begin in LEARNED if name.startswith(begin)), {})
    ask = partial(
        open_unlabeled_table, path, options, RowErrors(path), of_model, questions, are_requests="json" in name
    )
    if isinstance(expected, str):
        assert error_of(ask).startswith(f"{path}, line 1: {expected}")
    else:
        asked = ask()
        separator = options.label_separator or of_model.get("label_separator")
        lines, _, requests = zip(*asked.iter_rows())
        assert ([*requests], asked.labels, asked.separator) == (*expected, separator)
        assert ("skipped 2 blank lines" in caplog.text) == (lines == (1, 4)) == (name == "lines.txt")


@pytest.mark.parametrize(
    ("name", "content", "options", "texts"),
    [
        ("a.csv", "text,text_b,label\na,b,1\nc,d,\n", {}, [["a", "b"], ["c", "d"]]),
        ("a.csv", "text\na\n\u200b\nc\n", {"on_error": "skip"}, [["a"], ["c"]]),
        ("a.csv", "Text,Title\na,\nb,c\n", {"text": "Title+Text"}, [["a"], ["c\nb"]]),
        ("a.csv", "Text,Title\na,b\n", {"text": "Text", "text_b": "Title"}, [["a", "b"]]),
        ("a.txt", "a, b\n\n c \nd", {}, [["a, b"], ["c"], ["d"]]),
    ],
)
def test_read_texts(tmp_path, name, content, options, texts):
    path = write_file(tmp_path / name, content)
    assert read_texts(path, LabelOptions(**options)) == texts


@pytest.mark.parametrize("header", ["Nr;Body;Team", "text;sentence;label", "7;Hello;x"])
def test_suggested_command_line_works(read, monkeypatch, header):
    monkeypatch.setattr(sys, "argv", ["fit", "--on_error", "skip", "--text", "no such"])
    content = f"{header}\n1;Hello;x\n2;Hi;z\n3;Oh;z\n4;Bye;y\n"
    lines = error_of(read, "table.csv", content).splitlines()
    assert [line.strip() for line in lines[1:4]] == [
        f"{name}: {cells}"
        for name, cells in zip(header.split(";"), ("1 | 2 | 3", "Hello | Hi | Oh", "x | z | z"))
    ]
    words = shlex.split(lines[4].partition(": ")[2])
    names = {"--text": header.split(";")[1], "--label": header.split(";")[2]}
    filled = [
        names.get(before, word) if word == "COLUMN" else word for before, word in zip(["", *words], words)
    ]
    options = parse_options(LabelOptions, filled[2:], "")
    assert options.on_error == "skip"
    assert read("table.csv", content, text=options.text, label=options.label)[-1] == (["Bye"], "y")


@pytest.mark.parametrize(
    ("name", "content", "read_form"),
    [
        ("a.csv", "question,context,answer\nWho eats?,A man eats.,A man\n", read_squad),
        (
            "a.jsonl",
            '{"text": "罗马", "spans": [{"offset": 0, "length": 2}]}',
            read_tagged_words,
        ),
        ("a.json", '[{"id": 1, "data": {"text": "罗马"}}]', read_tagged_words),
    ],
)
def test_suggested_forms_of_questions_and_spans_are_read(tmp_path, name, content, read_form):
    message = error_of(read_labeled_table, write_file(tmp_path / name, content), LabelOptions())
    form = message.rpartition("JSON lines: ")[2].replace("START", "0").replace("END", "3")
    assert read_form(write_file(tmp_path / "form.jsonl", form))


def test_a_list_that_would_fill_the_memory_is_refused_before(tmp_path, monkeypatch):
    monkeypatch.setattr("ernie_m.reader.files.plain_text.LARGEST", 1000)
    path = write_lines(tmp_path / "large.json", [json.dumps([{"text": "a" * 100, "label": "b"}] * 100)])
    assert error_of(read_labeled_table, Path(path), LabelOptions()).startswith(f"{path}: ")


def test_warn_about_html(read, caplog):
    rows = [f"Good {n},Nice<br>{n},a" if n % 2 else f"Bad {n},So {n},b" for n in range(40)]
    read("html.csv", "\n".join(["text,text_b,label", *rows]))
    assert [line for line in caplog.messages if "html.csv, line" in line and "HTML" in line]
