"""Embeddings of a static model: the mean of the token embeddings of a text, without [CLS] and [SEP].

The embedding of a text without tokens is zero. Token embeddings are added in token order, so an embedding
does not depend on the other texts of the batch. Does not import Paddle.
"""

from collections.abc import Collection, Sequence
from itertools import chain

import numpy as np

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.preprocessing import MEAN_WITHOUT_SPECIAL
from ernie_m.vectors.pooling import SentenceEncoder


def flatten_tokens(sentences: Sequence[Collection[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the tokens of S texts.

    Args:
        sentences: ids with special tokens, [CLS] S [SEP] each.

    Returns:
        The ids without special tokens, int64 [N], and the number of tokens of each text, int64 [S].
    """
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))  # with special tokens
    ids = np.fromiter(chain.from_iterable(sentences), np.int64, lengths.sum())
    ends = np.cumsum(lengths)  # the start of the next sentence
    is_token = np.ones(len(ids), bool)
    is_token[ends - lengths] = False  # [CLS]
    is_token[ends - 1] = False  # [SEP]
    return ids[is_token], lengths - 2


def compute_row_means(embedding_matrix: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Compute the mean token embedding of each text: [S, H].

    Args:
        embedding_matrix: word embeddings, [V, H].
        ids, lengths: the result of `flatten_tokens`.
    """
    by_length = np.argsort(-lengths, kind="stable")  # texts, longest first
    lengths_in_order = lengths[by_length]
    starts = (np.cumsum(lengths) - lengths)[by_length]  # the index of the first token of each text
    sums = np.zeros(
        (len(lengths), embedding_matrix.shape[1]), embedding_matrix.dtype
    )  # [S, H], in this order
    # The number of texts with a token at position 0, 1, ...: the first ones of the order. `searchsorted`
    # requires ascending numbers, so lengths are negated.
    longest = int(lengths.max(initial=0))
    counts = np.searchsorted(-lengths_in_order, -np.arange(longest), side="left")
    for index, count in enumerate(counts.tolist()):
        tokens = ids[starts[:count] + index]  # the token of each of these texts at this position
        sums[:count] += embedding_matrix[tokens]
    divisors = np.maximum(lengths_in_order, 1)[:, None]  # [S, 1]; the sum of a text without tokens is 0
    means = np.empty_like(sums)
    means[by_length] = sums / divisors.astype(embedding_matrix.dtype)  # back in the order of the texts
    return means


class StaticEncoder(SentenceEncoder):
    """Sentence encoder of a static model, which needs neither padding nor batches.

    Args:
        table: word embeddings, float32 or float64 [V, H].
        layer: 0: results are [N, H]; None, every layer: results are [1, N, H].
    """

    def __init__(self, config: ErnieMConfig, table: np.ndarray, layer: int | None = 0):
        super().__init__(config, MEAN_WITHOUT_SPECIAL, layer)
        self.table = table

    def encode(self, sentences: Sequence[Collection[int]], batch_tokens: int | None = None) -> np.ndarray:
        means = compute_row_means(self.table, *flatten_tokens(sentences)).astype(np.float32, copy=False)
        return means if self.layer is not None else means[None]
