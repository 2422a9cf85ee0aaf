"""Attention of packed sequences, group by group, each group padded to an array."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model.cpu.layers import DropoutMask, draw_dropout_mask
from ernie_m.model.cpu.rows import as_array, as_rows, needs_gradient, over_rows, row_dots, row_sums
from ernie_m.model.layout import Group


class _Saved(NamedTuple):
    """What the backward pass needs of a group."""

    query: Tensor  # [b, heads, T, D], times D^-1/2
    key: Tensor  # [b, heads, T, D]
    value: Tensor  # [b, heads, T, D]
    weights: Tensor  # [b, heads, T, T], before dropout
    weights_after_dropout: Tensor  # [b, heads, T, T]
    dropout_mask: DropoutMask | None  # None: no dropout


class AttentionOnCpu(PyLayer):
    """softmax(q k^T / sqrt(D)) v inside each sequence: [N, H] each -> [N, H].

    Args:
        groups: all sequences, in groups of similar length.
        dropout_rate: the probability with which a weight is dropped; 0 outside of training.
    """

    @staticmethod
    def forward(
        ctx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        groups: Sequence[Group],
        num_heads: int,
        dropout_rate: float,
    ) -> Tensor:
        output = paddle.empty_like(query)
        scale = (query.shape[-1] // num_heads) ** -0.5
        needs_backward = any(needs_gradient(query, key, value))
        ctx.groups = groups
        ctx.num_heads = num_heads
        ctx.scale = scale
        ctx.saved = []
        for group in groups:
            q = _to_padded(query, group, num_heads, factor=scale)  # [b, heads, T, D]
            k = _to_padded(key, group, num_heads)  # [b, heads, T, D]
            v = _to_padded(value, group, num_heads)  # [b, heads, T, D]
            scores = paddle.matmul(q, k, transpose_y=True)  # [b, heads, T, T]
            dropout_mask = draw_dropout_mask(scores.shape, dropout_rate) if dropout_rate > 0.0 else None
            weights_after_dropout = _softmax_(scores, group.masked, dropout_mask)
            weights = scores  # `_softmax_` has overwritten the scores with the weights
            _from_padded(paddle.matmul(weights_after_dropout, v), group, result=output)
            if needs_backward:
                ctx.saved.append(_Saved(q, k, v, weights, weights_after_dropout, dropout_mask))
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grad_query = paddle.empty_like(grad_output)
        grad_key = paddle.empty_like(grad_output)
        grad_value = paddle.empty_like(grad_output)
        for group, saved in zip(ctx.groups, ctx.saved):
            grad_padded = _to_padded(grad_output, group, ctx.num_heads)  # [b, heads, T, D]
            grad_weights = paddle.matmul(grad_padded, saved.value, transpose_y=True)  # [b, heads, T, T]
            _from_padded(
                paddle.matmul(saved.weights_after_dropout, grad_padded, transpose_x=True),
                group,
                result=grad_value,
            )
            _softmax_gradient_(grad_weights, saved.weights, saved.dropout_mask)
            grad_scores = grad_weights  # `_softmax_gradient_` has overwritten the one with the other
            _from_padded(paddle.matmul(grad_scores, saved.key), group, result=grad_query, factor=ctx.scale)
            # `saved.query` has the factor `scale` already.
            _from_padded(paddle.matmul(grad_scores, saved.query, transpose_x=True), group, result=grad_key)
        return grad_query, grad_key, grad_value


def _to_padded(x: Tensor, group: Group, num_heads: int, factor: float = 1.0) -> Tensor:
    """The group's tokens of x [N, H], times `factor`: [b, heads, T, D], 0 at pads."""
    count, longest = group.shape
    head_size = x.shape[-1] // num_heads
    result = paddle.empty([count, num_heads, longest, head_size], x.dtype)
    padded = as_array(result)
    rows = as_array(x)

    def copy(sequences: slice) -> None:
        for sequence in range(sequences.start, sequences.stop):
            length = group.lengths[sequence]
            tokens = _tokens_view(rows, group, sequence, num_heads)
            np.multiply(tokens, factor, out=padded[sequence, :, :length])
            padded[sequence, :, length:] = 0.0

    over_rows(copy, count, width=padded[0].size)
    return result


def _from_padded(x: Tensor, group: Group, result: Tensor, factor: float = 1.0) -> None:
    """Write the real tokens of x [b, heads, T, D], times `factor`, into their rows of `result` [N, H]."""
    padded = as_array(x)
    rows = as_array(result)
    count, num_heads = padded.shape[:2]

    def copy(sequences: slice) -> None:
        for sequence in range(sequences.start, sequences.stop):
            length = group.lengths[sequence]
            tokens = _tokens_view(rows, group, sequence, num_heads)
            np.multiply(padded[sequence, :, :length], factor, out=tokens)

    over_rows(copy, count, width=padded[0].size)


def _tokens_view(rows: np.ndarray, group: Group, sequence: int, num_heads: int) -> np.ndarray:
    """The t tokens of one sequence of a group, as a view of `rows` [N, H]: [heads, t, D].

    Args:
        sequence: its index in the group.
    """
    start = group.starts[sequence]
    length = group.lengths[sequence]
    return rows[start : start + length].reshape([length, num_heads, -1]).swapaxes(0, 1)


def _softmax_(scores: Tensor, masked: np.ndarray | None, dropout_mask: DropoutMask | None) -> Tensor:
    """Softmax over the last axis of scores [b, heads, T, T], in place.

    Args:
        masked: bool [b, 1, 1 or T, T], where the result is exactly 0; None: nowhere.

    Returns:
        The softmax after dropout; without a dropout mask, `scores` itself.
    """
    weights = as_array(scores)
    length = scores.shape[-1]
    result = scores if dropout_mask is None else paddle.empty_like(scores)
    after_dropout = as_array(result)

    def work(sequences: slice) -> None:
        part = weights[sequences]
        if masked is not None:
            np.copyto(part, -np.inf, where=masked[sequences])
        part -= part.max(-1, keepdims=True)
        np.exp(part, out=part)
        rows = part.reshape([-1, length])  # a view, [rows of all heads, T]
        rows /= row_sums(rows)
        if dropout_mask is not None:
            np.multiply(part, dropout_mask.stays[sequences], out=after_dropout[sequences])
            after_dropout[sequences] *= dropout_mask.scale

    over_rows(work, len(weights), width=weights[0].size)
    return result


def _softmax_gradient_(gradient: Tensor, weights: Tensor, dropout_mask: DropoutMask | None) -> None:
    """Turn the gradient of the weights after dropout into the gradient of the scores, in place.

    With g the gradient of the weights before dropout, that is weights * (g - sum(g * weights)).

    Args:
        gradient, weights: [b, heads, T, T]; the weights are those before dropout.
    """
    gradient_rows = as_rows(gradient)
    weight_rows = as_rows(weights)
    stays = None if dropout_mask is None else dropout_mask.stays.reshape(weight_rows.shape)

    def work(rows: slice) -> None:
        part = gradient_rows[rows]
        if dropout_mask is not None:
            part *= stays[rows]
            part *= dropout_mask.scale
        part -= row_dots(part, weight_rows[rows])
        part *= weight_rows[rows]

    over_rows(work, *gradient_rows.shape)
