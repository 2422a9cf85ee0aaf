"""Attention of packed sequences, group by group, each group padded to an array."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from model.cpu.dropout import DropoutMask, draw_dropout_mask
from model.cpu.rows import as_array, as_rows, over_rows, row_dots, row_sums
from model.layout import Group


class _Saved(NamedTuple):
    """What the backward pass needs of a group."""

    query: Tensor  # [b, heads, T, D], times D^-1/2
    key: Tensor  # [b, heads, T, D]
    value: Tensor  # [b, heads, T, D]
    weights: Tensor  # [b, heads, T, T]
    dropped: Tensor  # [b, heads, T, T], the weights after dropout
    mask: DropoutMask | None


class AttentionOnCpu(PyLayer):
    """softmax(q k^T / sqrt(D)) v inside each sequence: [N, H] each -> [N, H]."""

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
        context = paddle.empty_like(query)
        scale = (query.shape[-1] // num_heads) ** -0.5
        is_trained = not all(x.stop_gradient for x in (query, key, value))
        ctx.groups = groups
        ctx.num_heads = num_heads
        ctx.scale = scale
        ctx.saved = []
        for group in groups:
            q = _to_padded(query, group, num_heads, scale)
            k = _to_padded(key, group, num_heads)
            v = _to_padded(value, group, num_heads)
            weights = paddle.matmul(q, k, transpose_y=True)  # scores at first: [b, heads, T, T]
            mask = draw_dropout_mask(weights.shape, dropout_rate) if dropout_rate > 0.0 else None
            dropped = _softmax_(weights, group.masked, mask)
            _from_padded(paddle.matmul(dropped, v), group, context)
            if is_trained:
                ctx.saved.append(_Saved(q, k, v, weights, dropped, mask))
        return context

    @staticmethod
    def backward(ctx, grad_context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grad_query = paddle.empty_like(grad_context)
        grad_key = paddle.empty_like(grad_context)
        grad_value = paddle.empty_like(grad_context)
        for group, saved in zip(ctx.groups, ctx.saved):
            grad_output = _to_padded(grad_context, group, ctx.num_heads)  # [b, heads, T, D]
            grad_weights = paddle.matmul(grad_output, saved.value, transpose_y=True)  # [b, heads, T, T]
            _from_padded(paddle.matmul(saved.dropped, grad_output, transpose_x=True), group, grad_value)
            _softmax_gradient_(grad_weights, saved.weights, saved.mask)
            _from_padded(paddle.matmul(grad_weights, saved.key), group, grad_query, ctx.scale)
            _from_padded(paddle.matmul(grad_weights, saved.query, transpose_x=True), group, grad_key)
        return grad_query, grad_key, grad_value


def _to_padded(x: Tensor, group: Group, num_heads: int, factor: float = 1.0) -> Tensor:
    """The group's tokens of x [N, H], times `factor`: [b, heads, T, D], 0 at pads."""
    count, longest = group.shape
    head_size = x.shape[-1] // num_heads
    result = paddle.empty([count, num_heads, longest, head_size], x.dtype)
    padded = as_array(result)
    rows = as_array(x)

    def copy(sequences: slice) -> None:
        for number in range(sequences.start, sequences.stop):
            length = group.lengths[number]
            tokens = _tokens(rows, group, number, num_heads)
            np.multiply(tokens, factor, out=padded[number, :, :length])
            padded[number, :, length:] = 0.0

    over_rows(copy, count, padded[0].size)
    return result


def _from_padded(x: Tensor, group: Group, result: Tensor, factor: float = 1.0) -> None:
    """Write the real tokens of x [b, heads, T, D], times `factor`, into their rows of `result` [N, H]."""
    padded = as_array(x)
    rows = as_array(result)
    count, num_heads = padded.shape[:2]

    def copy(sequences: slice) -> None:
        for number in range(sequences.start, sequences.stop):
            length = group.lengths[number]
            tokens = _tokens(rows, group, number, num_heads)
            np.multiply(padded[number, :, :length], factor, out=tokens)

    over_rows(copy, count, padded[0].size)


def _tokens(rows: np.ndarray, group: Group, number: int, num_heads: int) -> np.ndarray:
    """The tokens of one sequence of a group, a view of rows [N, H]: [heads, t, D]."""
    start = group.starts[number]
    length = group.lengths[number]
    return rows[start : start + length].reshape([length, num_heads, -1]).swapaxes(0, 1)


def _softmax_(scores: Tensor, masked: np.ndarray | None, dropout_mask: DropoutMask | None) -> Tensor:
    """Softmax over the last axis of scores [b, heads, T, T], in place.

    Args:
        masked: bool [b, 1, 1 or T, T], where the result is exactly 0; None: nowhere.

    Returns:
        The softmax after dropout; without dropout, `scores` itself.
    """
    weights = as_array(scores)
    length = scores.shape[-1]
    result = scores if dropout_mask is None else paddle.empty_like(scores)
    dropped = as_array(result)

    def work(sequences: slice) -> None:
        part = weights[sequences]
        if masked is not None:
            np.copyto(part, -np.inf, where=masked[sequences])
        part -= part.max(-1, keepdims=True)
        np.exp(part, out=part)
        rows = part.reshape([-1, length])  # a view, [rows of all heads, T]
        rows /= row_sums(rows)
        if dropout_mask is not None:
            np.multiply(part, dropout_mask.stays[sequences], out=dropped[sequences])
            dropped[sequences] *= dropout_mask.scale

    over_rows(work, len(weights), weights[0].size)
    return result


def _softmax_gradient_(gradient: Tensor, weights: Tensor, dropout_mask: DropoutMask | None) -> None:
    """Turn the gradient of the dropped weights, [b, heads, T, T], into the gradient of the scores, in place.

    With g the gradient of the softmax's result, that is weights x (g - sum(g x weights)).
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
