"""A sentence's vector: the layer and the tokens that it is made of, and what all encoders have in common.

`ernie_m.model.preprocessing.Pooling` has the names of the poolings. No Paddle here.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.preprocessing import MEAN_OF_TOKENS, MEAN_WITHOUT_SPECIAL
from ernie_m.model.threads import Workers
from ernie_m.reader.batching import BATCH_TOKENS, batches_by_length, pad
from ernie_m.utils.errors import UserError

R = TypeVar("R")


def takes_piece_means(config: ErnieMConfig, pooling: str) -> bool:
    """Whether `ernie_m.vectors.static_embeddings` makes the vectors: a table's, as the mean of its pieces."""
    return config.is_static and pooling == MEAN_WITHOUT_SPECIAL


def batches_for(workers: Workers, rows: Sequence[Collection[int]], batch_tokens: int) -> list[list[int]]:
    """Divide rows of ids into batches of similar length that suit the workers: the numbers of their rows.

    The longest come first: then all workers end at about a time.

    Args:
        batch_tokens: padded tokens of a batch, at most.
    """
    return batches_by_length(list(map(len, rows)), workers.count_batch_tokens(rows, batch_tokens))[::-1]


class SentenceEncoder:
    """Makes a vector of each sentence. A subclass runs the model.

    Args:
        config: the model's shape.
        pooling: an `ernie_m.model.preprocessing.Pooling`.
        layer: 0 .. L; None: every layer. "pooler" vectors exist of the last layer only.
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
        """The last layer's pooled first tokens, [B, H], and its states of all tokens, [B, T, H].

        Args:
            ids: [B, T], as `batch` takes them.
        """
        raise NotImplementedError

    def workers(self) -> Workers:
        """How many batches are computed at a time."""
        return Workers()

    def batches(
        self,
        compute: Callable[[np.ndarray], R],
        sentences: Sequence[Collection[int]],
        batch_tokens: int = BATCH_TOKENS,
    ) -> Iterator[tuple[list[int], R]]:
        """Yield the numbers of sentences of similar length, and what `compute` gives for their ids.

        Args:
            compute: a method of this encoder that takes ids [B, T], such as `batch`.
            sentences, batch_tokens: as `vectors` takes them.
        """

        def work(rows: list[int]) -> tuple[list[int], R]:
            return rows, compute(pad([sentences[row] for row in rows], self.config.pad_token_id))

        workers = self.workers()
        yield from workers.map(work, batches_for(workers, sentences, batch_tokens))

    def vectors(self, sentences: Sequence[Collection[int]], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
        """The vectors of sentences in the given order, float32 [N, H].

        Those of every layer are [L + 1, N, H]; index 0 is the embedding output.

        Args:
            sentences: ids with special tokens, [CLS] S [SEP] each.
            batch_tokens: padded tokens in one forward pass.
        """
        shape: tuple[int, ...] = (len(sentences), self.config.hidden_size)
        if self.layer is None:
            shape = (self.config.num_hidden_layers + 1, *shape)
        vectors = np.empty(shape, np.float32)
        for rows, batch in self.batches(self.batch, sentences, batch_tokens):
            vectors[..., rows, :] = batch  # "...": the layers, if there are several
        return vectors


def layer_number(name: str | int, num_layers: int) -> int:
    """The number of a layer: 0 is the embedding output, L the last layer; "middle" is L // 2, "last" is L.

    Raises:
        UserError: there is no such layer.
    """
    if name == "middle":
        return num_layers // 2
    if name == "last":
        return num_layers
    if str(name).isdecimal() and int(name) <= num_layers:
        return int(name)
    raise UserError(f"invalid layer {name} (choose from 0 (embeddings) to {num_layers}, middle, last)")


def token_weights(ids: np.ndarray, pad_id: int, pooling: str) -> np.ndarray:
    """The weight of each token in its sentence's vector: float64 [B, T], rows sum to 1.

    Args:
        ids: int64 [B, T], padded on the right. [CLS] is the first token of a row, [SEP] its last one.
        pooling: any but "pooler". With "mean_without_special", [CLS] and [SEP] have weight in a sentence
            without words only.
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


def weighted_sums(ids: np.ndarray, pad_id: int, pooling: str, sequence: np.ndarray) -> np.ndarray:
    """The vectors of texts from the states of their tokens: ids [B, T], sequence [B, T, H] -> [B, H].

    The bits of a row do not depend on T, because `np.einsum` adds in the order of the tokens.
    """
    weights = token_weights(ids, pad_id, pooling).astype(np.float32)  # [B, T]
    return np.einsum("bt,bth->bh", weights, sequence)


def unit(vectors: np.ndarray) -> np.ndarray:
    """[N, H] of any float dtype -> float32 of length 1, in C order. A zero vector stays zero."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    return vectors / compute_norms(vectors)


def compute_norms(vectors: np.ndarray) -> np.ndarray:
    """The lengths of vectors [N, H], to divide by: [N, 1], never 0. It takes no memory of their size."""
    return np.maximum(np.sqrt(np.einsum("nh,nh->n", vectors, vectors))[:, None], 1e-12)
