"""Encode sentences with Paddle: one vector per sentence, from one layer or from every layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import Tensor

from evaluation.pooling import mean_weights
from model.ernie_m import ErnieMModel, SentBatch
from reader.batching import BATCH_TOKENS, padded_batches


def send_sentences(
    model: ErnieMModel, batches: Sequence[np.ndarray], pooling: str, **more: np.ndarray
) -> list[SentBatch]:
    """Send ids, [B, T] int64 each, in one copy, for `sentence_vectors`. The first gets the arrays `more`."""
    arrays: list[dict[str, np.ndarray]] = [{} for _ in batches]
    if pooling != "pooled":
        specials, pad_id = pooling == "specials", model.config.pad_token_id
        arrays = [{"weights": mean_weights(ids, pad_id, specials)} for ids in batches]
    arrays[0] |= more
    return model.send(batches, arrays)


def sentence_vectors(model: ErnieMModel, ids: np.ndarray | SentBatch, layer: int, pooling: str) -> Tensor:
    """One vector per sentence, with gradients. Layers above `layer` are not computed.

    Args:
        ids: [B, T] int64, padded on the right; each row is [CLS] ... [SEP]; or from `send_sentences`.
        layer: 0 .. L; "pooled" always uses the top layer.
        pooling: one of `evaluation.pooling.POOLINGS`.

    Returns:
        [B, H].
    """
    sent = ids if isinstance(ids, SentBatch) else send_sentences(model, [ids], pooling)[0]
    if pooling == "pooled":
        return model.pool(sent)
    states = model(sent, pool=False, layers=layer).sequence  # [B, T, H]
    return _mean(states, sent.tensors["weights"])


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
    model: ErnieMModel, sentences: Sequence[np.ndarray], layer: int, pooling: str = "mean"
) -> np.ndarray:
    """One vector per sentence, [CLS] S [SEP], in the given order: [N, H] float32. Without dropout.

    `layer`, `pooling`: see `sentence_vectors`.
    """
    out = np.empty((len(sentences), model.config.hidden_size), np.float32)
    with _predicting(model):
        for rows, ids in padded_batches(sentences, model.config.pad_token_id):
            out[rows] = sentence_vectors(model, ids, layer, pooling).astype("float32").numpy()
    return out


def encode(
    model: ErnieMModel, sentences: Sequence[np.ndarray], *, specials: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:  # fmt: skip
    """Mean token vectors of every layer, in the given order: [L + 1, N, H]; index 0 is the embedding output.

    `specials`: include [CLS] and [SEP] in the mean; `batch_tokens`: padded tokens in one forward pass.
    """
    config = model.config
    vectors = np.empty((config.num_hidden_layers + 1, len(sentences), config.hidden_size), np.float32)
    with _predicting(model):
        for rows, ids in padded_batches(sentences, config.pad_token_id, batch_tokens):
            (sent,) = send_sentences(model, [ids], "specials" if specials else "mean")
            output = model(sent, output_hidden_states=True, pool=False)
            for layer, hidden in enumerate(output.hidden_states):
                vectors[layer, rows] = _mean(hidden, sent.tensors["weights"]).astype("float32").numpy()
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


def _mean(states: Tensor, weights: Tensor) -> Tensor:
    """[B, T, H] and [B, T] -> [B, H]."""
    return paddle.matmul(weights.astype(states.dtype).unsqueeze(1), states).squeeze(1)
