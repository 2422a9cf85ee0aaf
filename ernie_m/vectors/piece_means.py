"""The vectors of a static model: the mean of the rows of a text's own pieces, without [CLS] and [SEP].

A text without pieces has the vector 0. The rows are added up in the order of the text, so a vector does not
depend on the texts that are encoded with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model import device, kernels
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.cpu.rows import as_array, as_tensor
from ernie_m.model.encoder import ErnieMModel
from ernie_m.model.word_embeddings import EmbeddingGradient
from ernie_m.vectors.pooling import SentenceEncoder


@dataclass(frozen=True)
class PieceBatch(device.Uploadable):
    """The pieces of S texts, one text after the other.

    Attributes:
        ids: int64 [N], without special tokens.
        lengths: int64 [S], the number of pieces of each text.
    """

    ids: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> Self:
        """A batch of NumPy arrays.

        Args:
            sentences: ids with special tokens, [CLS] S [SEP] each.
        """
        lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))  # with special tokens
        ids = np.fromiter(chain.from_iterable(sentences), np.int64, lengths.sum())
        ends = np.cumsum(lengths)  # where the next sentence begins
        is_piece = np.ones(len(ids), bool)
        is_piece[ends - lengths] = False  # [CLS]
        is_piece[ends - 1] = False  # [SEP]
        return cls(ids[is_piece], lengths - 2)


def means_of_rows(table: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The mean of the rows of each text: table [V, H], ids and lengths as in `PieceBatch` -> [S, H]."""
    by_length = np.argsort(-lengths, kind="stable")  # the texts, the longest first
    lengths_in_order = lengths[by_length]
    starts = (np.cumsum(lengths) - lengths)[by_length]  # the place of each text's first piece
    sums = np.zeros((len(lengths), table.shape[1]), table.dtype)  # [S, H], in this order
    # How many texts have a piece at place 0, 1, ...: the first ones of the order. `searchsorted` needs
    # numbers that ascend, as the negative lengths do.
    longest = int(lengths.max(initial=0))
    counts = np.searchsorted(-lengths_in_order, -np.arange(longest), side="left")
    for place, count in enumerate(counts.tolist()):
        pieces = ids[starts[:count] + place]  # the piece of each of these texts at this place
        sums[:count] += table[pieces]
    divisors = np.maximum(lengths_in_order, 1)[:, None]  # [S, 1]; the sum of a text without pieces is 0
    means = np.empty_like(sums)
    means[by_length] = sums / divisors.astype(table.dtype)  # in the order of the texts again
    return means


def piece_means(model: ErnieMModel, batch: PieceBatch) -> Tensor:
    """The vector of each text with its gradient: [S, H]."""
    words = model.embeddings.word_embeddings
    if kernels.training_on_cpu(words.weight):
        return _MeansOnCpu.apply(words.weight, batch.ids, batch.lengths, words.gradient)
    texts = paddle.arange(len(batch.lengths))
    text_of_piece = paddle.repeat_interleave(texts, batch.lengths)  # [N]
    # Row `ids[n]` is sent to the text of piece n, and each text takes the mean of its rows.
    return paddle.geometric.send_u_recv(words.weight, batch.ids, text_of_piece, "mean", len(batch.lengths))


class _MeansOnCpu(PyLayer):
    """`means_of_rows` of a table [V, H], whose gradient is added to the table's own in place."""

    @staticmethod
    def forward(
        ctx, weight: Tensor, ids: Tensor, lengths: Tensor, embedding_gradient: EmbeddingGradient
    ) -> Tensor:
        ctx.ids = ids.numpy()
        ctx.lengths = lengths.numpy()
        ctx.embedding_gradient = embedding_gradient
        return as_tensor(means_of_rows(as_array(weight), ctx.ids, ctx.lengths))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:
        # Returns no gradient: it is added in place.
        of_texts = as_array(gradient)
        of_rows = of_texts / np.maximum(ctx.lengths, 1)[:, None].astype(of_texts.dtype)  # [S, H]
        ctx.embedding_gradient.add_rows(ctx.ids, np.repeat(of_rows, ctx.lengths, axis=0))


class StaticEncoder(SentenceEncoder):
    """Makes the vectors of a table without pads and batches.

    Args:
        table: float32 or float64 [V, H].
        layer: 0; None: every layer, which is this one.
    """

    def __init__(self, config: ErnieMConfig, table: np.ndarray, layer: int | None = 0):
        super().__init__(config, "mean", layer)
        self.table = table

    def vectors(self, sentences: Sequence[Sequence[int]], batch_tokens: int | None = None) -> np.ndarray:
        batch = PieceBatch.of(sentences)
        means = means_of_rows(self.table, batch.ids, batch.lengths).astype(np.float32, copy=False)
        return means if self.layer is not None else means[None]
