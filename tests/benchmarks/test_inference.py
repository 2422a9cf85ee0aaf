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


def test_figures():
    runs = {
        "dygraph": [{"seconds": 4.0}, {"seconds": 5.0}],
        "onnx": [{"seconds": 2.0}],
        "onnx-int8": [{"seconds": 1.0}],
        "hf_installed_sdpa": [{"seconds": 8.0}],
        "hf_best_sdpa": [{"seconds": 6.0}, {"seconds": 5.0}],
    }
    found = inference.result(runs, 100)
    assert found["sentences_per_second"]["dygraph"] == 25.0
    assert (found["ratio"], found["ratio_int8"]) == (2.5, 5.0)
    assert found["ratios"] == {"dygraph": 1.25, "onnx": 2.5, "onnx-int8": 5.0}
    assert "ratio" not in inference.result({"onnx": [{"seconds": 2.0}]}, 100)
