"""Four processes on a CPU (gloo): data parallel, sharding stage 1 and accumulation, in all
combinations, are the run of one process. Dropout 0, float64, 20 steps, all four objectives.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from model.training_state import load_training_state
from tests.launching import launch
from tests.pretrain.tiny_run import losses, pretrain, records

SCRIPT = Path(__file__).with_name("combinations_script.py")
STEPS, SEQUENCES = 20, 24  # 6 sequences a process, up to 2 of an objective
EXACT = {
    "optimizer__steps": STEPS, "optimizer__batch_size": SEQUENCES, "run__dtype": "float64",
    "run__log_steps": 1, "run__save_steps": STEPS, "run__micro_batch_size": 100, "run__eval_sequences": 0,
    "model__hidden_dropout_prob": 0.0, "model__attention_probs_dropout_prob": 0.0,
}  # fmt: skip
COMBINATIONS = {
    f"stage {stage}, micro-batches of {size}": {"run__sharding_stage": stage, "run__micro_batch_size": size}
    for stage, size in itertools.product((0, 1), (100, 1))
}


@pytest.fixture(scope="module")
def whole(tiny_corpus, tmp_path_factory):
    """One process, one batch per objective."""
    return pretrain(tiny_corpus, tmp_path_factory.mktemp("whole") / "out", **EXACT)


@pytest.fixture(scope="module")
def runs(tiny_corpus, tmp_path_factory):
    """The folder of all combinations: paddle is imported four times, not sixteen."""
    folder = tmp_path_factory.mktemp("four")
    changes = json.dumps({name: EXACT | change for name, change in COMBINATIONS.items()})
    done = launch([SCRIPT, tiny_corpus, folder, changes], folder, processes=4)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", COMBINATIONS)
def test_four_processes_are_one(whole, runs, name):
    ours, theirs = losses(runs / name), losses(whole)
    assert len(ours) == len(theirs) == STEPS
    assert ours == pytest.approx(theirs, abs=1e-9, rel=0)
    assert "btmlm" in records(whole)[-2]  # it begins after a part of the steps
    norms = [
        [record["grad_norm"] for record in records(out) if "loss" in record] for out in (runs / name, whole)
    ]
    assert norms[0] == pytest.approx(norms[1], abs=1e-9, rel=0)
    found, expected = (
        load_training_state(state_of(out))["engine"]["optimizer"] for out in (runs / name, whole)
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-9, err_msg=key)


def test_each_process_wrote_its_part_of_sharded_state(runs):
    for name in COMBINATIONS:
        parts = len(list(state_of(runs / name).glob("arrays*.safetensors")))
        assert parts == (1 if name.startswith("stage 0") else 4)


def state_of(output: Path) -> Path:
    return output / "checkpoints" / f"step_{STEPS}" / "training_state"
