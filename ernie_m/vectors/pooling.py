"""Pooling of sentence embeddings, and the base class of encoders.

`ernie_m.model.pipeline_config.Pooling` lists the pooling modes. Does not import Paddle.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS, MEAN_WITHOUT_SPECIAL
from ernie_m.model.threads import Workers
from ernie_m.reader.batching import BATCH_TOKENS, batch_by_length, pad
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import iter_parts

R = TypeVar("R")


def is_mean_of_tokens(config: ErnieMConfig, pooling: str) -> bool:
    """Return whether the model is static, so that a text's embedding is the mean of its token embeddings."""
    return config.is_static and pooling == MEAN_WITHOUT_SPECIAL


def make_batches(workers: Workers, rows: Sequence[Collection[int]], batch_tokens: int) -> list[list[int]]:
    """Divide texts into batches of similar length for the workers.

    The longest batches come first, so that all workers finish at about the same time.

    Args:
        rows: token ids of each text.
        batch_tokens: maximum number of tokens of a batch, with padding.

    Returns:
        Indices of the texts of each batch.
    """
    return batch_by_length(list(map(len, rows)), workers.count_batch_tokens(rows, batch_tokens))[::-1]


class SentenceEncoder:
    """Base class of sentence encoders.

    Args:
        config: the model's config.
        pooling: a pooling mode of `ernie_m.model.pipeline_config.Pooling`.
        layer: layer whose hidden states are pooled, 0 .. L; None: every layer. The pooling "pooler" exists
            only for the last layer.
    """

    def __init__(self, config: ErnieMConfig, pooling: str, layer: int | None):
        self.config = config
        self.pooling = pooling
        self.layer = layer

    def encode_batch(self, ids: np.ndarray) -> np.ndarray:
        """Compute the embeddings of a batch: float32 [B, H], or for every layer [L + 1, B, H].

        Args:
            ids: int64 [B, T]; each row is [CLS] ... [SEP], padded on the right.
        """
        raise NotImplementedError

    def compute_states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the pooler output, [B, H], and the last hidden states, [B, T, H], of a batch.

        Args:
            ids: int64 [B, T]; each row is [CLS] ... [SEP], padded on the right.
        """
        raise NotImplementedError

    def get_workers(self) -> Workers:
        """Return the workers that compute batches concurrently."""
        return Workers()

    def map_batches(
        self,
        compute: Callable[[np.ndarray], R],
        sentences: Sequence[Collection[int]],
        batch_tokens: int = BATCH_TOKENS,
    ) -> Iterator[tuple[list[int], R]]:
        """Call a method for batches of sentences of similar length.

        Args:
            compute: a method of this encoder for a batch of ids [B, T], such as `encode_batch`.
            sentences: ids with special tokens, [CLS] S [SEP] each.
            batch_tokens: maximum number of tokens of a batch, with padding.

        Yields:
            The indices of the sentences of a batch, and the result for them.
        """

        def compute_batch(rows: list[int]) -> tuple[list[int], R]:
            return rows, compute(pad([sentences[row] for row in rows], self.config.pad_token_id))

        workers = self.get_workers()
        yield from workers.map(compute_batch, make_batches(workers, sentences, batch_tokens))

    def encode(self, sentences: Sequence[Collection[int]], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
        """Compute the embeddings of sentences: float32 [N, H], or for every layer [L + 1, N, H].

        Layer 0 is the output of the embedding layer.

        Args:
            sentences: ids with special tokens, [CLS] S [SEP] each.
            batch_tokens: maximum number of tokens of a batch, with padding.
        """
        shape: tuple[int, ...] = (len(sentences), self.config.hidden_size)
        if self.layer is None:
            shape = (self.config.num_hidden_layers + 1, *shape)
        embeddings = np.empty(shape, np.float32)
        for rows, batch in self.map_batches(self.encode_batch, sentences, batch_tokens):
            embeddings[..., rows, :] = batch  # "...": the axis of layers, if any
        return embeddings


def parse_layer(name: str | int, num_layers: int) -> int:
    """Parse the number of a layer: 0 (the embedding layer) to L (the last), "middle" (L // 2) or "last".

    Raises:
        UserError: the layer does not exist.
    """
    if name == "middle":
        return num_layers // 2
    if name == "last":
        return num_layers
    if str(name).isdecimal() and int(name) <= num_layers:
        return int(name)
    raise UserError(f"invalid layer {name} (choose from 0 (embeddings) to {num_layers}, middle, last)")


def compute_token_weights(ids: np.ndarray, pad_id: int, pooling: str) -> np.ndarray:
    """Compute the weight of each token in the pooled embedding: float64 [B, T], with rows that sum to 1.

    Args:
        ids: int64 [B, T]; each row is [CLS] ... [SEP], padded on the right.
        pooling: a pooling mode other than "pooler". With "mean_without_special", [CLS] and [SEP] have weight
            only in an empty sentence.
    """
    is_real = ids != pad_id  # [B, T]
    if pooling == MEAN_OF_TOKENS:
        has_weight = is_real
    elif pooling == "cls":
        has_weight = np.zeros(ids.shape, bool)
        has_weight[:, 0] = True
    else:
        cls_id = ids[:, :1]  # [B, 1]
        last = is_real.sum(axis=1, keepdims=True) - 1  # [B, 1], the column of each row's last token
        sep_id = np.take_along_axis(ids, last, axis=1)  # [B, 1]
        is_word = is_real & (ids != cls_id) & (ids != sep_id)
        has_words = is_word.any(axis=1, keepdims=True)  # [B, 1]
        has_weight = np.where(has_words, is_word, is_real)
    return has_weight / has_weight.sum(axis=1, keepdims=True)


def pool_hidden_states(ids: np.ndarray, pad_id: int, pooling: str, sequence: np.ndarray) -> np.ndarray:
    """Pool hidden states into embeddings: ids [B, T], sequence [B, T, H] -> [B, H].

    Each row is bitwise independent of T, because `np.einsum` adds in token order.
    """
    weights = compute_token_weights(ids, pad_id, pooling).astype(np.float32)  # [B, T]
    return np.einsum("bt,bth->bh", weights, sequence)


def normalize_vectors(vectors: np.ndarray) -> np.ndarray:
    """Normalize vectors [N, H] of any float dtype to unit L2 norm, as float32; zero vectors stay zero."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    return vectors / compute_norms(vectors)


def compute_norms(vectors: np.ndarray) -> np.ndarray:
    """Compute the L2 norms of vectors [N, H], at least 1e-12 for division: [N, 1]."""
    return np.maximum(np.sqrt(np.einsum("nh,nh->n", vectors, vectors))[:, None], 1e-12)


def encode_in_parts(
    encode: Callable[[Sequence[str]], np.ndarray],
    texts: Sequence[str],
    description: str,
    size: int | None = None,
) -> np.ndarray:
    """Encode texts part by part, with a progress bar, into one array, float32 [N, H].

    Args:
        encode: computes the embeddings of texts.
        description, size: see `iter_parts`.
    """
    embeddings = np.empty((0, 0), np.float32)
    count = 0
    for part in iter_parts(texts, description, size):
        new = encode(part)
        if not count:
            embeddings = np.empty((len(texts), new.shape[1]), np.float32)
        embeddings[count : count + len(part)] = new
        count += len(part)
    return embeddings
