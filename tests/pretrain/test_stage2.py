"""Sharding stage 2 of a whole run, on a CPU, which Paddle's own code runs on if it does not ask for a GPU.

Evaluations and checkpoints on the way; in most steps one process has more micro-batches than the other.
float32, as Paddle's stage 2 has no float64.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from model.formats import safe
from model.training_state import load_training_state
from tests.launching import launch
from tests.pretrain.tiny_run import losses, pretrain, records

SCRIPT = Path(__file__).with_name("combinations_script.py")
STEPS = 16
USUAL = {
    "optimizer__steps": STEPS, "optimizer__batch_size": 13, "run__log_steps": 1, "run__save_steps": 8,
    "run__eval_steps": 6, "run__eval_sequences": 4, "run__micro_batch_size": 1,
    "objectives__btmlm_start": 0.1,
    "model__hidden_dropout_prob": 0.0, "model__attention_probs_dropout_prob": 0.0,
}  # fmt: skip
THREE = {"objectives__active": ["mmlm", "tlm", "camlm"]}


@pytest.fixture(scope="module")
def runs(tiny_corpus, tmp_path_factory):
    """Two processes in stage 2: a run without BTMLM, whose choices a last bit can turn; half of one with."""
    folder = tmp_path_factory.mktemp("stage2")
    changes = {"three": USUAL | THREE, "all": USUAL | {"run__stop_after_steps": STEPS // 2}}
    changes = {name: change | {"run__sharding_stage": 2} for name, change in changes.items()}
    done = launch([SCRIPT, tiny_corpus, folder, json.dumps(changes), "lifted"], folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_are_one(runs, tiny_corpus):
    one = pretrain(tiny_corpus, runs / "one", **USUAL | THREE)
    assert len(losses(runs / "three")) == STEPS
    assert losses(runs / "three") == pytest.approx(losses(one), abs=1e-4, rel=0)
    norms = [
        [record["grad_norm"] for record in records(out) if "loss" in record] for out in (runs / "three", one)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_one_process_goes_on_from_the_parts_of_two(runs, tiny_corpus):
    state = runs / "all" / "checkpoints" / f"step_{STEPS // 2}" / "training_state"
    parts = [safe.read(path) for path in sorted(state.glob("arrays*"))]
    assert len(parts) == 2 and all(parts) and not set(parts[0]) & set(parts[1])
    names = {key.rsplit("/", 1)[0] for key in load_training_state(state)["engine"]["optimizer"]}
    assert "ernie_m.embeddings.word_embeddings.weight" in names and "language_embeddings.weight" in names
    assert not any("pooler" in name for name in names)
    pretrain(tiny_corpus, runs / "all", **USUAL)
    assert len(losses(runs / "all")) == STEPS and np.isfinite(losses(runs / "all")).all()
    assert any("btmlm" in record for record in records(runs / "all"))
