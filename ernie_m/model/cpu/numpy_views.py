"""NumPy views of CPU tensors, and multithreaded work on the rows of arrays.

NumPy releases the GIL while it computes, so Python threads are sufficient. OpenMP's threads must sleep
between products (`KMP_BLOCKTIME` in ernie_m/utils/paddle_settings.py).
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model.threads import STOP
from ernie_m.utils.child_processes import cache_until_fork
from ernie_m.utils.paddle_settings import read_int_variable

BLOCK = 1 << 18  # elements per slice of rows, so that it stays in the cache


def as_array(x: Tensor) -> np.ndarray:
    """Return a CPU tensor as an array that shares its memory; bfloat16 as its bits, uint16."""
    x = x.detach()
    if 0 in x.shape:  # NumPy rejects null pointers; `x.size` would take half of this function's time
        return x.numpy()
    return np.asarray(_ArrayInterface(x))


def as_rows(x: Tensor) -> np.ndarray:
    """Return a contiguous CPU tensor [..., H] as an array [N, H] that shares its memory."""
    return as_array(x).reshape([-1, x.shape[-1]])


def as_tensor(array: np.ndarray) -> Tensor:
    """Return a contiguous array as a tensor that shares its memory.

    Each call of `paddle.to_tensor` or `paddle.from_dlpack` of Paddle 3.3.1 leaks a list of about a hundred
    bytes, which matters for a long run or a server.
    """
    tensor = paddle.empty([0], array.dtype.name)
    tensor.get_tensor().set(array, paddle.CPUPlace(), True)  # True: no copy
    return tensor


class _ArrayInterface:
    """NumPy's array interface of a CPU tensor, for `np.asarray`.

    `np.from_dlpack` is not used, because its array may be read-only.
    """

    def __init__(self, x: Tensor):
        name = str(x.dtype).removeprefix("paddle.")
        dtype = np.dtype("uint16" if name == "bfloat16" else name)  # NumPy has no bfloat16, so use its bits
        self.owner = x  # keeps the memory alive with the array
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(x.shape),
            "typestr": dtype.str,
            "data": (x.data_ptr(), False),  # not read-only
            "strides": tuple(dtype.itemsize * stride for stride in x.strides),
        }


def run_on_row_slices(process_rows: Callable[[slice], None], num_rows: int, width: int) -> None:
    """Call `process_rows` with slices that cover all rows of an array, on all threads and in any order.

    `process_rows` gets a slice with a start and a stop. It must not call `run_on_row_slices`, and each row
    may depend only on its own values, so that the result does not depend on the number of threads. NumPy's
    floating-point warnings are disabled.

    Args:
        num_rows: total number of rows.
        width: number of elements per row.
    """
    threads = get_usable_thread_count()
    # A slice has at most BLOCK elements, and there is at least a slice per thread.
    size = max(1, min(BLOCK // width, math.ceil(num_rows / threads)))  # rows of a slice
    slices = [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
    # Thread i gets the slices i, i + threads, i + 2 threads, ...; this thread has the first part.
    parts = [slices[first::threads] for first in range(threads)]
    futures = [_get_thread_pool().submit(_process_slices, part, process_rows) for part in parts[1:] if part]
    _process_slices(parts[0], process_rows)
    for future in futures:
        future.result()  # raises that thread's exception


def get_usable_thread_count() -> int:
    """Return the number of threads that the current thread may use: OMP_NUM_THREADS, or 1 in a worker."""
    return 1 if STOP.get() else read_int_variable("OMP_NUM_THREADS")


def _process_slices(slices: list[slice], process_rows: Callable[[slice], None]) -> None:
    """Call `process_rows` with each slice, in order, without NumPy's floating-point warnings."""
    with np.errstate(all="ignore"):
        for rows in slices:
            process_rows(rows)


@cache_until_fork
def _get_thread_pool() -> ThreadPoolExecutor:
    """Return the thread pool of `run_on_row_slices`, created at the first call in a process."""
    return ThreadPoolExecutor(get_usable_thread_count(), "rows")


def add_scaled_(total: np.ndarray, addend: np.ndarray, factor: float = 1.0) -> None:
    """Add `factor` times `addend`, [V, H] or [H], to `total` [V, H] in place, on all threads."""

    def add_rows(rows: slice) -> None:
        part = addend if addend.ndim == 1 else addend[rows]
        total[rows] += part if factor == 1.0 else part * factor

    run_on_row_slices(add_rows, *total.shape)


def needs_gradient(*tensors: Tensor) -> tuple[bool, ...]:
    """Return whether each input of a `PyLayer` needs a gradient.

    The backward pass must return None for inputs that do not.
    """
    return tuple(not tensor.stop_gradient for tensor in tensors)
