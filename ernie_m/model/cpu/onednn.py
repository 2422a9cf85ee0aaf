"""Matrix products in bfloat16 on a CPU, by the oneDNN library in Paddle's wheel. Paddle itself has none.

bfloat16 is the upper half of a float32: the same range, and 8 bits of precision. NumPy has no such type, so
arrays hold its bits as uint16. A product multiplies bfloat16 numbers and adds them up in float32.

Several threads may call these functions at the same time: calls share nothing but the engine, which never
changes. Inside a call, oneDNN computes on the OpenMP threads of Paddle, because its symbols are bound to the
library that Paddle has loaded before. Equal inputs give equal bits on the same CPU and number of threads.
"""

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from ctypes import CFUNCTYPE, POINTER, c_char, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import numpy as np
import paddle

# Constants of dnnl_types.h, oneDNN 3
_CPU_ENGINE = 1
IN_ORDER_STREAM = 1
BFLOAT16 = 2
FLOAT32 = 3
# The arguments of a product. A reorder, which is oneDNN's word for a conversion, has the first and the last.
FROM = 1
WEIGHT = 33
BIAS = 41
TO = 17
ANY_ORDER = 1  # oneDNN chooses in which order the numbers of an array lie
WEIGHT_DESCRIPTION = 131  # what a description of a product is asked for
GELU = 0x31
_AVX512_BF16 = 0xE7  # the bits of this instruction set, which a CPU with AMX has, too
# The sizes of an array's axes, or their strides. An array of n axes uses the first n of the 12.
Dimensions = c_int64 * 12


class Argument(ctypes.Structure):
    """An array that an operation reads or writes: `name` is FROM, WEIGHT, BIAS or TO."""

    _fields_ = [("name", c_int), ("memory", c_void_p)]


_NewObject = POINTER(c_void_p)  # where a function writes the object that it makes
# The first returns bits of instruction sets, the next two what was asked for. The others return a status, 0
# if they have succeeded.
_SIGNATURES = {
    "get_effective_cpu_isa": (),
    "primitive_desc_query_md": (c_void_p, c_int, c_int),
    "memory_desc_get_size": (c_void_p,),
    "engine_create": (_NewObject, c_int, c_size_t),
    "stream_create": (_NewObject, c_void_p, c_int),
    "stream_wait": (c_void_p,),
    "stream_destroy": (c_void_p,),
    "memory_desc_create_with_strides": (_NewObject, c_int, Dimensions, c_int, Dimensions),
    "memory_desc_create_with_tag": (_NewObject, c_int, Dimensions, c_int, c_int),
    "memory_desc_destroy": (c_void_p,),
    "memory_create": (_NewObject, c_void_p, c_void_p, c_void_p),
    "memory_set_data_handle": (c_void_p, c_void_p),
    "memory_destroy": (c_void_p,),
    "post_ops_create": (_NewObject,),
    "post_ops_append_eltwise": (c_void_p, c_int, c_float, c_float),
    "post_ops_destroy": (c_void_p,),
    "primitive_attr_create": (_NewObject,),
    "primitive_attr_set_post_ops": (c_void_p, c_void_p),
    "primitive_attr_destroy": (c_void_p,),
    "matmul_primitive_desc_create": (_NewObject, *[c_void_p] * 6),
    "reorder_primitive_desc_create": (_NewObject, *[c_void_p] * 5),
    "primitive_desc_destroy": (c_void_p,),
    "primitive_create": (_NewObject, c_void_p),
    "primitive_execute": (c_void_p, c_void_p, c_int, POINTER(Argument)),
    "primitive_destroy": (c_void_p,),
    "gemm_bf16bf16f32": (
        c_char, c_char, c_int64, c_int64, c_int64, c_float, c_void_p, c_int64, c_void_p, c_int64, c_float,
        c_void_p, c_int64,
    ),
}  # fmt: skip


def missing() -> str | None:
    """What fast products in bfloat16 need and this machine does not have; None if it has everything."""
    if not is_there():
        return f"oneDNN 3 ({_path().name}) in the installed Paddle"
    if functions()["get_effective_cpu_isa"]() & _AVX512_BF16 != _AVX512_BF16:
        return "a CPU with bfloat16 instructions (avx512_bf16 or AMX)"
    return None


def is_there() -> bool:
    """Whether the installed Paddle has oneDNN 3."""
    try:
        return bool(functions())
    except (OSError, AttributeError):  # no such file, no such symbol
        return False


class Objects(ExitStack):
    """Objects of oneDNN that exist until the end of a `with` block."""

    def make(self, create: str, destroy: str, *arguments: object) -> c_void_p:
        """Make an object, which is destroyed at the end of the block.

        Args:
            create, destroy: the names in `_SIGNATURES` of the functions that do it.
            arguments: the arguments of `create`, without the address of the new object.
        """
        result = c_void_p()
        call(create, result, *arguments)  # ctypes passes the address of `result`, because it is a _NewObject
        self.callback(call, destroy, result)
        return result

    def description(self, matrix: np.ndarray, data_type: int) -> c_void_p:
        """oneDNN's description of a matrix: its shape, type and strides.

        Args:
            data_type: FLOAT32 or BFLOAT16.
        """
        # NumPy counts strides in bytes, oneDNN in numbers.
        strides = Dimensions(*(stride // matrix.itemsize for stride in matrix.strides))
        return self.make(
            "memory_desc_create_with_strides",
            "memory_desc_destroy",
            matrix.ndim,
            Dimensions(*matrix.shape),
            data_type,
            strides,
        )

    def dense(self, rows: int, columns: int, data_type: int) -> c_void_p:
        """The description of a matrix whose rows follow each other."""
        return self.make(
            "memory_desc_create_with_strides",
            "memory_desc_destroy",
            2,
            Dimensions(rows, columns),
            data_type,
            Dimensions(columns, 1),
        )

    def memory(self, matrix: np.ndarray, description: c_void_p) -> c_void_p:
        """oneDNN's object for the memory of a matrix, which is not copied."""
        return self.make("memory_create", "memory_destroy", description, engine(), matrix.ctypes.data)

    def convert(self, x: np.ndarray, x_form: c_void_p, out: np.ndarray, out_form: c_void_p) -> None:
        """Write the numbers of a matrix to `out` in another type or order; the descriptions say which."""
        stream = self.make("stream_create", "stream_destroy", engine(), IN_ORDER_STREAM)
        reorder = self.make(
            "reorder_primitive_desc_create",
            "primitive_desc_destroy",
            x_form,
            engine(),
            out_form,
            engine(),
            None,  # no attributes
        )
        primitive = self.make("primitive_create", "primitive_destroy", reorder)
        arguments = (Argument * 2)(
            Argument(FROM, self.memory(x, x_form)),
            Argument(TO, self.memory(out, out_form)),
        )
        call("primitive_execute", primitive, stream, len(arguments), arguments)
        call("stream_wait", stream)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round float32 numbers [N, K] to the nearest bfloat16: their bits, uint16 [N, K].

    The numbers of a row of `x` must lie side by side; the rows may lie apart.

    Raises:
        ValueError: the numbers of a row lie apart, or are not float32.
        RuntimeError: oneDNN has failed.
    """
    bits = np.empty(x.shape, np.uint16)
    if x.size == 0:
        return bits
    if x.dtype != np.float32 or x.strides[1] != x.itemsize:
        raise ValueError(f"float32 numbers side by side are needed, not {x.dtype} with strides {x.strides}")
    with Objects() as objects:
        objects.convert(x, objects.description(x, FLOAT32), bits, objects.description(bits, BFLOAT16))
    return bits


def multiply(x: np.ndarray, y: np.ndarray, out: np.ndarray, add: bool = False) -> None:
    """Write the product of x [N, K] and y [K, C], both in bfloat16, to `out`, float32 [N, C].

    Each array may be a block of a larger one, and `x` and `y` may be transposed; nothing is copied.

    Args:
        add: add the product to `out` instead.

    Raises:
        ValueError: shapes or types do not fit, or neither rows nor columns of an array lie side by side.
        RuntimeError: oneDNN has failed.
    """
    rows, terms = x.shape
    columns = y.shape[1]
    if len(y) != terms or out.shape != (rows, columns):
        raise ValueError(f"shapes {x.shape} x {y.shape} -> {out.shape}")
    if (x.dtype, y.dtype, out.dtype) != (np.uint16, np.uint16, np.float32):
        raise ValueError(f"types {x.dtype} x {y.dtype} -> {out.dtype}")
    if x.size == 0 or y.size == 0:  # `out` is empty, or each of its elements is a sum of no terms
        if not add:
            out[:] = 0.0
        return
    x_order, x_stride = _order(x)
    y_order, y_stride = _order(y)
    out_order, out_stride = _order(out)
    if out_order != b"N":
        raise ValueError("the result cannot be transposed")
    call(  # out = 1.0 * x @ y + add * out
        "gemm_bf16bf16f32",
        x_order,
        y_order,
        rows,
        columns,
        terms,
        1.0,
        x.ctypes.data,
        x_stride,
        y.ctypes.data,
        y_stride,
        float(add),
        out.ctypes.data,
        out_stride,
    )


def _order(matrix: np.ndarray) -> tuple[bytes, int]:
    """How a matrix lies in memory, as BLAS says it.

    Returns:
        b"N" if the numbers of a row lie side by side, b"T" if those of a column do; and the distance from one
        such row or column to the next, in numbers.

    Raises:
        ValueError: neither lie side by side.
    """
    to_next_row, to_next_column = (stride // matrix.itemsize for stride in matrix.strides)
    # BLAS refuses a distance below the length, and a matrix of one row or one column may have any stride.
    if to_next_column == 1:
        return b"N", max(to_next_row, matrix.shape[1])
    if to_next_row == 1:
        return b"T", max(to_next_column, matrix.shape[0])
    raise ValueError(f"neither rows nor columns lie side by side: strides {matrix.strides}")


def call(function: str, *arguments) -> None:
    """Call a function of `_SIGNATURES`.

    Raises:
        RuntimeError: it has failed.
    """
    status = functions()[function](*arguments)
    if status:
        raise RuntimeError(f"oneDNN: dnnl_{function} has failed with status {status}")


def _path() -> Path:
    """The library in Paddle's wheel."""
    return Path(paddle.__file__).parent / "libs" / "libdnnl.so.3"


@cache
def functions() -> dict[str, Callable[..., int]]:
    """The functions of `_SIGNATURES`, by name. Each releases the interpreter lock while it runs."""
    library = ctypes.CDLL(str(_path()))
    result_types = {"primitive_desc_query_md": c_void_p, "memory_desc_get_size": c_size_t}
    function_of = {}
    for name, argument_types in _SIGNATURES.items():
        function_type = CFUNCTYPE(result_types.get(name, c_int), *argument_types)
        function_of[name] = function_type((f"dnnl_{name}", library))
    return function_of


@cache
def engine() -> c_void_p:
    """oneDNN's object for the CPU, made once."""
    result = c_void_p()
    call("engine_create", result, _CPU_ENGINE, 0)  # 0: the first CPU, the only one
    return result
