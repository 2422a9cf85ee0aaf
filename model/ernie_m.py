"""The ERNIE-M encoder: word and position embeddings, post-norm Transformer layers, tanh pooler.

One set of symbols for the whole code:
    B batch   T sequence length   H hidden size   N attention heads   D = H / N head size   L layers
    V vocabulary   M masked positions of a batch   C context columns   P placeholder columns (T = C + P)

Positions are absolute: a sequence's first token has position 2, a pad has position 1, so a table of 514 rows
serves 512 tokens. Parameter names are those of PaddleNLP's ErnieM without the prefix `ernie_m.`.
"""

from typing import NamedTuple

import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

from model.attention import FLASH, AttentionBias, CompactMask, SelfAttention, attention_bias
from model.config import ErnieMConfig
from model.layers import LayerNorm, Linear, add_to, at_positions, dropout, gelu, on_cpu
from model.word_table import WordEmbeddings
from utils.errors import UserError

FIRST_POSITION = 2
PAD_POSITION = 1


class EncoderOutput(NamedTuple):
    """sequence [B, T, H], or [M, H] of the positions asked for; pooled [B, H] or None; hidden_states:
    embeddings, then layers, the last one as `sequence`, or None."""

    sequence: Tensor
    pooled: Tensor | None
    hidden_states: tuple[Tensor, ...] | None


def initial_weights(config: ErnieMConfig) -> paddle.ParamAttr:
    """Normal(0, initializer_range) cut at two deviations, as in the BERT and ERNIE families."""
    scale = config.initializer_range
    return paddle.ParamAttr(initializer=nn.initializer.TruncatedNormal(std=scale, a=-2 * scale, b=2 * scale))


def absolute_positions(input_ids: Tensor, pad_token_id: int) -> Tensor:
    """[B, T] ids -> [B, T] positions: 2, 3, ... over the real tokens, 1 at pads."""
    real = (input_ids != pad_token_id).astype("int64")
    return (real.cumsum(axis=1) + FIRST_POSITION - 1 - PAD_POSITION) * real + PAD_POSITION


class Embeddings(nn.Layer):
    """word + position (+ an optional bias), layer norm, dropout."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        attr = initial_weights(config)
        self.word_embeddings = WordEmbeddings(config.vocab_size, config.hidden_size, weight_attr=attr)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, config.hidden_size, weight_attr=attr
        )
        self.layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob
        for table, row in (
            (self.word_embeddings.weight, config.pad_token_id),
            (self.position_embeddings.weight, PAD_POSITION),
        ):
            with paddle.no_grad():
                table[row] = 0.0

    def forward(self, input_ids: Tensor, position_ids: Tensor, input_bias: Tensor | None) -> Tensor:
        x = add_to(self.word_embeddings(input_ids), self.position_embeddings(position_ids))  # [B, T, H]
        if input_bias is not None:
            x = add_to(x, input_bias)
        return dropout(self.layer_norm(x), self.dropout, self.training)


class EncoderLayer(nn.Layer):
    """Attention, then the feed-forward pair; after each: dropout, residual, layer norm.

    With flat `positions` [M] all tokens are attended to, and the rest is computed there only: [M, H].
    """

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        attr = initial_weights(config)
        self.self_attn = SelfAttention(
            config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob, attr
        )
        self.linear1 = Linear(config.hidden_size, config.intermediate_size, attr)
        self.linear2 = Linear(config.intermediate_size, config.hidden_size, attr)
        self.norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob

    def forward(self, x: Tensor, bias: AttentionBias, positions: Tensor | None = None) -> Tensor:
        attended = self.self_attn(x, bias, positions)
        x = self.norm1(self._add(at_positions(x, positions), attended))
        return self.norm2(self._add(x, self.linear2(gelu(self.linear1(x)))))

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        return dropout(branch, self.dropout, self.training, residual=x)


class Encoder(nn.Layer):
    """The stack of layers; it exists for the parameter names `encoder.layers.{i}`."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        self.layers = nn.LayerList([EncoderLayer(config) for _ in range(config.num_hidden_layers)])


class Pooler(nn.Layer):
    """tanh(dense(first token)): [B, H] -> [B, H]."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, initial_weights(config))

    def forward(self, first: Tensor) -> Tensor:
        return paddle.tanh(self.dense(first))


class ErnieMModel(nn.Layer):
    """The encoder (paper, section 3; sizes in appendix A.2).

    `recompute = True` keeps only each layer's input in training, and computes the rest again in the backward
    pass. `attention` is one of `model.attention.KERNELS`: what a GPU uses in half precision.
    """

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        self.config = config
        self.recompute = False
        self.attention = FLASH
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | CompactMask | None = None,
        input_bias: Tensor | None = None,
        output_hidden_states: bool = False,
        pool: bool = True,
        layers: int | None = None,
        positions: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            input_ids: [B, T] int64.
            position_ids: [B, T] int64, absolute (first token 2, pad 1), never changed; None: counted over the
                real tokens.
            attention_mask: None (pads are masked) | [B, T] key mask | [B, 1, T, T] | CompactMask.
            input_bias: [B, T, H], added to word + position before the layer norm.
            output_hidden_states: also return the embeddings and every layer's output.
            pool: compute `pooled`.
            layers: stop after so many layers, 0 .. L, and take that output as `sequence`; None: all.
            positions: [M] int64 into B*T: the last layer is computed there only, and `sequence` is [M, H].
                The same numbers, for some 6 % less work at 12 layers where M is small. `pooled` is None.

        Raises:
            UserError: a position past the table. Of `position_ids` on a GPU this is not asked.
        """
        config = self.config
        if position_ids is None:
            position_ids = absolute_positions(input_ids, config.pad_token_id)
            may_be_past = input_ids.shape[1] > config.max_position_embeddings - FIRST_POSITION
        else:
            may_be_past = on_cpu(position_ids)  # a GPU would have to be waited for in every pass
        if may_be_past and paddle.in_dynamic_mode():  # an exported graph cannot raise
            self._check(position_ids)
        if attention_mask is None:
            attention_mask = input_ids != config.pad_token_id
        x = self.embeddings(input_ids, position_ids, input_bias)  # [B, T, H]
        bias = attention_bias(attention_mask, config.num_attention_heads, x.dtype, self.attention)
        hidden_states = [x]
        stack = list(self.encoder.layers)[:layers]
        for layer in stack:
            inputs = (x, bias, positions if layer is stack[-1] else None)
            x = recompute(layer, *inputs) if self.recompute and self.training else layer(*inputs)
            if output_hidden_states:
                hidden_states.append(x)
        if not stack:
            x = at_positions(x, positions)
        pooled = self.pooler(x[:, 0]) if pool and positions is None else None
        return EncoderOutput(x, pooled, tuple(hidden_states) if output_hidden_states else None)

    def pool(self, input_ids: Tensor, position_ids: Tensor | None = None, attention_mask=None) -> Tensor:
        """`forward(...).pooled` [B, H] alone: the last layer is computed for the first tokens only."""
        batch, length = input_ids.shape
        first = paddle.arange(batch) * length
        states = self(input_ids, position_ids, attention_mask, positions=first).sequence
        return self.pooler(states)

    def _check(self, position_ids: Tensor) -> None:
        last, rows = int(position_ids.max()), self.config.max_position_embeddings
        if last >= rows:
            raise UserError(
                f"position {last} is past the model's table: at most {rows - FIRST_POSITION} tokens fit; "
                "shorten max_seq_len"
            )
