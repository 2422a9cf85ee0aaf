"""Worker threads that each compute on one core, because one operation hardly gains from a second core.

Long computations must release the GIL, as NumPy, Paddle and OpenVINO do.
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
from ernie_m.utils.paddle_settings import read_cpu, read_int_variable

T = TypeVar("T")
R = TypeVar("R")
# In a worker, the event that is set when its result is no longer needed.
STOP: ContextVar[Event | None] = ContextVar("stop", default=None)
AHEAD = 2  # items per worker that are computed ahead
_LEAST = 128  # tokens; smaller batches have more overhead than gain from another core
_ENOUGH = 512  # tokens; larger inputs make more batches, not larger ones, to balance workers


def get_thread_count() -> int:
    """Return the number of compute threads: OMP_NUM_THREADS, or the number of usable cores if unset."""
    return read_int_variable("OMP_NUM_THREADS") if "OMP_NUM_THREADS" in os.environ else read_cpu().cores


def mark_as_worker() -> None:
    """Mark the current thread as a worker, which computes on one core."""
    STOP.set(Event())


def raise_if_stopped() -> None:
    """Stop a worker whose result is no longer needed.

    Raises:
        CancelledError: the current thread is such a worker.
    """
    stop = STOP.get()
    if stop is not None and stop.is_set():
        raise CancelledError


@dataclass(frozen=True)
class Workers:
    """The worker threads of the current thread.

    Attributes:
        count: number of workers; 1: the current thread computes everything.
        begin: initializer of each worker.
        most_tokens: maximum batch size in tokens: a larger batch is no faster on one core, and uses more
            memory. None: no limit, because a batch is computed on all cores or on a GPU.
    """

    count: int = 1
    begin: Callable[[], None] = mark_as_worker
    most_tokens: int | None = None

    def count_batch_tokens(self, rows: Sequence[Collection[int]], batch_tokens: int) -> int:
        """Return the batch size in tokens that keeps all workers busy, at most `batch_tokens`.

        A small input makes one batch per worker, a large one two or more.

        Args:
            rows: token ids of each text.
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
        """Yield `compute(item)` for each item, in order; each worker computes one item at a time.

        An iterator `items` is consumed only as far ahead as the workers need. A single item is also computed
        on one core, which is faster for a short text. Exceptions of `compute` are raised here. If the caller
        stops iterating, by an error or Ctrl-C, the workers are stopped, within a layer or a batch, before
        this generator ends.

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
                pending.append(
                    _get_thread_pool(self.count, self.begin).submit(_run_unless_stopped, stop, compute, item)
                )
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


def _run_unless_stopped(stop: Event, compute: Callable[[T], R], item: T) -> R:
    """Call `compute` in a worker, which `raise_if_stopped` stops when `stop` is set."""
    STOP.set(stop)
    return compute(item)


@cache_until_fork
def _get_thread_pool(count: int, begin: Callable[[], None]) -> ThreadPoolExecutor:
    """Return the thread pool of the workers, created at the first call in a process."""
    return ThreadPoolExecutor(count, "worker", initializer=begin)
