"""`prepare.py own`: labelled texts of the user's own."""

import re
from pathlib import Path

import pytest

from reader.classification import Example, read_classification
from reader.task_files import read_label_map, read_languages
from scripts.data.own import prepare_own
from tests.reader.conftest import files
from utils.errors import UserError

TRAINING = "Good.\tnice\nBad.\tnasty\nFine.\tnice\nAwful.\tnasty\n"


@pytest.fixture
def folder_with(tmp_path):
    """folder_with(name=text, ...) writes files into the folder `my` and returns it."""

    def write(**contents: str) -> Path:
        for name, content in contents.items():
            path = tmp_path / "my" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode())
        return tmp_path / "my"

    return write


def test_texts_with_a_header_or_without(folder_with, tmp_path):
    source = folder_with(**{"train.en.tsv": f"text_a\tlabel\n{TRAINING}", "dev-de.tsv": "Gut.\tnice\r\n\n"})
    out = tmp_path / "out"
    prepare_own([source], out)
    labels = read_label_map(out / "label_map.json", 2)
    assert labels == {"nasty": 0, "nice": 1}
    (example,) = read_classification(out / "dev/dev.de.tsv", labels)
    assert example == Example("Gut.", text_b=None, label=1)
    training = read_classification(out / "train/train.en.tsv", labels)
    assert training[0] == Example("Good.", text_b=None, label=1) and len(training) == 4


def test_pairs_in_two_languages(folder_with, tmp_path):
    source = folder_with(**{"train.en.tsv": "a\tb\tyes: c\nd\te\tyes: c\n", "train.de.tsv": "f\tg\tyes: c\n"})
    prepare_own([source], tmp_path / "out")
    joint = read_classification(tmp_path / "out/train/train.all.tsv", {"yes: c": 0})
    assert [example[:3] for example in joint] == [("a", "b", 0), ("d", "e", 0), ("f", "g", 0)]


def test_dev_files_alone_decide_which_languages_are_evaluated(folder_with, tmp_path):
    splits = ("dev.fr", "dev.en", "dev.de", "test.fr", "test.de")
    source = folder_with(**{f"{name}.tsv": "x\tnice\n" for name in splits}, **{"train.en.tsv": TRAINING})
    prepare_own([source], tmp_path / "out")
    assert read_languages(tmp_path / "out/lang_map.json") == ["en", "de", "fr"]
    assert read_languages(tmp_path / "out/test/lang_map.json") == ["de", "fr"]


def test_labels_are_counted_and_other_files_named(folder_with, tmp_path, capsys):
    source = folder_with(**{"train.en.tsv": TRAINING + "x\tnice\n", "dev.de.tsv": "x\tnasty\n"})
    folder_with(**{"a/dev.de.tsv": "y\tnice\ny\tnice\n", "train.tsv": "", "xnli-dev-de.tsv": "", "x.csv": ""})
    prepare_own([source], tmp_path / "out")
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert ["nasty", "2", "0"] in rows and ["nice", "3", "2"] in rows  # train, and dev of a/
    assert f"not used: {source}/dev.de.tsv; dev de is {source}/a/dev.de.tsv" in printed
    assert f"not read: {source}/train.tsv, {source}/x.csv, {source}/xnli-dev-de.tsv\n" in printed
    assert "no dev file" not in printed


def test_space_around_a_label_is_left_out(folder_with, tmp_path):
    prepare_own([folder_with(**{"train.en.tsv": TRAINING + "x\t nice \n"})], tmp_path / "out")
    assert read_label_map(tmp_path / "out/label_map.json") == {"nasty": 0, "nice": 1}
    assert (tmp_path / "out/train/train.en.tsv").read_text().endswith("x\tnice\n")


def test_many_other_files_are_counted(folder_with, tmp_path, capsys):
    source = folder_with(**{"train.en.tsv": TRAINING}, **{f"{i}.txt": "" for i in range(10, 22)})
    prepare_own([source], tmp_path / "out")
    assert f"{source}/19.txt and 2 more\n" in capsys.readouterr().out


def test_without_a_dev_file(folder_with, tmp_path, capsys):
    """lang_map.json is written all the same, because own.sh reads it unless it is given --do_val false."""
    prepare_own([folder_with(**{"train.en.tsv": TRAINING})], tmp_path / "out")
    assert "no dev file: add --do_val false" in capsys.readouterr().out
    assert read_languages(tmp_path / "out/lang_map.json") == ["en"]


def test_files_of_an_earlier_call_are_refused(folder_with, tmp_path):
    out = tmp_path / "out"
    source = folder_with(**{"train.en.tsv": TRAINING, "train.de.tsv": TRAINING, "test.de.tsv": "x\tnice\n"})
    prepare_own([source], out)
    prepare_own([source], out)  # the same files again
    before = files(out)
    (source / "train.de.tsv").unlink()
    (source / "test.de.tsv").unlink()
    leftovers = f"{out}/train/train.all.tsv, {out}/train/train.de.tsv, {out}/test/test.de.tsv"
    message = re.escape(f"{leftovers}: written by an earlier call, and not")
    with pytest.raises(UserError, match=message):
        prepare_own([source], out)
    assert files(out) == before


@pytest.mark.parametrize(
    "contents, message",
    [
        ({"train.en.tsv": ""}, "train.en.tsv: the file is empty"),
        ({"train.en.tsv": "text_a\tlabel\n"}, "train.en.tsv: no rows in it"),
        ({"train.en.tsv": "a\tyes\n\tno\n"}, "train.en.tsv, line 2: 2 columns, or an empty one"),
        ({"train.en.tsv": "text_a\tlabel\na\tb\tc\n"}, "train.en.tsv, line 2: 3 columns, or an empty"),
        ({"train.en.tsv": "a\n"}, "train.en.tsv, line 1: 1 columns, or an empty one"),
        ({"train.tsv": TRAINING, "dev.en.tsv": TRAINING}, "my: no training file there, such as train.en.tsv"),
        ({"train.en.tsv": TRAINING, "dev.de.tsv": "a\tb\tnice\n"}, "dev.de.tsv: 3 columns, but "),
        (
            {"train.en.tsv": TRAINING, "dev.de.tsv": "text_a\tlabel\nx\tnice\nx\tNice\n"},
            "dev.de.tsv, line 3: label 'Nice' is in no training file (nasty, nice)",
        ),
        (
            {"train.en.tsv": "nice\tGood.\nnasty\tBad.\nnice\tFine.\n"},
            "train.en.tsv: 3 labels in 3 rows; is the last column the label?",
        ),
    ],
)
def test_bad_files(folder_with, tmp_path, contents, message):
    with pytest.raises(UserError, match=re.escape(message)):
        prepare_own([folder_with(**contents)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_such_source(tmp_path):
    with pytest.raises(UserError, match="none: no such file or folder"):
        prepare_own([tmp_path / "none"], tmp_path / "out")
