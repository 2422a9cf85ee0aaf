"""Threads that each compute on one core: results in order, errors, and an end when nobody waits."""

import os
import signal
import threading
import time

import pytest

from ernie_m.model.threads import STOP, Workers, raise_if_stopped
from ernie_m.reader.batching import batch_by_length

WORKERS = 3
OURS = Workers(WORKERS, most_tokens=2048)


def is_worker() -> bool:
    """Whether the current thread computes on one core."""
    return STOP.get() is not None


def test_results_are_in_order_and_several_are_computed_at_a_time():
    meeting = threading.Barrier(WORKERS)  # opens when so many wait

    def compute(number: int) -> tuple[int, bool]:
        meeting.wait(timeout=60)
        time.sleep(0.01 * (number % WORKERS))  # the first one of three is the quickest
        return number, is_worker()

    assert list(OURS.map(compute, range(4 * WORKERS))) == [(n, True) for n in range(4 * WORKERS)]


def test_each_worker_begins_once():
    begun = []
    workers = Workers(2, begin=lambda: begun.append(threading.get_ident()))
    used = {*workers.map(lambda _: (time.sleep(0.01), threading.get_ident())[1], range(8))}
    assert used <= {*begun} and len(begun) <= 2


@pytest.mark.parametrize("ahead", [1, 4])
def test_an_iterator_is_read_little_ahead(ahead):
    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield number

    results = OURS.map(lambda number: number, items(), ahead)
    assert next(results) == 0
    assert len(read) == ahead * WORKERS + 1
    assert list(results) == list(range(1, 100))


def test_an_only_item_has_one_core():
    """On all cores a short text would take half as long again."""
    assert list(OURS.map(lambda item: is_worker(), ["text"])) == [True]
    assert list(OURS.map(lambda item: item, [])) == []


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([20] * 6, [6]),  # too few tokens to share
        ([60] * 6, [2, 2, 2]),  # one batch for each worker
        ([60] * 7, [3, 3, 1]),
        ([500] * 6, [1] * 6),
        ([16] * 600, [100] * 6),  # of a sixth of all
        ([16] * 6000, [128] * 46 + [112]),  # of at most 2,048
    ],
)
def test_rows_are_shared_out_evenly(lengths, sizes):
    rows = [[0] * length for length in lengths]
    batches = batch_by_length(lengths, OURS.count_batch_tokens(rows, 4096))
    assert list(map(len, batches)) == sizes
    assert OURS.count_batch_tokens(rows, 100) == 100
    assert OURS.count_batch_tokens([], 4096) <= 4096


def test_an_error_is_raised_once_and_ends_the_others():
    computed = []

    def compute(number: int) -> None:
        if number == 1:
            raise ValueError("of item 1")
        computed.append(number)

    with pytest.raises(ValueError, match="of item 1"):
        list(OURS.map(compute, range(1000)))
    assert len(computed) < 100


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("count", [1, 50])
def test_ctrl_c_waits_for_the_workers(count):
    ended = []

    def compute(number: int) -> None:
        try:
            while number == 0:
                raise_if_stopped()
        finally:
            time.sleep(0 if number else 0.5)
            ended.append(number)

    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        list(OURS.map(compute, range(count)))
    assert 0 in ended
