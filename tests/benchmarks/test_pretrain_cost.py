"""The benchmark of the full strategy's cost: equal work on both sides, and the count of operations."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import pretrain_cost
from pretrain.config import OBJECTIVES
from pretrain.masking import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--layers=1", "--vocab=300", "--length=32", "--sequences=4", "--micro=1", "--alternations=2"]


def steps(config, vocab=250002, length=256, sequences=16, micro=4):
    vocabulary = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=4, size=vocab)
    return pretrain_cost.random_steps(config, vocabulary, length, sequences, micro)


def test_small_form():
    command = [sys.executable, str(ROOT / "benchmarks/pretrain_cost.py"), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["alternations"] == 2 and len(found["spread"]) == 5
    assert found["spread"][0] <= found["ratio"] <= found["spread"][-1]
    assert found["operations"] > 1.0


def test_both_strategies_train_equal_tokens_in_equal_micro_batches():
    (base,), (full,) = (islice(steps(config), 1) for config in pretrain_cost.STRATEGIES.values())
    names = [[OBJECTIVES[batch.masked.argmax()] for batch in work.micro_batches] for work in (base, full)]
    assert names[0] == ["mmlm", "mmlm", "tlm", "tlm"] and {*names[1]} == {"mmlm", "tlm", "camlm", "btmlm"}
    assert [batch.tokens for batch in base.micro_batches] == [4 * 256] * 4
    assert [batch.tokens for batch in full.micro_batches] == [4 * 256] * 4
    masked = dict(zip(names[1], (len(batch.targets) / 4 for batch in full.micro_batches)))
    assert masked == {"mmlm": 38, "tlm": 38, "camlm": 38, "btmlm": 32}


def test_operations_of_the_base_size():
    """By hand, per token: 24 H^2 + 4 H x 256 a layer, where the last one is not read 6 H^2 of the 24, and
    38 / 256 of the head (docs/objectives.md, Cost)."""
    base = next(steps(pretrain_cost.STRATEGIES["mmlm + tlm"]))
    count = pretrain_cost.operations_per_token(base, layers=12, vocab=250002)
    encoder = 12 * (24 * 768**2 + 4 * 768 * 256) - (1 - 38 / 256) * 18 * 768**2
    assert count == pytest.approx(3 * (encoder + 38 / 256 * 2 * 768 * (768 + 250002)))
    full = pretrain_cost.operations_per_token(next(steps(pretrain_cost.STRATEGIES["full"])), 12, 250002)
    assert full / count == pytest.approx(1.049, abs=2e-3)
