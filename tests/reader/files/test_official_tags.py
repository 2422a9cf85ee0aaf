"""The official format: read as the official readers do."""

import pytest

from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.files.official_tsv import is_official_tsv
from tests.helpers.files import write_file

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


@pytest.mark.parametrize(
    ("header", "is_official"),
    [
        (b"\xef\xbb\xbftext_a\tlabel\r\n", True),
        (b"qid\ttext_a\n", True),
        (b"text_a\tlabel\tsource\n", False),
        (b"text_b\tlabel\n", False),
        (b"\xff\xfetext_a\n", False),
    ],
)
def test_official_headers(tmp_path, header, is_official):
    path = write_file(tmp_path / "x.tsv", header + b"a\tb\tc\n")
    assert is_official_tsv(path) == is_official
