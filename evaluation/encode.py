"""Sentences to vectors: one layer's tokens, or every layer's, made into one vector a sentence.

The poolings stand in evaluation/pooling.py.
"""

from collections.abc import Callable, Sequence

import numpy as np
import paddle
from paddle import Tensor

from evaluation.pooling import mean_weights
from model.ernie_m import ErnieMConfig, ErnieMModel
from reader.bitext import BATCH_TOKENS
from reader.features import padded_batches


def sentence_vectors(model: ErnieMModel, ids: np.ndarray, layer: int, pooling: str) -> Tensor:
    """One vector a sentence; gradients flow. Layers above `layer` are not computed.

    Args:
        ids: [B, T] int64, padded on the right; each row [CLS] ... [SEP].
        layer: 0 .. L; "pooled" is always that of the top layer.
        pooling: one of `evaluation.pooling.POOLINGS`.

    Returns:
        [B, H].
    """
    if pooling == "pooled":
        return model.pool(ids)
    states = model(ids, pool=False, layers=layer).sequence  # [B, T, H]
    return _mean(states, mean_weights(ids, model.config.pad_token_id, pooling == "specials"))


class PaddleEncoder:
    """An encoder as `evaluation.vectors.Encoder`, without dropout or gradients."""

    def __init__(self, model: ErnieMModel):
        self.model = model.eval()
        self.hidden_size, self.pad_id = model.config.hidden_size, model.config.pad_token_id

    @paddle.no_grad()
    def vectors(self, ids: np.ndarray, layer: int, pooling: str) -> np.ndarray:
        return sentence_vectors(self.model, ids, layer, pooling).numpy()

    @paddle.no_grad()
    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        output = self.model(ids)
        return output.pooled.numpy(), output.sequence.numpy()


def encode_layer(
    model: ErnieMModel,
    sentences: Sequence[np.ndarray],
    layer: int,
    pooling: str = "mean",
    *,
    batch_tokens: int = BATCH_TOKENS,
    done: Callable[[int], None] | None = None,
) -> np.ndarray:
    """A vector of each sentence, in the order given.

    Args:
        model: the encoder; used without dropout and left in the mode it was in.
        sentences: N token id sequences of the form [CLS] S [SEP], int.
        layer, pooling: as in `sentence_vectors`.
        batch_tokens: padded tokens in one forward pass.
        done: called after each batch with its number of sentences.
    """
    out = np.empty((len(sentences), model.config.hidden_size), np.float32)

    def keep(rows: list[int], ids: np.ndarray) -> None:
        out[rows] = sentence_vectors(model, ids, layer, pooling).numpy()

    in_batches(model, sentences, batch_tokens, keep, done)
    return out


def encode(
    model: ErnieMModel,
    sentences: Sequence[np.ndarray],
    *,
    specials: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Mean token vectors of every layer, in the order given.

    Args:
        model: the encoder; used without dropout and left in the mode it was in.
        sentences: N token id sequences of the form [CLS] S [SEP], int.
        specials: count [CLS] and [SEP] in the mean. A sentence without any other token is always the mean of
            its specials.
        batch_tokens: padded tokens in one forward pass.

    Returns:
        [L + 1, N, H]; index 0 is the embedding output, index L the top layer.
    """
    config: ErnieMConfig = model.config
    vectors = np.empty((config.num_hidden_layers + 1, len(sentences), config.hidden_size), np.float32)

    def keep(rows: list[int], ids: np.ndarray) -> None:
        weights = mean_weights(ids, config.pad_token_id, specials)
        output = model(ids, output_hidden_states=True, pool=False)
        for layer, hidden in enumerate(output.hidden_states):
            vectors[layer, rows] = _mean(hidden, weights).numpy()

    in_batches(model, sentences, batch_tokens, keep)
    return vectors


def in_batches(
    model: ErnieMModel,
    sentences: Sequence[np.ndarray],
    batch_tokens: int,
    work: Callable[[list[int], np.ndarray], None],
    done: Callable[[int], None] | None = None,
) -> None:
    """Call `work(rows, ids)` for batches of sentences of similar length; ids [B, T] int64, padded.

    Without dropout or gradients; the model is left in the mode it was in. `done(B)` is called after a batch.
    """
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            for rows, ids in padded_batches(sentences, model.config.pad_token_id, batch_tokens):
                work(rows, ids)
                if done is not None:
                    done(len(rows))
    finally:
        if was_training:
            model.train()


def _mean(states: Tensor, weights: np.ndarray) -> Tensor:
    """[B, T, H] and [B, T] -> [B, H]."""
    return paddle.matmul(paddle.to_tensor(weights, dtype=states.dtype).unsqueeze(1), states).squeeze(1)
