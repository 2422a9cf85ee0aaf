"""The official form: read as the official readers do, and without the code for the tables of users."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_m.data.prepare.command import main as prepare
from ernie_m.reader.classification import read_classification
from ernie_m.reader.files.official_tsv import without_blank_end
from ernie_m.reader.files.tagged_sentences import JOINT, read_tagged
from ernie_m.reader.label_map import read_label_map
from tests import command_lines
from tests.launching import start_python
from tests.toys import make_classification

ROOT = Path(__file__).resolve().parents[2]

# The task -> its files in the folder of real data, and their names as they are published.
SOURCES = {
    "xnli": ("nli", {}),
    "pawsx": ("pawsx", {}),
    "panx": ("ner/panx", {}),
    "conll": (
        "ner/conll-layout",
        {
            "panx-en.conll2003-layout.txt": "eng.train",
            "panx-es.conll2002-layout.latin1.txt": "esp.testa",
            "panx-de.conll2002-layout-3col.latin1.txt": "ned.testb",
        },
    ),
}


@pytest.fixture(scope="module", params=SOURCES)
def prepared(request, data_dir, tmp_path_factory) -> Path:
    """The folder of a task that `ernie-m prepare` wrote."""
    name, published = SOURCES[request.param]
    output = tmp_path_factory.mktemp(request.param)
    source = data_dir / name
    if published:
        source = output / "published"
        source.mkdir()
        for here, there in published.items():
            shutil.copy(data_dir / name / here, source / there)
    prepare([request.param, str(source), "--output", str(output / "prepared")])
    return output / "prepared"


def official_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a file as the official readers split them: every tab ends a cell, and quotes are text."""
    with open(path, encoding="utf-8", newline="\n") as file:
        header, *lines = (line.rstrip("\r\n").split("\t") for line in file)
    return (dict(zip(header, cells, strict=True)) for cells in lines)


def test_rows_labels_and_qids_of_each_prepared_file(prepared):
    """The texts, the ids of the labels and the qids, of files of pairs; the words and tags of the others."""
    paths = sorted(prepared.rglob("*.tsv"))
    labels = read_label_map(prepared / "label_map.json")
    assert paths
    for path in paths:
        rows = list(official_rows(path))
        assert rows
        if JOINT in rows[0]["label"] or JOINT in rows[-1]["label"]:
            found = [(*zip(sentence.words, sentence.labels),) for sentence in read_tagged(path, labels)]
            expected = [
                (*zip(row["text_a"].split(JOINT), (labels[tag] for tag in row["label"].split(JOINT))),)
                for row in rows
            ]
        else:
            found = [tuple(example) for example in read_classification(path, labels)]
            expected = [(row["text_a"], row["text_b"], labels[row["label"]], row.get("qid")) for row in rows]
        assert found == expected, path


ODD = [
    ('"He said', 'nein"', "1", "q 1"),
    ("a\0b", "\0", "0", ""),
    ("x\u2028y\x0bz\x85", " leading and trailing ", "1", "3"),
    ("text_a", "text_b", "0", "qid"),
    ("", "sep=;", "0", "5"),
    ("en", "de", "1", "6"),
    ("a,b;c|d", "1,5", "0", "-"),
]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
def test_odd_texts_are_texts(tmp_path, caplog, begin, line_end):
    """Lone quotation marks, NUL bytes, what looks like a header. Nothing is asked."""
    path = tmp_path / "x.tsv"
    lines = ["\t".join(row) for row in [("text_a", "text_b", "label", "qid"), *ODD]]
    path.write_bytes((begin + line_end.join(lines) + line_end).encode())
    found = read_classification(path, {"0": 0, "1": 1})
    assert [tuple(example) for example in found] == [(a, b, int(label), qid) for a, b, label, qid in ODD]


# Runs a command, and prints what was imported of the reader of all other tables.
MODULES = """
import sys
from ernie_m.commands import run_classifier
run_classifier.main()
print("TABLE", [name for name in sys.modules if name.startswith("ernie_m.reader.files.table")])
"""


def test_run_classifier_needs_no_reader_of_tables(tmp_path):
    folder = make_classification(tmp_path)
    few = {"max_steps": 1, "epoch": 1, "do_val": "false"}
    process = start_python(MODULES, *command_lines.classification(folder, tmp_path / "out", **few))
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "TABLE []" in output.splitlines()


# Who takes the bytes of users' files apart: modules of ernie_m/reader/files.
READERS = (
    "official_tsv",
    "rows",
    "plain_text",
    "pairs",
    "tagged_sentences",
    "tagged_words",
    "tables",
    "answered",
)
# (file, what it does) -> what it is there. The list may only become shorter.
MAY = {
    ("commands/launch", "splitlines"): "logs of processes",
    ("commands/predict", "gzip"): "a writer",
    ("commands/predict", "splitlines"): "standard input",
    ("data/download", "lzma"): "an error of archives",
    ("data/download", "splitlines"): "lists of checksums",
    ("data/e5_small", "decode"): "a model",
    ("data/prepare/command", "split"): "joins files that it wrote",
    ("data/prepare/command", "splitlines"): "joins files that it wrote",
    ("data/prepare/data_set", "decode"): "public releases, whose form is fixed",
    ("data/prepare/xnli_pawsx", "split"): "public releases, whose form is fixed",
    ("reader/files/own_files", "decode"): "whether a file holds words or answers, by its head",
    ("inference/server/app", "splitlines"): "a docstring",
    ("inference/server/app", "decode"): "a request",
    ("pretrain/build_corpus/text_units", "decode"): "units, which are in UTF-8",
    ("pretrain/build_corpus/workers", "splitlines"): "an error",
    ("reader/classification", "decode"): "lines of the official form, which were checked",
    ("reader/files/aligned_lines", "decode"): "a look at the first lines",
    ("reader/files/squad", "splitlines"): "an error of JSON",
}
PACKERS = ("csv", "gzip", "bz2", "lzma", "codecs")
# The rooms in which files of users are read. What a server, a checkpoint or a log holds is no table.
ROOMS = ("commands", "data", "finetune", "inference", "pretrain", "reader", "vectors")


def takes_apart(node: ast.AST) -> Iterator[str]:
    """What a node of a syntax tree does with bytes, or lines, of a file."""
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names if name.name in PACKERS)
    elif isinstance(node, ast.ImportFrom) and node.module in PACKERS:
        yield node.module
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        is_text = node.func.attr == "decode" and (not node.args or isinstance(first, str))
        if is_text or node.func.attr == "splitlines":
            yield node.func.attr
        elif node.func.attr in ("split", "partition", "rpartition", "rsplit") and first in ("\t", b"\t"):
            yield "split"
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "str" and len(node.args) > 1:
        yield "decode"


def test_the_bytes_of_files_are_taken_apart_in_one_place():
    """Neither packed files, nor cells, nor lines are read by another module, but those that are listed."""
    package = ROOT / "ernie_m"
    found = set()
    for path in (path for room in ROOMS for path in (package / room).rglob("*.py")):
        name = str(path.relative_to(package).with_suffix(""))
        if not name.startswith(tuple(f"reader/files/{reader}" for reader in READERS)):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found |= {(name, what) for node in nodes for what in takes_apart(node)}
    assert found == MAY.keys()


@pytest.mark.parametrize(
    "line",
    [
        "import csv",
        "from gzip import open",
        "a.decode()",
        'str(a, "utf-8")',
        'line.split("\\t")',
        "a.splitlines()",
    ],
)
def test_what_takes_bytes_apart_is_seen(line):
    assert any(map(list, map(takes_apart, ast.walk(ast.parse(line)))))


def test_blank_lines_at_the_end_are_left_out():
    lines = [b"a\n", b"\n", b"b\n", b"\r\n", b"c\n", b"\n", b"\n"]
    assert list(without_blank_end(lines)) == lines[:5]
