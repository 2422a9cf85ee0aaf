"""Attention of packed sequences with bfloat16 products and float32 softmax, one sequence at a time.

It computes the same function as `ernie_m/model/cpu/attention.py`. It is used for long sequences, where the
matrix products take most of the time.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model.cpu import onednn
from ernie_m.model.cpu.layers import DropoutMask, draw_dropout_mask
from ernie_m.model.cpu.numpy_views import as_array
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.model.threads import raise_if_stopped

_AT_ONCE = 1 << 18  # scores at a time, so that they stay in the cache; at least one head's


class _HeadChunk(NamedTuple):
    """A group of attention heads of one sequence of t tokens."""

    tokens: slice
    heads: slice
    scores: slice  # in a flat array of the scores of all chunks
    shape: tuple[int, int, int]  # of the scores: heads, t, t
    context_length: int  # later tokens are placeholders

    def view_tokens(self, x: np.ndarray, num_heads: int) -> np.ndarray:
        """Return a view of x [N, H] with the chunk's tokens and heads: [heads, t, D]."""
        rows = x[self.tokens]
        return rows.reshape([len(rows), num_heads, -1])[:, self.heads].swapaxes(0, 1)

    def view_scores(self, scores: np.ndarray) -> np.ndarray:
        """Return a view of the chunk's scores in a flat array: [heads, t, t]."""
        return scores[self.scores].reshape(self.shape)


class Bfloat16Attention(PyLayer):
    """Compute softmax(q k^T / sqrt(D)) v within each sequence: bfloat16 [N, H] each -> bfloat16 [N, H]."""

    @staticmethod
    def forward(
        ctx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: PackedLayout,
        num_heads: int,
        dropout_rate: float,
    ) -> Tensor:
        raise_if_stopped()
        result = paddle.empty_like(query)
        ctx.chunks = list(_split_into_chunks(layout, num_heads))
        size = ctx.chunks[-1].scores.stop
        ctx.num_heads = num_heads
        ctx.scale = (query.shape[1] // num_heads) ** -0.5
        ctx.inputs = [as_array(x) for x in (query, key, value)]
        ctx.weights = np.empty(size, np.uint16)
        ctx.dropout_mask = draw_dropout_mask([size], dropout_rate) if dropout_rate > 0.0 else None
        for chunk in ctx.chunks:
            q, k, v, out = (chunk.view_tokens(x, num_heads) for x in (*ctx.inputs, as_array(result)))
            weights = chunk.view_scores(ctx.weights)
            scores = np.empty(chunk.shape, np.float32)
            onednn.multiply_tokens(q, k, scores, ctx.scale)
            length = chunk.shape[-1]
            if chunk.context_length < length:  # only its own query attends to a placeholder
                indices = np.arange(length)
                scores[:, (indices >= chunk.context_length) & (indices[:, None] != indices)] = -np.inf
            onednn.softmax(scores.reshape([-1, length]), weights.reshape([-1, length]))
            kept, scale = _apply_dropout(weights, ctx.dropout_mask, chunk)
            onednn.sum_tokens(kept, v, out, scale, of_keys=True)
        return result

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise_if_stopped()
        gradients = tuple(paddle.empty_like(grad_output) for _ in range(3))
        arrays = [*ctx.inputs, as_array(grad_output), *map(as_array, gradients)]
        for chunk in ctx.chunks:
            q, k, v, grad_out, grad_q, grad_k, grad_v = (chunk.view_tokens(x, ctx.num_heads) for x in arrays)
            weights = chunk.view_scores(ctx.weights)
            kept, scale = _apply_dropout(weights, ctx.dropout_mask, chunk)
            onednn.sum_tokens(kept, grad_out, grad_v, scale, of_keys=False)
            grad_weights = np.empty(chunk.shape, np.uint16)
            onednn.multiply_tokens(grad_out, v, grad_weights, scale)
            grad_weights, _ = _apply_dropout(grad_weights, ctx.dropout_mask, chunk)
            grad_scores = np.empty(chunk.shape, np.uint16)
            onednn.softmax_gradient(
                *(x.reshape([-1, chunk.shape[-1]]) for x in (weights, grad_weights, grad_scores))
            )
            onednn.sum_tokens(grad_scores, k, grad_q, ctx.scale, of_keys=True)
            onednn.sum_tokens(grad_scores, q, grad_k, ctx.scale, of_keys=False)
        ctx.inputs = ctx.weights = ctx.dropout_mask = None  # free the memory, because `ctx` may live longer
        return gradients


def _split_into_chunks(layout: PackedLayout, num_heads: int) -> Iterator[_HeadChunk]:
    """Divide the sequences and heads of a packed batch into chunks of at most _AT_ONCE scores, in order."""
    first_score = 0
    for start, length, context_length in zip(layout.starts, layout.lengths, layout.context_lengths):
        heads_at_once = max(1, min(num_heads, _AT_ONCE // int(length) ** 2))
        for first_head in range(0, num_heads, heads_at_once):
            heads = slice(first_head, min(first_head + heads_at_once, num_heads))
            shape = (heads.stop - heads.start, int(length), int(length))
            scores = slice(first_score, first_score + math.prod(shape))
            first_score = scores.stop
            yield _HeadChunk(slice(start, start + length), heads, scores, shape, context_length)


def _apply_dropout(
    weights: np.ndarray, dropout_mask: DropoutMask | None, chunk: _HeadChunk
) -> tuple[np.ndarray, float]:
    """Apply a dropout mask to attention weights [heads, t, t].

    Returns:
        The masked weights, and the rescaling factor of dropout, which has not been applied.
    """
    if dropout_mask is None:
        return weights, 1.0
    return weights * chunk.view_scores(dropout_mask.stays), dropout_mask.scale
