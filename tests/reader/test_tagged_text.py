"""The official TSV of tagged sentences: what is read, and what each fault says."""

import pickle
import re

import pytest

from reader.tagging import Sentence, read_tagged
from utils.errors import UserError

LABELS = {"B-PER": 0, "I-PER": 1, "B-LOC": 2, "I-LOC": 3, "O": 4}


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes):
        """`+` stands for U+0002."""
        path = tmp_path / "x.tsv"
        path.write_bytes(content if isinstance(content, bytes) else content.replace("+", "\x02").encode())
        return path

    return write


def test_rows(write):
    found = read_tagged(write("text_a\tlabel\nEkeus+heads+for+Baghdad\tB-PER+O+O+B-LOC\n前\tO\n"), LABELS)
    assert found == [
        Sentence("Ekeus\x02heads\x02for\x02Baghdad", (0, 4, 4, 2)),
        Sentence("前", (4,)),
    ]
    assert found[0].words == ["Ekeus", "heads", "for", "Baghdad"]
    assert pickle.loads(pickle.dumps(found)) == found


def test_iob1_becomes_iob2(write):
    path = write("text_a\tlabel\na+b+c\tI-PER+B-PER+I-LOC\n")
    for scheme in ("IOB", "IOB1"):
        assert read_tagged(path, LABELS, scheme)[0].labels == (0, 0, 2)


def test_other_columns_marks_and_windows_line_ends(write):
    path = write("\ufefflabel\tid\ttext_a\r\nO+B-PER\t7\ta+b\r\n\r\n")
    assert read_tagged(path, LABELS) == [Sentence("a\x02b", (4, 0))]


def test_white_space_belongs_to_tokens(write):
    """No-break space, U+0085 and U+2028 end neither a token nor a line."""
    path = write("text_a\tlabel\na\xa0b+c d+\x85+\u2028\tO+O+O+O\n")
    assert read_tagged(path, LABELS)[0].words == ["a\xa0b", "c d", "\x85", "\u2028"]


def test_without_labels(write):
    assert read_tagged(write("text_a\na+b\n"), LABELS, labels=False) == [Sentence("a\x02b", None)]
    path = write("text_a\tlabel\na+b\tO+O\n")
    assert read_tagged(path, LABELS, labels=False)[0].labels == (4, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "x.tsv: the file is empty"),
        ("a\tO\n", "line 1: no column text_a, label in the header"),
        ("text_a\na\n", "line 1: no column label in the header"),
        ("text_a\tlabel\n", "no rows after the header"),
        ("text_a\tlabel\na\n", "line 2: 1 columns, but the header names 2"),
        ("text_a\tlabel\na\tO\n\nb\tO\n", "line 3: 1 columns"),
        ("text_a\tlabel\n\t\n", "line 2: an empty sentence; remove the line"),
        ("text_a\tlabel\na++b\tO+O+O\n", "line 2: token 2 of 3 is empty"),
        ("text_a\tlabel\na+b\tO\n", "line 2: 2 tokens but 1 tags"),
        ("text_a\tlabel\na\tO+O\n", "line 2: 1 tokens but 2 tags"),
        ("text_a\tlabel\na+b\tO+B-ORG\n", "line 2, token 2: unknown tag 'B-ORG'; the label map has B-PER,"),
        ("text_a\tlabel\na b\tO O\n", "line 2, token 1: unknown tag 'O O'"),
        ("text_a\tlabel\na\tB-PER\nb+c\tO+I-LOC\n", "line 3, token 2: I-LOC begins an entity, but line 2"),
        (b"text_a\tlabel\na\tO\n\xff\tO\n", "line 3: not UTF-8"),
    ],
)
def test_faults(write, content, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_tagged(write(content), LABELS)


def test_the_scheme_is_held(write):
    with pytest.raises(UserError, match="line 2, token 1: I-PER begins an entity, which IOB2"):
        read_tagged(write("text_a\tlabel\na\tI-PER\n"), LABELS, "IOB2")


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.tsv: cannot read it"):
        read_tagged(tmp_path / "absent.tsv", LABELS)
