"""Stand-ins for Paddle's FlashMask, which a CPU does not have: a right one, and some with a fault."""

from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from tests.helpers.flash import attention_weights


def flashmask(
    rows_too_far: int = 0, swapped: bool = False, drops: bool = True, drops_anew: bool = False
) -> Callable[..., Tensor]:
    """Make a stand-in for `paddle.nn.functional.flashmask_attention`, by default a right one.

    Args:
        rows_too_far: so many rows behind the last one that may see a column see it, too.
        swapped: whether start and end are taken for each other.
        drops: whether it has dropout.
        drops_anew: whether the backward pass has a dropout mask of its own.
    """

    def attention(query, key, value, startend_row_indices, dropout=0.0, causal=False, training=True):
        start, end = startend_row_indices.numpy()[0, 0].T  # [N] each
        if swapped:
            start, end = end, start
        row_indices = np.stack([start + rows_too_far, end], axis=-1)[None, None]  # [1, 1, N, 2]
        query, key, value = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))  # [1, heads, N, D]
        weights = attention_weights(query, key, row_indices)
        if drops:
            other_weights = F.dropout(weights, dropout)
            weights = F.dropout(weights, dropout)
        context = paddle.matmul(weights, value)
        if drops_anew:
            # The values of `context`, with the gradients of `in_backward`.
            in_backward = paddle.matmul(other_weights, value)
            context = in_backward + (context - in_backward).detach()
        return context.transpose([0, 2, 1, 3])

    return attention
