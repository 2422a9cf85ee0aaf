"""Sentences to vectors: the mean over a sentence's tokens, at every layer."""

from collections.abc import Iterator, Sequence

import numpy as np
import paddle

from model.ernie_m import ErnieMModel


def encode(
    model: ErnieMModel,
    sentences: Sequence[np.ndarray],
    *,
    specials: bool = False,
    batch_tokens: int = 4096,
    dtype: type = np.float32,
) -> np.ndarray:
    """Mean token vectors of every layer, in the order given.

    Args:
        model: the encoder; used without dropout and left in the mode it was in.
        sentences: N token id sequences of the form [CLS] S [SEP], int.
        specials: count [CLS] and [SEP] in the mean, as XTREME's Tatoeba script does. A sentence without any
            other
            token is always the mean of its specials.
        batch_tokens: padded tokens in one forward pass.

    Returns:
        [L + 1, N, H]; index 0 is the embedding output, index L the top layer.
    """
    config = model.config
    vectors = np.empty((config.num_hidden_layers + 1, len(sentences), config.hidden_size), dtype)
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            for rows in _batches_by_length([len(s) for s in sentences], batch_tokens):
                ids, weights = _pad([sentences[row] for row in rows], config.pad_token_id, specials)
                output = model(paddle.to_tensor(ids), output_hidden_states=True, pool=False)
                weights = paddle.to_tensor(weights, dtype=output.sequence.dtype).unsqueeze(1)  # [B, 1, T]
                for layer, hidden in enumerate(output.hidden_states):
                    vectors[layer, rows] = paddle.matmul(weights, hidden).squeeze(1).numpy()  # [B, H]
    finally:
        if was_training:
            model.train()
    return vectors


def _batches_by_length(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of similar length together, so that little is spent on pads."""
    batch: list[int] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[row] > batch_tokens:  # ascending: this row is the longest
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _pad(sentences: list[np.ndarray], pad_id: int, specials: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids [B, T] int64 and the weights [B, T] float64 of the mean (rows sum to 1)."""
    longest = max(len(s) for s in sentences)
    ids = np.full((len(sentences), longest), pad_id, np.int64)
    weights = np.zeros((len(sentences), longest))
    for row, sentence in enumerate(sentences):
        length = len(sentence)
        ids[row, :length] = sentence
        counted = slice(0, length) if specials or length <= 2 else slice(1, length - 1)
        weights[row, counted] = 1.0
    return ids, weights / weights.sum(axis=1, keepdims=True)
