"""Mixed precision, as far as a CPU can test it: the calls of Paddle, master weights, bad values."""

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


class OneWeight(nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([3, 2])


@pytest.mark.parametrize(
    ("amp", "level", "message"),
    [
        ("bf16", "O2", "amp_level O2 keeps the weights in bfloat16.*train on a GPU"),
        ("fp16", "O2", "amp_level O2 keeps the weights in float16.*train on a GPU"),
        ("bf16", "O3", "amp_level 'O3': one of O1, O2"),
        ("int8", "O1", "amp 'int8': one of none, bf16, fp16"),
    ],
)
def test_bad_values(amp, level, message):
    with pytest.raises(UserError, match=message):
        Precision(amp, level)


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_calls_of_paddle(fp16, monkeypatch, amp, dtype, level):
    """auto_cast around each forward pass; in O2 one decorate, at the first step."""
    decorated = []
    monkeypatch.setattr(paddle.amp, "decorate", lambda *args, **options: decorated.append((args, options)))
    model = OneWeight()
    engine = Engine(model, build_optimizer(model, 0.1), precision=Precision(amp, level))
    assert decorated == [] and engine.scaler.is_enable() == (amp == "fp16")
    for _ in range(2):
        assert not engine.step([1.0, 2.0], lambda factor: ((model.weight * factor).sum(), {})).skipped
    assert fp16 == [{"level": level, "dtype": dtype}] * 4
    masters = {"level": "O2", "dtype": dtype, "master_weight": True, "master_grad": True}
    assert decorated == ([((model, engine.optimizer), masters)] if level == "O2" else [])


def test_signatures_of_paddle():
    decorate = inspect.signature(paddle.amp.decorate).parameters
    assert list(decorate)[:2] == ["models", "optimizers"]
    assert {"level", "dtype", "master_weight", "master_grad"} <= decorate.keys()
    assert {"level", "dtype"} <= inspect.signature(paddle.amp.auto_cast).parameters.keys()
    scaler = inspect.signature(paddle.amp.GradScaler.__init__).parameters
    assert {field.name for field in fields(LossScaling)} | {"self", "enable"} == set(scaler)


def test_master_weights_are_part_of_the_state(monkeypatch):
    """Paddle keys the moments by the name of the master weight then."""
    made = []
    for _ in range(2):
        model = OneWeight()
        model.to(dtype="bfloat16")
        optimizer = build_optimizer(model, 0.1)
        monkeypatch.setattr(optimizer, "_multi_precision", True)  # as paddle.amp.decorate does on a GPU
        made.append((optimizer, dict(model.named_parameters())))
    state = {"weight/moment1": np.arange(6.0, dtype=np.float32).reshape(3, 2),
             "weight/master_weight": np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2)}  # fmt: skip
    keys = {*state, "weight/moment2", "weight/beta1_pow_acc", "weight/beta2_pow_acc"}
    for optimizer, parameters in made:
        load_optimizer_state(optimizer, parameters, state)
        found = {key: tensor.numpy() for key, tensor in optimizer_state(optimizer, parameters).items()}
        assert found.keys() >= keys and all(np.array_equal(found[key], state[key]) for key in state)
        state = found
