"""Sharding stage 2: Paddle's own code, which a CPU runs if not asked for a GPU; and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from model.training_state import load_training_state
from tests.launching import launch
from tests.utils.engine_script import STEPS, make, run, state_of, weights
from utils import group_sharding
from utils.errors import UserError
from utils.precision import Precision

SCRIPT = Path(__file__).with_name("group_sharding_script.py")


def test_a_cpu_refuses_it():
    with pytest.raises(UserError, match=r"sharding_stage 2 needs GPUs.*sharding_stage 1"):
        make(sharding_stage=2)


def test_not_with_weights_in_half_precision(monkeypatch):
    monkeypatch.setattr(group_sharding, "on_gpu", lambda: True)
    monkeypatch.setattr("utils.precision.on_gpu", lambda: True)
    with pytest.raises(UserError, match="amp_level O1, or sharding_stage 1"):
        group_sharding.check(Precision("bf16", "O2"))
    group_sharding.check(Precision("bf16", "O1"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    done = launch([SCRIPT, folder], folder)
    assert done.returncode == 0, done.stderr
    return folder, np.load(folder / "end.npy", allow_pickle=True).item()


def test_two_processes_equal_one(two):
    """float32, as Paddle's stage 2 has no float64. One has two micro-batches, the other one."""
    folder, end = two
    engine = make("float32")
    seen = run(engine, STEPS)
    for name in ("loss", "grad_norm", "lr"):
        ours, theirs = [one[name] for one in end["seen"]], [getattr(step, name) for step in seen]
        assert ours == pytest.approx(theirs, abs=1e-5, rel=0)
    assert [one["sums"] for one in end["seen"]] == [step.sums for step in seen]
    for name, value in end["weights"].items():
        np.testing.assert_allclose(value, weights(engine)[name], rtol=0, atol=1e-5, err_msg=name)
    expected = state_of(engine)["optimizer"]
    assert end["state"]["optimizer"].keys() == expected.keys()
    for key, value in end["state"]["optimizer"].items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-5, err_msg=key)
    held = [int((folder / f"held.{rank}").read_text()) for rank in range(2)]
    assert sum(held) == len(expected) and min(held) > 0


def test_one_process_takes_up_the_parts(two):
    folder, _ = two
    saved = load_training_state(folder / "half")
    engine = make("float32")
    engine.load_state_dict(saved)
    assert engine.steps == STEPS // 2
    for key, value in state_of(engine)["optimizer"].items():
        np.testing.assert_array_equal(value, saved["optimizer"][key], err_msg=key)
