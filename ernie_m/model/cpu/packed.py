"""Linear layers that only predict, by oneDNN: weights are packed, and a product adds the bias and takes GELU.

The rows of x are taken in blocks, so that what one product writes is in the cache when the next one reads
it. oneDNN makes code for each number of rows, so a block has one of some sizes, and the last one is padded.
The bits of a row do not depend on the other rows, nor on their number, unless it is alone in its block.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from ctypes import c_void_p
from functools import cache

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model.cpu import onednn
from ernie_m.model.cpu.onednn import Argument, Objects, call, engine
from ernie_m.model.cpu.rows import as_rows

# The numbers of rows that a block may have. Each costs 2 ms once, and half a megabyte for a model.
SIZES = (2, *range(4, 64, 4), *range(64, 128, 8), *range(128, 257, 16))
_ALIGNMENT = 64  # bytes of a line of the cache


class PackedLinear:
    """A linear layer with I inputs and O outputs, whose weight lies in the order in which oneDNN reads it.

    Several threads may use it at the same time.

    Args:
        weight: float32 [I, O].
        bias: float32 [O].
        in_bfloat16: whether weight and inputs are rounded to bfloat16.

    Raises:
        RuntimeError: oneDNN has failed.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray, in_bfloat16: bool):
        self.inputs, self.outputs = weight.shape
        self.in_bfloat16 = in_bfloat16
        packed_form = _packed_form(self.inputs, self.outputs, in_bfloat16)
        size = onednn.functions()["memory_desc_get_size"](packed_form)
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT  # as many bytes further a line of the cache begins
        packed = memory[start : start + size]
        own_objects = Objects()  # closed when the layer is freed
        weakref.finalize(self, own_objects.close)
        with Objects() as objects:
            objects.convert(weight, objects.description(weight, onednn.FLOAT32), packed, packed_form)
            self._weight = own_objects.memory(packed, packed_form)
            self._bias = own_objects.memory(bias, objects.dense(1, self.outputs, onednn.FLOAT32))
        self._arrays = (packed, bias)  # what these objects point to

    def multiply(self, x: np.ndarray, out: np.ndarray, gelu: bool = False) -> None:
        """Write x [rows, I] times the weight, plus the bias, to `out` [rows, O].

        Args:
            x: float32, or the bits of bfloat16.
            gelu: write GELU of the result, in the type of x; otherwise the result is float32.
        """
        key = (self.inputs, self.outputs, self.in_bfloat16, gelu, len(x))
        if key not in _thread.products:
            _thread.products[key] = _Product(*key)
        _thread.products[key].run(x, self._weight, self._bias, out)


def linear_layers(x: Tensor, layers: Sequence[PackedLinear]) -> list[Tensor]:
    """The results of linear layers of the same x [..., I]: for each layer float32 [..., O]."""

    def work(rows: np.ndarray, outs: list[np.ndarray]) -> None:
        rounded = _rounded(rows, layers[0])
        for layer, out in zip(layers, outs):
            layer.multiply(rounded, out)

    return _in_blocks(x, [layer.outputs for layer in layers], work)


def feed_forward(x: Tensor, first: PackedLinear, second: PackedLinear) -> Tensor:
    """second(gelu(first(x))): float32 [..., H] -> float32 [..., H]. What lies between is never whole."""

    def work(rows: np.ndarray, outs: list[np.ndarray]) -> None:
        rounded = _rounded(rows, first)
        between = np.empty([len(rows), first.outputs], rounded.dtype)
        first.multiply(rounded, between, gelu=True)
        second.multiply(between, outs[0])

    (y,) = _in_blocks(x, [second.outputs], work)
    return y


def _rounded(x: np.ndarray, layer: PackedLinear) -> np.ndarray:
    """x as a layer takes it."""
    return onednn.to_bfloat16(x) if layer.in_bfloat16 else x


def _in_blocks(
    x: Tensor, widths: list[int], work: Callable[[np.ndarray, list[np.ndarray]], None]
) -> list[Tensor]:
    """Call `work` with each block of rows of x [..., I] and the same rows of its results.

    Returns:
        The results, float32 [..., width] each.
    """
    results = [paddle.empty([*x.shape[:-1], width], "float32") for width in widths]
    x_rows = as_rows(x)  # [N, I]
    outs = [as_rows(result) for result in results]  # [N, width] each
    for first in range(0, len(x_rows), SIZES[-1]):
        rows = slice(first, min(first + SIZES[-1], len(x_rows)))
        count = rows.stop - rows.start
        size = next(allowed for allowed in SIZES if allowed >= count)
        if size == count:
            work(x_rows[rows], [out[rows] for out in outs])
            continue
        padded = np.zeros([size, x_rows.shape[1]], np.float32)
        padded[:count] = x_rows[rows]
        padded_outs = [np.empty([size, width], np.float32) for width in widths]
        work(padded, padded_outs)
        for out, padded_out in zip(outs, padded_outs):
            out[rows] = padded_out[:count]
    return results


class _Thread(threading.local):
    """What belongs to one thread, because the calls of a thread share working memory in oneDNN."""

    def __init__(self):
        self.products: dict[tuple, _Product] = {}


_thread = _Thread()


class _Product:
    """oneDNN's code for the products of one shape and type."""

    def __init__(self, inputs: int, outputs: int, in_bfloat16: bool, gelu: bool, rows: int):
        weight_form = _packed_form(inputs, outputs, in_bfloat16)
        kept = Objects()  # closed when the thread has ended, whose products are freed then
        finalizer = weakref.finalize(self, kept.close)
        finalizer.atexit = False  # at the end of the process another thread would close it
        with Objects() as objects:
            x, out, product = _descriptions(objects, weight_form, inputs, outputs, in_bfloat16, gelu, rows)
            self._primitive = kept.make("primitive_create", "primitive_destroy", product)
            nowhere = c_void_p()  # `run` says where the numbers are
            self._x = kept.make("memory_create", "memory_destroy", x, engine(), nowhere)
            self._out = kept.make("memory_create", "memory_destroy", out, engine(), nowhere)
        self._stream = kept.make("stream_create", "stream_destroy", engine(), onednn.IN_ORDER_STREAM)

    def run(self, x: np.ndarray, weight: c_void_p, bias: c_void_p, out: np.ndarray) -> None:
        """Write the product of x [rows, I] to `out` [rows, O]; weight, bias: oneDNN's memory objects."""
        call("memory_set_data_handle", self._x, x.ctypes.data)
        call("memory_set_data_handle", self._out, out.ctypes.data)
        arguments = (Argument * 4)(
            Argument(onednn.FROM, self._x),
            Argument(onednn.WEIGHT, weight),
            Argument(onednn.BIAS, bias),
            Argument(onednn.TO, self._out),
        )
        call("primitive_execute", self._primitive, self._stream, len(arguments), arguments)
        call("stream_wait", self._stream)


def _descriptions(
    objects: Objects,
    weight_form: c_void_p,
    inputs: int,
    outputs: int,
    in_bfloat16: bool,
    gelu: bool,
    rows: int,
) -> tuple[c_void_p, c_void_p, c_void_p]:
    """oneDNN's descriptions of x [rows, I], of the result [rows, O], and of the product.

    Args:
        weight_form: the description of the weight [I, O].
        in_bfloat16, gelu: as for `PackedLinear`, which says what types x and the result have.
    """
    x_type = onednn.BFLOAT16 if in_bfloat16 else onednn.FLOAT32
    x = objects.dense(rows, inputs, x_type)
    bias = objects.dense(1, outputs, onednn.FLOAT32)
    out = objects.dense(rows, outputs, x_type if gelu else onednn.FLOAT32)
    attributes = objects.make("primitive_attr_create", "primitive_attr_destroy")
    if gelu:
        after_product = objects.make("post_ops_create", "post_ops_destroy")
        call("post_ops_append_eltwise", after_product, onednn.GELU, 0.0, 0.0)  # GELU has no parameters
        call("primitive_attr_set_post_ops", attributes, after_product)
    product = objects.make(
        "matmul_primitive_desc_create",
        "primitive_desc_destroy",
        engine(),
        x,
        weight_form,
        bias,
        out,
        attributes,
    )
    return x, out, product


@cache
def _packed_form(inputs: int, outputs: int, in_bfloat16: bool) -> c_void_p:
    """oneDNN's description of a packed weight. It chooses the order for the largest block."""
    objects = Objects()  # never closed: the result belongs to the description of a product
    data_type = onednn.BFLOAT16 if in_bfloat16 else onednn.FLOAT32
    any_form = objects.make(
        "memory_desc_create_with_tag",
        "memory_desc_destroy",
        2,  # axes
        onednn.Dimensions(inputs, outputs),
        data_type,
        onednn.ANY_ORDER,
    )
    _, _, product = _descriptions(objects, any_form, inputs, outputs, in_bfloat16, gelu=False, rows=SIZES[-1])
    query = onednn.functions()["primitive_desc_query_md"]
    return c_void_p(query(product, onednn.WEIGHT_DESCRIPTION, 0))
