"""A toy training in one process, and a CPU that Paddle's mixed precision takes for a GPU."""

import contextlib
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import paddle
import pytest
from paddle.amp import grad_scaler
from paddle.amp.auto_cast import amp_global_state

from ernie_m.training import precision
from ernie_m.training.engine import StepResult
from tests.model.conftest import float64
from tests.pretrain.conftest import pretrain, refused, tiny_corpus
from tests.training.toy_training import STEPS, get_state, make, run, weights


class ToyRun(NamedTuple):
    """Results, final weights and final state of a toy training."""

    steps: list[StepResult]
    weights: dict[str, np.ndarray]
    state: dict


@pytest.fixture(scope="session")
def straight_run():
    """20 steps in one process in float64, with two micro-batches each."""
    engine = make()
    return ToyRun(run(engine, STEPS), weights(engine), get_state(engine))


@pytest.fixture
def fp16(monkeypatch):
    """`Precision("fp16")` works, with Paddle's own scaler. Forward passes keep the precision of the weights.

    Returns:
        A list of the options of each call of `paddle.amp.auto_cast`.
    """
    calls: list[dict] = []
    monkeypatch.setattr(precision, "is_on_gpu", lambda: True)
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    # Paddle's scaler asks the tracer whether there is a GPU, and the state which type is the half one.
    tracer = SimpleNamespace(_expected_place=SimpleNamespace(is_gpu_place=lambda: True))
    monkeypatch.setattr(grad_scaler, "_dygraph_tracer", lambda: tracer)
    monkeypatch.setattr(amp_global_state(), "amp_dtype", "float16")  # otherwise auto_cast sets it

    def auto_cast(*enabled, **options):
        calls.append(options)
        return contextlib.nullcontext()

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    return calls
