"""Encode sentences with Paddle: one vector per sentence, from one layer or from every layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import Tensor

from evaluation.pooling import mean_weights
from model.ernie_m import ErnieMModel
from reader.batching import padded_batches
from reader.bitext import BATCH_TOKENS


def sentence_vectors(model: ErnieMModel, ids: np.ndarray, layer: int, pooling: str) -> Tensor:
    """One vector per sentence, with gradients. Layers above `layer` are not computed.

    Args:
        ids: [B, T] int64, padded on the right; each row is [CLS] ... [SEP].
        layer: 0 .. L; "pooled" always uses the top layer.
        pooling: one of `evaluation.pooling.POOLINGS`.

    Returns:
        [B, H].
    """
    if pooling == "pooled":
        return model.pool(ids)
    states = model(ids, pool=False, layers=layer).sequence  # [B, T, H]
    return _mean(states, mean_weights(ids, model.config.pad_token_id, pooling == "specials"))


class PaddleEncoder:
    """Runs a model without dropout or gradients. Ids are int64 [B, T], padded with `pad_id` on the right."""

    def __init__(self, model: ErnieMModel):
        self.model = model.eval()
        self.hidden_size, self.pad_id = model.config.hidden_size, model.config.pad_token_id

    @paddle.no_grad()
    def vectors(self, ids: np.ndarray, layer: int, pooling: str) -> np.ndarray:
        """[B, H]; see `evaluation.pooling`."""
        return sentence_vectors(self.model, ids, layer, pooling).numpy()

    @paddle.no_grad()
    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The top layer: pooled [B, H], all tokens [B, T, H]."""
        output = self.model(ids)
        return output.pooled.numpy(), output.sequence.numpy()


def encode_layer(
    model: ErnieMModel, sentences: Sequence[np.ndarray], layer: int, pooling: str = "mean", *,
    batch_tokens: int = BATCH_TOKENS, done: Callable[[int], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """One vector per sentence, in the given order: [N, H] float32.

    Args:
        model: used without dropout; its mode is restored.
        sentences: N sequences of token ids, [CLS] S [SEP].
        layer, pooling: see `sentence_vectors`.
        batch_tokens: padded tokens in one forward pass.
        done: called after each batch with its number of sentences.
    """
    out = np.empty((len(sentences), model.config.hidden_size), np.float32)
    with _predicting(model):
        for rows, ids in padded_batches(sentences, model.config.pad_token_id, batch_tokens):
            out[rows] = sentence_vectors(model, ids, layer, pooling).numpy()
            if done is not None:
                done(len(rows))
    return out


def encode(
    model: ErnieMModel, sentences: Sequence[np.ndarray], *, specials: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:  # fmt: skip
    """Mean token vectors of every layer, in the given order.

    Args:
        specials: include [CLS] and [SEP] in the mean. A sentence without other tokens is always the mean of
            these two.
        model, sentences, batch_tokens: see `encode_layer`.

    Returns:
        [L + 1, N, H]; index 0 is the embedding output, index L the top layer.
    """
    config = model.config
    vectors = np.empty((config.num_hidden_layers + 1, len(sentences), config.hidden_size), np.float32)
    with _predicting(model):
        for rows, ids in padded_batches(sentences, config.pad_token_id, batch_tokens):
            weights = mean_weights(ids, config.pad_token_id, specials)
            output = model(ids, output_hidden_states=True, pool=False)
            for layer, hidden in enumerate(output.hidden_states):
                vectors[layer, rows] = _mean(hidden, weights).numpy()
    return vectors


@contextmanager
def _predicting(model: ErnieMModel) -> Iterator[None]:
    """Without dropout or gradients. The mode of the model is restored."""
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        if was_training:
            model.train()


def _mean(states: Tensor, weights: np.ndarray) -> Tensor:
    """[B, T, H] and [B, T] -> [B, H]."""
    return paddle.matmul(paddle.to_tensor(weights, dtype=states.dtype).unsqueeze(1), states).squeeze(1)
