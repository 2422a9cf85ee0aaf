"""Batched matrix products of different shapes (cblas_gemm_batch), by the MKL library in Paddle's wheel.

MKL uses Paddle's OpenMP threads, and several threads may call it concurrently.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, c_int, c_void_p
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

from ernie_m.model.kernel_check import check_agreement

# Constants of mkl_cblas.h
_ROW_MAJOR = 101
_AS_IT_IS = 111
_TRANSPOSED = 112
_NAMES = {"float32": "cblas_sgemm_batch", "float64": "cblas_dgemm_batch"}


class MatrixBatch(NamedTuple):
    """Views of one array as matrices, in groups of the same shape, for `multiply`."""

    array: np.ndarray  # of any shape
    starts: np.ndarray  # int64 [matrices], start of each, in elements of the array's memory
    row_strides: np.ndarray  # int32 [groups], from one row of a matrix to the next, in elements
    transposed: bool = False  # whether to multiply the transposed matrices


class ProductShapes(NamedTuple):
    """The shapes of products [rows, terms] x [terms, columns], group by group: int32 [groups] each."""

    rows: np.ndarray
    terms: np.ndarray
    columns: np.ndarray
    counts: np.ndarray  # number of products of each group


@cache
def is_supported() -> bool:
    """Return whether MKL in Paddle's wheel computes correct products; log a warning once if it does not.

    Without MKL, attention is computed on padded groups of sequences.
    """
    return check_agreement(_measure_errors, 1e-5, "MKL is disabled; attention is slower and uses one core")


def _measure_errors() -> Iterator[tuple[str, float]]:
    """Yield the dtype and the maximum error of batched products, compared with NumPy's."""
    random = np.random.default_rng(0)
    strides = np.array([7], np.int32)
    shapes = ProductShapes(*np.array([[5], [7], [9], [2]], np.int32))
    for dtype in _NAMES:
        x, y, out = (random.standard_normal([2, *shape]).astype(dtype) for shape in ([5, 7], [9, 7], [5, 9]))
        multiply(
            MatrixBatch(x, np.array([0, 35]), strides),
            MatrixBatch(y, np.array([0, 63]), strides, transposed=True),
            MatrixBatch(out, np.array([0, 45]), strides + 2),
            shapes,
            0.5,
        )
        yield f"product in {dtype}", np.abs(out - 0.5 * x @ y.swapaxes(1, 2)).max()


def multiply(
    x: MatrixBatch, y: MatrixBatch, out: MatrixBatch, shapes: ProductShapes, factor: float = 1.0
) -> None:
    """Write `factor` times the product of each matrix of x and the corresponding matrix of y to `out`.

    All arrays are float32, or all are float64. Requires `is_supported()`.
    """
    multiply_batch = _load_functions()[out.array.dtype.name]
    groups = len(shapes.counts)
    dtype = out.array.dtype
    x_order = np.full(groups, _TRANSPOSED if x.transposed else _AS_IT_IS, np.int32)
    y_order = np.full(groups, _TRANSPOSED if y.transposed else _AS_IT_IS, np.int32)
    factors = np.full(groups, factor, dtype)
    zeros = np.zeros(groups, dtype)  # factors of the previous contents of `out`
    arguments = [
        x_order, y_order, shapes.rows, shapes.columns, shapes.terms, factors,
        _get_addresses(x), x.row_strides, _get_addresses(y), y.row_strides,
        zeros, _get_addresses(out), out.row_strides,
    ]  # fmt: skip
    # `arguments` keeps the arrays alive until the call has ended.
    pointers = [argument.ctypes.data for argument in arguments]
    multiply_batch(_ROW_MAJOR, *pointers, groups, shapes.counts.ctypes.data)


def _get_addresses(matrices: MatrixBatch) -> np.ndarray:
    """Return the address of each matrix in memory: int64 [matrices]."""
    return matrices.starts * matrices.array.itemsize + matrices.array.ctypes.data


def use_one_thread() -> None:
    """Limit MKL and OpenMP to one thread for all later work of the calling thread."""
    mkl, openmp = _load_libraries()
    mkl.MKL_Set_Num_Threads_Local(1)
    openmp.omp_set_num_threads(1)


@contextmanager
def limit_openmp_to_one_thread() -> Iterator[None]:
    """Limit OpenMP to the calling thread within a `with` block."""
    _, openmp = _load_libraries()
    threads = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(1)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(threads)


@cache
def _load_libraries() -> tuple[ctypes.CDLL, ctypes.PyDLL]:
    """Load the MKL and the OpenMP library of Paddle's wheel.

    Calls to OpenMP are short, and do not release the GIL.
    """
    folder = Path(paddle.__file__).parent / "libs"
    openmp = ctypes.PyDLL(str(folder / "libiomp5.so"))
    # In a forked process, OpenMP restarts with the first thread that calls it. If that is another one, the
    # thread that forked keeps its number from the parent, and ends the process.
    os.register_at_fork(after_in_child=openmp.omp_get_max_threads)
    return ctypes.CDLL(str(folder / "libmklml_intel.so")), openmp


@cache
def _load_functions() -> dict[str, Callable[..., None]]:
    """Return MKL's batched product for each dtype. Calls release the GIL."""
    signature = CFUNCTYPE(None, c_int, *[c_void_p] * 13, c_int, c_void_p)
    library, _ = _load_libraries()
    return {dtype: signature((name, library)) for dtype, name in _NAMES.items()}
