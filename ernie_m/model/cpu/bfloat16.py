"""Linear layers and the projection to the vocabulary in bfloat16 on a CPU.

Inputs and outputs of layers are float32, except between the two feed-forward layers and in attention over
long sequences. The inputs of a layer are kept in bfloat16 until the backward pass.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model.cpu.numpy_views import as_array, as_rows, as_tensor, needs_gradient
from ernie_m.model.cpu.onednn import multiply, round_up_to_block, to_bfloat16

_BLOCK_WORDS = 1 << 13  # rows of an embedding matrix per product
_ONE = 0x3F80  # bits of 1.0

# Address and shape of a weight -> its bits; None: weights may change.
_rounded: dict[tuple, np.ndarray] | None = None


@contextmanager
def cache_rounded_weights() -> Iterator[None]:
    """Cache the bfloat16 values of weights within a `with` block, in which weights must not change."""
    global _rounded
    _rounded = {}
    try:
        yield
    finally:
        _rounded = None


def round_weight(weight: np.ndarray) -> np.ndarray:
    """Return a weight rounded to bfloat16, as bits, uint16; cached within `cache_rounded_weights`.

    Thread-safe: two threads may round the same weight, with the same result.
    """
    rounded = _rounded  # another thread may end the context
    if rounded is None:
        return to_bfloat16(weight)
    key = (weight.ctypes.data, weight.shape)
    if key not in rounded:
        rounded[key] = to_bfloat16(weight)
    return rounded[key]


class Bfloat16Linear(PyLayer):
    """Linear layers with the same input x [..., I], in bfloat16 -> [..., O] per layer.

    Args:
        x: float32 or bfloat16; rounded once for all layers. Its gradient has the same dtype.
        dtype: dtype of the results.
        parameters: weights [I, O] of all layers, then biases [O].
    """

    @staticmethod
    def forward(ctx, x: Tensor, dtype: str, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*parameters)
        ctx.needs_gradient = needs_gradient(x, *parameters)
        ctx.x_shape = x.shape
        ctx.x_dtype = x.dtype
        ctx.rounded_x = to_bfloat16(as_rows(x), pad_to_block=True)  # [N', I]
        layer_count = len(parameters) // 2
        results = []
        for weight, bias in zip(parameters[:layer_count], parameters[layer_count:]):
            y, rows = _allocate_padded_rows([*x.shape[:-1], weight.shape[1]], dtype)  # [..., O] and [N', O]
            multiply(ctx.rounded_x, round_weight(as_array(weight)), rows, as_array(bias))
            results.append(y)
        return tuple(results)

    @staticmethod
    def backward(ctx, *grad_results: Tensor) -> tuple[Tensor | None, ...]:
        rounded_x = ctx.rounded_x
        ctx.rounded_x = None  # free the memory, because `ctx` may outlive this pass
        layer_count = len(grad_results)
        parameters = ctx.saved_tensor()
        x_needs, *needed = ctx.needs_gradient
        # [..., I] and [N', I]
        grad_x, grad_x_rows = _allocate_padded_rows(ctx.x_shape, ctx.x_dtype) if x_needs else (None, None)
        gradients = [
            paddle.empty_like(parameter) if is_needed else None
            for parameter, is_needed in zip(parameters, needed)
        ]
        ones = np.full([len(rounded_x), 1], _ONE, np.uint16).T
        for layer, grad_y in enumerate(grad_results):
            rounded_grad_y = to_bfloat16(as_rows(grad_y), pad_to_block=True)  # [N', O]
            if x_needs:
                weight = round_weight(as_array(parameters[layer]))
                # The first product fills the empty `grad_x`; those of other layers are added.
                multiply(rounded_grad_y, weight.T, grad_x_rows, accumulate=layer > 0)
            for factor, gradient in ((rounded_x.T, gradients[layer]), (ones, gradients[layer_count + layer])):
                if gradient is not None:
                    rows = as_array(gradient).reshape([-1, rounded_grad_y.shape[1]])
                    multiply(factor, rounded_grad_y, rows, sums_tokens=True)
        return grad_x, *gradients


def _allocate_padded_rows(shape: list[int], dtype: object) -> tuple[Tensor, np.ndarray]:
    """Allocate a tensor [..., H]; return it, and an array of its rows and `multiply`'s padding rows: [N', H].

    N' is N rounded up to a multiple of 32.
    """
    count = math.prod(shape[:-1])
    rows = as_array(paddle.empty([round_up_to_block(count), shape[-1]], dtype))
    return as_tensor(rows[:count].reshape(shape)), rows


def compute_logits(x: Tensor, embedding_matrix: Tensor) -> Tensor:
    """Compute the logits before the bias: x [m, H] times the embedding matrix [V, H] -> [m, V], float32."""
    # [m, V] and [m', V]
    result, logits = _allocate_padded_rows([x.shape[0], embedding_matrix.shape[0]], x.dtype)
    rounded_x = to_bfloat16(as_array(x), pad_to_block=True)
    for words, rounded_rows in _split_into_bfloat16_blocks(embedding_matrix):
        multiply(rounded_x, rounded_rows.T, logits[:, words])
    return result


def compute_logits_gradient(
    grad_logits: Tensor, x: Tensor, table: Tensor, grad_table: np.ndarray | None, accumulate: bool
) -> Tensor:
    """Compute the backward pass of `compute_logits`.

    Args:
        grad_logits: gradient of the logits, [m, V].
        x: input of the forward pass, [m, H].
        grad_table: [V, H], output for the gradient of the matrix; None: not needed.
        accumulate: add to `grad_table` instead of overwriting it.

    Returns:
        The gradient of x, [m, H].
    """
    result, grad_x = _allocate_padded_rows(x.shape, x.dtype)  # [m, H] and [m', H]
    gradient = as_array(grad_logits)
    rounded_x = to_bfloat16(as_array(x), pad_to_block=True)
    for words, rounded_rows in _split_into_bfloat16_blocks(table):
        rounded_gradient = to_bfloat16(gradient[:, words], pad_to_block=True)
        # The first product fills the empty `grad_x`; those of other blocks are added.
        multiply(rounded_gradient, rounded_rows, grad_x, accumulate=words.start > 0)
        if grad_table is not None:
            multiply(
                rounded_gradient.T, rounded_x, grad_table[words], accumulate=accumulate, sums_tokens=True
            )
    return result


def _split_into_bfloat16_blocks(embedding_matrix: Tensor) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of rows of an embedding matrix [V, H]: the slice, and the rows as bits of bfloat16."""
    rows = as_array(embedding_matrix)
    for start in range(0, len(rows), _BLOCK_WORDS):
        words = slice(start, min(start + _BLOCK_WORDS, len(rows)))
        yield words, round_weight(rows[words])
