"""Workers: threads that each compute on one core, because an operation hardly gains from a second one.

Long computations must release the interpreter lock, as NumPy, Paddle and OpenVINO do.
"""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

from ernie_m.utils.child_processes import cache_until_fork
from ernie_m.utils.paddle_settings import number_in, read_cpu

T = TypeVar("T")
R = TypeVar("R")
# In a worker, the event that is set when its result is no longer needed.
STOP: ContextVar[Event | None] = ContextVar("stop", default=None)
AHEAD = 2  # items per worker that are computed ahead
_LEAST = 128  # tokens; smaller batches have more overhead than gain from another core
_ENOUGH = 512  # tokens; larger inputs make more batches, not larger ones, to balance workers


def core_count() -> int:
    """Return the number of compute threads: OMP_NUM_THREADS, or otherwise the usable cores."""
    return number_in("OMP_NUM_THREADS") if "OMP_NUM_THREADS" in os.environ else read_cpu().cores


def become_worker() -> None:
    """Make this thread compute on its own core from now on."""
    STOP.set(Event())


def end_if_stopped() -> None:
    """Raise a CancelledError if this thread is a worker whose result is no longer needed."""
    stop = STOP.get()
    if stop is not None and stop.is_set():
        raise CancelledError


@dataclass(frozen=True)
class Workers:
    """The threads that compute for the current one.

    Attributes:
        count: 1: the current thread computes itself.
        begin: initializer of each thread.
        most_tokens: batch size in tokens above which one core is no faster and only uses more memory; None:
            no limit, because an item is computed on all cores, or elsewhere.
    """

    count: int = 1
    begin: Callable[[], None] = become_worker
    most_tokens: int | None = None

    def count_batch_tokens(self, rows: Sequence[Collection[int]], batch_tokens: int) -> int:
        """Return the number of tokens of a batch of rows of ids: at most `batch_tokens`.

        Few rows are divided into one batch per worker, many into two or more.
        """
        if self.most_tokens is None:
            return batch_tokens
        lengths = list(map(len, rows))
        total = sum(lengths)
        # Add a part of the longest row, because rows of equal length would otherwise need one more batch.
        one_each = (total + (self.count - 1) * max(lengths, default=0)) // self.count
        enough = max(_LEAST, min(one_each, _ENOUGH), total // (2 * self.count))
        return min(batch_tokens, self.most_tokens, enough)

    def map(self, compute: Callable[[T], R], items: Iterable[T], ahead: int = AHEAD) -> Iterator[R]:
        """Yield `compute(item)` for each item, in order, with one item per worker at a time.
        A single item is also computed on one core: all cores would take half as long again for a short text.
        `items`
        may be an iterator: it is read as far ahead as the workers need. Exceptions of `compute` are raised
        here. If the caller stops, by an error or Ctrl-C, then the workers stop as well, and have stopped when
        this
        ends: within a Paddle layer or a batch.

        Args:
            ahead: number of items per worker that are computed ahead.
        """
        if self.count == 1:
            yield from map(compute, items)
            return
        stop = Event()
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(_pool(self.count, self.begin).submit(_run, stop, compute, item))
                if len(pending) > ahead * self.count:
                    yield pending[0].result()  # keep it in `pending` until it is done, for `wait`
                    pending.popleft()
            while pending:
                yield pending[0].result()
                pending.popleft()
        finally:
            stop.set()
            for future in pending:
                future.cancel()
            wait(pending)


def _run(stop: Event, compute: Callable[[T], R], item: T) -> R:
    """Compute an item in a worker."""
    STOP.set(stop)
    return compute(item)


@cache_until_fork
def _pool(count: int, begin: Callable[[], None]) -> ThreadPoolExecutor:
    """Return the workers, created once."""
    return ThreadPoolExecutor(count, "worker", initializer=begin)
