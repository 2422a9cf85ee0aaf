"""Mixed precision: what a CPU can show of it. bfloat16 exists there; updates of such weights do not."""

import numpy as np
import paddle
import pytest
from paddle import nn

from training import precision
from training.engine import Engine
from training.optimizer import build_optimizer
from training.optimizer_state import load_optimizer_state, optimizer_state
from training.precision import Precision
from utils.errors import UserError


@pytest.fixture
def gpu(monkeypatch):
    """As far as `Precision` asks; what it would call there is noted."""
    calls = []

    def decorate(models, optimizers, **options):
        calls.append(options)
        models.to(dtype=options["dtype"])  # the same parameters, as `paddle.amp.decorate` leaves them
        optimizers._multi_precision = True
        return models, optimizers

    monkeypatch.setattr(precision, "on_gpu", lambda: True)
    monkeypatch.setattr(paddle.amp, "decorate", decorate)
    return calls


class Toy(nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([3, 2])


def toy_engine(amp: str, level: str) -> Engine:
    model = Toy()
    return Engine(
        model, build_optimizer(model, 0.1, clip_norm=None), amp=amp, amp_level=level, clip_norm=None
    )


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_o2_is_refused_on_a_cpu(amp):
    with pytest.raises(UserError, match=r"amp_level O2 keeps the weights in .*float16.*train on a GPU"):
        Precision(amp, "O2")


def test_values():
    with pytest.raises(UserError, match="amp_level 'O3': one of O1, O2"):
        Precision("bf16", "O3")
    assert Precision("none", "O2").amp == "none"  # nothing to refuse
    assert not Precision("none", "O2").halves_weights


def test_o1_leaves_model_and_gradients_alone(gpu):
    engine = toy_engine("bf16", "O1")
    assert gpu == [] and engine.model.weight.dtype == paddle.float32
    engine.model.weight.sum().backward()
    engine.precision.take_gradients(engine.parameters.values())
    assert engine.model.weight.grad is not None


def test_o2_adds_gradients_up_in_float32(gpu, monkeypatch):
    """1 + 1/512 + 1/512 + ...: in bfloat16 every small part would be lost."""
    engine = toy_engine("bf16", "O2")
    assert gpu == [{"level": "O2", "dtype": "bfloat16", "master_weight": True}]
    weight, seen = engine.model.weight, []
    assert weight.dtype == paddle.bfloat16
    monkeypatch.setattr(Engine, "autocast", Precision("none").autocast)
    monkeypatch.setattr(engine.optimizer, "step", lambda: seen.append(weight.grad.numpy()))
    engine.step([1.0, *[1 / 512] * 64], lambda factor: ((weight.astype("float32") * factor).sum(), {}))
    (gradient,) = seen
    assert gradient.dtype == np.float32
    assert np.array_equal(gradient, np.full([3, 2], 1 + 64 / 512, np.float32))
    assert weight.grad is None


def test_master_weights_are_part_of_the_state():
    """Moments are keyed by the master weight's name then; Paddle makes both when they are first needed."""
    found = []
    for seed in (1, 2):
        paddle.seed(seed)
        model = Toy()
        model.to(dtype="bfloat16")
        optimizer = build_optimizer(model, 0.1, clip_norm=None, multi_precision=True)
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
