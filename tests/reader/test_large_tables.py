"""Tables that are large where nobody looks: blank lines cost no memory, and a long list is read once."""

import gzip
import json
import time
import tracemalloc
from functools import partial

import pytest

from ernie_m.reader.files.conll import read_tagged_words
from ernie_m.reader.files.labeled_tables import read_labeled_table
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.table_options import LabelOptions
from tests.launching import error_of

READERS = {
    "labels": partial(read_labeled_table, options=LabelOptions()),
    "words": read_tagged_words,
}
BLANK = 1 << 19  # lines; an integer of 8 bytes for each takes 4 MiB, everything else about 2


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_line_ends_take_no_memory(tmp_path, reader):
    """A packed file of 2 kB."""
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"\n" * BLANK, 9))
    tracemalloc.start()
    try:
        assert error_of(READERS[reader], path).startswith(f"{path}: ")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * BLANK


def test_read_large_json_list_in_linear_time(tmp_path):
    """If the rest of the list were copied for each object, this would take minutes."""
    path = tmp_path / "a.json"
    count = 30_000
    long = "a text " * 30
    path.write_text(json.dumps([{"query": f"{long}{n}", "pos": f"a text {n}"} for n in range(count)]))
    start = time.process_time()
    assert len(PairRows(path)) == count
    assert time.process_time() - start < 20
