"""NumPy access to the memory of CPU tensors, and row-wise work on large arrays with several threads.

Paddle runs matrix products on all threads, but most of its other CPU kernels, like NumPy, use one. NumPy
releases the interpreter lock while it computes, so Python threads are enough. OpenMP's threads must sleep
between products (`KMP_BLOCKTIME` in utils/runtime.py), because they would otherwise keep the cores busy.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from paddle import Tensor

BLOCK = 1 << 18  # numbers in one slice, so that a slice stays in the processor's cache


def as_array(x: "Tensor") -> np.ndarray:
    """The memory of a CPU tensor as an array; writing to the array changes the tensor."""
    x = x.detach()
    return np.asarray(_Memory(x)) if x.size else x.numpy()  # NumPy refuses the null pointer of an empty one


def as_rows(x: "Tensor") -> np.ndarray:
    """A contiguous CPU tensor [..., H] as an array [N, H] that shares its memory."""
    return as_array(x).reshape([-1, x.shape[-1]])


class _Memory:
    # NumPy 1 makes the result of np.from_dlpack read-only, so the pointer is passed on directly.
    def __init__(self, x: "Tensor"):
        dtype = np.dtype(str(x.dtype).removeprefix("paddle."))
        self.owner = x
        self.__array_interface__ = {
            "version": 3, "shape": tuple(x.shape), "typestr": dtype.str, "data": (x.data_ptr(), False),
            "strides": tuple(dtype.itemsize * stride for stride in x.strides),
        }  # fmt: skip


def over_rows(work: Callable[[slice], None], rows: int, width: int) -> None:
    """Call `work` once for each of the slices that divide `rows` rows, several at a time and in no order.

    Args:
        work: must not call `over_rows`. Each row may depend only on its own values, so that the result does
            not depend on the number of threads. NumPy's floating-point warnings are switched off.
        width: numbers per row.
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
        other.result()  # raises what went wrong in that thread


def thread_count() -> int:
    """The number of threads that this process should use."""
    return max(1, int(os.environ.get("OMP_NUM_THREADS") or 1))


def _each(work: Callable[[slice], None], parts: list[slice]) -> None:
    with np.errstate(all="ignore"):
        for part in parts:
            work(part)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    # One pool for each process id: a forked child does not have its parent's threads.
    return ThreadPoolExecutor(thread_count(), "rows")
