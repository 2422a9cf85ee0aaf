"""Sentence embeddings of a static model in Paddle, with gradients, for training."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from paddle import Tensor

from ernie_m.model.device_transfer import Array
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.kernel_selection import get_kernels
from ernie_m.vectors.static_embeddings import flatten_tokens


@dataclass(frozen=True)
class FlatTokens:
    """The concatenated tokens of S texts.

    Attributes:
        ids: int64 [N], without special tokens.
        lengths: int64 [S], the number of tokens of each text.
    """

    ids: Array
    lengths: Array

    @classmethod
    def from_sentences(cls, sentences: Sequence[Collection[int]]) -> Self:
        """Make a batch of NumPy arrays, which `ernie_m.model.device_transfer.upload` copies to the device.

        Args:
            sentences: ids with special tokens, [CLS] S [SEP] each.
        """
        return cls(*flatten_tokens(sentences))


def compute_mean_embeddings(model: ErnieMModel, batch: FlatTokens) -> Tensor:
    """Compute the embedding of each text, the mean of its token embeddings, with gradients: [S, H]."""
    words = model.embeddings.word_embeddings
    return get_kernels(words.weight).average_rows(words, batch.ids, batch.lengths)
