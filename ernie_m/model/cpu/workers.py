"""Workers: threads that each run a model on one core, because an operation hardly gains from a second one.

Paddle and NumPy release the interpreter lock while they compute. The bits of a result do not depend on the
number of threads, so they do not depend on whether a worker has computed it (docs/reliability.md).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

from ernie_m.model import kernels
from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.rows import STOP, thread_count
from ernie_m.utils.child_processes import cache_until_fork

T = TypeVar("T")
R = TypeVar("R")
_LEAST = 128  # tokens; a smaller batch has more overhead than it gains by a core of its own
_ENOUGH = 512  # tokens; then there are more batches, not larger ones, so that no worker waits for another
_MOST = 2048  # tokens; a larger batch is no faster on one core, and takes more memory
_AHEAD = 2  # what is computed before it is asked for, in items for each worker


def worker_count() -> int:
    """How many workers this thread has: 1 in a worker, on a GPU, and where none can be kept to one core."""
    if kernels.on_gpu() or kernels.has_plain_kernels() or not mkl.can_use_one_thread():
        return 1
    return thread_count()


def tokens_of_a_batch(rows: Sequence[Sequence[int]], batch_tokens: int) -> int:
    """How many tokens a batch of rows of ids should have: at most `batch_tokens`.

    With several workers few rows are shared out in a batch for each, and many in two or more for each.
    """
    workers = worker_count()
    if workers == 1:
        return batch_tokens
    lengths = list(map(len, rows))
    total = sum(lengths)
    # A part of the longest row is added, or else rows of one length would need one batch more.
    one_each = (total + (workers - 1) * max(lengths, default=0)) // workers
    return min(batch_tokens, _MOST, max(_LEAST, min(one_each, _ENOUGH), total // (2 * workers)))


def in_workers(compute: Callable[[T], R], items: Iterable[T], ahead: int = _AHEAD) -> Iterator[R]:
    """Yield `compute(item)` for each item, in order. As many items are computed at a time as there are cores.

    An only item is computed on one core, too: for a short text all would take half as long again. On a GPU
    and with plain kernels each item is computed in its turn. `items` may be an iterator: it is read as far
    ahead as the workers need. What `compute` raises is raised here. If the caller stops, by an error or
    Ctrl-C, then the workers stop, too, within a layer, and have stopped when this ends.

    Args:
        ahead: how many items for each worker are computed before they are asked for.
    """
    workers = worker_count()
    if workers == 1:
        yield from map(compute, items)
        return
    stop = Event()
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(_pool(workers).submit(_run, stop, compute, item))
            if len(pending) > ahead * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        stop.set()
        for future in pending:
            future.cancel()
        wait(pending)


def _run(stop: Event, compute: Callable[[T], R], item: T) -> R:
    """What a worker does; attention ends it when `stop` is set."""
    STOP.set(stop)
    return compute(item)


@cache_until_fork
def _pool(workers: int) -> ThreadPoolExecutor:
    """The workers, made once."""
    return ThreadPoolExecutor(workers, "worker", initializer=become_worker)


def become_worker() -> None:
    """Let this thread compute alone, on one core, from now on, in NumPy, Paddle, MKL and oneDNN."""
    STOP.set(Event())
    mkl.use_one_thread()
