"""The files of a folder with tables: which are read, in which order, and what is said of the others."""

import logging

import pytest

from ernie_m.reader.files.dataset_folder import LabelledFile, find_tables
from tests.launching import error_of


@pytest.fixture
def find(tmp_path, caplog):
    """find(*names) -> what is found of empty files with these names, beside train.en.tsv."""
    caplog.set_level(logging.INFO, logger="ernie_m")

    def find(*names: str) -> list[LabelledFile]:
        for name in ("train.en.tsv", *names):
            path = tmp_path / "my" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return find_tables(tmp_path / "my", tmp_path / "my" / "out")

    return find


def test_dev_files_come_before_test_files(find):
    """English is first; what a command wrote is not read."""
    found = find("dev-fr.tsv", "dev.en.csv.gz", "test.fr.xlsx", "test.de.jsonl", "out/train.de.tsv")
    names = [(file.split, file.language) for file in found]
    assert names == [("train", "en"), ("dev", "en"), ("dev", "fr"), ("test", "de"), ("test", "fr")]


def test_files_that_are_not_read_have_a_reason(find, caplog):
    """Ten of a kind are named."""
    reasons = dict.fromkeys(("train.engl.tsv", "dev.zh-CN.tsv"), "a language has two or three small letters")
    reasons["all.pdf"] = "a name ends in .tsv, .csv"
    reasons |= dict.fromkeys((f"{i}.txt" for i in range(10, 22)), "a name is train, dev or test with a lang")
    find(*reasons, "a/train.en.tsv")
    for name, reason in [*reasons.items()][:13]:
        assert any(f"/{name}" in line and reason in line for line in caplog.messages), name
    assert "19.txt and 2 more (" in caplog.text
    assert "my/train.en.tsv; train en is " in caplog.text


def test_a_source_without_training_files(tmp_path):
    (tmp_path / "dev.en.tsv").touch()
    assert error_of(find_tables, tmp_path, tmp_path / "out").startswith(f"{tmp_path}: ")
    assert error_of(find_tables, tmp_path / "none", tmp_path / "out").startswith(f"{tmp_path / 'none'}: ")
