"""Rows of packed states, [N, H]: selection, and padding to [B, T, H]."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor


def select_rows(x: Tensor, indices: Tensor | None) -> Tensor:
    """Select rows of x [N, H] by their indices, int64 [M]: [M, H]; None: return x unchanged."""
    return x if indices is None else paddle.gather(x, indices)


def pad_rows(x: Tensor, cell_to_row: Tensor) -> Tensor:
    """Put rows of x [N, H] into a padded array: [B, T, H].

    Args:
        cell_to_row: int64 [B, T], the index of the row in each cell; N for padding, which gets zeros.
    """
    with_zeros = F.pad(x, [0, 1, 0, 0])  # [N + 1, H]
    flat = paddle.gather(with_zeros, cell_to_row.flatten())  # [B x T, H]
    return flat.reshape([*cell_to_row.shape, -1])
