"""The benchmarks of training steps: our worker runs in small form, and the figures are what they say."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import mlm_step, side_by_side

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("script", "hidden_layers"), [("mlm_step.py", 1), ("finetune_step.py", 0)])
def test_our_worker(script, hidden_layers):
    flags = ["--worker=ours", "--layers=1", "--vocab=100", "--steps=1"]
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    layer = 12 * 768**2 + 13 * 768
    tables, norm, dense = (100 + 514) * 768, 2 * 768, 768**2 + 768
    head = dense + norm + 100 + 768 if script == "mlm_step.py" else 3 * 768 + 3
    assert found["kept"] == 16 * (tables + norm + layer + dense + head)
    assert len(found["seconds"]) == 1 and found["seconds"][0] > 0
    assert found["kept"] < found["peak"] < 3e9


def test_all_get_the_same_batches():
    batches = itertools.islice(mlm_step.mmlm_batches(300), 2)
    arrays = itertools.islice(mlm_step.ids_and_labels(300), 2)
    inputs = []
    for (batch,), (input_ids, labels) in zip(batches, arrays, strict=True):
        assert batch.valid.all() and input_ids.shape == labels.shape == (16, 128)
        assert np.array_equal(batch.input_ids, input_ids) and batch.masked == 16 * 19
        chosen = labels != mlm_step.IGNORED
        assert np.array_equal(np.flatnonzero(chosen), batch.target_positions)
        assert np.array_equal(labels[chosen], batch.target_ids)
        inputs.append(input_ids)
    assert not np.array_equal(*inputs)


def run(seconds, peak):
    return {"seconds": seconds, "peak": peak * 1e9, "kept": 4e9}


def test_figures():
    runs = {
        "ours": [run([1.0, 2.0, 9.0], 6.0), run([2.0, 2.0], 6.4)],  # median 2
        "ours_bare": [run([1.0], 5.0)],
        "hf_best_sdpa": [run([8.0], 16.0)],
        "hf_installed_sdpa": [run([10.0], 12.0)],
        "hf_installed_eager": [run([20.0], 14.0)],
    }
    found = side_by_side.result(runs, ("hf_best", "hf_installed", "paddlenlp"))
    assert found["tokens_per_second"]["ours"] == 1024
    assert (found["ratio"], found["ratio_to_hf_best"], found["ratio_to_hf_installed"]) == (4.0, 4.0, 5.0)
    assert "ratio_to_paddlenlp" not in found
    assert found["memory_beyond_gb"]["ours"] == 2.4 and found["kept_gb"] == 4.0
    assert found["memory_ratio"] == 0.3  # 2.4 of the leaner peer's 8
    assert "ratio" not in side_by_side.result({"ours": runs["ours"]}, ())
