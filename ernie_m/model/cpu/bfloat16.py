"""The products of linear layers and of the embedding matrix in bfloat16. Everything else stays in float32.

The inputs of a layer are kept in bfloat16 until the backward pass. Weights are not: they are rounded in the
forward pass and again in the backward pass. Two bytes for each weight of all layers would be more memory than
rounded inputs save in a small batch, and rounding takes about 1 % of a step.
"""

from collections.abc import Iterator

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model.cpu.layers import column_sum
from ernie_m.model.cpu.onednn import multiply, to_bfloat16
from ernie_m.model.cpu.rows import add, as_array, as_rows, needs_gradient

_BLOCK_WORDS = 1 << 13  # rows of an embedding matrix that are rounded at a time


class LinearInBfloat16(PyLayer):
    """Some linear layers of the same x [..., I], which is rounded once: for each layer [..., O].

    Args:
        parameters: the weights [I, O] of all layers, then their biases [O].
    """

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*parameters)
        ctx.needs_gradient = needs_gradient(x, *parameters)
        ctx.x_shape = x.shape
        ctx.rounded_x = to_bfloat16(as_rows(x))
        layer_count = len(parameters) // 2
        weights = parameters[:layer_count]
        biases = parameters[layer_count:]
        results = []
        for weight, bias in zip(weights, biases):
            y = paddle.empty([*x.shape[:-1], weight.shape[1]], "float32")  # [..., O]
            multiply(ctx.rounded_x, to_bfloat16(as_array(weight)), out=as_rows(y))
            add(as_rows(y), as_array(bias))
            results.append(y)
        return tuple(results)

    @staticmethod
    def backward(ctx, *grad_results: Tensor) -> tuple[Tensor | None, ...]:
        rounded_x = ctx.rounded_x
        ctx.rounded_x = None  # frees the memory, because `ctx` may live longer than this pass
        layer_count = len(grad_results)
        x_needs, *parameters_need = ctx.needs_gradient
        weights_need = parameters_need[:layer_count]
        biases_need = parameters_need[layer_count:]
        grad_x = paddle.empty(ctx.x_shape, "float32") if x_needs else None
        weights = ctx.saved_tensor()[:layer_count]  # the biases follow
        grad_weights = []
        grad_biases = []
        for layer, grad_y in enumerate(grad_results):
            weight = weights[layer]
            rounded_grad_y = to_bfloat16(as_rows(grad_y))
            if x_needs:
                rounded_weight = to_bfloat16(as_array(weight))
                # The first product fills the empty `grad_x`; those of the other layers are added.
                multiply(rounded_grad_y, rounded_weight.T, out=as_rows(grad_x), add=layer > 0)
            grad_weight = None
            if weights_need[layer]:
                grad_weight = paddle.empty_like(weight)
                multiply(rounded_x.T, rounded_grad_y, out=as_array(grad_weight))
            grad_weights.append(grad_weight)
            grad_biases.append(column_sum(grad_y) if biases_need[layer] else None)
        return grad_x, *grad_weights, *grad_biases


def table_products(x: Tensor, table: Tensor) -> Tensor:
    """x [m, H] times the embedding matrix [V, H]: [m, V] in float32."""
    result = paddle.empty([x.shape[0], table.shape[0]], x.dtype)
    logits = as_array(result)
    rounded_x = to_bfloat16(as_array(x))
    for words, rounded_rows in _rounded_blocks(as_array(table)):
        multiply(rounded_x, rounded_rows.T, out=logits[:, words])
    return result


def table_gradients(
    grad_logits: Tensor, x: Tensor, table: Tensor, grad_table: np.ndarray | None, accumulate: bool
) -> Tensor:
    """The two gradients of `table_products`.

    Args:
        grad_logits: [m, V].
        x: [m, H].
        grad_table: [V, H], where the gradient of the table is written; None: it is not needed.
        accumulate: add to `grad_table` instead.

    Returns:
        The gradient of x, [m, H].
    """
    result = paddle.empty_like(x)
    grad_x = as_array(result)
    gradient = as_array(grad_logits)
    rounded_x = to_bfloat16(as_array(x))
    for words, rounded_rows in _rounded_blocks(as_array(table)):
        rounded_gradient = to_bfloat16(gradient[:, words])
        # The first product fills the empty `grad_x`; those of the other blocks are added.
        multiply(rounded_gradient, rounded_rows, out=grad_x, add=words.start > 0)
        if grad_table is not None:
            multiply(rounded_gradient.T, rounded_x, out=grad_table[words], add=accumulate)
    return result


def _rounded_blocks(table: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows of a table [V, H] block by block: which rows, and their values in bfloat16."""
    for start in range(0, len(table), _BLOCK_WORDS):
        words = slice(start, min(start + _BLOCK_WORDS, len(table)))
        yield words, to_bfloat16(table[words])
