"""Unpadded attention of packed sequences, without copies of queries, keys and values.

The scores of all sequences are one flat array. It has a block [t, t] per head of each sequence of t tokens. A
row of a block is a key and a column a query, because in NumPy maxima and sums over columns are faster than
over short rows. Matrix products read and write blocks of [N, H] through MKL (`ernie_m/model/cpu/mkl.py`).

The attention weights of a query are not normalized. Its output is normalized instead, because it has D
elements, and the weights have t.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.attention_bfloat16 import Bfloat16Attention
from ernie_m.model.cpu.layers import DropoutMask, draw_dropout_mask
from ernie_m.model.cpu.mkl import MatrixBatch, ProductShapes
from ernie_m.model.cpu.numpy_views import as_array, run_on_row_slices
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.model.threads import raise_if_stopped

CHUNK = 1 << 17  # scores per thread at a time; at least a block


@dataclass(frozen=True)
class ScoreChunk:
    """Score blocks that one thread computes: all heads of sequences of equal length, or some heads of one.

    Attributes:
        shape: sequences, heads, t, t.
        scores: slice of the chunk's blocks in the flat array of scores.
        columns: slice of the chunk's columns in an array with one element per column of all blocks.
        bias: [sequences, 1, t, t], -inf for masked keys, otherwise 0; None: no masked keys.
    """

    shape: tuple[int, int, int, int]
    scores: slice
    columns: slice
    bias: np.ndarray | None

    def view_scores(self, scores: np.ndarray) -> np.ndarray:
        """Return a view of the chunk's blocks in a flat array of scores: [sequences, heads, t, t]."""
        return scores[self.scores].reshape(self.shape)

    def view_columns(self, array: np.ndarray) -> np.ndarray:
        """Return a view of the chunk's elements in an array with one per column: [sequences, heads, 1, t]."""
        sequences, heads, _, length = self.shape
        return array[self.columns].reshape([sequences, heads, 1, length])


class ScoreBlocks:
    """Memory layout of the attention scores of a packed batch: one block [t, t] per sequence and head.

    Blocks of sequences of equal length are adjacent, shortest first.

    Attributes:
        size: number of scores.
        num_heads: number of heads.
        queries: int64 [N x heads], query and head of each column of all blocks in order, as a flat index
            into an array [N, heads].
    """

    def __init__(self, layout: PackedLayout, num_heads: int):
        self.num_heads = num_heads
        self._heads = np.arange(num_heads)
        self._chunks: list[ScoreChunk] = []
        self.size = 0
        columns = 0  # number of columns so far
        starts = []  # start of each block; per length int64 [sequences x heads]
        queries = []  # per length int64 [sequences x heads x t]
        order = np.argsort(layout.lengths, kind="stable")  # sequences, shortest first
        lengths, counts = np.unique(layout.lengths, return_counts=True)  # [groups] each
        groups = np.split(order, np.cumsum(counts)[:-1])  # sequences of each length
        for length, sequences in zip(lengths.tolist(), groups):
            blocks = len(sequences) * num_heads
            starts.append(self.size + length * length * np.arange(blocks))
            tokens = layout.starts[sequences, None, None] + np.arange(length)  # [sequences, 1, t]
            queries_of_heads = tokens * num_heads + self._heads[:, None]  # [sequences, heads, t]
            queries.append(queries_of_heads.ravel())
            self._chunks += _split_into_chunks(
                length, layout.context_lengths[sequences], num_heads, self.size, columns
            )
            self.size += blocks * length * length
            columns += blocks * length
        self.queries = np.concatenate(queries)
        self._starts = np.concatenate(starts)
        self._first_tokens = layout.starts[order]
        self._lengths = lengths.astype(np.int32)
        self._counts = (counts * num_heads).astype(np.int32)

    def compute_scores(self, keys: np.ndarray, queries: np.ndarray, factor: float = 1.0) -> np.ndarray:
        """Compute `factor` times the dot products of keys and queries of the same sequence and head.

        Args:
            keys, queries: [N, H].

        Returns:
            The flat array of scores, [size].
        """
        scores = np.empty(self.size, keys.dtype)
        keys_of_blocks = self._view_tokens(keys)  # [t, D] per block
        queries_of_blocks = self._view_tokens(queries)._replace(transposed=True)  # [D, t]
        blocks = MatrixBatch(scores, self._starts, self._lengths)  # [t, t]
        shapes = ProductShapes(self._lengths, self._get_head_sizes(keys), self._lengths, self._counts)
        mkl.multiply(keys_of_blocks, queries_of_blocks, blocks, shapes, factor)
        return scores

    def sum_weighted_rows(
        self, scores: np.ndarray, x: np.ndarray, out: np.ndarray, of_keys: bool, factor: float = 1.0
    ) -> None:
        """Multiply the score blocks by the rows of x [N, H], and write `factor` times the products to `out`.

        Args:
            scores: the flat array of scores, [size].
            of_keys: whether to sum over the keys of each query; otherwise over the queries of each key.
            out: the output, [N, H].
        """
        weights = MatrixBatch(scores, self._starts, self._lengths, transposed=of_keys)
        shapes = ProductShapes(self._lengths, self._lengths, self._get_head_sizes(x), self._counts)
        mkl.multiply(weights, self._view_tokens(x), self._view_tokens(out), shapes, factor)

    def run_on_chunks(self, process_chunk: Callable[[ScoreChunk], None]) -> None:
        """Call `process_chunk` with each chunk, concurrently and in any order.

        Raises:
            CancelledError: this thread is a worker whose result is no longer needed.
        """
        raise_if_stopped()

        def process_chunks(chunk_slice: slice) -> None:
            for chunk in self._chunks[chunk_slice]:
                process_chunk(chunk)

        run_on_row_slices(process_chunks, len(self._chunks), width=CHUNK)

    def _view_tokens(self, x: np.ndarray) -> MatrixBatch:
        """Return x [N, H] as one matrix [t, D] per block: the tokens of a sequence, in one head."""
        stride = x.strides[0] // x.itemsize  # from one token to the next, in elements
        head_size = x.shape[1] // self.num_heads
        starts = stride * self._first_tokens[:, None] + head_size * self._heads  # [S, heads]
        return MatrixBatch(x, starts.ravel(), np.full_like(self._lengths, stride))

    def _get_head_sizes(self, x: np.ndarray) -> np.ndarray:
        """Return the head size D of x [N, H], once per sequence length, as MKL expects it: int32 [groups]."""
        return np.full_like(self._lengths, x.shape[1] // self.num_heads)


def _split_into_chunks(
    length: int, context_lengths: np.ndarray, num_heads: int, next_score: int, next_column: int
) -> list[ScoreChunk]:
    """Divide the blocks of all sequences of the same length into chunks of about CHUNK scores.

    Args:
        length: t.
        context_lengths: int64 [sequences].
        next_score, next_column: start of the first chunk in the flat arrays of scores and of columns.
    """
    chunks = []
    blocks_at_once = max(1, CHUNK // (length * length))
    sequences_at_once = max(1, blocks_at_once // num_heads)
    heads_at_once = min(blocks_at_once, num_heads)
    for first in range(0, len(context_lengths), sequences_at_once):
        contexts = context_lengths[first : first + sequences_at_once]
        bias = _make_bias(length, contexts) if contexts.min() < length else None
        for first_head in range(0, num_heads, heads_at_once):
            heads = min(heads_at_once, num_heads - first_head)
            shape = (len(contexts), heads, length, length)
            blocks = len(contexts) * heads
            scores = slice(next_score, next_score + blocks * length * length)
            columns = slice(next_column, next_column + blocks * length)
            chunks.append(ScoreChunk(shape, scores, columns, bias))
            next_score = scores.stop
            next_column = columns.stop
    return chunks


def _make_bias(length: int, context_lengths: np.ndarray) -> np.ndarray:
    """Return the additive attention mask `ScoreChunk.bias` of sequences of t = `length` tokens.

    Args:
        context_lengths: int64 [sequences], number of tokens that are not placeholders.
    """
    indices = np.arange(length)
    is_placeholder = indices >= context_lengths[:, None]  # [sequences, t]
    is_other = indices[:, None] != indices  # [t, t], whether key and query differ
    # Only its own query attends to a placeholder.
    is_masked = is_placeholder[:, None, :, None] & is_other  # [sequences, 1, t, t]
    return np.where(is_masked, np.float32(-np.inf), np.float32(0.0))


_blocks = lru_cache(16)(ScoreBlocks)  # for current batches, shared by all layers


def attend(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, num_heads: int, dropout_rate: float
) -> Tensor:
    """Compute attention by `Bfloat16Attention` for bfloat16 inputs, otherwise by `CpuAttention`."""
    if query.dtype == paddle.bfloat16:
        return Bfloat16Attention.apply(query, key, value, layout, num_heads, dropout_rate)
    return CpuAttention.apply(query, key, value, _blocks(layout, num_heads), dropout_rate)


class _SavedArrays(NamedTuple):
    """Arrays that the forward pass of `CpuAttention` saves for its backward pass."""

    query: np.ndarray  # [N, H]
    key: np.ndarray  # [N, H]
    value: np.ndarray  # [N, H]
    output: np.ndarray  # [N, H]
    weights: np.ndarray  # of all blocks, not normalized, before dropout
    factors: np.ndarray  # [N, heads], factors of the summed values of each query
    dropout_mask: DropoutMask | None  # None: no dropout


class CpuAttention(PyLayer):
    """Compute softmax(q k^T / sqrt(D)) v within each sequence: [N, H] each -> [N, H].

    Args:
        dropout_rate: dropout probability of the weights; 0 outside of training.
    """

    @staticmethod
    def forward(
        ctx, query: Tensor, key: Tensor, value: Tensor, blocks: ScoreBlocks, dropout_rate: float
    ) -> Tensor:
        result = paddle.empty_like(query)
        output = as_array(result)
        q, k, v = (as_array(x) for x in (query, key, value))
        weights = blocks.compute_scores(k, q, factor=_compute_scale(q, blocks))  # scores at first
        sums = _exponentiate_(weights, blocks)
        dropout_mask = draw_dropout_mask([blocks.size], dropout_rate) if dropout_rate > 0.0 else None
        # `sums` has the order of the columns, and `factors` that of the tokens.
        factors = np.empty([len(q), blocks.num_heads], q.dtype)
        factors.ravel()[blocks.queries] = _compute_dropout_scale(dropout_mask) / sums
        blocks.sum_weighted_rows(_apply_dropout(weights, dropout_mask, blocks), v, out=output, of_keys=True)
        _multiply_heads(output, factors, out=output)
        ctx.blocks = blocks
        ctx.saved = _SavedArrays(q, k, v, output, weights, factors, dropout_mask)
        return result

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        blocks: ScoreBlocks = ctx.blocks
        saved: _SavedArrays = ctx.saved
        gradients = tuple(paddle.empty_like(grad_output) for _ in range(3))
        grad_query, grad_key, grad_value = (as_array(gradient) for gradient in gradients)
        scaled = np.empty_like(grad_query)  # [N, H], gradient of the sums before `factors`
        _multiply_heads(as_array(grad_output), saved.factors, out=scaled)
        # For each query the sum of weights times their gradients, which equals output times gradient.
        shape = [len(scaled), blocks.num_heads, -1]  # N, heads, D
        dots = np.einsum("nhd,nhd->nh", scaled.reshape(shape), saved.output.reshape(shape))
        dots = dots.ravel()[blocks.queries] / _compute_dropout_scale(saved.dropout_mask)  # now of each column
        weights_after_dropout = _apply_dropout(saved.weights, saved.dropout_mask, blocks)
        blocks.sum_weighted_rows(weights_after_dropout, scaled, out=grad_value, of_keys=False)
        del weights_after_dropout  # before allocating the next array of its size
        grad_scores = blocks.compute_scores(saved.value, scaled)  # the gradients of the weights, at first
        _compute_softmax_gradient_(grad_scores, saved.weights, dots, saved.dropout_mask, blocks)
        scale = _compute_scale(saved.query, blocks)
        blocks.sum_weighted_rows(grad_scores, saved.key, out=grad_query, of_keys=True, factor=scale)
        blocks.sum_weighted_rows(grad_scores, saved.query, out=grad_key, of_keys=False, factor=scale)
        return gradients


def _compute_scale(query: np.ndarray, blocks: ScoreBlocks) -> float:
    """Return the factor of the dot products, D^-1/2."""
    return (query.shape[1] // blocks.num_heads) ** -0.5


def _compute_dropout_scale(dropout_mask: DropoutMask | None) -> float:
    """Return the factor of the attention weights that dropout keeps; 1 without dropout."""
    return 1.0 if dropout_mask is None else dropout_mask.scale


def _multiply_heads(x: np.ndarray, factors: np.ndarray, out: np.ndarray) -> None:
    """Multiply each head of x [N, H] by its factor, [N, heads], and write the product to `out` [N, H]."""
    heads = x.reshape([*factors.shape, -1])  # [N, heads, D]
    out_heads = out.reshape(heads.shape)

    def multiply_rows(rows: slice) -> None:
        np.multiply(heads[rows], factors[rows, :, None], out=out_heads[rows])

    run_on_row_slices(multiply_rows, *x.shape)


def _exponentiate_(scores: np.ndarray, blocks: ScoreBlocks) -> np.ndarray:
    """Replace each score, in place, with exp(score - maximum score of its query), or with 0 if masked.

    Returns:
        The sum over the keys of each query, in column order: [N x heads].
    """
    sums = np.empty(len(blocks.queries), scores.dtype)

    def process_chunk(chunk: ScoreChunk) -> None:
        part = chunk.view_scores(scores)  # [sequences, heads, keys, queries]
        if chunk.bias is not None:
            part += chunk.bias
        part -= part.max(axis=2, keepdims=True)
        np.exp(part, out=part)
        chunk_sums = chunk.view_columns(sums)[:, :, 0]  # [sequences, heads, queries]
        np.einsum("shkq->shq", part, out=chunk_sums)  # the sum over the keys

    blocks.run_on_chunks(process_chunk)
    return sums


def _apply_dropout(weights: np.ndarray, dropout_mask: DropoutMask | None, blocks: ScoreBlocks) -> np.ndarray:
    """Apply a dropout mask to attention weights, without rescaling; None: return the weights unchanged."""
    if dropout_mask is None:
        return weights
    result = np.empty_like(weights)

    def process_chunk(chunk: ScoreChunk) -> None:
        part = result[chunk.scores]
        np.copyto(part, dropout_mask.stays[chunk.scores])  # True becomes 1.0 and False 0.0
        part *= weights[chunk.scores]

    blocks.run_on_chunks(process_chunk)
    return result


def _compute_softmax_gradient_(
    gradients: np.ndarray,
    weights: np.ndarray,
    dots: np.ndarray,
    dropout_mask: DropoutMask | None,
    blocks: ScoreBlocks,
) -> None:
    """Replace gradients of attention weights after dropout with gradients of the scores, in place.

    The gradient of a score is weight * (g - sum(g * weights)), with g the gradient of its weight before
    dropout, and the sum over the keys of its query.

    Args:
        dots: this sum for each query, in column order: [N x heads].
    """

    def process_chunk(chunk: ScoreChunk) -> None:
        if dropout_mask is not None:
            gradients[chunk.scores] *= dropout_mask.stays[chunk.scores]
        part = chunk.view_scores(gradients)
        part -= chunk.view_columns(dots)
        part *= chunk.view_scores(weights)

    blocks.run_on_chunks(process_chunk)
