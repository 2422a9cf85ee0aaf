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
    assert found["batch_tokens"] in inference.BATCH_TOKENS


def test_the_batches_that_suit_best_count(monkeypatch):
    """A contender to which only the number of batches matters, and one to which only pads do."""
    rows = inference.make_rows(1000, 200)
    clock = [0.0]
    monkeypatch.setattr(inference.time, "perf_counter", lambda: clock[0])
    told = {}
    monkeypatch.setattr(inference, "tell", lambda seconds, **more: told.update(more, seconds=seconds))

    def takes(seconds):
        def work(ids):
            clock[0] += seconds(ids)

        return work

    inference.time_batches(takes(lambda ids: 1.0), rows)
    assert told == {"seconds": len(inference.batches(rows, 4096)), "batch_tokens": 4096}
    inference.time_batches(takes(lambda ids: float((ids == 1).sum())), rows)
    pads = sum(int((ids == 1).sum()) for ids in inference.batches(rows, 1024))
    assert told == {"seconds": pads, "batch_tokens": 1024}


def test_rows_are_of_mixed_length_and_in_batches_of_alike():
    rows = inference.make_rows(1000, 200)
    lengths = sorted(map(len, rows))
    assert lengths[0] < 10 and 60 < lengths[-1] <= 120 and len(set(lengths)) > 40
    arrays = inference.batches(rows, 2048)
    assert sum(len(ids) for ids in arrays) == 200 and all(ids.size <= 2048 for ids in arrays)
    assert sum(int((ids != 1).sum()) for ids in arrays) == sum(lengths)
