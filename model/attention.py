"""Self-attention and its masks. Symbols: see `model/ernie_m.py`.

Convention of every mask: a row is a query, a column a key, True (or 1) may attend. Every row sees at least
itself, and a pad is visible to its own row only, so no row is empty and no softmax is 0/0 in any dtype.
"""

from dataclasses import dataclass
from functools import cached_property

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from model.layers import Linear, add_to, at_positions, dropout, on_cpu, row_sum, softmax

# Added to closed scores. exp(-1e4) is exactly 0 in float32 and float64, and -1e4 is finite in float16.
CLOSED = -1e4

# What computes attention on a GPU in half precision; on a CPU, and in float32, it is "plain" always.
#   flash               flashmask_attention: a mask is two row numbers per column (Ampere or newer)
#   memory_efficient    scaled_dot_product_attention with the mask as a matrix; Paddle takes what the GPU has
#   plain               two products and a softmax
FLASH, MEMORY_EFFICIENT, PLAIN = KERNELS = ("flash", "memory_efficient", "plain")


@dataclass
class CompactMask:
    """The pattern "context, plus placeholders that see the context and themselves": CAMLM, BTMLM stage 1.

    The row is C context columns, then T - C placeholder columns. With C = 4, the context's last column a pad:

                x1 x2 x3  . | M5 M6 M7
        x1       1  1  1  . |  .  .  .
        x2       1  1  1  . |  .  .  .
        x3       1  1  1  . |  .  .  .
        pad      .  .  .  1 |  .  .  .      a pad sees itself only
        M5       1  1  1  . |  1  .  .
        M6       1  1  1  . |  .  1  .
        M7       1  1  1  . |  .  .  1

    It costs C x T scores instead of T x T: the context's are C x C, a placeholder's are C and one of its own.

    Attributes:
        context_length: C, 1 <= C <= T.
        valid: [B, T] bool, True at real tokens and placeholders, False at pads of either part.
    """

    context_length: int
    valid: Tensor

    def dense(self) -> Tensor:
        """The same mask as [B, 1, T, T] bool: the definition that the compact computation is tested by."""
        valid = self.valid.astype("bool")
        length = valid.shape[1]
        in_context = paddle.arange(length) < self.context_length  # [T]
        seen = valid.unsqueeze(2) & (valid & in_context).unsqueeze(1)  # [B, T, T]
        return (seen | paddle.eye(length).astype("bool")).unsqueeze(1)


@dataclass
class AttentionBias:
    """What is added to the scores, made once for all layers: 0 where a row may attend, -1e4 elsewhere.

    Each is [B, N, rows, columns] on a CPU, where adding a broadcast tensor takes 30 times as long as adding
    one of full shape, and [B, 1, rows, columns] elsewhere.

    Attributes:
        rows: of a dense mask all T rows and columns; of a compact one the context, C x C.
        placeholders: of a compact mask, P x C; their own column is open and needs no bias.
        mask: what they were made from.
        kernel: one of KERNELS.
    """

    rows: Tensor
    placeholders: Tensor | None = None
    mask: Tensor | CompactMask | None = None
    kernel: str = FLASH

    @cached_property
    def row_indices(self) -> Tensor | None:
        """For flashmask, [B, 1, T, 2]; None of a dense mask. A key mask is a compact one, all context."""
        if isinstance(self.mask, CompactMask):
            return flashmask_row_indices(self.mask)
        keys = self.mask is not None and self.mask.ndim == 2
        return flashmask_row_indices(CompactMask(self.mask.shape[1], self.mask)) if keys else None

    @cached_property
    def matrix(self) -> Tensor:
        """[B, 1, T, T], or of all heads; what `rows` is where there are no placeholders."""
        if self.placeholders is None:
            return self.rows
        return (1.0 - self.mask.dense().astype(self.rows.dtype)) * CLOSED


def attention_bias(
    mask: Tensor | CompactMask,
    num_heads: int,
    dtype,
    kernel: str = "flash",  # not FLASH: Paddle's converter to graphs knows no names here
) -> AttentionBias:
    """The bias of a mask.

    Args:
        mask: [B, T], 1 at real tokens, or [B, 1, T, T], 1 where the row may attend to the column (bool,
            integer or float), or a CompactMask. The diagonal is opened in each of them.
        num_heads: N.
        dtype: of the bias.
        kernel: one of KERNELS.
    """

    def bias(seen: Tensor) -> Tensor:
        closed = (1.0 - seen.astype(dtype)) * CLOSED
        return closed.expand([-1, num_heads, -1, -1]) if on_cpu(closed) else closed

    if not isinstance(mask, CompactMask):
        seen = mask.astype("bool")
        if seen.ndim == 2:
            seen = _all_see_all(seen)
        rows = bias(seen | paddle.eye(seen.shape[-1]).astype("bool"))
        return AttentionBias(rows, None, mask, kernel)
    valid = mask.valid.astype("bool")
    length, size = valid.shape[1], mask.context_length
    context = _all_see_all(valid[:, :size]) | paddle.eye(size).astype("bool")
    if size == length:
        return AttentionBias(bias(context), None, mask, kernel)
    seen = valid[:, size:].unsqueeze(2) & valid[:, :size].unsqueeze(1)  # [B, P, C]
    return AttentionBias(bias(context), bias(seen.unsqueeze(1)), mask, kernel)


def _all_see_all(valid: Tensor) -> Tensor:
    """[B, T] -> [B, 1, T, T]."""
    return (valid.unsqueeze(2) & valid.unsqueeze(1)).unsqueeze(1)


def flashmask_row_indices(mask: CompactMask) -> Tensor:
    """The mask as `startend_row_indices` of paddle.nn.functional.flashmask_attention (causal=False).

    Column j has (start, end): rows i > j are closed from `start` on, rows i < j are closed before `end`. A
    valid context column is open to all rows, (T, 0); every other column to its own row only, (j + 1, j).
    Rows of pads thereby see the context as well as themselves, which `CompactMask.dense` closes; nothing
    reads those rows.

    Returns:
        [B, 1, T, 2] int32.
    """
    length = mask.valid.shape[1]
    column = paddle.arange(length, dtype="int32")
    open_to_all = mask.valid.astype("bool") & (column < mask.context_length)  # [B, T]
    start = paddle.where(open_to_all, paddle.full_like(column, length), column + 1)
    end = paddle.where(open_to_all, paddle.zeros_like(column), column)
    return paddle.stack([start, end], axis=-1).unsqueeze(1)


class SelfAttention(nn.Layer):
    """Multi-head self-attention: softmax(q k^T / sqrt(D) + bias) v, dropout on the weights."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, weight_attr=None):
        super().__init__()
        self.num_heads = num_heads
        self.head_size = hidden_size // num_heads
        self.dropout = dropout
        self.q_proj = Linear(hidden_size, hidden_size, weight_attr)
        self.k_proj = Linear(hidden_size, hidden_size, weight_attr)
        self.v_proj = Linear(hidden_size, hidden_size, weight_attr)
        self.out_proj = Linear(hidden_size, hidden_size, weight_attr)

    def forward(self, x: Tensor, bias: AttentionBias, positions: Tensor | None = None) -> Tensor:
        """[B, T, H] -> [B, T, H], or [M, H] at flat `positions` [M]."""
        query, key, value = (
            projection(x).reshape([0, 0, self.num_heads, self.head_size])  # [B, T, N, D]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        half = query.dtype in (paddle.float16, paddle.bfloat16)
        if half and bias.kernel != PLAIN and not on_cpu(x):
            context = self._fused(query, key, value, bias)
        else:
            context = self._plain(query, key, value, bias)
        return self.out_proj(at_positions(context.flatten(2), positions))

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, bias: AttentionBias) -> Tensor:
        """The GPU's kernels for float16 and bfloat16: [B, T, N, D] -> [B, T, N, D]."""
        share = self.dropout if self.training else 0.0
        if bias.kernel == FLASH and bias.row_indices is not None:
            return F.flashmask_attention(
                query, key, value, bias.row_indices, dropout=share, training=self.training
            )
        matrix = bias.matrix.astype(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, matrix, share, training=self.training)

    def _plain(self, query: Tensor, key: Tensor, value: Tensor, bias: AttentionBias) -> Tensor:
        """Two products and a softmax, exact in every dtype: [B, T, N, D] -> [B, T, N, D]."""
        query = query.transpose([0, 2, 1, 3]) * self.head_size**-0.5  # [B, N, T, D]
        key, value = key.transpose([0, 2, 1, 3]), value.transpose([0, 2, 1, 3])
        attend = self._dense if bias.placeholders is None else self._compact
        return attend(query, key, value, bias).transpose([0, 2, 1, 3])

    def _dense(self, query: Tensor, key: Tensor, value: Tensor, bias: AttentionBias) -> Tensor:
        scores = paddle.matmul(query, key, transpose_y=True)  # [B, N, T, T]
        return paddle.matmul(self._weights(scores, bias.rows), value)

    def _compact(self, query: Tensor, key: Tensor, value: Tensor, bias: AttentionBias) -> Tensor:
        sizes = [bias.rows.shape[-1], bias.placeholders.shape[-2]]  # C, P
        (query, asking), (key, own_key), (value, own_value) = (
            part.split(sizes, axis=2) for part in (query, key, value)
        )
        context = self._dense(query, key, value, bias)  # [B, N, C, D]
        scores = add_to(paddle.matmul(asking, key, transpose_y=True), bias.placeholders)  # [B, N, P, C]
        own = row_sum(asking * own_key)  # [B, N, P, 1]
        weights, own = self._weights(paddle.concat([scores, own], axis=-1)).split([sizes[0], 1], axis=-1)
        placeholders = paddle.matmul(weights, value) + own * own_value  # [B, N, P, D]
        return paddle.concat([context, placeholders], axis=2)

    def _weights(self, scores: Tensor, bias: Tensor | None = None) -> Tensor:
        return dropout(softmax(scores, bias), self.dropout, self.training)
