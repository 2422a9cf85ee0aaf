"""The vectors of a static model: the mean of the rows of a text's own pieces, without [CLS] and [SEP].

A text without pieces has the vector 0. The rows are added up in the order of the text, so a vector does not
depend on the texts that are encoded with it. No Paddle here.
"""

from collections.abc import Collection, Sequence
from itertools import chain

import numpy as np

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.preprocessing import MEAN_WITHOUT_SPECIAL
from ernie_m.vectors.pooling import SentenceEncoder


def flatten_tokens(sentences: Sequence[Collection[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of S texts, one text after the other.

    Args:
        sentences: ids with special tokens, [CLS] S [SEP] each.

    Returns:
        ids without special tokens, int64 [N], and the number of those of each text, int64 [S].
    """
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))  # with special tokens
    ids = np.fromiter(chain.from_iterable(sentences), np.int64, lengths.sum())
    ends = np.cumsum(lengths)  # where the next sentence begins
    is_piece = np.ones(len(ids), bool)
    is_piece[ends - lengths] = False  # [CLS]
    is_piece[ends - 1] = False  # [SEP]
    return ids[is_piece], lengths - 2


def compute_row_means(table: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The mean of the rows of each text: table [V, H], ids and lengths of `flatten_tokens` -> [S, H]."""
    by_length = np.argsort(-lengths, kind="stable")  # the texts, the longest first
    lengths_in_order = lengths[by_length]
    starts = (np.cumsum(lengths) - lengths)[by_length]  # the place of each text's first piece
    sums = np.zeros((len(lengths), table.shape[1]), table.dtype)  # [S, H], in this order
    # How many texts have a piece at place 0, 1, ...: the first ones of the order. `searchsorted` needs
    # numbers that ascend, as the negative lengths do.
    longest = int(lengths.max(initial=0))
    counts = np.searchsorted(-lengths_in_order, -np.arange(longest), side="left")
    for index, count in enumerate(counts.tolist()):
        pieces = ids[starts[:count] + index]  # the piece of each of these texts at this place
        sums[:count] += table[pieces]
    divisors = np.maximum(lengths_in_order, 1)[:, None]  # [S, 1]; the sum of a text without pieces is 0
    means = np.empty_like(sums)
    means[by_length] = sums / divisors.astype(table.dtype)  # in the order of the texts again
    return means


class StaticEncoder(SentenceEncoder):
    """Makes the vectors of a table without pads and batches.

    Args:
        table: float32 or float64 [V, H].
        layer: 0; None: every layer, which is this one.
    """

    def __init__(self, config: ErnieMConfig, table: np.ndarray, layer: int | None = 0):
        super().__init__(config, MEAN_WITHOUT_SPECIAL, layer)
        self.table = table

    def vectors(self, sentences: Sequence[Collection[int]], batch_tokens: int | None = None) -> np.ndarray:
        means = compute_row_means(self.table, *flatten_tokens(sentences)).astype(np.float32, copy=False)
        return means if self.layer is not None else means[None]
