"""Operations of the oneDNN library in Paddle's wheel: products in bfloat16, GELU, layer norms, softmax.

Paddle has no bfloat16 products on a CPU, and its other kernels are slower. bfloat16 is the upper half of a
float32: the same range, and 8 bits of precision. NumPy has no such type, so arrays have its bits as uint16.
Products multiply bfloat16 numbers and accumulate in float32.

oneDNN compiles code for given shapes. In products, the number of tokens, which differs between batches, is a
dynamic size: the same code covers every number. Each thread caches recently used code. All functions are
thread-safe.
oneDNN uses Paddle's OpenMP threads, because its symbols are bound to the library that Paddle has loaded.
Equal inputs give equal bits on the same CPU, with any number of threads.
"""

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from ctypes import CFUNCTYPE, POINTER, PYFUNCTYPE, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from functools import cache, cached_property, lru_cache
from itertools import repeat
from pathlib import Path

import numpy as np
import paddle

from ernie_m.model.cpu import mkl

# Constants of dnnl_types.h, oneDNN 3
_CPU_ENGINE = 1
_IN_ORDER_STREAM = 1
_TYPES = {"H": 2, "f": 3}  # NumPy's letter for bfloat16 bits and for float32 -> oneDNN's types
_OPEN = -(1 << 63)  # a size or stride that is given at run time
_TRAINING, _BACKWARD = 64, 128  # propagation kinds
_WITH_SCALE_AND_SHIFT = 6
_GELU, _LINEAR, _SOFTMAX = 0x31, 0x26, 0x30000
_ALONG_ROWS = 1  # the axis of a softmax
# The arguments of an operation; _GRADIENT is the gradient of an argument.
FROM, TO, WEIGHT, BIAS = 1, 17, 33, 41
MEAN, VARIANCE, SCALE, SHIFT = 49, 50, 51, 52
FROM_GRADIENT, TO_GRADIENT, SCALE_GRADIENT, SHIFT_GRADIENT = 129, 145, 255, 256
_AVX512_BF16 = 0xE7  # bits of this instruction set, which CPUs with AMX also have
# The sizes of an array's axes, or their strides. An array of n axes uses the first n of the 12.
Dimensions = c_int64 * 12
_USUAL = 64  # a multiple of this many tokens gets separate, faster code
# Products require a multiple of this many tokens. With AMX and an open number of rows, oneDNN 3.6 computes
# the last rows together with earlier ones. These are added twice, if the product accumulates (seen on four
# threads and more), or if a long sum is computed in parts. And sums over an open number of terms do not use
# AMX. oneDNN caches the code of each known number forever, so there must be few.
_TOKENS_AT_ONCE = 32
# From 2,048 terms on, oneDNN divides a sum by the number of threads, which changes its bits. For bfloat16
# results, each part is rounded.
_TERMS_AT_ONCE = 1536
_KEPT = 256  # cached calls, and operations with code, per thread


class _Argument(ctypes.Structure):
    """oneDNN's `dnnl_exec_arg_t`: an array that an operation reads or writes, and its argument index."""

    _fields_ = [("name", c_int), ("memory", c_void_p)]


_NewObject = POINTER(c_void_p)  # output of a function that creates an object
# The first returns the address of three numbers, the second bits of instruction sets. The others return a
# status, 0 on success.
_SIGNATURES = {
    "version": (),
    "get_effective_cpu_isa": (),
    "engine_create": (_NewObject, c_int, c_size_t),
    "stream_create": (_NewObject, c_void_p, c_int),
    "stream_destroy": (c_void_p,),
    "memory_desc_create_with_strides": (_NewObject, c_int, Dimensions, c_int, Dimensions),
    "memory_desc_destroy": (c_void_p,),
    "memory_create": (_NewObject, c_void_p, c_void_p, c_void_p),
    "memory_set_data_handle": (c_void_p, c_void_p),
    "memory_destroy": (c_void_p,),
    "post_ops_create": (_NewObject,),
    "post_ops_append_eltwise": (c_void_p, c_int, c_float, c_float),
    "post_ops_append_sum": (c_void_p, c_float, c_int, c_int),
    "post_ops_destroy": (c_void_p,),
    "primitive_attr_create": (_NewObject,),
    "primitive_attr_set_post_ops": (c_void_p, c_void_p),
    "primitive_attr_destroy": (c_void_p,),
    "matmul_primitive_desc_create": (_NewObject, *[c_void_p] * 6),
    "reorder_primitive_desc_create": (_NewObject, *[c_void_p] * 5),
    "eltwise_forward_primitive_desc_create": (
        _NewObject, c_void_p, c_int, c_int, c_void_p, c_void_p, c_float, c_float, c_void_p,
    ),
    "eltwise_backward_primitive_desc_create": (
        _NewObject, c_void_p, c_int, *[c_void_p] * 3, c_float, c_float, c_void_p, c_void_p,
    ),
    "layer_normalization_forward_primitive_desc_create": (
        _NewObject, c_void_p, c_int, *[c_void_p] * 3, c_float, c_uint, c_void_p,
    ),
    "layer_normalization_backward_primitive_desc_create": (
        _NewObject, c_void_p, c_int, *[c_void_p] * 4, c_float, c_uint, c_void_p, c_void_p,
    ),
    "softmax_forward_primitive_desc_create": (
        _NewObject, c_void_p, c_int, c_int, c_void_p, c_void_p, c_int, c_void_p,
    ),
    "softmax_backward_primitive_desc_create": (
        _NewObject, c_void_p, c_int, *[c_void_p] * 3, c_int, c_void_p, c_void_p,
    ),
    "primitive_desc_destroy": (c_void_p,),
    "primitive_create": (_NewObject, c_void_p),
    "primitive_execute": (c_void_p, c_void_p, c_int, POINTER(_Argument)),
    "primitive_destroy": (c_void_p,),
}  # fmt: skip


def get_version() -> tuple[int, int, int]:
    """Return the version (major, minor, patch) of the oneDNN library in Paddle's wheel."""
    return tuple(ctypes.cast(_load_functions()["version"](), POINTER(c_int))[:3])


def supports_bfloat16() -> bool:
    """Return whether the CPU has instructions for products in bfloat16."""
    return _load_functions()["get_effective_cpu_isa"]() & _AVX512_BF16 == _AVX512_BF16


class _OneDnnObjects(ExitStack):
    """oneDNN objects that are destroyed at the end of a `with` block."""

    def make_object(self, create: str, destroy: str, *arguments: object) -> c_void_p:
        """Create a oneDNN object that is destroyed at the end of the `with` block.

        Args:
            create, destroy: the function names in `_SIGNATURES`.
            arguments: arguments of `create`, without the address of the new object.
        """
        result = c_void_p()
        _call_onednn(create, result, *arguments)  # ctypes passes the address of `result`, a _NewObject
        self.callback(_call_onednn, destroy, result)
        return result

    def make_primitive_descriptor(self, name: str, *arguments: object) -> c_void_p:
        """Create the primitive descriptor of an operation on the CPU.

        Args:
            name: the operation in `_SIGNATURES`, such as "matmul".
            arguments: arguments of its creation function after the engine.
        """
        return self.make_object(
            f"{name}_primitive_desc_create", "primitive_desc_destroy", _get_engine(), *arguments
        )

    def make_memory_descriptor(self, layout: "_MemoryLayout") -> c_void_p:
        """Create the memory descriptor of an array with this layout."""
        shape, strides, data_type = layout
        sizes = (len(shape), Dimensions(*shape), data_type, Dimensions(*strides))
        return self.make_object("memory_desc_create_with_strides", "memory_desc_destroy", *sizes)


# Memory layout of an array: its shape, its strides in elements, and oneDNN's number of its type.
_MemoryLayout = tuple[Sequence[int], Sequence[int], int]
# The axes of an array whose size is dynamic, and those whose stride is.
Open = tuple[Sequence[int], Sequence[int]]
_CLOSED: Open = ((), ())
_ROWS: Open = ((0,), ())
_COLUMNS: Open = ((1,), ())


class _Operation:
    """A oneDNN operation on arrays of given shapes. Only one thread may use it, because calls share memory.

    Args:
        make_descriptor: creates the primitive descriptor from an `_OneDnnObjects`, the arrays' memory
            descriptors and `options`.
        options: numeric parameters of the operation, such as a factor or epsilon.
        names: oneDNN's argument index of each array, such as FROM.
        keys: shape, strides in bytes and NumPy's dtype letter of each array.
        dynamic_axes: axes of each array with a dynamic size or stride; (): none.
    """

    def __init__(
        self,
        make_descriptor: Callable[..., c_void_p],
        options: tuple[float, ...],
        names: tuple[int, ...],
        keys: tuple[tuple, ...],
        dynamic_axes: tuple[Open, ...],
    ):
        layouts = [_get_layout(*key) for key in keys]
        open_layouts = tuple(
            _get_layout(*key, *open_axes) for key, open_axes in zip(keys, dynamic_axes or repeat(_CLOSED))
        )
        self._code = _thread.code(make_descriptor, options, open_layouts)
        objects = _make_objects_owned_by(self)
        memories = [  # None: `run` sets the memory
            objects.make_object(
                "memory_create", "memory_destroy", objects.make_memory_descriptor(layout), _get_engine(), None
            )
            for layout in layouts
        ]
        self._arguments = (_Argument * len(names))(*map(_Argument, names, memories))

    def run(self, arrays: Iterable[np.ndarray]) -> None:
        """Run the operation on arrays, in the order of `names`."""
        for argument, array in zip(self._arguments, arrays):
            _call_onednn("memory_set_data_handle", argument.memory, array.ctypes.data)
        _call_onednn(
            "primitive_execute", self._code.primitive, _thread.stream, len(self._arguments), self._arguments
        )


class _Primitive:
    """A compiled oneDNN primitive, owned by one thread.

    Args:
        make_descriptor, options: as in `_Operation`.
        layouts: memory layout of each array, in which sizes may be dynamic.
    """

    def __init__(
        self,
        make_descriptor: Callable[..., c_void_p],
        options: tuple[float, ...],
        layouts: tuple[_MemoryLayout, ...],
    ):
        with _OneDnnObjects() as objects:
            operation = make_descriptor(objects, *map(objects.make_memory_descriptor, layouts), *options)
            self.primitive = _make_objects_owned_by(self).make_object(
                "primitive_create", "primitive_destroy", operation
            )


def _make_objects_owned_by(owner: object) -> _OneDnnObjects:
    """Return a new, empty `_OneDnnObjects` whose contents are destroyed when `owner` is garbage-collected."""
    objects = _OneDnnObjects()
    weakref.finalize(owner, objects.close).atexit = False  # not at exit, where another thread would
    return objects


class _ThreadCaches(threading.local):
    """Per-thread LRU caches of `_Operation` and `_Primitive`."""

    def __init__(self):
        self.call = lru_cache(_KEPT)(_Operation)
        self.code = lru_cache(_KEPT)(_Primitive)

    @cached_property
    def stream(self) -> c_void_p:
        """Return the thread's oneDNN stream, created at the first use."""
        return _make_objects_owned_by(self.call).make_object(
            "stream_create", "stream_destroy", _get_engine(), _IN_ORDER_STREAM
        )


_thread = _ThreadCaches()


def _run(
    make_descriptor: Callable[..., c_void_p],
    arrays: Mapping[int, np.ndarray],
    *options: float,
    dynamic_axes: tuple[Open, ...] = (),
) -> None:
    """Run an operation on arrays.

    Args:
        make_descriptor, options, dynamic_axes: as in `_Operation`.
        arrays: oneDNN's argument index, such as FROM -> array.
    """
    keys = tuple([(array.shape, array.strides, array.dtype.char) for array in arrays.values()])
    _thread.call(make_descriptor, options, tuple(arrays), keys, dynamic_axes).run(arrays.values())


def _get_layout(
    shape: Sequence[int],
    strides: Sequence[int],
    dtype_char: str,
    dynamic_sizes: Sequence[int] = (),
    dynamic_strides: Sequence[int] = (),
) -> _MemoryLayout:
    """Return oneDNN's memory layout of a NumPy array.

    Args:
        strides: in bytes.
        dtype_char: `dtype.char` of the array, "f" or "H" (bits of bfloat16).
        dynamic_sizes, dynamic_strides: axes whose size or stride is given at run time.
    """
    itemsize = np.dtype(dtype_char).itemsize
    sizes = tuple(_OPEN if axis in dynamic_sizes else size for axis, size in enumerate(shape))
    steps = tuple(_OPEN if axis in dynamic_strides else step // itemsize for axis, step in enumerate(strides))
    return sizes, steps, _TYPES[dtype_char]


def to_bfloat16(x: np.ndarray, pad_to_block: bool = False) -> np.ndarray:
    """Round float32 numbers [N, K] to the nearest bfloat16. Return their bits, uint16 [N, K].

    Args:
        x: float32, with contiguous rows; or bits of bfloat16, which are copied.
        pad_to_block: whether to append zero rows until N is a multiple of 32, as `multiply` requires.

    Raises:
        ValueError: the rows are not contiguous, or not float32.
        RuntimeError: oneDNN has failed.
    """
    bits = np.empty([round_up_to_block(len(x)) if pad_to_block else len(x), x.shape[1]], np.uint16)
    bits[len(x) :] = 0
    if x.dtype == np.uint16 or x.size == 0:
        bits[: len(x)] = x
    elif x.dtype != np.float32 or x.strides[1] != x.itemsize:
        raise ValueError(f"expected contiguous float32 rows, got {x.dtype} with strides {x.strides}")
    else:
        _run(_describe_rounding, {FROM: x, TO: bits[: len(x)]})
    return bits


def round_up_to_block(num_tokens: int) -> int:
    """Round a number of tokens up to a multiple of 32."""
    return num_tokens + -num_tokens % _TOKENS_AT_ONCE


def _describe_rounding(objects: _OneDnnObjects, x: c_void_p, out: c_void_p) -> c_void_p:
    """Create the primitive descriptor of a conversion of x to the dtype of `out`."""
    return objects.make_object(
        "reorder_primitive_desc_create", "primitive_desc_destroy", x, _get_engine(), out, _get_engine(), None
    )


def multiply(
    x: np.ndarray,
    y: np.ndarray,
    out: np.ndarray,
    bias: np.ndarray | None = None,
    accumulate: bool = False,
    sums_tokens: bool = False,
) -> None:
    """Write the product of x [N, K] and y [K, C], both bfloat16, to `out` [N, C], bfloat16 or float32.

    Each array may be a view of a larger one. `x` and `y` may be transposed views.

    Args:
        bias: float32 [C], added to each row.
        accumulate: whether to add the product to `out` instead of overwriting `out`.
        sums_tokens: whether the inner dimension K counts tokens; otherwise N does.

    Raises:
        ValueError: the shapes do not match, or the number of tokens is not a multiple of 32.
        RuntimeError: oneDNN has failed, or does not support these dtypes.
    """
    _check_shapes(x, y, out)
    tokens = x.shape[1 if sums_tokens else 0]
    if tokens != round_up_to_block(tokens):
        raise ValueError(f"{tokens} tokens are not a multiple of {_TOKENS_AT_ONCE}")
    if x.size == 0 or y.size == 0:  # `out` is empty, or its elements are empty sums
        if not accumulate:
            out[:] = 0.0
        return
    if sums_tokens:
        dynamic_axes = (_COLUMNS, _ROWS, _CLOSED) if len(x) == 1 else ()
        # The bits would depend on the number of threads that divide the sums.
        with mkl.limit_openmp_to_one_thread():
            _run(_describe_product, {FROM: x, WEIGHT: y, TO: out}, accumulate, 1.0, dynamic_axes=dynamic_axes)
        return
    for first in range(0, len(y), _TERMS_AT_ONCE):
        terms = slice(first, first + _TERMS_AT_ONCE)
        # Nonadjacent rows of x are copied: with AMX and an open number of rows, oneDNN 3.6 reads wrong ones.
        arrays = {FROM: np.ascontiguousarray(x[:, terms]), WEIGHT: y[terms], TO: out}
        if bias is not None and first == 0:
            arrays[BIAS] = bias.reshape([1, -1])  # [None] would make a stride of 0, which oneDNN rejects
        _run(
            _describe_product,
            arrays,
            accumulate or first > 0,
            1.0,
            dynamic_axes=(_ROWS, _CLOSED, _ROWS, _CLOSED),
        )


# For heads of a sequence of t tokens: the axes that depend on t in an array of tokens [heads, t, D], in
# scores [heads, t, t], and in their transposes.
_TOKENS: Open = ((1,), ())
_TRANSPOSED_TOKENS: Open = ((2,), ())
_SCORES: Open = ((1, 2), (0, 1))
_TRANSPOSED_SCORES: Open = ((1, 2), (0, 2))


def multiply_tokens(x: np.ndarray, y: np.ndarray, out: np.ndarray, factor: float) -> None:
    """Write `factor` times x y^T to `out` [heads, t, t], for x and y bfloat16 [heads, t, D]."""
    _multiply_heads(x, y.swapaxes(1, 2), out, factor, (_TOKENS, _TRANSPOSED_TOKENS, _SCORES))


def sum_tokens(scores: np.ndarray, x: np.ndarray, out: np.ndarray, factor: float, of_keys: bool) -> None:
    """Write `factor` times the product of scores [heads, t, t] and tokens x [heads, t, D] to `out`.

    Args:
        of_keys: whether to sum over keys, the last axis of `scores`; otherwise `scores` is transposed.
    """
    if of_keys:
        _multiply_heads(scores, x, out, factor, (_SCORES, _TOKENS, _TOKENS))
    else:
        _multiply_heads(scores.swapaxes(1, 2), x, out, factor, (_TRANSPOSED_SCORES, _TOKENS, _TOKENS))


def _multiply_heads(
    x: np.ndarray, y: np.ndarray, out: np.ndarray, factor: float, dynamic_axes: tuple[Open, ...]
) -> None:
    _check_shapes(x, y, out)
    dynamic_axes = dynamic_axes if out.shape[1] % _USUAL else ()
    # Several threads would divide the rows, whose bits would depend on their number.
    with mkl.limit_openmp_to_one_thread():
        _run(_describe_product, {FROM: x, WEIGHT: y, TO: out}, False, factor, dynamic_axes=dynamic_axes)


def _check_shapes(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Check the shapes of a matrix product x y -> out, because oneDNN does not compare dynamic sizes.

    Raises:
        ValueError: the shapes do not match.
    """
    *batch, rows, terms = x.shape
    if y.shape[:-1] != (*batch, terms) or out.shape != (*batch, rows, y.shape[-1]):
        raise ValueError(f"shapes {x.shape} x {y.shape} -> {out.shape}")


def _describe_product(
    objects: _OneDnnObjects, x: c_void_p, y: c_void_p, out: c_void_p, *bias_and_options: c_void_p | float
) -> c_void_p:
    *bias, add, factor = bias_and_options
    attributes = objects.make_object("primitive_attr_create", "primitive_attr_destroy")
    after_product = objects.make_object("post_ops_create", "post_ops_destroy")
    if factor != 1.0:
        _call_onednn("post_ops_append_eltwise", after_product, _LINEAR, factor, 0.0)
    if add:
        _call_onednn("post_ops_append_sum", after_product, 1.0, 0, 0)
    _call_onednn("primitive_attr_set_post_ops", attributes, after_product)
    return objects.make_primitive_descriptor("matmul", x, y, bias[0] if bias else None, out, attributes)


def softmax(x: np.ndarray, out: np.ndarray) -> None:
    """Write the softmax of each row of x, float32 [N, K], to `out` [N, K], bfloat16 or float32."""
    _run(_describe_softmax, {FROM: x, TO: out})


def _describe_softmax(objects: _OneDnnObjects, x: c_void_p, out: c_void_p) -> c_void_p:
    return objects.make_primitive_descriptor(
        "softmax_forward", _TRAINING, _SOFTMAX, x, out, _ALONG_ROWS, None
    )


def softmax_gradient(softmax: np.ndarray, gradient: np.ndarray, out: np.ndarray) -> None:
    """Compute the backward pass of `softmax`: write the gradient of its input to `out` [N, K].

    Args:
        softmax: output of the forward pass, [N, K].
        gradient: gradient of this output, [N, K].
    """
    _run(_describe_softmax_gradient, {TO: softmax, TO_GRADIENT: gradient, FROM_GRADIENT: out})


def _describe_softmax_gradient(
    objects: _OneDnnObjects, y: c_void_p, gradient: c_void_p, out: c_void_p
) -> c_void_p:
    forward = _describe_softmax(objects, y, y)
    return objects.make_primitive_descriptor(
        "softmax_backward", _SOFTMAX, out, gradient, y, _ALONG_ROWS, forward, None
    )


def gelu(x: np.ndarray, out: np.ndarray) -> None:
    """Write the exact GELU of x to `out`; float32 or bfloat16 [N]."""
    _run(_describe_gelu, {FROM: x, TO: out})


def _describe_gelu(objects: _OneDnnObjects, x: c_void_p, out: c_void_p) -> c_void_p:
    return objects.make_primitive_descriptor("eltwise_forward", _TRAINING, _GELU, x, out, 0.0, 0.0, None)


def gelu_gradient(x: np.ndarray, gradient: np.ndarray, out: np.ndarray) -> None:
    """Compute the backward pass of `gelu`: write the gradient of x [N] to `out` [N].

    Args:
        gradient: gradient of the output of `gelu`, [N].
    """
    _run(_describe_gelu_gradient, {FROM: x, TO_GRADIENT: gradient, FROM_GRADIENT: out})


def _describe_gelu_gradient(
    objects: _OneDnnObjects, x: c_void_p, gradient: c_void_p, out: c_void_p
) -> c_void_p:
    forward = _describe_gelu(objects, x, x)
    return objects.make_primitive_descriptor(
        "eltwise_backward", _GELU, out, gradient, x, 0.0, 0.0, forward, None
    )


def layer_norm(arrays: Mapping[int, np.ndarray], epsilon: float) -> None:
    """Compute layer norm: read FROM [N, H], SCALE and SHIFT [H]; write MEAN and VARIANCE [N], and TO [N, H].

    Args:
        arrays: argument -> float32 array, in this order.

    Raises:
        ValueError: SCALE or SHIFT has the wrong shape or dtype, which oneDNN does not check.
        RuntimeError: oneDNN has failed, or does not support one of the remaining arrays.
    """
    for vector in (arrays[SCALE], arrays[SHIFT]):
        if vector.shape != arrays[FROM].shape[1:] or vector.dtype != np.float32:
            raise ValueError(f"{vector.dtype} {vector.shape} for a layer norm of {arrays[FROM].shape}")
    _run(_describe_layer_norm, arrays, epsilon)


def _describe_layer_norm(objects: _OneDnnObjects, *descriptions_and_epsilon: c_void_p | float) -> c_void_p:
    x, _, _, mean, *_, epsilon = descriptions_and_epsilon
    options = (_TRAINING, x, x, mean, epsilon, _WITH_SCALE_AND_SHIFT, None)
    return objects.make_primitive_descriptor("layer_normalization_forward", *options)


def layer_norm_gradient(arrays: Mapping[int, np.ndarray], epsilon: float) -> None:
    """Compute the backward pass of `layer_norm`.

    Args:
        arrays: argument -> array: those of `layer_norm` without TO; TO_GRADIENT, read; FROM_GRADIENT,
            SCALE_GRADIENT and SHIFT_GRADIENT, written.
    """
    with mkl.limit_openmp_to_one_thread():  # as in `multiply`
        _run(_describe_layer_norm_gradient, arrays, epsilon)


def _describe_layer_norm_gradient(
    objects: _OneDnnObjects, *descriptions_and_epsilon: c_void_p | float
) -> c_void_p:
    x, _, _, mean, *_, epsilon = descriptions_and_epsilon
    forward = _describe_layer_norm(objects, *descriptions_and_epsilon)
    options = (_BACKWARD, x, x, x, mean, epsilon, _WITH_SCALE_AND_SHIFT, forward, None)
    return objects.make_primitive_descriptor("layer_normalization_backward", *options)


def _call_onednn(function: str, *arguments) -> None:
    """Call a oneDNN function by its name in `_SIGNATURES`.

    Raises:
        RuntimeError: the function has returned an error status.
    """
    status = _load_functions()[function](*arguments)
    if status:
        raise RuntimeError(f"oneDNN: dnnl_{function} failed with status {status}")


def _find_library() -> Path:
    """Return the path of the oneDNN library in Paddle's wheel."""
    return Path(paddle.__file__).parent / "libs" / "libdnnl.so.3"


@cache
def _load_functions() -> dict[str, Callable[..., int]]:
    """Return the oneDNN functions of `_SIGNATURES`, by name. Slow functions release the GIL."""
    library = ctypes.CDLL(str(_find_library()))
    function_of = {}
    for name, argument_types in _SIGNATURES.items():
        make_type = CFUNCTYPE if name in ("primitive_create", "primitive_execute") else PYFUNCTYPE
        function_type = make_type(c_void_p if name == "version" else c_int, *argument_types)
        function_of[name] = function_type((f"dnnl_{name}", library))
    return function_of


@cache
def _get_engine() -> c_void_p:
    """Return oneDNN's CPU engine, created at the first call."""
    result = c_void_p()
    _call_onednn("engine_create", result, _CPU_ENGINE, 0)  # 0: the first and only CPU
    return result
