"""What the encoder takes: the sequences of a micro-batch, one after the other, without pads."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ernie_m.model import attention
from ernie_m.model.attention import AttentionMask, CpuMask
from ernie_m.model.config import FIRST_POSITION, NO_LANGUAGE
from ernie_m.model.cpu.layers import sum_sequences
from ernie_m.model.device import Array
from ernie_m.model.packed_layout import PackedLayout


@dataclass(frozen=True)
class PackedBatch:
    """S sequences, N tokens one after the other, on the device.

    `from_packed` and `from_padded` make it of NumPy arrays. `ernie_m.model.device.upload` copies it to the
    device, together with the other micro-batches of a step and with what is to be predicted of them.

    With FlashMask a filler, a further sequence that nothing reads, makes N a multiple of 128. The arrays [N]
    include it; what `ErnieMModel.encode` returns does not.

    Attributes:
        input_ids: int64 [N].
        position_ids: int64 [N]; absolute, a sequence's first token has 2.
        language_ids: int64 [N], NO_LANGUAGE for a token without one; None: no token has one.
        first_tokens: int64 [S], the index of each sequence's first token.
        cell_to_token: int64 [B, T], only of a batch that was an array with pads: the index of the token in
            each cell. A pad's cell has `tokens`, which is the index of no token.
        mask: who attends to whom.
        tokens: the number of tokens that the caller gave.
        last_position: the greatest of `position_ids`.
    """

    input_ids: Array
    position_ids: Array
    language_ids: Array | None
    first_tokens: Array
    cell_to_token: Array | None
    mask: AttentionMask
    tokens: int
    last_position: int

    @classmethod
    def from_packed(
        cls,
        input_ids: np.ndarray,
        layout: PackedLayout,
        position_ids: np.ndarray | None = None,
        language_ids: np.ndarray | None = None,
        cell_to_token: np.ndarray | None = None,
    ) -> Self:
        """Make a batch from concatenated sequences. The class docstring describes the arrays.

        Args:
            layout: where each sequence lies, and who attends to whom.
            position_ids: None: 2, 3, ... in each sequence.
        """
        if position_ids is None:
            position_ids = FIRST_POSITION + layout.places_in_sequence()
        mask_class = attention.mask_class()
        with_filler = layout.padded_to(mask_class.multiple)
        missing = with_filler.tokens - layout.tokens  # the number of tokens of the filler
        last_position = int(position_ids.max())
        if missing:  # nothing reads the filler, so any token at any position will do
            input_ids = np.pad(input_ids, [0, missing])
            position_ids = np.pad(position_ids, [0, missing])
            if language_ids is not None:
                language_ids = np.pad(language_ids, [0, missing], constant_values=NO_LANGUAGE)
        return cls(
            input_ids=input_ids,
            position_ids=position_ids,
            language_ids=language_ids,
            first_tokens=layout.starts,
            cell_to_token=cell_to_token,
            mask=mask_class.of(with_filler),
            tokens=layout.tokens,
            last_position=last_position,
        )

    @classmethod
    def from_padded(cls, input_ids: np.ndarray, pad_token_id: int) -> Self:
        """Return a batch of an array of ids with pads on the right, int64 [B, T]. All tokens are context."""
        return cls.from_masked(input_ids, input_ids != pad_token_id)

    @classmethod
    def from_masked(cls, input_ids: np.ndarray, is_real: np.ndarray) -> Self:
        """Return a batch of an array of ids, int64 [B, T].

        Its tokens are where `is_real`, bool [B, T], is true.
        """
        layout = PackedLayout(is_real.sum(axis=1))
        tokens_up_to = np.cumsum(is_real).reshape(input_ids.shape)  # [B, T], counted row by row
        cell_to_token = np.where(is_real, tokens_up_to - 1, layout.tokens)
        return cls.from_packed(input_ids[is_real], layout, cell_to_token=cell_to_token)

    def without_filler(self, states: Tensor) -> Tensor:
        """Return the states of the tokens that the caller gave: [N, H] -> [tokens, H]."""
        return states if len(states) == self.tokens else states[: self.tokens]

    def padded(self, states: Tensor) -> Tensor:
        """Put the states of the tokens back into the padded array: [tokens, H] -> [B, T, H], 0 at pads."""
        assert self.cell_to_token is not None  # the batch was an array with pads
        # Nothing before and one row after the first axis, nothing around the second: [tokens + 1, H]. The row
        # of zeros at the end goes to the pads.
        with_zeros = F.pad(states, [0, 1, 0, 0])
        flat = paddle.gather(with_zeros, self.cell_to_token.flatten())  # [B x T, H]
        return flat.reshape([*self.cell_to_token.shape, -1])

    def sums(self, states: Tensor, weights: Tensor) -> Tensor:
        """Return the sum of weight times state over the tokens of each row: states [tokens, H] -> [B, H].

        Args:
            weights: [B, T], 0 at pads; they get no gradient.
        """
        if isinstance(self.mask, CpuMask):
            return sum_sequences(states, weights, ~self.is_pad(), self.mask.layout)
        row_weights = weights.astype(states.dtype).unsqueeze(1)  # [B, 1, T]
        return paddle.matmul(row_weights, self.padded(states)).squeeze(1)  # [B, 1, H] -> [B, H]

    def is_pad(self) -> Tensor:
        """Which cells of the array that the batch was are pads: bool [B, T]."""
        assert self.cell_to_token is not None  # the batch was an array with pads
        return self.cell_to_token == self.tokens  # the index that stands for a pad


@dataclass(frozen=True)
class LabeledBatch:
    """A micro-batch of a task with labeled files, on the device.

    Attributes:
        inputs: a batch that was an array [B, T].
        targets: what is to be predicted; the task says in which shape.
    """

    inputs: PackedBatch
    targets: Array
