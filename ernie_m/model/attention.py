"""Self-attention within each sequence of a packed batch, and the attention mask in each device's format.

    device                                           mask          computation
    a CPU                                            CpuMask       unpadded, by `model/cpu/attention_mask.py`
    a GPU with capability >= 8.0, half precision     FlashMask     all tokens at once, by FlashMask
    other GPUs, float32, plain kernels, no MKL       PaddedMask    group by group, each padded to [b, T]

`ernie_m/model/packed_layout.py` defines the mask, `ernie_m/model/ernie.py` the symbols.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ernie_m.model import device_capabilities
from ernie_m.model.attention_mask import AttentionMask
from ernie_m.model.device_transfer import Array
from ernie_m.model.kernel_selection import get_services
from ernie_m.model.layers import Linear, apply_linear_layers, dropout
from ernie_m.model.packed_layout import PackedLayout, SequenceGroup
from ernie_m.model.rows import select_rows

# Added to masked scores. exp(-1e4) is exactly 0 in float32 and float64, and -1e4 is finite in float16.
MASK_VALUE = -1e4


@dataclass(frozen=True)
class FlashMask(AttentionMask):
    """Attention mask for `paddle.nn.functional.flashmask_attention`: `PackedLayout.row_indices`."""

    row_indices: Array  # int64 [1, 1, N, 2]
    # The kernel computes blocks of 128 rows. Versions before PaddlePaddle/flash-attention 77c311d read out of
    # bounds if the last block is not full.
    multiple: ClassVar[int] = 128

    @classmethod
    def from_layout(cls, layout: PackedLayout) -> Self:
        return cls(layout.row_indices()[None, None])  # [1, 1, N, 2]

    @cached_property
    def startend_row_indices(self) -> Tensor:
        """Return `row_indices` in the kernel's dtype, int32 [1, 1, N, 2]; computed once for all layers."""
        return self.row_indices.astype("int32")

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, num_heads: int, dropout_rate: float
    ) -> Tensor:
        shape = [1, query.shape[0], num_heads, query.shape[-1] // num_heads]  # 1, N, heads, D
        output = F.flashmask_attention(
            query.reshape(shape),
            key.reshape(shape),
            value.reshape(shape),
            self.startend_row_indices,
            dropout=dropout_rate,
        )
        return output.reshape(query.shape)


@dataclass(frozen=True)
class PaddedGroup:
    """Indices and attention mask of b sequences of similar length, padded to [b, T]."""

    shape: tuple[int, int]  # b, T
    cell_to_token: Array  # int64 [b x T], the index of the token in each cell
    context_lengths: Array  # int64 [b], number of context tokens of each sequence

    @classmethod
    def from_group(cls, group: SequenceGroup) -> Self:
        return cls(group.shape, group.cell_to_token().ravel(), group.context_lengths)

    @cached_property
    def _biases(self) -> dict[paddle.dtype, Tensor]:
        """Return the cache of `bias`: dtype -> additive mask [b, 1, T, T]."""
        return {}

    def get_bias(self, dtype: paddle.dtype) -> Tensor:
        """Return the additive attention mask, 0 or MASK_VALUE: [b, 1, T, T]; computed once for all layers.

        Every token and every padding position attends to itself.
        """
        if dtype not in self._biases:
            _, longest = self.shape
            context_lengths = self.context_lengths.reshape([-1, 1, 1, 1])  # [b, 1, 1, 1]
            behind_context = paddle.arange(longest) >= context_lengths  # [b, 1, 1, T]
            masked = behind_context & ~paddle.eye(longest).astype("bool")  # [b, 1, T, T]
            self._biases[dtype] = masked.astype(dtype) * MASK_VALUE
        return self._biases[dtype]


@dataclass(frozen=True)
class PaddedMask(AttentionMask):
    """Attention mask of padded groups of sequences, for devices without an unpadded implementation."""

    groups: list[PaddedGroup]
    token_to_cell: Array  # int64 [N], the index of each token's cell among the cells of all groups

    @classmethod
    def from_layout(cls, layout: PackedLayout) -> Self:
        token_to_cell = np.empty(layout.tokens, np.int64)
        cells_before = 0  # number of cells of earlier groups
        for group in layout.groups:
            # The tokens of the group, and the indices of their cells, both in row-major order.
            token_to_cell[group.cell_to_token()[group.is_real]] = cells_before + np.flatnonzero(group.is_real)
            cells_before += group.is_real.size
        return cls([PaddedGroup.from_group(group) for group in layout.groups], token_to_cell)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, num_heads: int, dropout_rate: float
    ) -> Tensor:
        hidden_size = query.shape[-1]
        outputs = []  # one per group: [b x T, H]
        for group in self.groups:
            shape = [*group.shape, hidden_size]  # b, T, H
            # The output is [b, T, H].
            output = padded_attention(
                paddle.gather(query, group.cell_to_token).reshape(shape),
                paddle.gather(key, group.cell_to_token).reshape(shape),
                paddle.gather(value, group.cell_to_token).reshape(shape),
                group.get_bias(query.dtype),
                num_heads,
                dropout_rate,
            )
            outputs.append(output.reshape([-1, hidden_size]))
        output_of_cells = outputs[0] if len(outputs) == 1 else paddle.concat(outputs)  # [cells, H]
        return paddle.gather(output_of_cells, self.token_to_cell)


def padded_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, num_heads: int, dropout_rate: float = 0.0
) -> Tensor:
    """Compute attention on padded arrays, softmax(q k^T / sqrt(D) + bias) v: [B, T, H] each -> [B, T, H].

    Args:
        bias: additive attention mask, which broadcasts to [B, heads, T, T].
        dropout_rate: dropout probability of the weights; 0 outside of training.
    """
    weights = attention_weights(query, key, bias, num_heads)
    # The caller's dropout rate is 0 outside of training.
    weights = dropout(weights, dropout_rate, training=True)
    return paddle.matmul(weights, _split_heads(value, num_heads)).transpose([0, 2, 1, 3]).flatten(2)


def attention_weights(query: Tensor, key: Tensor, bias: Tensor, num_heads: int) -> Tensor:
    """Compute attention weights, softmax(q k^T / sqrt(D) + bias): [B, T, H] both -> [B, heads, T, T].

    Each row of the last two axes has the weights of one query.

    Args:
        bias: additive attention mask, which broadcasts to the result.
    """
    query = _split_heads(query, num_heads)
    scores = paddle.matmul(query * query.shape[-1] ** -0.5, _split_heads(key, num_heads), transpose_y=True)
    return F.softmax(scores + bias, axis=-1)


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Split the hidden size into attention heads: [B, T, H] -> [B, heads, T, D]."""
    # In `reshape`, 0 keeps the size of an axis.
    return x.reshape([0, 0, num_heads, x.shape[-1] // num_heads]).transpose([0, 2, 1, 3])


def select_mask_class() -> type[AttentionMask]:
    """Return the class of attention masks for the current device and precision."""
    if own := get_services().get_mask_class():
        return own
    return FlashMask if device_capabilities.uses_flash(paddle.amp.is_autocast_enabled()) else PaddedMask


class SelfAttention(nn.Layer):
    """Multi-head self-attention within each sequence, with dropout on the weights."""

    def __init__(self, hidden_size: int, num_heads: int, dropout_rate: float, weight_attr=None):
        super().__init__()
        self.num_heads = num_heads
        device_capabilities.head_sizes.add(hidden_size // num_heads)
        self.dropout_rate = dropout_rate
        self.q_proj = Linear(hidden_size, hidden_size, weight_attr)
        self.k_proj = Linear(hidden_size, hidden_size, weight_attr)
        self.v_proj = Linear(hidden_size, hidden_size, weight_attr)
        self.out_proj = Linear(hidden_size, hidden_size, weight_attr)

    def forward(self, x: Tensor, mask: AttentionMask, positions: Tensor | None = None) -> Tensor:
        """Compute self-attention: x [N, H] -> [N, H].

        Args:
            positions: int64 [M], indices of the tokens whose output is computed: [M, H]; None: all tokens.
        """
        query, key, value = apply_linear_layers(x, [self.q_proj, self.k_proj, self.v_proj], mask.dtype)
        dropout_rate = self.dropout_rate if self.training else 0.0
        output = mask.attend(query, key, value, self.num_heads, dropout_rate)  # [N, H]
        return self.out_proj(select_rows(output, positions))

    def compute_weights(self, x: Tensor, is_pad: Tensor) -> Tensor:
        """Return the attention weights of padded sequences, before dropout.

        Args:
            x: hidden states, [B, T, H].
            is_pad: bool [B, T], True for padding.

        Returns:
            [B, heads, T, T]: the row of each token sums to 1, with weight 0 for padding. The rows of
            padding are undefined.
        """
        bias = is_pad.unsqueeze([1, 2]).astype(x.dtype) * MASK_VALUE  # [B, 1, 1, T]
        return attention_weights(self.q_proj(x), self.k_proj(x), bias, self.num_heads)
