"""A loss spike is undone and its batches are left out; a run that is stopped sees the same spikes again."""

import json

import numpy as np
import pytest

from pretrain.config import RunConfig
from pretrain.reader import StepBatches
from pretrain.spikes import SpikeWatch
from pretrain.trainer import Trainer
from tests.pretrain.tiny_run import assert_equal_runs, checkpoint, pretrain, records
from training.engine import Step
from utils.errors import UserError

# A step of the tiny run counts as a spike where its loss is 1.5 times the mean of the two before.
WATCHED = {"run__spike_above": 1.5, "run__spike_window": 2, "run__trace": True, "run__save_steps": 4}


def batches(number, left_out=()):
    return StepBatches([], {}, {"step": number + 1, "left_out": list(left_out)})


def step(loss, skipped=False):
    return Step(loss, {}, 1.0, 0.1, skipped)


def watch(*losses, spike_above=2.0, **options):
    made = SpikeWatch(RunConfig(spike_above=spike_above, spike_window=3, **options))
    for number, loss in enumerate(losses):
        assert made.check(number + 1, step(loss), batches(number)) is None
    return made


def test_a_spike_is_above_a_multiple_of_the_mean_of_a_full_window():
    watch(1.0, 9.0, 9.0)  # too few steps to know
    made = watch(4.0, 1.0, 1.0, 1.0, 1.9)  # the first has left the window
    assert made.check(6, step(2.59), batches(5)) is None  # not above 2 x 1.3
    assert made.check(7, step(99.0, skipped=True), batches(6)) is None  # the engine has left it out already
    found = made.check(8, step(3.9), batches(9, [4]))
    assert found.step == 8 and found.batches == [9] and found.left_out == [4, 9] and found.number == 1
    assert "step 8: loss 3.9000, 2.1 times the usual 1.8300" in str(found) and "batch 9 is left out" in str(
        found
    )
    assert made.check(8, step(3.6), batches(9)) is None  # the spike is not in the mean


def test_batches_before_the_spike_can_be_left_out_too():
    found = watch(1.0, 1.0, 1.0, spike_skip=3).check(4, step(2.1), batches(3))
    assert found.batches == [1, 2, 3] and "batches 1 to 3 are left out" in str(found)
    assert watch(1.0, 1.0, 1.0, spike_skip=9).check(4, step(2.1), batches(3)).batches == [0, 1, 2, 3]


def test_it_is_off_unless_asked_for():
    assert watch(1.0, 1.0, 1.0, spike_above=0.0).check(4, step(1e9), batches(3)) is None


def test_it_goes_on_from_its_state():
    made = watch(1.0, 2.0, 3.0)
    again = SpikeWatch(made.run, json.loads(json.dumps(made.state())))
    assert again.state() == made.state() == {"recent": [1.0, 2.0, 3.0], "rollbacks": 0}
    spike = again.check(4, step(5.0), batches(3))
    after = SpikeWatch(made.run, made.state(), spike)
    assert after.left_out == [3] and after.state()["rollbacks"] == 1


def test_it_gives_up():
    made = watch(1.0, 1.0, 1.0, spike_rollbacks=0)
    with pytest.raises(
        UserError, match="step 4: loss 7.0000 after a usual 1.0000, and the run has gone back 0 "
    ):
        made.check(4, step(7.0), batches(3))


# Whole runs


@pytest.fixture
def bad_batches(monkeypatch):
    """bad_batches(6, 9): training on these batches gives a huge loss, whatever step they come in."""
    bad: set[int] = set()
    train = Trainer.step

    def step_on(self, work, accuracy):
        done = train(self, work, accuracy)
        if work.number in bad:
            for parameter in self.engine.parameters.values():
                parameter.set_value(parameter.numpy() + 1.0)  # it has done harm, too
        factor = 100.0 if work.number in bad else 1.0
        return Step(done.loss * factor, done.sums, done.grad_norm, done.lr, done.skipped)

    monkeypatch.setattr(Trainer, "step", step_on)
    return lambda *numbers: bad.update(numbers)


def trace(output):
    return [json.loads(line) for line in (output / "trace.jsonl").read_text().splitlines()]


def test_a_run_without_the_batches_of_its_spikes(tiny_corpus, tmp_path, bad_batches):
    calm = pretrain(tiny_corpus, tmp_path / "calm", **WATCHED)
    assert [record["batch"] for record in trace(calm)] == list(range(12))
    bad_batches(5, 6, 10)
    out = pretrain(tiny_corpus, tmp_path / "out", **WATCHED)
    # step 6 read batch 5: back to step 4; then batch 6: back again; at step 9 batch 10: back to step 8
    read = [record["batch"] for record in trace(out)]
    assert read == [0, 1, 2, 3, 4, 7, 8, 9, 11, 12, 13, 14]
    by_batch = {record["batch"]: record["samples"] for record in trace(calm)}
    for record in trace(out):
        assert record["step"] == read.index(record["batch"]) + 1 and len(record["samples"]) == 12
        assert by_batch.get(record["batch"], record["samples"]) == record["samples"]
    rollbacks = [
        (r["step"], r["rollback"]["from_step"], r["rollback"]["batches"])
        for r in records(out)
        if "rollback" in r
    ]
    assert rollbacks == [(4, 6, [5]), (4, 6, [6]), (8, 9, [10])]
    early, calm_early = checkpoint(out, 8), checkpoint(calm, 8)
    assert any((early[name] != value).any() for name, value in calm_early.items())
    assert all(
        np.isfinite(value).all() and abs(value).max() < 10
        for name, value in early.items()
        if name[:6] != "state/"
    )
    assert (
        "back to the newest checkpoint; batch 10 is left out (rollback 3)"
        in (out / "log/job.log.0").read_text()
    )


@pytest.mark.parametrize("stop", [4, 5, 9])
def test_stopped_between_rollbacks_it_ends_with_the_same_bits(tiny_corpus, tmp_path, bad_batches, stop):
    bad_batches(5, 6, 10)
    whole = pretrain(tiny_corpus, tmp_path / "whole", **WATCHED)
    out = pretrain(tiny_corpus, tmp_path / "out", **WATCHED, run__stop_after_steps=stop)
    pretrain(tiny_corpus, out, **WATCHED)
    ours, theirs = checkpoint(whole, 12), checkpoint(out, 12)
    assert all((value == theirs[name]).all() for name, value in ours.items())
    assert trace(whole) == trace(out)
    if stop != 5:  # whose checkpoint is nearer to the first spike than the usual one
        assert_equal_runs(whole, out)


def test_killed_after_a_rollback_it_rolls_back_again(tiny_corpus, tmp_path, bad_batches, monkeypatch):
    bad_batches(5, 10)
    whole = pretrain(tiny_corpus, tmp_path / "whole", **WATCHED)
    train, calls = Trainer.step, []

    def killed(self, work, accuracy):
        calls.append(work.number)
        if len(calls) == 8:  # 0 1 2 3 4 5 | 4 6
            raise ZeroDivisionError
        return train(self, work, accuracy)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", killed)
        with pytest.raises(ZeroDivisionError):
            pretrain(tiny_corpus, tmp_path / "out", **WATCHED)
    assert calls == [0, 1, 2, 3, 4, 5, 4, 6]
    pretrain(tiny_corpus, tmp_path / "out", **WATCHED)
    assert_equal_runs(whole, tmp_path / "out")


def test_back_to_the_beginning_where_nothing_was_saved(tiny_corpus, tmp_path, bad_batches):
    bad_batches(2)
    out = pretrain(tiny_corpus, tmp_path / "out", **WATCHED)
    assert [record["batch"] for record in trace(out)] == [0, 1, *range(3, 13)]
    straight = tmp_path / "straight"
    pretrain(tiny_corpus, straight, **(WATCHED | {"run__spike_above": 0.0, "run__stop_after_steps": 2}))
    assert trace(straight) == trace(out)[:2]


def test_too_many(tiny_corpus, tmp_path, bad_batches, refused):
    bad_batches(*range(5, 99))
    line = refused(**WATCHED, run__spike_rollbacks=2)
    assert "step 6: loss" in line and "has gone back 2 times already (run.spike_rollbacks)" in line
