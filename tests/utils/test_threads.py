"""Work on rows: all of them once, by any number of threads, and faults that come out."""

import os
import threading
import time

import numpy as np
import pytest

from utils import threads
from utils.threads import over_rows


@pytest.fixture(params=[1, 3])
def count(request, monkeypatch):
    monkeypatch.setattr(threads, "thread_count", lambda: request.param)
    monkeypatch.setattr(threads, "BLOCK", 20)
    threads._pool.cache_clear()
    yield request.param
    threads._pool.cache_clear()


@pytest.mark.parametrize(("rows", "width"), [(0, 4), (1, 4), (5, 4), (6, 4), (50, 4), (7, 100)])
def test_all_rows_once(count, rows, width):
    seen, names = np.zeros(rows, int), set()

    def work(part: slice) -> None:
        seen[part] += 1
        names.add(threading.current_thread().name)

    over_rows(work, rows, width)
    assert (seen == 1).all() and len(names) <= count


@pytest.mark.parametrize("row", [0, 5])  # of this thread, or of another where there are several
def test_a_fault_comes_out_when_nothing_is_left_running(count, row):
    running = []

    def work(part: slice) -> None:
        if part.start == row:
            raise ValueError(f"row {row}")
        running.append(part.start)
        time.sleep(0.05)
        running.remove(part.start)

    with pytest.raises(ValueError, match=f"row {row}"):
        over_rows(work, 60, 4)
    assert running == []


def test_after_a_fork_there_are_threads_again(count):
    over_rows(lambda part: None, 60, 4)
    child = os.fork()
    if not child:
        seen = np.zeros(60, int)

        def work(part: slice) -> None:
            seen[part] += 1

        over_rows(work, 60, 4)
        os._exit(int(not (seen == 1).all()))
    assert os.waitpid(child, 0)[1] == 0
