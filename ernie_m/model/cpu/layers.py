"""Encoder layers on a CPU: linear, layer norm, GELU, dropout, and weighted sums over tokens.

Weighted sums are computed per sequence, so their bits do not depend on other sequences.
"""

import math
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model.cpu import onednn
from ernie_m.model.cpu.numpy_views import (
    add_scaled_,
    as_array,
    as_rows,
    as_tensor,
    needs_gradient,
    run_on_row_slices,
)
from ernie_m.model.dropout_stream import get_dropout_stream
from ernie_m.model.packed_layout import PackedLayout

PART_SIZE = 1 << 18  # elements of a dropout mask per stream of random bits
LEVELS = 1 << 16  # number of values of 16 random bits


class CpuLinear(PyLayer):
    """Linear layer: x [..., I] times weight [I, O], plus bias [O] -> [..., O].

    Product and sum are one operation, because Paddle's backward pass of a sum copies the gradient for each
    term.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.needs_gradient = needs_gradient(x, weight, bias)
        y = paddle.matmul(x, weight)
        add_scaled_(as_rows(y), as_array(bias))
        return y

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensor()
        x_needs, weight_needs, bias_needs = ctx.needs_gradient
        grad_x = paddle.matmul(grad_y, weight, transpose_y=True) if x_needs else None
        grad_weight = grad_bias = None
        grad_rows = grad_y.reshape([-1, grad_y.shape[-1]])  # [N, O]
        if weight_needs:
            grad_weight = paddle.matmul(x.reshape([-1, x.shape[-1]]), grad_rows, transpose_x=True)
        if bias_needs:  # Paddle's sum is fifty times slower
            ones = paddle.ones([grad_rows.shape[0], 1], grad_y.dtype)
            grad_bias = paddle.matmul(ones, grad_rows, transpose_x=True).squeeze(0)
        return grad_x, grad_weight, grad_bias


class CpuLayerNorm(PyLayer):
    """Layer norm over the last axis, by oneDNN: x [..., H], weight [H], bias [H], float32 -> [..., H]."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        y = paddle.empty_like(x)
        rows = as_rows(x)
        ctx.arrays = {
            onednn.FROM: rows,
            onednn.SCALE: as_array(weight),
            onednn.SHIFT: as_array(bias),
            onednn.MEAN: np.empty(len(rows), rows.dtype),
            onednn.VARIANCE: np.empty(len(rows), rows.dtype),
        }
        ctx.epsilon = epsilon
        ctx.needs_gradient = needs_gradient(x, weight, bias)
        onednn.layer_norm(ctx.arrays | {onednn.TO: as_rows(y)}, epsilon)
        return y

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        grad_x = paddle.empty_like(grad_y)
        grad_weight, grad_bias = paddle.zeros([2, grad_y.shape[-1]], grad_y.dtype)
        gradients = {
            onednn.TO_GRADIENT: as_rows(grad_y),
            onednn.FROM_GRADIENT: as_rows(grad_x),
            onednn.SCALE_GRADIENT: as_array(grad_weight),
            onednn.SHIFT_GRADIENT: as_array(grad_bias),
        }
        onednn.layer_norm_gradient(ctx.arrays | gradients, ctx.epsilon)
        ctx.arrays = None  # free the memory, because `ctx` may outlive this pass
        return tuple(
            gradient if is_needed else None
            for gradient, is_needed in zip((grad_x, grad_weight, grad_bias), ctx.needs_gradient)
        )


class CpuGelu(PyLayer):
    """Exact GELU, by oneDNN: [..., H] -> [..., H], float32 or bfloat16."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = paddle.empty_like(x)
        onednn.gelu(as_array(x).ravel(), as_array(y).ravel())
        return y

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        grad_x = paddle.empty_like(x)
        onednn.gelu_gradient(*(as_array(tensor).ravel() for tensor in (x, grad_y, grad_x)))
        return grad_x


class DropoutMask(NamedTuple):
    """A dropout mask, and the factor that rescales the kept elements."""

    stays: np.ndarray  # bool, in the shape of the input
    scale: float  # factor of the kept elements


def draw_dropout_mask(shape: list[int], probability: float) -> DropoutMask:
    """Draw a dropout mask of a shape.

    Each element uses 16 random bits, so the probability is rounded to 1/65536; the expectation is exact. The
    seed is drawn from the `DropoutStream` of this thread, otherwise from Paddle's generator.
    """
    threshold = round((1 - probability) * LEVELS)  # elements with lower bits are kept
    if threshold in (0, LEVELS):  # no element is kept, or all are
        return DropoutMask(np.full(shape, threshold == LEVELS), scale=1.0)
    stream = get_dropout_stream()
    if stream is not None:
        seed = stream.draw_seed()
    else:
        seed = paddle.randint(0, np.iinfo(np.int32).max, [4], "int32").tolist()
    size = math.prod(shape)
    stays = np.empty(size, bool)
    parts = np.split(stays, range(PART_SIZE, size, PART_SIZE))  # views that the threads fill

    def draw(part_indices: slice) -> None:
        for index in range(part_indices.start, part_indices.stop):
            # A separate stream per part, so that bits do not depend on the number of threads; the first part
            # has the stream of the seed itself.
            key = () if index == 0 else (index,)
            source = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key))
            part = parts[index]
            words = source.random_raw(math.ceil(len(part) / 4))  # uint64, four elements each
            bits = words.view(np.uint16)[: len(part)]
            np.less(bits, threshold, out=part)

    run_on_row_slices(draw, len(parts), width=PART_SIZE)
    return DropoutMask(stays.reshape(shape), LEVELS / threshold)


class CpuDropout(PyLayer):
    """Dropout of x [..., H], then addition of `residual` [..., H], if given.

    The backward pass keeps a mask of one byte per element; Paddle's product would keep two floats.
    """

    @staticmethod
    def forward(ctx, x: Tensor, probability: float, residual: Tensor | None) -> Tensor:
        ctx.mask = draw_dropout_mask(x.shape, probability)
        ctx.needs_gradient = needs_gradient(x) if residual is None else needs_gradient(x, residual)
        return _apply_dropout_mask(ctx.mask, x, residual)

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x_needs, *residual_needs = ctx.needs_gradient
        grad_x = _apply_dropout_mask(ctx.mask, grad_y) if x_needs else None
        if not residual_needs:  # no residual
            return (grad_x,)
        grad_residual = grad_y if residual_needs[0] else None
        return grad_x, grad_residual


def _apply_dropout_mask(mask: DropoutMask, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Return x [..., H] times the dropout mask and its scale, plus `residual` [..., H], if given."""
    y = paddle.empty_like(x)
    x_rows = as_rows(x)
    y_rows = as_rows(y)  # [N, H]
    stays = mask.stays.reshape(x_rows.shape)
    residual_rows = None if residual is None else as_rows(residual)

    def process_rows(rows: slice) -> None:
        part = y_rows[rows]
        np.copyto(part, stays[rows])  # True becomes 1.0 and False 0.0
        part *= mask.scale
        part *= x_rows[rows]
        if residual_rows is not None:
            part += residual_rows[rows]

    run_on_row_slices(process_rows, *x_rows.shape)
    return y


def sum_sequences(states: Tensor, weights: Tensor, is_real: Tensor, layout: PackedLayout) -> Tensor:
    """Compute the weighted sum of token states within each sequence, with a gradient: [N, H] -> [S, H].

    Args:
        weights: weight of each token in a padded array, [S, T]; no gradient.
        is_real: attention mask, bool [S, T].
    """
    of_tokens = as_array(weights)[as_array(is_real)]  # [N]
    return SequenceSums.apply(states, of_tokens.astype(as_array(states).dtype), layout)


class SequenceSums(PyLayer):
    """Weighted sum of token states within each sequence: states [N, H] -> [S, H].

    Args:
        weights: [N], in the dtype of the states; no gradient.
    """

    @staticmethod
    def forward(ctx, states: Tensor, weights: np.ndarray, layout: PackedLayout) -> Tensor:
        ctx.weights = weights
        ctx.layout = layout
        return as_tensor(np.add.reduceat(as_array(states) * weights[:, None], layout.starts))

    @staticmethod
    def backward(ctx, grad_sums: Tensor) -> Tensor:
        of_tokens = as_array(grad_sums)[ctx.layout.sequence_indices()]  # [N, H]
        return as_tensor(of_tokens * ctx.weights[:, None])
