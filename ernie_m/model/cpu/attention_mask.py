"""The attention mask of a packed batch for a CPU, with unpadded attention."""

from dataclasses import dataclass
from typing import Self

from paddle import Tensor

from ernie_m.model.attention_mask import AttentionMask
from ernie_m.model.cpu.attention import attend
from ernie_m.model.cpu.layers import sum_sequences
from ernie_m.model.packed_layout import PackedLayout

# Minimum mean length for attention in bfloat16, which has a cost per sequence.
_LONG = 96


@dataclass(frozen=True)
class CpuMask(AttentionMask):
    """Attention mask for a CPU: the layout of the sequences, for unpadded attention."""

    layout: PackedLayout

    @property
    def dtype(self) -> str:
        """Return bfloat16 for long sequences, otherwise float32."""
        return "bfloat16" if self.layout.tokens >= _LONG * len(self.layout.lengths) else "float32"

    @classmethod
    def from_layout(cls, layout: PackedLayout) -> Self:
        return cls(layout)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, num_heads: int, dropout_rate: float
    ) -> Tensor:
        return attend(query, key, value, self.layout, num_heads, dropout_rate)

    def sum_sequences(self, states: Tensor, weights: Tensor, cell_to_token: Tensor) -> Tensor:
        return sum_sequences(states, weights, cell_to_token < self.layout.tokens, self.layout)
