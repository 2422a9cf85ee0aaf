"""Sentence embeddings with Paddle, from one layer or from every layer."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model.cpu.workers import paddle_workers
from ernie_m.model.device import Array, to_array, upload
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.preprocessing import MEAN_WITHOUT_SPECIAL
from ernie_m.model.threads import Workers
from ernie_m.reader.batching import BATCH_TOKENS
from ernie_m.training.precision import Autocast
from ernie_m.vectors.pooling import R, SentenceEncoder, averages_tokens, token_weights
from ernie_m.vectors.static_embeddings import StaticEncoder
from ernie_m.vectors.static_embeddings_in_paddle import FlatTokens, mean_embeddings


@dataclass(frozen=True)
class SentenceBatch:
    """A batch of B sentences, for embeddings with pooling.

    Attributes:
        inputs: the sentences, packed.
        weights: float64 [B, T], the weight of each token in the embedding of its sentence; None: the
            embedding is the pooler output.
    """

    inputs: PackedBatch
    weights: Array | None

    @classmethod
    def of(cls, ids: np.ndarray, pad_token_id: int, pooling: str) -> Self:
        """Make a batch of NumPy arrays, which `ernie_m.model.device.upload` copies to the device.

        Args:
            ids: int64 [B, T]; each row is [CLS] ... [SEP], padded on the right.
            pooling: a pooling mode of `ernie_m.model.preprocessing.Pooling`.
        """
        weights = None if pooling == "pooler" else token_weights(ids, pad_token_id, pooling)
        return cls(PackedBatch.from_padded(ids, pad_token_id), weights)


def sentence_vectors(model: ErnieMModel, sentences: SentenceBatch | FlatTokens, layer: int) -> Tensor:
    """Compute sentence embeddings with gradients: [B, H].

    Args:
        layer: layer whose hidden states are pooled, 0 .. L; higher layers are not computed. The pooler output
            is always that of the last layer.
    """
    if isinstance(sentences, FlatTokens):
        return mean_embeddings(model, sentences)
    inputs = sentences.inputs
    if sentences.weights is None:
        assert model.pooler is not None  # a static model has no pooler
        first = model.encode(inputs, positions=inputs.first_tokens).sequence  # [B, H], of [CLS] only
        return model.pooler(first)
    states = model.encode(inputs, layers=layer).sequence  # [tokens, H]
    return inputs.sums(states, sentences.weights)


class PaddleEncoder(SentenceEncoder):
    """Sentence encoder that runs a Paddle model, without dropout or gradients.

    The model's training mode is restored afterward.

    Args:
        pooling, layer: as in `SentenceEncoder`.
        autocast: makes the context manager of a forward pass, from `prepare_for_prediction`.
    """

    def __init__(
        self,
        model: ErnieMModel,
        pooling: str = MEAN_WITHOUT_SPECIAL,
        layer: int | None = None,
        autocast: Autocast = nullcontext,
    ):
        super().__init__(model.config, pooling, layer)
        self.model = model
        self.autocast = autocast

    def vectors(self, sentences: Sequence[Collection[int]], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
        if averages_tokens(self.config, self.pooling):
            table = to_array(self.model.embeddings.word_embeddings.weight)
            return StaticEncoder(self.config, table, self.layer).vectors(sentences)
        return super().vectors(sentences, batch_tokens)

    def workers(self) -> Workers:
        return paddle_workers()

    def batch(self, ids: np.ndarray) -> np.ndarray:
        with paddle.no_grad(), self.autocast():
            sentences = upload(SentenceBatch.of(ids, self.config.pad_token_id, self.pooling))
            if self.layer is not None:
                return to_array(sentence_vectors(self.model, sentences, self.layer))  # [B, H]
            assert sentences.weights is not None  # the pooler output exists for the last layer only
            output = self.model.encode(sentences.inputs, output_hidden_states=True)
            vectors_by_layer = [
                to_array(sentences.inputs.sums(states, sentences.weights))  # [tokens, H] -> [B, H]
                for states in output.hidden_states
            ]
        return np.stack(vectors_by_layer)

    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with paddle.no_grad(), self.autocast():
            inputs = upload(PackedBatch.from_padded(ids, self.config.pad_token_id))
            assert self.model.pooler is not None  # not called for a static model
            states = self.model.encode(inputs).sequence  # [tokens, H]
            pooled = self.model.pooler(paddle.gather(states, inputs.first_tokens))  # [B, H]
            return to_array(pooled), to_array(inputs.padded(states))

    def batches(
        self,
        compute: Callable[[np.ndarray], R],
        sentences: Sequence[Collection[int]],
        batch_tokens: int = BATCH_TOKENS,
    ) -> Iterator[tuple[list[int], R]]:
        was_training = self.model.training
        self.model.eval()  # here, because batches may run concurrently
        try:
            yield from super().batches(compute, sentences, batch_tokens)
        finally:
            if was_training:
                self.model.train()
