"""Mixed precision: what a CPU can show of it. bfloat16 exists there; updates of such weights do not."""

import inspect
from dataclasses import fields

import numpy as np
import paddle
import pytest
from paddle import nn

from training.engine import Engine
from training.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from training.precision import LossScaling, Precision
from utils.errors import UserError


class Toy(nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([3, 2])


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_o2_is_refused_on_a_cpu(amp):
    with pytest.raises(UserError, match=r"amp_level O2 keeps the weights in .*float16.*train on a GPU"):
        Precision(amp, "O2")


def test_values():
    with pytest.raises(UserError, match="amp_level 'O3': one of O1, O2"):
        Precision("bf16", "O3")
    assert Precision("none", "O2").amp == "none"  # nothing to refuse


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_what_paddle_is_asked_for(fp16, monkeypatch, amp, dtype, level):
    """Forward passes in auto_cast; for O2 one decorate, when the weights are loaded."""
    decorated = []
    monkeypatch.setattr(paddle.amp, "decorate", lambda *args, **options: decorated.append((args, options)))
    paddle.seed(0)
    model = Toy()
    engine = Engine(model, build_optimizer(model, 0.1), precision=Precision(amp, level))
    assert decorated == [] and engine.scaler.is_enable() == (amp == "fp16")
    for _ in range(2):
        assert not engine.step([1.0, 2.0], lambda factor: ((model.weight * factor).sum(), {})).skipped
    assert fp16 == [{"level": level, "dtype": dtype}] * 4
    masters = {"level": "O2", "dtype": dtype, "master_weight": True, "master_grad": True}
    assert decorated == ([((model, engine.optimizer), masters)] if level == "O2" else [])


def test_the_calls_are_paddles_own():
    """Names and defaults that a change of Paddle would break."""
    decorate = inspect.signature(paddle.amp.decorate).parameters
    assert list(decorate)[:2] == ["models", "optimizers"]
    assert {"level", "dtype", "master_weight", "master_grad"} <= decorate.keys()
    assert {"level", "dtype"} <= inspect.signature(paddle.amp.auto_cast).parameters.keys()
    scaler = inspect.signature(paddle.amp.GradScaler.__init__).parameters
    assert {field.name for field in fields(LossScaling)} | {"self", "enable"} == set(scaler)


def test_master_weights_are_part_of_the_state():
    """Moments are keyed by the master weight's name then; Paddle makes both when they are first needed."""
    found = []
    for seed in (1, 2):
        paddle.seed(seed)
        model = Toy()
        model.to(dtype="bfloat16")
        optimizer = build_optimizer(model, 0.1, multi_precision=True)
        found.append((optimizer, dict(model.named_parameters())))
    (first, ours), (second, theirs) = found
    state = {"weight/moment1": np.arange(6.0, dtype=np.float32).reshape(3, 2),
             "weight/master_weight": np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2)}  # fmt: skip
    load_optimizer_state(first, ours, None, state)
    again = {key: tensor.numpy() for key, tensor in optimizer_state(first, ours).items()}
    assert {key: again[key].tolist() for key in state} == {
        key: value.tolist() for key, value in state.items()
    }
    assert {"weight/moment2", "weight/beta1_pow_acc", "weight/beta2_pow_acc"} < again.keys()
    load_optimizer_state(second, theirs, None, again)
    for key, tensor in optimizer_state(second, theirs).items():
        assert np.array_equal(tensor.numpy(), again[key]), key
