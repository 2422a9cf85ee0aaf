"""Work on the rows of large arrays by all threads of this process.

Paddle's products run on all threads, its other CPU kernels and numpy on one. numpy lets go of the
interpreter while it works, so Python's own threads are enough. What is worked on at a time stays in the
processor's cache.

OpenMP's threads must sleep between products (`KMP_BLOCKTIME`, utils/runtime.py): they would spin on the cores
that are wanted here.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numpy as np

BLOCK = 1 << 18  # numbers that are worked on at a time


def over_rows(work: Callable[[slice], None], rows: int, width: int) -> None:
    """Call `work` for slices that tile 0 .. rows, in no order, several at a time.

    Args:
        work: does not call `over_rows`. Its numbers are its own rows' alone, so that the result hangs on no
            number of threads. Those that are not finite give no warnings: the training loop sees them.
        width: numbers in a row.
    """
    threads = thread_count()
    size = max(1, min(BLOCK // width, -(-rows // threads)))
    parts = [slice(start, start + size) for start in range(0, rows, size)]
    own, *shares = (parts[first::threads] for first in range(threads))
    others = [_pool(os.getpid()).submit(_each, work, share) for share in shares if share]
    try:
        _each(work, own)
    finally:
        wait(others)
    for other in others:
        other.result()  # what went wrong there


def thread_count() -> int:
    """How many threads this process is to use."""
    return max(1, int(os.environ.get("OMP_NUM_THREADS") or 1))


def _each(work: Callable[[slice], None], parts: list[slice]) -> None:
    with np.errstate(all="ignore"):
        for part in parts:
            work(part)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    # Of this process: after a fork the threads of another are not there.
    return ThreadPoolExecutor(thread_count(), "rows")
