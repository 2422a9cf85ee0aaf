"""The encoder on padded arrays, in plain `paddle.nn`: what the packed layout must compute.

It has the same parameter names, dense masks [B, 1, T, T] and no line in common with what it is compared with.
"""

from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie_m.inference.export_paddle import make_position_ids
from ernie_m.model.packed_layout import PackedLayout

PAD = 1


class PlainOutput(NamedTuple):
    """States of the last layer [B, T, H], pooled first states [B, H], and the states of each layer [B, T, H].

    The first of `hidden_states` are the embeddings. `in_plain_paddle` returns states [N, H], without pads.
    """

    sequence: paddle.Tensor
    pooled: paddle.Tensor
    hidden_states: tuple[paddle.Tensor, ...]


class PlainErnieM(nn.Layer):
    """The encoder with pooler, without dropout."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = nn.Layer()
        self.embeddings.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embeddings.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.embeddings.layer_norm = nn.LayerNorm(config.hidden_size)
        layer = nn.TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            dropout=0.0,
            activation="gelu",
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_hidden_layers)
        self.pooler = nn.Layer()
        self.pooler.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, input_ids, position_ids=None, mask=None, input_bias=None):
        """Encode padded sequences.

        Args:
            input_ids: [B, T].
            position_ids: [B, T]; None: counted over the real tokens.
            mask: who attends to whom, bool [B, 1, T, T]; None: all real tokens attend to each other.
            input_bias: added to the embeddings, [B, T, H].
        """
        x = self.embeddings.word_embeddings(input_ids)
        if position_ids is None:
            position_ids = make_position_ids(input_ids, PAD)
        x += self.embeddings.position_embeddings(position_ids)
        if input_bias is not None:
            x += input_bias
        hidden_states = [self.embeddings.layer_norm(x)]
        if mask is None:
            real = input_ids != PAD
            mask = (real.unsqueeze(2) & real.unsqueeze(1)).unsqueeze(1)
        # Every token attends to itself: a placeholder does, and a pad must, or its softmax is NaN.
        mask = mask | paddle.eye(input_ids.shape[1]).astype("bool")
        for layer in self.encoder.layers:
            hidden_states.append(layer(hidden_states[-1], mask))
        pooled = paddle.tanh(self.pooler.dense(hidden_states[-1][:, 0]))
        return PlainOutput(hidden_states[-1], pooled, tuple(hidden_states))


class PlainPretraining(nn.Layer):
    """The encoder with the tied masked-LM head, without dropout and language embeddings."""

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.ernie_m = PlainErnieM(config)
        self.lm_head = nn.Layer()
        self.lm_head.dense = nn.Linear(size, size)
        self.lm_head.layer_norm = nn.LayerNorm(size)
        self.lm_head.bias = self.lm_head.create_parameter([config.vocab_size], is_bias=True)

    def logits(self, states):
        """[M, H] -> [M, V]."""
        x = self.lm_head.layer_norm(F.gelu(self.lm_head.dense(states)))
        table = self.ernie_m.embeddings.word_embeddings.weight
        return paddle.matmul(x, table, transpose_y=True) + self.lm_head.bias


def padded(values: np.ndarray, lengths: np.ndarray, fill: int) -> np.ndarray:
    """The values [N] of packed sequences as rows [B, T], with `fill` on the right."""
    longest = max(lengths)
    rows = []
    for sequence in np.split(values, np.cumsum(lengths)[:-1]):
        rows.append(np.pad(sequence, (0, longest - len(sequence)), constant_values=fill))
    return np.stack(rows)


def padded_mask(lengths: np.ndarray, context_lengths: np.ndarray) -> np.ndarray:
    """Who attends to whom, bool [B, 1, T, T], in sequences that begin with `context_lengths` context tokens.

    All tokens of a sequence attend to its context. This mask omits that placeholders attend to themselves.
    """
    mask = np.zeros([len(lengths), 1, max(lengths), max(lengths)], bool)
    for number, (length, context) in enumerate(zip(lengths, context_lengths)):
        mask[number, 0, :length, :context] = True
    return mask


def dense_attention(layout: PackedLayout, heads: int, x: paddle.Tensor, dropout=1.0) -> paddle.Tensor:
    """Attention with the scores of all tokens by all tokens.

    Args:
        x: queries, keys and values side by side, [N, 3 H].
        dropout: the factor of each weight, [heads, N, N].

    Returns:
        [N, H].
    """
    query, key, value = x.reshape([len(x), 3, heads, -1]).transpose([1, 2, 0, 3])  # [heads, N, D] each
    mask = paddle.to_tensor(np.where(layout.to_dense_mask(), 0.0, -np.inf))  # [N, N]
    scores = paddle.matmul(query, key, transpose_y=True) * query.shape[-1] ** -0.5 + mask  # [heads, N, N]
    weights = F.softmax(scores) * paddle.to_tensor(dropout)
    return paddle.matmul(weights, value).transpose([1, 0, 2]).reshape([len(x), -1])


def real_cells(lengths: np.ndarray) -> np.ndarray:
    """Where the tokens of the sequences are in a flattened [B * T] array, int64 [N]."""
    return np.flatnonzero(padded(np.ones(sum(lengths), int), lengths, 0))


def in_plain_paddle(model, ids, layout: PackedLayout, input_bias) -> PlainOutput:
    """Run the plain model on packed sequences.

    Args:
        ids: [N].
        input_bias: [N, H].

    Returns:
        The output for the tokens [N, H], without pads; pooled states [B, H].
    """
    lengths = layout.lengths
    rows = paddle.to_tensor(padded(ids, lengths, PAD))  # [B, T]
    cells = paddle.to_tensor(real_cells(lengths))  # [N], into the flattened [B * T]
    shape = [rows.size, input_bias.shape[-1]]
    flat_bias = paddle.scatter_nd(cells.unsqueeze(1), input_bias, shape)  # [B * T, H]
    mask = paddle.to_tensor(padded_mask(lengths, layout.context_lengths))
    output = model(rows, None, mask, flat_bias.reshape([*rows.shape, -1]))
    states = tuple(paddle.gather(x.reshape([-1, x.shape[-1]]), cells) for x in output.hidden_states)
    return PlainOutput(states[-1], output.pooled, states)
