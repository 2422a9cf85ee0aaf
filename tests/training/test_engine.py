"""The engine's step on one process: sums, clipping, skipping, resuming, mixed precision."""

import itertools
import math

import numpy as np
import paddle
import pytest

from ernie_m.model.dropout_stream import DropoutStream
from ernie_m.model.services import Replicas
from ernie_m.training import distributed
from ernie_m.training.engine import Engine, StepResult
from ernie_m.training.precision import Precision
from tests.helpers.arrays import assert_equal_arrays
from tests.launching import error_of
from tests.training import toy_training
from tests.training.toy_training import (
    BATCH,
    STEPS,
    get_state,
    make,
    make_loss,
    make_micro_batches,
    read_step,
    run,
    weights,
    write_step,
)


def assert_equal_steps(steps: list[StepResult], expected: list[StepResult], tolerance: float) -> None:
    for step, expected_step in zip(steps, expected, strict=True):
        assert step.loss == pytest.approx(expected_step.loss, abs=tolerance, rel=0)
        assert step.grad_norm == pytest.approx(expected_step.grad_norm, abs=tolerance, rel=0)
        assert step.sums == expected_step.sums


def test_it_learns_and_counts(straight_run):
    steps = straight_run.steps
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert all(step.sums["count"] == BATCH for step in steps)
    # Steps 0 to 3 have 0.05 x step / 4, as warm-up. From step 4 on the learning rate is 0.05 (1 - step / 20).
    assert [step.lr for step in steps[:6]] == pytest.approx([0, 0.0125, 0.025, 0.0375, 0.04, 0.0375])


def test_accumulation_does_not_change_the_numbers(straight_run):
    """Three micro-batches in each step, where `straight_run` has two of the same batch."""
    engine = make()
    assert_equal_steps(run(engine, STEPS, micro_batches=3), straight_run.steps, 1e-12)
    assert_equal_arrays(weights(engine), straight_run.weights, 1e-12)


def test_a_value_that_is_not_among_the_sums_is_an_error():
    with pytest.raises(KeyError, match="perplexity"):
        make().step([None], lambda model, _: (model.spare.weight.sum(), {"perplexity": 1.0}))


def test_a_parameter_without_a_gradient_does_not_change(straight_run):
    """Nothing uses `spare`; a step with even ids only does not use `odd`."""
    np.testing.assert_array_equal(straight_run.weights["spare.weight"], weights(make())["spare.weight"])
    assert not any(key.startswith("spare") for key in straight_run.state["optimizer"])
    engine = make()
    run(engine, 5)
    before = weights(engine)
    even, _ = make_micro_batches(5, 2)
    engine.step([even], make_loss())
    after = weights(engine)
    assert (after["even.weight"] != before["even.weight"]).any()
    np.testing.assert_array_equal(after["odd.weight"], before["odd.weight"])


def test_each_seed_step_and_process_draws_its_own_dropout(monkeypatch):
    """Workers may begin with the micro-batches of a step in any order."""
    cases = ((3, 0, 0), (3, 0, 1), (3, 1, 0), (4, 0, 0), (3, 0, 0))
    streams = []
    drawn = []  # the loss of the same batch with the same weights, and the next number of Paddle
    monkeypatch.setattr(
        "ernie_m.training.engine.DropoutStream", lambda key: streams.append(key) or DropoutStream(key)
    )
    for seed, step, rank in cases:
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        engine = make(dropout=0.5)
        engine.seed = seed
        engine.steps = step
        drawn.append((engine.step(make_micro_batches(0, 2), make_loss()).loss, paddle.rand([1]).item()))
    for numbers in zip(*drawn):
        assert len(set(numbers)) == 4 and numbers[0] == numbers[-1]
    assert sorted(streams) == sorted((*case, number) for case in cases for number in range(2))


def test_a_loss_that_is_not_finite_is_a_bad_step_though_its_gradient_is_finite(caplog):
    engine = make()
    engine.step(make_micro_batches(0, 2), make_loss())
    before = weights(engine)

    def loss(model, micro_batch):
        value, sums = make_loss()(model, micro_batch)
        return value + float("nan"), sums

    step = engine.step(make_micro_batches(1, 2), loss)
    assert math.isfinite(step.grad_norm) and step.skipped
    assert caplog.messages[1:] == [f"step 2 skipped: loss nan, gradient norm {step.grad_norm} (1 in a row)"]
    assert all((value == before[name]).all() for name, value in weights(engine).items())


def loss_that_fails(engine: Engine, bad_steps: set[int]):
    """The loss of the toy, which is not a number in some steps."""

    def loss(model, micro_batch):
        value, sums = make_loss()(model, micro_batch)
        return value * (float("nan") if engine.steps in bad_steps else 1.0), sums

    return loss


def test_skips_bad_steps_and_ends_after_three_in_a_row():
    """Steps 1, 3, 4 and 5 are bad. Step 2 begins the count again; step 5 is the third in a row."""
    engine = make(max_bad_steps=3)
    loss = loss_that_fails(engine, {1, 3, 4, 5})
    for step in range(5):
        before = weights(engine)
        result = engine.step(make_micro_batches(step, 2), loss)
        changed = any((value != before[name]).any() for name, value in weights(engine).items())
        assert result.skipped == (step in (1, 3, 4))
        assert changed == (step == 2)  # step 0 is not skipped, but its rate is 0
    assert (engine.steps, engine.bad_in_a_row, engine.optimizer.lr_scheduler.last_epoch) == (5, 2, 5)
    assert "step 6: " in error_of(engine.step, make_micro_batches(5, 2), loss)
    assert engine.steps == 6


def test_the_first_steps_are_counted():
    engine = make(max_bad_steps=2)
    loss = loss_that_fails(engine, {0, 1})
    assert engine.step(make_micro_batches(0, 2), loss).skipped
    assert "2 consecutive steps" in error_of(engine.step, make_micro_batches(1, 2), loss)


def test_a_resumed_run_counts_bad_steps_on():
    """Steps 3 and 4 are bad before the run stops, and step 5 after it has gone on: three in a row."""
    first = make()
    for step in range(5):
        first.step(make_micro_batches(step, 2), loss_that_fails(first, {1, 3, 4}))
    second = make(max_bad_steps=3)
    toy_training.load(second, weights(first), get_state(first))
    assert (second.steps, second.bad_in_a_row) == (5, 2)
    assert "3 consecutive steps" in error_of(
        second.step, make_micro_batches(5, 2), loss_that_fails(second, {5})
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stop_request_abandons_the_step(after, threads, monkeypatch):
    """It comes after 0, 1 or 2 of many micro-batches: nothing changes, and the step can be done later.

    Workers have two micro-batches each at most when it comes.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    engine = make(dropout=0.3)
    straight = make(dropout=0.3)
    run(engine, 3)
    run(straight, 4)
    before = weights(engine)
    stop = ["now"] if after == 0 else []  # true once it is not empty
    micro_batches = []

    def loss_with_a_request(model, micro_batch):
        micro_batches.append(micro_batch)
        if len(micro_batches) >= after:
            stop.append("now")
        return make_loss()(model, micro_batch)

    without_end = itertools.cycle(make_micro_batches(3, 3))
    assert engine.step(without_end, loss_with_a_request, stop) is None
    assert after <= len(micro_batches) <= after + (2 * threads if threads > 1 else 0)
    assert engine.steps == 3
    assert_equal_arrays(weights(engine), before)
    assert all(parameter.grad is None for parameter in engine.parameters.values())
    run(engine, 4)
    assert_equal_arrays(weights(engine), weights(straight))


def test_micro_batches_are_read_one_by_one():
    """So that a stop request is seen before each, and one alone is in memory."""
    read: list[int] = []
    items = (read.append(number) or number for number in range(3))
    assert next(Replicas(None).map_gradients(lambda _, item: item, items)) == 0
    assert read == [0]


def test_a_step_that_no_process_may_leave_ends_before_it_is_abandoned():
    engine = make(clip_norm=None)
    before = weights(engine)
    stop = []
    assert engine.step(make_micro_batches(0, 3), loss_that_asks(stop), stop, divisible=False) is None
    assert len(stop) == 3
    assert_equal_arrays(weights(engine), before)
    assert not engine.step(make_micro_batches(0, 3), make_loss()).skipped


def loss_that_asks(stop: list):
    """The loss of the toy, which asks to stop in each micro-batch."""
    return lambda *arguments: (stop.append("now"), make_loss()(*arguments))[1]


def test_loss_scale_changes_no_number_and_an_overflow_is_not_a_bad_step(fp16):
    """With Paddle's own scaler. The scale doubles after 5 finite steps, and is halved by an overflow."""
    scaling = {
        "init_loss_scaling": 2.0**10,
        "incr_every_n_steps": 5,
        "decr_every_n_nan_or_inf": 1,
        "decr_ratio": 0.5,
    }
    engine = make("float32", max_bad_steps=2, precision=Precision("fp16", loss_scaling=scaling))
    assert_equal_steps(run(engine, 15), run(make("float32"), 15), 1e-6)
    assert engine.scaler.state_dict()["scale"] == 2.0**13  # 2^10, doubled three times in 15 steps
    before = weights(engine)
    usual_loss = make_loss()

    def overflowing(model, micro_batch):
        """A finite loss with an infinite gradient: of 0 x 1e30 x 1e30, in float32."""
        zero = (model.even.bias * 0).sum()
        return usual_loss(model, micro_batch)[0] + zero * 1e30 * 1e30, {}

    for _ in range(3):
        step = engine.step(make_micro_batches(0, 2), overflowing)
        assert step.skipped and math.isfinite(step.loss) and not math.isfinite(step.grad_norm)
    assert engine.scaler.state_dict()["scale"] == 2.0**10  # halved three times
    assert engine.bad_in_a_row == 0
    assert_equal_arrays(weights(engine), before)
    # With float16 only the gradient decides whether a step is skipped, not the loss.
    step = engine.step(
        make_micro_batches(1, 2), lambda model, part: (usual_loss(model, part)[0] + math.inf, {})
    )
    assert not step.skipped and math.isinf(step.loss)
    assert (weights(engine)["even.weight"] != before["even.weight"]).any()
    # A smaller scale does not mend a loss that is not finite itself, so that counts.
    step = engine.step(
        make_micro_batches(2, 2), lambda model, part: (usual_loss(model, part)[0] * math.nan, {})
    )
    assert step.skipped and engine.bad_in_a_row == 1


def test_state_includes_the_loss_scaler(fp16, tmp_path):
    """The scale doubles after 3 finite steps, and 2 of the next 3 are done."""
    scaling = {"init_loss_scaling": 8.0, "incr_every_n_steps": 3}
    first, second = (make("float32", precision=Precision("fp16", loss_scaling=scaling)) for _ in range(2))
    run(first, 5)
    write_step(first, tmp_path / "step_5")
    second.load_state_dict(read_step(tmp_path / "step_5"))
    expected = first.scaler.state_dict() | {"scale": 16.0, "incr_count": 2}
    assert second.scaler.state_dict() == expected


@pytest.mark.parametrize(
    ("name", "shape", "location"),
    [("other.weight/moment1", [3], "other.weight"), ("even.weight/moment1", [2, 2], "even.weight/moment1")],
)
def test_reject_state_from_another_model(straight_run, name, shape, location):
    """Of a parameter that is not in this one, or has another shape."""
    state = {**straight_run.state, "optimizer": {name: np.zeros(shape)}}
    assert location in error_of(make().load_state_dict, state)
