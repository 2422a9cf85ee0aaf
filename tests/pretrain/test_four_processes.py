"""Four processes on a CPU (gloo), data parallel or stage 1, with accumulation, are the run of one process.

Dropout 0, float64, 20 steps, all four objectives; in batches of four sequences each process has another one.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint.training_state import load_training_state
from tests.launching import launch
from tests.pretrain.tiny_run import losses, pretrain, records

SCRIPT = Path(__file__).with_name("combinations_script.py")
STEPS = 20
EXACT = {
    "optimizer__steps": STEPS, "run__dtype": "float64", "run__log_steps": 1, "run__save_steps": STEPS,
    "run__eval_sequences": 0,
    "model__hidden_dropout_prob": 0.0, "model__attention_probs_dropout_prob": 0.0,
}  # fmt: skip
BATCHES = [(24, 4096), (24, 40), (4, 40)]  # sequences of a step, most tokens of a micro-batch


@pytest.fixture(scope="module")
def whole(tiny_corpus, tmp_path_factory):
    """Sequences of a step -> one process, one micro-batch."""
    folder = tmp_path_factory.mktemp("whole")
    changes = EXACT | {"run__micro_batch_tokens": 4096}
    return {
        size: pretrain(tiny_corpus, folder / str(size), **changes, optimizer__batch_size=size)
        for size in {size for size, _ in BATCHES}
    }


@pytest.fixture(scope="module", params=[0, 1], ids=["data parallel", "stage 1"])
def runs(request, tiny_corpus, tmp_path_factory):
    """The stage, and the folder with all its runs: Paddle is imported, and the group made, once for them."""
    folder = tmp_path_factory.mktemp("four")
    stage = {"run__sharding_stage": request.param}
    changes = {
        f"{size}-{micro}": EXACT | stage | {"optimizer__batch_size": size, "run__micro_batch_tokens": micro}
        for size, micro in BATCHES
    }
    done = launch([SCRIPT, tiny_corpus, folder, json.dumps(changes)], folder, processes=4)
    assert done.returncode == 0, done.stderr
    return request.param, folder


@pytest.mark.slow
@pytest.mark.parametrize(("size", "micro"), BATCHES)
def test_four_processes_are_one(whole, runs, size, micro):
    (stage, folder), expected = runs, whole[size]
    ours = folder / f"{size}-{micro}"
    assert losses(ours) == pytest.approx(losses(expected), abs=1e-9, rel=0)
    assert len(losses(ours)) == STEPS
    assert "btmlm" in records(expected)[-2]  # it begins after a part of the steps
    norms = [[record["grad_norm"] for record in records(out) if "loss" in record] for out in (ours, expected)]
    assert norms[0] == pytest.approx(norms[1], abs=1e-9, rel=0)
    found, moments = (load_training_state(state_of(out))["engine"]["optimizer"] for out in (ours, expected))
    for key, value in moments.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-9, err_msg=key)
    # fleet's stage 1 makes moments for parameters that nobody uses, too: the pooler's
    unused = [key for key in found if key not in moments]
    assert all(key.startswith("ernie_m.pooler.") and stage == 1 for key in unused)
    assert not any(found[key].any() for key in unused if "moment" in key)
    assert len(list(state_of(ours).glob("arrays*.safetensors"))) == (4 if stage else 1)


def state_of(output: Path) -> Path:
    return output / "checkpoints" / f"step_{STEPS}" / "training_state"
