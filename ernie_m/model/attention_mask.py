"""The attention mask of a packed batch, for which each device has a format and an implementation."""

from typing import ClassVar, Self

import paddle
from paddle import Tensor

from ernie_m.model.packed_layout import PackedLayout
from ernie_m.model.rows import pad_rows


class AttentionMask:
    """Base class of attention masks of a packed batch: the mask, and the attention implementation for it.

    Attributes:
        multiple: integer of which N, the number of tokens, must be a multiple.
        dtype: dtype of queries, keys and values if a CPU computes in bfloat16.
    """

    multiple: ClassVar[int] = 1

    @property
    def dtype(self) -> str:
        """Return the dtype of queries, keys and values if a CPU computes in bfloat16."""
        return "float32"

    @classmethod
    def from_layout(cls, layout: PackedLayout) -> Self:
        """Make the attention mask of a layout, with NumPy arrays that `upload` copies to the device later."""
        raise NotImplementedError

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, num_heads: int, dropout_rate: float
    ) -> Tensor:
        """Compute softmax(q k^T / sqrt(D)) v within each sequence: [N, H] each -> [N, H].

        Args:
            dropout_rate: dropout probability of the weights; 0 outside of training.
        """
        raise NotImplementedError

    def sum_sequences(self, states: Tensor, weights: Tensor, cell_to_token: Tensor) -> Tensor:
        """Compute the weighted sum of token states within each sequence: [tokens, H] -> [B, H].

        Args:
            weights: weight of each token in the padded array, [B, T], 0 at padding; no gradient.
            cell_to_token: as in `PackedBatch`, [B, T].
        """
        row_weights = weights.astype(states.dtype).unsqueeze(1)  # [B, 1, T]
        return paddle.matmul(row_weights, pad_rows(states, cell_to_token)).squeeze(1)  # [B, 1, H] -> [B, H]
