"""Files of lines: they stay as they were checked, or the run ends; compressed files are named as such."""

import bz2
import gzip
import lzma
import os
import pickle
import time
from functools import partial

import pytest

from ernie_m.reader.files.aligned_lines import Sentences
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.files.labeled_tables import read_labeled_table
from ernie_m.reader.files.official_tags import read_tagged_tsv
from ernie_m.reader.files.table_options import LabelOptions
from tests.helpers.files import write_file
from tests.launching import error_of

HEADER = "text_a\tlabel\n"
ROWS = "a man\t0\na dog\t1\na cat\t2\n"
# What is said of a file -> a file of this kind.
COMPRESS = {
    "gunzip": gzip.compress,
    "bunzip2": bz2.compress,
    "unxz": lzma.compress,
    "unzip, or save a spreadsheet as .csv": b"PK\x03\x04".__add__,
}


def wait_for_another_time() -> None:
    """Wait until a file that is written gets another time than those before."""
    time.sleep(0.02)


@pytest.mark.parametrize(
    "content",
    [
        HEADER + ROWS.replace("\t", " "),  # as long as before, but rows that would not be read
        HEADER + ROWS.replace("0", "2"),  # valid rows, but others
        HEADER,
        HEADER + ROWS + ROWS,
    ],
    ids=["damaged rows", "other rows", "shorter", "longer"],
)
def test_a_file_that_is_overwritten_during_a_run(tmp_path, content):
    """PipelineConfig a line ends the run: where the file is open already, and in another process."""
    path = write_file(tmp_path / "train", HEADER + ROWS)
    examples = read_classification(path)
    sentences = Sentences(path)
    assert examples[0] and sentences[0]  # both have opened the file
    in_other_process = pickle.dumps(examples)
    wait_for_another_time()
    path.write_text(content)
    for lines in (examples, sentences, pickle.loads(in_other_process)):
        assert error_of(lines.__getitem__, 2).startswith(f"{path}: changed")


def test_a_file_that_is_replaced_stays_readable_where_it_is_open(tmp_path, in_tmp_path, monkeypatch):
    """Another process, which opens it by its name, would read the new file, and ends with an error.

    It is opened by a relative path, and read in another folder.
    """
    path = write_file(tmp_path / "train.tsv", HEADER + ROWS)
    examples = read_classification(path.name)
    monkeypatch.chdir("/")
    assert examples[0].label == 0
    in_other_process = pickle.dumps(examples)
    wait_for_another_time()
    (tmp_path / "new.tsv").write_text(HEADER + ROWS.replace("man", "cow"))
    os.replace(tmp_path / "new.tsv", path)
    assert examples[1].text_a == "a dog"
    assert error_of(pickle.loads(in_other_process).__getitem__, 1).startswith(f"{path}: changed")
    path.unlink()
    assert error_of(pickle.loads(in_other_process).__getitem__, 1).startswith(f"{path}: cannot be read")


def test_warn_about_cells_in_quotation_marks(tmp_path, caplog):
    """A tab-separated file that pandas wrote doubles the quotation marks in a cell and encloses it."""
    path = write_file(
        tmp_path / "train.tsv", f'{HEADER}"a ""man"" sits"\t0\n{ROWS}"a man" and "a dog", \t1\n'
    )
    assert read_classification(path)[0].text_a == '"a ""man"" sits"'
    assert read_labeled_table(path, LabelOptions()).rows[0].texts == ['"a ""man"" sits"']
    assert [line.partition(" have ")[0] for line in caplog.messages[::2]] == [f"{path}: 1 of 5 rows"] * 2


@pytest.mark.parametrize(
    "read", [read_classification, partial(read_tagged_tsv, label_map={"O": 0}), Sentences]
)
@pytest.mark.parametrize("name", ["train.tsv", "train.tsv.gz"])
@pytest.mark.parametrize("tool", COMPRESS)
def test_compressed_files_are_named_as_such(tmp_path, tool, name, read):
    """Where a file is read line by line from the disk."""
    path = write_file(tmp_path / name, COMPRESS[tool]((HEADER + ROWS).encode()))
    assert f"{path}: compressed file. Decompress it with {tool}" in error_of(read, path)
