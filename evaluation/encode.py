"""Encode sentences with Paddle: one vector per sentence, from one layer or from every layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Self

import numpy as np
import paddle
from paddle import Tensor

from evaluation.pooling import mean_weights
from model.batch import TokenBatch
from model.device import Uploadable, to_array, upload
from model.ernie_m import ErnieMModel
from model.word_rows import StepWords
from reader.batching import BATCH_TOKENS, padded_batches
from training.precision import Autocast


@dataclass(frozen=True)
class SentenceBatch(Uploadable):
    """Sentences on the device.

    Attributes:
        inputs: the tokens of ids [B, T], without the pads.
        weights: float64 [B, T], the weight of each token in the mean that is its sentence's vector; None: the
            vector is the pooled first token.
    """

    inputs: TokenBatch
    weights: Tensor | None

    @classmethod
    def of(cls, ids: np.ndarray, pad_token_id: int, pooling: str, words: StepWords | None = None) -> Self:
        """A batch of NumPy arrays, which `model.device.upload` copies to the device.

        Args:
            ids: int64 [B, T]; each row is [CLS] ... [SEP], padded on the right.
            pooling: one of `evaluation.pooling.POOLINGS`.
            words: from `words_of_step`, in training.
        """
        weights = None
        if pooling != "pooled":
            weights = mean_weights(ids, pad_token_id, specials=pooling == "specials")
        return cls(TokenBatch.from_padded(ids, pad_token_id, words), weights)


def sentence_vectors(model: ErnieMModel, sentences: SentenceBatch, layer: int) -> Tensor:
    """One vector per sentence, with gradients: [B, H]. Layers above `layer` are not computed.

    Args:
        layer: 0 .. L; the pooled first token is always that of the top layer.
    """
    inputs = sentences.inputs
    if sentences.weights is None:
        first = model.encode(inputs, positions=inputs.first_tokens).sequence  # [B, H], of [CLS] only
        return model.pooler(first)
    states = model.encode(inputs, layers=layer).sequence  # [tokens, H]
    return _mean(inputs.padded(states), sentences.weights)


class PaddleEncoder:
    """Runs a model without dropout or gradients. Ids are int64 [B, T], padded with `pad_id` on the right.

    Args:
        autocast: makes the context for a forward pass, see `training.precision.prepare_for_prediction`.
    """

    def __init__(self, model: ErnieMModel, autocast: Autocast = nullcontext):
        self.model = model.eval()
        self.autocast = autocast
        self.hidden_size = model.config.hidden_size
        self.pad_id = model.config.pad_token_id

    @paddle.no_grad()
    def vectors(self, ids: np.ndarray, layer: int, pooling: str) -> np.ndarray:
        """One vector per sentence: [B, T] -> [B, H].

        Args:
            layer, pooling: see `evaluation.pooling`.
        """
        with self.autocast():
            sentences = upload(SentenceBatch.of(ids, self.pad_id, pooling))
            vectors = sentence_vectors(self.model, sentences, layer)
        return to_array(vectors)

    @paddle.no_grad()
    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The top layer's pooled first tokens, [B, H], and its states of all tokens, [B, T, H].

        Args:
            ids: [B, T].
        """
        with self.autocast():
            inputs = upload(TokenBatch.from_padded(ids, self.pad_id))
            states = self.model.encode(inputs).sequence  # [tokens, H]
            pooled = self.model.pooler(paddle.gather(states, inputs.first_tokens))  # [B, H]
        return to_array(pooled), to_array(inputs.padded(states))


def encode_layer(
    model: ErnieMModel, sentences: Sequence[np.ndarray], layer: int, pooling: str = "mean"
) -> np.ndarray:
    """One vector per sentence, in the given order: [N, H] float32. Dropout is off.

    Args:
        sentences: [CLS] S [SEP] each.
        layer: see `sentence_vectors`.
        pooling: one of `evaluation.pooling.POOLINGS`.
    """
    pad_id = model.config.pad_token_id
    vectors = np.empty((len(sentences), model.config.hidden_size), np.float32)
    with _predicting(model):
        for rows, ids in padded_batches(sentences, pad_id):
            batch = upload(SentenceBatch.of(ids, pad_id, pooling))
            vectors[rows] = to_array(sentence_vectors(model, batch, layer))  # [B, H]
    return vectors


def encode(
    model: ErnieMModel,
    sentences: Sequence[np.ndarray],
    *,
    specials: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Mean token vectors of every layer, in the given order: [L + 1, N, H]; index 0 is the embedding output.

    Args:
        sentences: [CLS] S [SEP] each.
        specials: include [CLS] and [SEP] in the mean.
        batch_tokens: padded tokens in one forward pass.
    """
    config = model.config
    pooling = "specials" if specials else "mean"
    shape = (config.num_hidden_layers + 1, len(sentences), config.hidden_size)
    vectors = np.empty(shape, np.float32)
    with _predicting(model):
        for rows, ids in padded_batches(sentences, config.pad_token_id, batch_tokens):
            batch = upload(SentenceBatch.of(ids, config.pad_token_id, pooling))
            hidden_states = model.encode(batch.inputs, output_hidden_states=True).hidden_states
            for layer, states in enumerate(hidden_states):  # [tokens, H] of each layer
                mean = _mean(batch.inputs.padded(states), batch.weights)  # [B, H]
                vectors[layer, rows] = to_array(mean)
    return vectors


@contextmanager
def _predicting(model: ErnieMModel) -> Iterator[None]:
    """A context without dropout or gradients. At its end the model is in the mode it was in before."""
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        if was_training:
            model.train()


def _mean(states: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over the tokens: states [B, T, H] and weights [B, T] with rows of sum 1 -> [B, H]."""
    weights = weights.astype(states.dtype).unsqueeze(1)  # [B, 1, T]
    return paddle.matmul(weights, states).squeeze(1)
