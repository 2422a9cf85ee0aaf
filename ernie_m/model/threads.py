"""Workers: threads that each compute on one core, because an operation hardly gains from a second one.

What computes for a longer time must release the interpreter lock meanwhile, as NumPy, Paddle and OpenVINO do.
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
# In a worker the event that is set when nobody waits for it any more.
STOP: ContextVar[Event | None] = ContextVar("stop", default=None)
AHEAD = 2  # what is computed before it is asked for, in items for each worker
_LEAST = 128  # tokens; a smaller batch has more overhead than it gains by a core of its own
_ENOUGH = 512  # tokens; then there are more batches, not larger ones, so that no worker waits for another


def core_count() -> int:
    """Return the number of compute threads: OMP_NUM_THREADS, or otherwise the usable cores."""
    return number_in("OMP_NUM_THREADS") if "OMP_NUM_THREADS" in os.environ else read_cpu().cores


def become_worker() -> None:
    """Let this thread compute alone from now on."""
    STOP.set(Event())


def end_if_stopped() -> None:
    """Raise a CancelledError if this thread is a worker for which nobody waits any more."""
    stop = STOP.get()
    if stop is not None and stop.is_set():
        raise CancelledError


@dataclass(frozen=True)
class Workers:
    """How many threads compute for the one that asks.

    Attributes:
        count: 1: it computes itself.
        begin: what each thread does first.
        most_tokens: a batch of more is no faster on one core, and takes more memory; None: it is, because an
            item is computed on all cores, or elsewhere.
    """

    count: int = 1
    begin: Callable[[], None] = become_worker
    most_tokens: int | None = None

    def count_batch_tokens(self, rows: Sequence[Collection[int]], batch_tokens: int) -> int:
        """Return the number of tokens a batch of rows of ids should have: at most `batch_tokens`.

        Few rows are shared out in a batch for each worker, and many in two or more for each.
        """
        if self.most_tokens is None:
            return batch_tokens
        lengths = list(map(len, rows))
        total = sum(lengths)
        # A part of the longest row is added, or else rows of one length would need one batch more.
        one_each = (total + (self.count - 1) * max(lengths, default=0)) // self.count
        enough = max(_LEAST, min(one_each, _ENOUGH), total // (2 * self.count))
        return min(batch_tokens, self.most_tokens, enough)

    def map(self, compute: Callable[[T], R], items: Iterable[T], ahead: int = AHEAD) -> Iterator[R]:
        """Yield `compute(item)` for each item, in order. As many items are computed at a time as there are
        workers.

        An only item is computed on one core as well: for a short text all would take half as long again.
        `items`
        may be an iterator: it is read as far ahead as the workers need. What `compute` raises is raised here.
        If the caller stops, by an error or Ctrl-C, then the workers stop as well, and have stopped when this
        ends: within a layer of Paddle's, or a batch.

        Args:
            ahead: how many items for each worker are computed before they are asked for.
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
                    yield pending[0].result()  # it stays until it is there, for `wait`
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
    """What a worker does."""
    STOP.set(stop)
    return compute(item)


@cache_until_fork
def _pool(count: int, begin: Callable[[], None]) -> ThreadPoolExecutor:
    """Return the workers, made once."""
    return ThreadPoolExecutor(count, "worker", initializer=begin)
