"""Near-duplicates are all pairs of texts above a cosine, the nearest first."""

import csv
import io

import numpy as np
import pytest

import ernie_m
from tests.helpers.files import write_file
from tests.launching import ROOT, run_script
from tests.toys import sentences

EXAMPLE = ROOT / "examples" / "near_duplicates.py"


@pytest.mark.slow
def test_near_duplicates_are_all_pairs_above_the_threshold(models, tmp_path):
    """Of a table without labels, with other column names, Chinese, and U+2028 in a cell."""
    texts = [*sentences(10, seed=5), "安娜住在罗马。", "bado\u2028kani"]
    embeddings = ernie_m.load(models / "encode").encode(texts, normalize=True)
    cosines = embeddings @ embeddings.T
    threshold = float(np.median(cosines))
    csv.writer(table := io.StringIO()).writerows([["Nr", "Body"], *enumerate(texts)])
    write_file(tmp_path / "a.csv", table.getvalue())
    output = run_script([EXAMPLE, models / "encode", "a.csv", threshold, "--text", "Body"], tmp_path).stdout
    found = [line.split("\t") for line in output.rstrip("\n").split("\n")]
    pairs = {(first, second) for _, first, second in found}
    locations = [(a, b) for b in range(len(texts)) for a in range(b) if cosines[a, b] > threshold]
    assert len(found) == len(pairs) > 3 and pairs == {(texts[a], texts[b]) for a, b in locations}
    assert found == sorted(found, key=lambda pair: -float(pair[0]))
