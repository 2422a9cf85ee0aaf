"""Embeddings of a static model: the mean of the token embeddings of a text, without [CLS] and [SEP].

The embedding of a text without tokens is zero. Token embeddings are added in token order, so an embedding
does not depend on the other texts of the batch. Does not import Paddle.
"""

from collections.abc import Collection, Sequence
from itertools import chain

import numpy as np

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import MEAN_WITHOUT_SPECIAL
from ernie_m.model.row_means import compute_row_means
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
