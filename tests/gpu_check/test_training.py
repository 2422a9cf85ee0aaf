"""Faults of training are found: overflows without recovery, a wrong task, an incomplete resume."""

from types import SimpleNamespace

import paddle
import pytest

from model import device, layers
from model.heads import SpanClassifier
from scripts.gpu import toys, training
from training.engine import Engine
from training.precision import Precision

LARGEST_HALF = 65504.0  # the largest number of float16


@pytest.fixture
def overflowing(gpu, fp16, monkeypatch):
    """overflowing(recovers): scaled gradients overflow as in float16; without recovery, at every step."""

    def plant(recovers: bool) -> None:
        unscale = paddle.amp.GradScaler.unscale_

        def with_overflow(scaler, optimizer):
            for parameter in optimizer._parameter_list:
                gradient = parameter.grad
                if gradient is not None and (not recovers or gradient.abs().max() > LARGEST_HALF):
                    gradient.fill_(float("inf"))
            unscale(scaler, optimizer)

        monkeypatch.setattr(paddle.amp.GradScaler, "unscale_", with_overflow)

    return plant


def test_an_overflow_that_recovers(overflowing, check):
    overflowing(recovers=True)
    code, message = check("overflow")
    # The scale is divided by 2^4 from 2^40 to 2^16, with which gradients below 1 are finite.
    assert code == 0 and message.startswith("fp16 from a loss scale of 2^40: 6 steps skipped")


def test_an_overflow_that_never_recovers(overflowing, check):
    overflowing(recovers=False)
    code, message = check("overflow")
    assert code == 1 and "skipped 19 of 20 steps, expected are 3 to 12; train in bf16" in message


def test_a_scale_that_never_overflows(gpu, fp16, check):
    """As on this CPU, which computes in float32."""
    code, message = check("overflow")
    assert code == 1 and "skipped 0 of 20 steps" in message


@pytest.mark.parametrize("name", ["tasks", "kernels"])
def test_tasks_do_not_overflow(overflowing, check, monkeypatch, name):
    """On a V100, with fp16 alone."""
    monkeypatch.setattr(device, "has_bf16", lambda: False)
    monkeypatch.setattr(device, "on_cpu", lambda x: False)
    overflowing(recovers=True)
    code, message = check(name)
    assert code == 0, message


def test_a_task_that_mixes_up_its_outputs(check, monkeypatch):
    """In float32 the logits of the end are those of the start."""
    forward = SpanClassifier.forward

    def swapped(model, batch):
        start, end = forward(model, batch)
        if start.dtype == paddle.float32:
            return start, start
        return start, end

    assert check("tasks")[0] == 0
    monkeypatch.setattr(SpanClassifier, "forward", swapped)
    code, message = check("tasks")
    assert code == 1 and "spans with amp none is off by" in message


@pytest.mark.parametrize(
    ("loss_of_zeros", "found"),
    [
        (lambda zeros: zeros.sum() * 0.0 + 1.0, "loss 1.0, norm 0.0"),
        (lambda zeros: zeros.sum(), "loss 0.0, norm 10.0"),  # of a gradient of 1 for each of 100 words
        (lambda zeros: zeros.sqrt().sum(), "loss 0.0, norm inf"),
        (lambda zeros: (zeros.sqrt() * 0.0).sum(), "loss 0.0, norm nan"),
    ],
)
def test_a_batch_without_masked_tokens_that_has_a_loss_or_a_gradient(monkeypatch, loss_of_zeros, found):
    """The bias of the output layer has zeros."""

    def loss(model, batch):
        return SimpleNamespace(total=loss_of_zeros(model.lm_head.bias))

    monkeypatch.setattr(training, "masked_lm_loss", loss)
    with pytest.raises(training.Failed, match=f"without masked tokens has {found}"):
        training.check_nothing_masked(toys.engine_of("float32", Precision()))


def test_a_resume_without_moments(check, monkeypatch):
    load = Engine.load_state_dict
    monkeypatch.setattr(Engine, "load_state_dict", lambda self, state: load(self, {**state, "optimizer": {}}))
    code, message = check("options")
    assert code == 1 and "a resumed run is off by" in message


def test_recompute_that_drops_anew(check, monkeypatch):
    """Its second forward pass draws other dropout masks."""
    train = toys.train

    def other_draws(engine, *arguments, **options):
        if engine.model.ernie_m.recompute:
            engine.seed += 1
        return train(engine, *arguments, **options)

    monkeypatch.setattr(toys, "train", other_draws)
    code, message = check("options")
    assert code == 1 and "recompute with dropout is off by" in message


@pytest.fixture
def scale_gradients_in_o2(gpu, fp16, monkeypatch):
    """scale_gradients_in_o2(factor): from now on O2 multiplies all gradients, as a fault.

    Otherwise it changes nothing here, because a CPU has no weights in half precision.
    """
    monkeypatch.setattr(device, "on_cpu", lambda x: False)

    def plant(factor: float) -> None:
        def decorate(model, optimizer, **options):
            for parameter in model.parameters():
                parameter.register_hook(lambda gradient: gradient * factor)

        monkeypatch.setattr(paddle.amp, "decorate", decorate)

    return plant


def test_o2(scale_gradients_in_o2, check):
    scale_gradients_in_o2(1.0)
    code, message = check("options")
    assert code == 0 and "; O2 within 1 %; " in message


def test_o2_with_gradients_that_are_too_large(scale_gradients_in_o2, check):
    scale_gradients_in_o2(1.05)
    code, message = check("options")
    assert code == 1 and "bf16 O2 is off by" in message and "; train with run.amp_level O1" in message


def test_dropout_without_its_scale(check, monkeypatch):
    dropout = layers.dropout

    def unscaled(x, probability, training, residual=None):
        return dropout(x, probability, training, residual) * (1.0 - probability)

    assert check("dropout")[0] == 0
    monkeypatch.setattr(layers, "dropout", unscaled)
    code, message = check("dropout")
    assert code == 1 and "the mean of ones after dropout is off by" in message


def test_dropout_that_does_not_repeat_itself(check, monkeypatch):
    """The seed has no effect."""
    monkeypatch.setattr(paddle, "seed", lambda number: None)
    code, message = check("dropout")
    assert code == 1 and "a second pass with the same seed is off by" in message


def test_an_objective_in_wrong_precision(check, monkeypatch):
    """Gradients that are 5 % too large, in float32 only; Adam alone would hide them."""
    backward = paddle.Tensor.backward

    def too_large(loss, *arguments):
        if loss.dtype == paddle.float32:
            loss = loss * 1.05
        return backward(loss, *arguments)

    monkeypatch.setattr(toys, "STEPS", 4)
    monkeypatch.setattr(paddle.Tensor, "backward", too_large)
    code, message = check("objectives")
    assert code == 1 and "mmlm with amp none is off by" in message


@pytest.mark.parametrize(("off", "expected_code"), [(0.015, 0), (0.025, 1)])
def test_vectors_may_be_off_by_the_rounding_of_bfloat16(check, monkeypatch, off, expected_code):
    vectors = iter([[1.0], [1.0 + off]])  # the exact ones come first
    monkeypatch.setattr(training, "encode", lambda *_: next(vectors))
    monkeypatch.setattr(toys, "train", lambda *_: [1.0])
    assert check("objectives")[0] == expected_code


def test_equal_weights_in_all_types():
    """A model in float64, rounded to float32, has the weights of the same model in float32."""
    single = toys.make_model("float32").parameters()
    double = toys.make_model("float64").parameters()
    for parameter, exact in zip(single, double, strict=True):
        assert (parameter.numpy() == exact.astype("float32").numpy()).all()
