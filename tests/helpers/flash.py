"""Attention as FlashMask computes it, which only GPUs have, with a dense mask."""

import numpy as np
import paddle
import paddle.nn.functional as F


def visible(startend_row_indices: np.ndarray) -> np.ndarray:
    """Which row (a query) attends to which column (a key), bool [N, N], with causal=False.

    `startend_row_indices`, [1, 1, N, 2], has start[j] and end[j] of each column j. As Paddle documents them:
    below the diagonal, column j is masked from row start[j] on; above the diagonal, it is masked before row
    end[j].
    """
    start, end = startend_row_indices[0, 0].T  # [N] each
    row, column = np.indices([len(start), len(start)])  # [N, N] each
    masked_below = (row > column) & (row >= start)
    masked_above = (row < column) & (row < end)
    return ~(masked_below | masked_above)


def flashmask(query, key, value, startend_row_indices, dropout=0.0, causal=False, training=True):
    """Attention as `paddle.nn.functional.flashmask_attention` documents it, on [1, N, heads, D]."""
    assert startend_row_indices.dtype == paddle.int32 and not causal
    assert query.shape[1] % 128 == 0  # so that the kernel has whole blocks
    query, key, value = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))  # [1, heads, N, D]
    scores = paddle.matmul(query, key, transpose_y=True) * query.shape[-1] ** -0.5
    is_visible = paddle.to_tensor(visible(startend_row_indices.numpy()))
    weights = F.softmax(paddle.where(is_visible, scores, paddle.full_like(scores, -np.inf)))
    return paddle.matmul(F.dropout(weights, dropout), value).transpose([0, 2, 1, 3])
