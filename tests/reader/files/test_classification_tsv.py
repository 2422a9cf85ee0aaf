"""The official TSV, maps and patterns: what is read, and what each error says."""

import gzip
import json
import pickle
import re

import pytest

from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.labels import expand_patterns, hash_input, read_label_map, read_languages
from ernie_m.reader.text_featurizer import Example
from tests.helpers.files import write_file
from tests.launching import check_error, error_of

LABELS = {"contradiction": 0, "entailment": 1, "neutral": 2}


@pytest.fixture
def write(tmp_path):
    """write(content, name) -> the path of a file with it."""

    def write(content: str | bytes, name: str = "x.tsv"):
        return write_file(tmp_path / name, content)

    return write


# What is tested -> a file, and its rows (text_a, text_b, label, qid).
ROWS = {
    "pair": (
        "text_a\ttext_b\tlabel\nA man.\tEin Mann.\tentailment\n他说\t\tneutral\n",
        [("A man.", "Ein Mann.", 1, None), ("他说", "", 2, None)],
    ),
    "no quoting": (
        'text_a\ttext_b\tlabel\n"a\t"b" c\tneutral\n',
        [('"a', '"b" c', 2, None)],
    ),
    "other columns": (
        "text_b\tqid\tlabel\tsource\ttext_a\nb\tq7\tneutral\tweb\ta\n",
        [("a", "b", 2, "q7")],
    ),
    "other texts in a file with official names": (
        "text_a\tlabel\thypothesis\tsentence2\na\tneutral\tb\tc\n",
        [("a", None, 2, None)],
    ),
    "one text, no last line end": (
        "text_a\tlabel\na\tneutral",
        [("a", None, 2, None)],
    ),
    "byte order mark, Windows line ends, blank lines at the end": (
        b"\xef\xbb\xbftext_a\ttext_b\tlabel\r\na\tb\tneutral\r\nc\td\tentailment\r\n\r\n\n",
        [("a", "b", 2, None), ("c", "d", 1, None)],
    ),
    "what str.splitlines takes for line ends": (
        "text_a\tlabel\na\u2028b\x0bc\x85d\tneutral\n",
        [("a\u2028b\x0bc\x85d", None, 2, None)],
    ),
}


@pytest.mark.parametrize("content, expected", ROWS.values(), ids=ROWS.keys())
def test_read_rows(write, content, expected):
    examples = read_classification(write(content), LABELS)
    assert list(examples) == expected and examples.get_location(1) == "line 3"
    assert examples.inputs.tolist() == [hash_input(*row[:2]) for row in expected]
    assert len(examples) == len(expected) and pickle.loads(pickle.dumps(examples))[-1] == expected[-1]
    with pytest.raises(IndexError):
        examples[len(expected)]


def test_ignored_columns_are_named(write, caplog):
    path = write(ROWS["other texts in a file with official names"][0])
    read_classification(path, LABELS)
    assert caplog.messages == [f"{path}: ignored columns: hypothesis, sentence2"]


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("text_a\tlabel\na\t1\nb\t0\n", {}, [("a", None, 1, None), ("b", None, 0, None)]),
        ("text_a\ttext_b\tlabel\na\tb\twhatever\n", {"labels": False}, [("a", "b", -1, None)]),
        ("text_a\na\n", {"labels": False}, [("a", None, -1, None)]),
        (
            "text_a\tlabel\na\t-1e1\nb\t2\n",
            {"regression": True},
            [("a", None, -10.0, None), ("b", None, 2.0, None)],
        ),
    ],
)
def test_ids_or_numbers_as_labels_and_no_labels(write, content, options, expected):
    assert list(map(repr, read_classification(write(content), **options))) == [
        repr(Example(*row)) for row in expected
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "x.tsv: "),
        ("a man\tneutral\tx\ty\n", "x.tsv, line 1: "),
        ("text_a\ttext_a\tlabel\n", "x.tsv, line 1: duplicate column text_a"),
        ("text_a\ttext_b\tlabel\n", "x.tsv: "),
        (
            "text_a\ttext_b\tlabel\na\tb\tneutral\na\tb\n",
            "x.tsv, line 3: 2 columns",
        ),
        ("text_a\tlabel\na\tneutral\n\na\tneutral\n", "x.tsv, line 3: 1 columns"),
        (
            "text_a\ttext_b\tlabel\na\tb\tneutral\na\tb\tmaybe\n",
            "x.tsv, line 3: unknown label 'maybe'",
        ),
        (b"text_a\ttext_b\tlabel\na\tb\tneutral\nab\xffc\tb\tneutral\n", "x.tsv, line 3: not UTF-8 (byte 3"),
    ],
)
def test_reject_invalid_rows(write, content, message):
    assert message in error_of(read_classification, write(content), LABELS)


@pytest.mark.parametrize(
    "content",
    [
        "text,label\na,neutral\n",
        "Premise\tHypothesis\tlabel\na\tb\tneutral\n",
        "a man\tneutral\n",
        '{"text": "a", "label": "neutral"}\n',
        gzip.compress(b"text_a\tlabel\na\tneutral\n", mtime=0),
        None,  # a folder
    ],
)
def test_any_other_table_is_for_fit(write, tmp_path, content):
    path = tmp_path if content is None else write(content)
    assert error_of(read_classification, path, LABELS).startswith(str(path))


@pytest.mark.parametrize("regression", [False, True])
def test_report_all_row_errors_at_once(write, regression):
    """Ten of a kind, and the number of the others."""
    rows = ["a\t2.5" if regression else "a\tneutral", "a", *(f"a\tx{i}" for i in range(12)), "\t\t"]
    path = write("\n".join(["text_a\tlabel", *rows, ""]))
    lines = error_of(read_classification, path, LABELS, regression=regression).splitlines()
    numbers = [re.search(r"line (\d+): ", line)[1] for line in lines if ": " in line]
    assert (numbers, lines[-1].strip()) == (["3", "16", *map(str, range(4, 14))], "and 2 more such rows")


@pytest.mark.parametrize("label", ["neutral", "3", "-1", "\u00b2", "9" * 5000])
def test_labels_without_a_map(write, label):
    line = error_of(read_classification, write(f"text_a\tlabel\na\t{label}\n"), num_labels=3)
    assert f"x.tsv, line 2: invalid label '{label[:20]}" in line
    assert all(way in line for way in ("--num_labels 3", "--label_map_config", "ernie-m fit"))


def test_a_label_map_must_have_num_labels(write):
    path = write(json.dumps(LABELS), "label_map.json")
    assert read_label_map(path) == read_label_map(path, 3) == LABELS
    assert read_languages(path) == list(LABELS)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": 0, "b": 2}', "(expected 0 to 1,"),
        ('{"a": "0"}', "(expected 0 to 0,"),
        ('{"a": 0, "": 1}', "empty label name"),
        ('{"a": false, "b": true}', "(expected 0 to 1,"),
        ('{"a": 0, "b": 1, "c": 2}', "3 labels (a, b, c) do not match --num_labels 2. Set --num_labels 3"),
        ('["a"]', "not a JSON object"),
        ("{}", "expected"),
        ('{"a": 0,\n', "line 2, column 1: not JSON"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_reject_bad_label_maps(write, content, message):
    check_error(error_of(read_label_map, write(content, "m.json"), 2), "m.json", message)


@pytest.mark.parametrize(
    ("patterns", "languages", "expected"),
    [
        (
            " b/%s.tsv,a.%s,",
            ["zh", "en"],
            {"b/%s.tsv": {"zh": "b/zh.tsv", "en": "b/en.tsv"}, "a.%s": {"zh": "a.zh", "en": "a.en"}},
        ),
        ("dev.tsv", ["en"], {"dev.tsv": {"en": "dev.tsv"}}),
        ("dev.tsv", None, {"dev.tsv": {"all": "dev.tsv"}}),
    ],
)
def test_patterns_with_languages(patterns, languages, expected):
    """The files of --dev_set: pattern -> language -> path; "all" is the key without a language map."""
    files = expand_patterns(patterns, languages, "--dev_set")
    assert json.dumps(files, default=str) == json.dumps(expected)  # in this order


@pytest.mark.parametrize(
    ("patterns", "languages", "location"),
    [
        ("dev.tsv", ["en", "zh"], "--dev_set dev.tsv: "),
        ("dev.%s.tsv", None, "--dev_set dev.%s.tsv: "),
        (" ,", ["en"], "--dev_set: "),
        ("a.%s,b.%s, a.%s", ["en"], "duplicate a.%s"),
    ],
)
def test_reject_bad_patterns(patterns, languages, location):
    assert location in error_of(expand_patterns, patterns, languages, "--dev_set")
