"""The remaining time includes the evaluations to come."""

import time

import pytest

from training.progress import RemainingTime


@pytest.fixture
def clock(monkeypatch):
    """clock(seconds): let this time pass."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_steps_and_evaluations_are_measured_separately(clock):
    left = RemainingTime(100)
    assert left.eta(0, 3) == "?"
    clock(40)
    assert left.eta(20, 3) == "0:02:40 + 3 evaluations" and left.eta(20, 1) == "0:02:40 + 1 evaluation"
    assert left.eta(20, 0) == "0:02:40"
    with left.evaluation():
        clock(100)
    assert left.eta(20, 2) == "0:06:00"
    with left.evaluation():
        clock(200)
    clock(20)
    assert left.eta(30, 1) == "0:04:50"  # 70 steps of 2 s, and one evaluation of 150 s


def test_earlier_steps_and_interrupted_evaluations_do_not_count(clock):
    left = RemainingTime(100, done=90)
    clock(7)
    with pytest.raises(KeyboardInterrupt), left.evaluation():
        raise KeyboardInterrupt
    assert left.eta(90, 0) == "?" and left.eta(91, 1) == "0:01:03 + 1 evaluation"
