"""Workers of Paddle: threads that each run a model on one core (`ernie_m.model.workers`).

The bits of a result do not depend on the number of threads, so they do not depend on whether a worker has
computed it (docs/reliability.md).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ernie_m.model import kernels, workers
from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.rows import thread_count
from ernie_m.model.workers import AHEAD, Workers

T = TypeVar("T")
R = TypeVar("R")
_MOST = 2048  # tokens of a batch


def worker_count() -> int:
    """How many workers this thread has: 1 in a worker, on a GPU, and where none can be kept to one core."""
    if kernels.on_gpu() or kernels.has_plain_kernels() or not mkl.is_there():
        return 1
    return thread_count()


def paddle_workers() -> Workers:
    """The workers of this thread. On a GPU and with plain kernels each item is computed in its turn."""
    count = worker_count()
    return Workers(count, become_worker, _MOST) if count > 1 else Workers()


def in_workers(compute: Callable[[T], R], items: Iterable[T], ahead: int = AHEAD) -> Iterator[R]:
    """`Workers.map` of the workers of this thread. They stop at the attention of a layer."""
    return paddle_workers().map(compute, items, ahead)


def become_worker() -> None:
    """Let this thread compute alone, on one core, from now on, in NumPy, Paddle, MKL and oneDNN."""
    workers.become_worker()
    mkl.use_one_thread()
