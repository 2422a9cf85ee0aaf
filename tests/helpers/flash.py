"""Attention as FlashMask computes it, which only GPUs have, with a dense mask; dropout with 8 bits."""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

LEVELS = 256  # the random numbers of dropout are integers below it


def visible(startend_row_indices: np.ndarray) -> np.ndarray:
    """Which row (a query) sees which column (a key), bool [N, N], with causal=False.

    `startend_row_indices`, [1, 1, N, 2], has start[j] and end[j] of each column j. As Paddle documents them:
    below the diagonal, column j is masked from row start[j] on; above the diagonal, it is masked before row
    end[j].
    """
    start, end = startend_row_indices[0, 0].T  # [N] each
    row, column = np.indices([len(start), len(start)])  # [N, N] each
    masked_below = (row > column) & (row >= start)
    masked_above = (row < column) & (row < end)
    return ~(masked_below | masked_above)


def dropout_factors(shape: list[int], rate: float) -> Tensor:
    """What the weights of attention are multiplied by: 0, or 1 / (1 - rate); float32.

    The kernel compares 8 random bits with floor(255 (1 - rate)) (`flash_attn_fwd` in csrc/capi/flash_attn.cu
    of PaddlePaddle/flash-attention). So at 0.1 it keeps 230 of 256 weights, 0.898 and not 0.9.
    """
    highest_kept = np.floor((1.0 - rate) * (LEVELS - 1))
    is_kept = paddle.randint(0, LEVELS, shape) <= highest_kept
    return is_kept.astype("float32") / (1.0 - rate)


def attention_weights(query: Tensor, key: Tensor, startend_row_indices: Tensor) -> Tensor:
    """The weights of attention without dropout, [1, heads, N, N], for queries and keys [1, heads, N, D]."""
    is_visible = paddle.to_tensor(visible(startend_row_indices.numpy()))
    scores = paddle.matmul(query, key, transpose_y=True) * query.shape[-1] ** -0.5
    masked = paddle.full_like(scores, -np.inf)
    return F.softmax(paddle.where(is_visible, scores, masked))


def flashmask(query, key, value, startend_row_indices, dropout=0.0, causal=False, training=True):
    """Attention as `paddle.nn.functional.flashmask_attention` documents it, on [1, N, heads, D].

    `tests/gpu/stand_in.py` has one with dropout.
    """
    assert startend_row_indices.dtype == paddle.int32 and not causal
    assert query.shape[1] % 128 == 0  # so that the kernel has whole blocks
    query, key, value = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))  # [1, heads, N, D]
    weights = attention_weights(query, key, startend_row_indices)
    return paddle.matmul(weights, value).transpose([0, 2, 1, 3])
