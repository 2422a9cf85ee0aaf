"""Work that stands still is told of while it does, less and less often; work that ends in time is not."""

import time

import pytest

from training.guard import StallWatch
from utils.logging import logger


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("INFO")
    return lambda: [record.message for record in caplog.records]


def test_a_step_that_stands_still(said):
    with StallWatch(0.2) as watch, watch.during("step 7"):
        time.sleep(1.1)
        while_it_lasted = said()
    assert [line.split(" taken")[0] for line in while_it_lasted] == ["step 7 has taken"] * len(
        while_it_lasted
    )
    assert 2 <= len(while_it_lasted) <= 3  # after 0.2 s, 0.4 s, 0.8 s; not every time it looked
    assert "one whose log does not say this" in while_it_lasted[0]
    assert said()[len(while_it_lasted) :] == ["step 7 ended after 1 s"]


def test_steps_that_end_in_time(said):
    with StallWatch(0.4) as watch:
        for step in range(20):
            with watch.during(f"step {step}"):
                time.sleep(0.04)
        time.sleep(0.6)  # between two pieces of work: nothing it knows of
    assert said() == []


def test_an_error_ends_the_work(said):
    with StallWatch(0.1) as watch:
        with pytest.raises(ZeroDivisionError), watch.during("step 1"):
            raise ZeroDivisionError
        time.sleep(0.3)
    assert said() == []
