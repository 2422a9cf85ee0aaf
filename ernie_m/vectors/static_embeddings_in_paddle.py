"""Sentence embeddings of a static model in Paddle, with gradients, for training."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model import kernel_selection
from ernie_m.model.cpu.numpy_views import as_array, as_tensor
from ernie_m.model.device import Array
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.word_embeddings import EmbeddingGradient
from ernie_m.vectors.static_embeddings import compute_row_means, flatten_tokens


@dataclass(frozen=True)
class FlatTokens:
    """The concatenated tokens of S texts.

    Attributes:
        ids: int64 [N], without special tokens.
        lengths: int64 [S], the number of tokens of each text.
    """

    ids: Array
    lengths: Array

    @classmethod
    def from_sentences(cls, sentences: Sequence[Collection[int]]) -> Self:
        """Make a batch of NumPy arrays, which `ernie_m.model.device.upload` copies to the device.

        Args:
            sentences: ids with special tokens, [CLS] S [SEP] each.
        """
        return cls(*flatten_tokens(sentences))


def compute_mean_embeddings(model: ErnieMModel, batch: FlatTokens) -> Tensor:
    """Compute the embedding of each text, the mean of its token embeddings, with gradients: [S, H]."""
    words = model.embeddings.word_embeddings
    if words.gradient is not None and kernel_selection.is_training_on_cpu(words.weight):
        return _CpuRowMeans.apply(words.weight, batch.ids, batch.lengths, words.gradient)
    texts = paddle.arange(len(batch.lengths))
    text_of_token = paddle.repeat_interleave(texts, batch.lengths)  # [N]
    # Each text receives the mean of the rows of its tokens.
    return paddle.geometric.send_u_recv(words.weight, batch.ids, text_of_token, "mean", len(batch.lengths))


class _CpuRowMeans(PyLayer):
    """`compute_row_means` with a backward pass that accumulates the matrix gradient in place."""

    @staticmethod
    def forward(
        ctx, weight: Tensor, ids: Tensor, lengths: Tensor, embedding_gradient: EmbeddingGradient
    ) -> Tensor:
        ctx.ids = ids.numpy()
        ctx.lengths = lengths.numpy()
        ctx.embedding_gradient = embedding_gradient
        return as_tensor(compute_row_means(as_array(weight), ctx.ids, ctx.lengths))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:  # type: ignore[override]  # Paddle's type has no None
        # Returns no gradient, because it is added in place.
        of_texts = as_array(gradient)
        of_rows = of_texts / np.maximum(ctx.lengths, 1)[:, None].astype(of_texts.dtype)  # [S, H]
        ctx.embedding_gradient.add_rows(ctx.ids, np.repeat(of_rows, ctx.lengths, axis=0))
