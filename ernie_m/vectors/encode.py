"""Sentence embeddings with Paddle, from one layer or from every layer."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model.device_transfer import Array, to_array, upload
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.kernel_selection import get_services
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.pipeline_config import MEAN_WITHOUT_SPECIAL
from ernie_m.model.threads import Workers
from ernie_m.reader.batching import BATCH_TOKENS
from ernie_m.training.precision import Autocast
from ernie_m.vectors.pooling import R, SentenceEncoder, compute_token_weights, is_mean_of_tokens
from ernie_m.vectors.static_embeddings import StaticEncoder
from ernie_m.vectors.static_embeddings_in_paddle import FlatTokens, compute_mean_embeddings


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
    def from_padded(cls, ids: np.ndarray, pad_token_id: int, pooling: str) -> Self:
        """Make a batch of NumPy arrays, which `ernie_m.model.device_transfer.upload` copies to the device.

        Args:
            ids: int64 [B, T]; each row is [CLS] ... [SEP], padded on the right.
            pooling: a pooling mode of `ernie_m.model.pipeline_config.Pooling`.
        """
        weights = None if pooling == "pooler" else compute_token_weights(ids, pad_token_id, pooling)
        return cls(PackedBatch.from_padded(ids, pad_token_id), weights)


def compute_sentence_embeddings(
    model: ErnieMModel, sentences: SentenceBatch | FlatTokens, layer: int
) -> Tensor:
    """Compute sentence embeddings with gradients: [B, H].

    Args:
        layer: layer whose hidden states are pooled, 0 .. L; higher layers are not computed. The pooler output
            is always that of the last layer.
    """
    if isinstance(sentences, FlatTokens):
        return compute_mean_embeddings(model, sentences)
    inputs = sentences.inputs
    if sentences.weights is None:
        assert model.pooler is not None  # a static model has no pooler
        first = model.encode(inputs, positions=inputs.first_tokens).sequence  # [B, H], of [CLS] only
        return model.pooler(first)
    states = model.encode(inputs, layers=layer).sequence  # [tokens, H]
    return inputs.sum_sequences(states, sentences.weights)


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

    def encode(self, sentences: Sequence[Collection[int]], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
        if is_mean_of_tokens(self.config, self.pooling):
            table = to_array(self.model.embeddings.word_embeddings.weight)
            return StaticEncoder(self.config, table, self.layer).encode(sentences)
        return super().encode(sentences, batch_tokens)

    def get_workers(self) -> Workers:
        return get_services().make_workers()

    def encode_batch(self, ids: np.ndarray) -> np.ndarray:
        with paddle.no_grad(), self.autocast():
            sentences = upload(SentenceBatch.from_padded(ids, self.config.pad_token_id, self.pooling))
            if self.layer is not None:
                return to_array(compute_sentence_embeddings(self.model, sentences, self.layer))  # [B, H]
            assert sentences.weights is not None  # the pooler output exists for the last layer only
            output = self.model.encode(sentences.inputs, output_hidden_states=True)
            vectors_by_layer = [
                to_array(sentences.inputs.sum_sequences(states, sentences.weights))  # [tokens, H] -> [B, H]
                for states in output.hidden_states
            ]
        return np.stack(vectors_by_layer)

    def compute_states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with paddle.no_grad(), self.autocast():
            inputs = upload(PackedBatch.from_padded(ids, self.config.pad_token_id))
            assert self.model.pooler is not None  # not called for a static model
            states = self.model.encode(inputs).sequence  # [tokens, H]
            pooled = self.model.pooler(paddle.gather(states, inputs.first_tokens))  # [B, H]
            return to_array(pooled), to_array(inputs.to_padded(states))

    def map_batches(
        self,
        compute: Callable[[np.ndarray], R],
        sentences: Sequence[Collection[int]],
        batch_tokens: int = BATCH_TOKENS,
    ) -> Iterator[tuple[list[int], R]]:
        was_training = self.model.training
        self.model.eval()  # here, because batches may run concurrently
        try:
            yield from super().map_batches(compute, sentences, batch_tokens)
        finally:
            if was_training:
                self.model.train()
