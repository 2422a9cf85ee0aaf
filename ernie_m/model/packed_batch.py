"""The encoder's input: the sequences of a micro-batch, concatenated without padding (varlen)."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from paddle import Tensor

from ernie_m.model import attention
from ernie_m.model.attention_mask import AttentionMask
from ernie_m.model.config import NO_LANGUAGE
from ernie_m.model.device_transfer import Array
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.model.positions import FIRST_POSITION
from ernie_m.model.rows import pad_rows
from ernie_m.utils.errors import UserError


@dataclass(frozen=True)
class PackedBatch:
    """A packed batch: S sequences concatenated to N tokens, without padding.

    `from_packed`, `from_padded` and `from_attention_mask` make a batch of NumPy arrays, which
    `ernie_m.model.device_transfer.upload` copies to the device.

    FlashMask requires N to be a multiple of 128, so a filler sequence is added. The arrays [N] include it;
    the result of `ErnieMModel.encode` does not.

    Attributes:
        input_ids: int64 [N].
        position_ids: int64 [N], absolute positions; a sequence's first token has position 2.
        language_ids: int64 [N], NO_LANGUAGE for tokens without a language; None: no token has a language.
        first_tokens: int64 [S], the index of each sequence's first token.
        cell_to_token: int64 [B, T], only for a padded array: the index of the token in each cell; padding has
            the index `tokens`.
        mask: the attention mask.
        tokens: number of tokens without the filler.
        attended: number of pairs of tokens of which one attends to the other, without the filler.
        last_position: maximum of `position_ids`.
    """

    input_ids: Array
    position_ids: Array
    language_ids: Array | None
    first_tokens: Array
    cell_to_token: Array | None
    mask: AttentionMask
    tokens: int
    attended: int
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
        """Make a batch from concatenated sequences.

        Args:
            input_ids, language_ids, cell_to_token: as in the class, without filler.
            layout: the layout of the sequences.
            position_ids: int64 [N]; None: 2, 3, ... in each sequence.
        """
        if position_ids is None:
            position_ids = FIRST_POSITION + layout.positions_in_sequence()
        mask_class = attention.select_mask_class()
        with_filler = layout.pad_to_multiple(mask_class.multiple)
        missing = with_filler.tokens - layout.tokens  # number of filler tokens
        if missing:  # the filler is ignored, so any token and position will do
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
            mask=mask_class.from_layout(with_filler),
            tokens=layout.tokens,
            attended=layout.attended,
            last_position=int(position_ids.max()),  # the filler has position 0
        )

    @classmethod
    def from_padded(cls, input_ids: np.ndarray, pad_token_id: int) -> Self:
        """Make a batch from an array of ids, int64 [B, T], padded on the right with `pad_token_id`."""
        return cls.from_attention_mask(input_ids, input_ids != pad_token_id)

    @classmethod
    def from_attention_mask(cls, input_ids: np.ndarray, attention_mask: np.ndarray) -> Self:
        """Make a batch from an array of ids, int64 [B, T], and its attention mask.

        Args:
            attention_mask: bool [B, T], True for tokens, False for padding.

        Raises:
            UserError: a row has padding between its tokens, which would change the positions after it.
        """
        starts = np.diff(attention_mask, axis=1, prepend=False) & attention_mask
        rows_with_holes = np.flatnonzero(starts.sum(axis=1) > 1)
        if len(rows_with_holes):
            raise UserError(f"input_ids: row {rows_with_holes[0]} has padding between tokens. Remove it")
        layout = PackedLayout(attention_mask.sum(axis=1))
        tokens_up_to = np.cumsum(attention_mask).reshape(input_ids.shape)  # [B, T], counted row by row
        cell_to_token = np.where(attention_mask, tokens_up_to - 1, layout.tokens)
        return cls.from_packed(input_ids[attention_mask], layout, cell_to_token=cell_to_token)

    def remove_filler(self, states: Tensor) -> Tensor:
        """Remove the filler sequence from token states: [N, H] -> [tokens, H]."""
        return states if len(states) == self.tokens else states[: self.tokens]

    def to_padded(self, states: Tensor) -> Tensor:
        """Scatter token states into the padded array: [tokens, H] -> [B, T, H], 0 at padding."""
        return pad_rows(states, self._get_cells())

    def sum_sequences(self, states: Tensor, weights: Tensor) -> Tensor:
        """Compute the weighted sum of token states within each sequence: [tokens, H] -> [B, H].

        Args:
            weights: weight of each token in the padded array, [B, T], 0 at padding; no gradient.
        """
        return self.mask.sum_sequences(states, weights, self._get_cells())

    def get_padding_mask(self) -> Tensor:
        """Return the padding mask of the padded array: bool [B, T], True for padding."""
        return self._get_cells() == self.tokens  # the index of padding

    def _get_cells(self) -> Tensor:
        """Return `cell_to_token` of a batch made from a padded array."""
        if self.cell_to_token is None:
            raise UserError(
                "the batch has no cell_to_token, which to_padded and output_attentions need. Make it with "
                "PackedBatch.from_padded or from_attention_mask"
            )
        return self.cell_to_token


@dataclass(frozen=True)
class LabeledBatch:
    """A micro-batch of a supervised task.

    Attributes:
        inputs: a batch made from a padded array [B, T].
        targets: the labels, in a shape defined by the task.
    """

    inputs: PackedBatch
    targets: Array
