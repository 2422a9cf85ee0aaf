"""Workers: threads that each run a model on one core, because an operation hardly gains from a second one.

Paddle and NumPy release the interpreter lock while they compute. The bits of a result do not depend on the
number of threads, so they do not depend on whether a worker has computed it (docs/reliability.md).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import chain, islice
from threading import Event
from typing import TypeVar

from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.rows import own, thread_count

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 2  # what is computed before it is asked for, in items for each worker


def worker_count() -> int:
    """How many workers this thread has: 1 in a worker, and where a thread cannot be kept to one core."""
    return thread_count() if mkl.can_use_one_thread() else 1


def in_workers(compute: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `compute(item)` for each item, in order. As many items are computed at a time as there are cores.

    An only item is computed on all cores. `items` may be an iterator: it is read as far ahead as the workers
    need. What `compute` raises is raised here, and if the caller stops, by an error or Ctrl-C, then the
    workers stop, too, within a layer.
    """
    rest = iter(items)
    first_two = list(islice(rest, 2))
    all_items = chain(first_two, rest)
    workers = worker_count()
    if workers == 1 or len(first_two) < 2:
        yield from map(compute, all_items)
        return
    stop = Event()
    pending: deque[Future[R]] = deque()
    try:
        for item in all_items:
            pending.append(_pool(workers).submit(_run, stop, compute, item))
            if len(pending) > _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        stop.set()
        for future in pending:
            future.cancel()


def submit(compute: Callable[[T], R], item: T) -> "Future[R]":
    """Let a worker compute something, on one core; for who has several callers, such as a server.

    It must not be called in a worker.
    """
    return _pool(thread_count()).submit(_run, Event(), compute, item)


def _run(stop: Event, compute: Callable[[T], R], item: T) -> R:
    """What a worker does; `over_rows` ends it when `stop` is set."""
    own.work_until(stop)
    return compute(item)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """The workers, made once."""
    return ThreadPoolExecutor(workers, "worker", initializer=_use_one_core)


def _use_one_core() -> None:
    """Let this thread compute alone, in NumPy, Paddle, MKL and oneDNN."""
    own.become_worker()
    mkl.use_one_thread()
