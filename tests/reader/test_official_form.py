"""The official form: read as the official readers do."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_m.data.prepare import main as prepare
from ernie_m.reader.classification import read_classification
from ernie_m.reader.files.official_tsv import without_blank_end
from ernie_m.reader.files.tagged_sentences import JOINT, read_tagged
from ernie_m.reader.label_map import read_label_map

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


def test_blank_lines_at_the_end_are_left_out():
    lines = [b"a\n", b"\n", b"b\n", b"\r\n", b"c\n", b"\n", b"\n"]
    assert list(without_blank_end(lines)) == lines[:5]
