"""What all encoders of sentences have in common. No Paddle here."""

from collections.abc import Sequence

import numpy as np

from model.config import ErnieMConfig
from reader.batching import BATCH_TOKENS, padded_batches


class SentenceEncoder:
    """Makes a vector of each sentence. A subclass runs the model.

    Args:
        config: the model's shape.
        pooling: one of `evaluation.pooling.POOLINGS`.
        layer: 0 .. L; None: every layer. "pooled" vectors exist of the top layer only.
    """

    def __init__(self, config: ErnieMConfig, pooling: str, layer: int | None):
        self.config = config
        self.pooling = pooling
        self.layer = layer

    def batch(self, ids: np.ndarray) -> np.ndarray:
        """The vectors of sentences, float32 [B, H]; of every layer [L + 1, B, H].

        Args:
            ids: int64 [B, T]; each row is [CLS] ... [SEP], padded on the right.
        """
        raise NotImplementedError

    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The top layer's pooled first tokens, [B, H], and its states of all tokens, [B, T, H].

        Args:
            ids: [B, T], as `batch` takes them.
        """
        raise NotImplementedError

    def vectors(self, sentences: Sequence[Sequence[int]], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
        """The vectors of sentences in the given order, float32 [N, H].

        Those of every layer are [L + 1, N, H]; index 0 is the embedding output.

        Args:
            sentences: ids with special tokens, [CLS] S [SEP] each.
            batch_tokens: padded tokens in one forward pass.
        """
        shape = (len(sentences), self.config.hidden_size)
        if self.layer is None:
            shape = (self.config.num_hidden_layers + 1, *shape)
        vectors = np.empty(shape, np.float32)
        for rows, ids in padded_batches(sentences, self.config.pad_token_id, batch_tokens):
            vectors[..., rows, :] = self.batch(ids)
        return vectors
