"""The benchmark of engines: our workers run in small form, and the figures are what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import inference

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["dygraph", "paddle", "onnx", "onnx-int8"])
def test_our_workers(tmp_path, name):
    flags = [f"--worker={name}", f"--folder={tmp_path}", "--layers=1", "--vocab=100", "--sentences=4"]
    command = [sys.executable, str(ROOT / "benchmarks/inference.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds"] > 0 and 1e7 < found["peak"] < 3e9


def test_rows_are_of_mixed_length_and_in_batches_of_alike():
    rows = inference.make_rows(1000, 200)
    lengths = sorted(map(len, rows))
    assert lengths[0] < 10 and 60 < lengths[-1] <= 120 and len(set(lengths)) > 40
    arrays = inference.batches(rows)
    assert sum(len(ids) for ids in arrays) == 200 and all(ids.size <= 4096 for ids in arrays)
    assert sum(int((ids != 1).sum()) for ids in arrays) == sum(lengths)
