"""The ERNIE-M encoder: word and position embeddings, post-norm Transformer layers, tanh pooler.

One set of symbols for the whole code:
    S sequences   N their tokens   H hidden size   D size of an attention head   L layers
    V vocabulary   M masked tokens   B, T batch and length of an array with pads

Nothing is computed for a pad: the sequences of a batch lie one after the other in one row of N tokens, and
a `Layout` says where each begins (model/attention.py). Arrays [B, T] with pads on the right are taken as
well: they are packed into such a row first, and the result is padded again. Only an exported graph computes
on pads.

Positions are absolute: a sequence's first token has position 2, a pad has position 1, so a table of 514 rows
serves 512 tokens. Parameter names are those of PaddleNLP's ErnieM without the prefix `ernie_m.`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

from model import device
from model.attention import CLOSED, Layout, SelfAttention
from model.config import FIRST_POSITION, ErnieMConfig
from model.cpu import LayerNorm, Linear, add_to, at_positions, dropout, gelu, on_cpu
from model.word_table import WordEmbeddings
from utils.errors import UserError

PAD_POSITION = 1
EXACT = (paddle.float32, paddle.float64)


class EncoderOutput(NamedTuple):
    """What the encoder computes."""

    sequence: Tensor  # [N, H], or [M, H] of the positions asked for; of an array with pads [B, T, H]
    pooled: Tensor | None  # [S, H]
    hidden_states: tuple[Tensor, ...] | None  # the embeddings, then each layer, the last as `sequence`


class SentBatch(NamedTuple):
    """Ids [B, T] on the device, packed into a row of N tokens; made by `ErnieMModel.send`.

    Attributes:
        shape: (B, T).
        layout: where each sequence lies in the row.
        tensors: "row", "position_ids" [N]; "first" [S], the first tokens; "cells" [B, T], where each cell's
            state lies, N for a pad; and the arrays that were sent along.
    """

    shape: tuple[int, int]
    layout: Layout
    tensors: dict[str, Tensor]


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
        x = add_to(self.word_embeddings(input_ids), self.position_embeddings(position_ids))  # [N, H]
        if input_bias is not None:
            x = add_to(x, input_bias)
        return dropout(self.layer_norm(x), self.dropout, self.training)


class EncoderLayer(nn.Layer):
    """Attention, then the feed-forward pair; after each: dropout, residual, layer norm.

    With `positions` [M] all tokens are attended to, and the rest is computed there only: [M, H].
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

    def forward(self, x: Tensor, layout: Layout | Tensor, positions: Tensor | None = None) -> Tensor:
        attended = self.self_attn(x, layout, positions)
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
    """tanh(dense(first token)): [S, H] -> [S, H]."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, initial_weights(config))

    def forward(self, first: Tensor) -> Tensor:
        return paddle.tanh(self.dense(first))


class ErnieMModel(nn.Layer):
    """The encoder (paper, section 3; sizes in appendix A.2)."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        self.config = config
        self.recompute = False
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)

    def use_recompute(self, wanted: bool) -> None:
        """Keep only each layer's input in training, and compute the rest again in the backward pass."""
        self.recompute = wanted

    def forward(
        self, input_ids: Tensor | np.ndarray | SentBatch, position_ids: Tensor | None = None,
        layout: Layout | None = None, input_bias: Tensor | None = None, output_hidden_states: bool = False,
        pool: bool = True, layers: int | None = None, positions: Tensor | None = None,
    ) -> EncoderOutput:  # fmt: skip
        """Encode sequences.

        Args:
            input_ids: [N] int64; or, without `layout`, [B, T] with pads on the right, or as `send` sent them.
            position_ids: of the same shape, absolute (first token 2), never changed; None: counted.
            layout: where each sequence lies in the row.
            input_bias: [N, H], added to word + position before the layer norm. Needs a layout.
            output_hidden_states: also return the embeddings and every layer's output.
            pool: compute `pooled`.
            layers: stop after so many layers, 0 .. L, and take that output as `sequence`; None: all.
            positions: [M] int64 into N: the last layer is computed only there, and `sequence` is [M, H], with
                the same values. If M is small, this saves about 6 % of the work of 12 layers. `pooled` is
                None. Needs a layout.

        Raises:
            UserError: a position is past the table. On a GPU, given `position_ids` are not checked.
        """
        if layout is None:
            return self._of_arrays(input_ids, position_ids, output_hidden_states, pool, layers)
        config, count = self.config, layout.tokens
        if position_ids is None:
            self._check(FIRST_POSITION + int(layout.lengths.max()) - 1)
            position_ids = paddle.to_tensor(FIRST_POSITION + layout.places())
        elif on_cpu(position_ids):  # on a GPU, the check would wait for the device in every pass
            self._check(int(position_ids.max()))
        rounded = layout
        if not on_cpu(input_ids) and (rounded := layout.rounded_up) is not layout:
            more = [0, rounded.tokens - count]
            input_ids = F.pad(input_ids, more, value=config.pad_token_id)
            position_ids = F.pad(position_ids, more, value=PAD_POSITION)
            input_bias = None if input_bias is None else F.pad(input_bias, [*more, 0, 0])
        x = self.embeddings(input_ids, position_ids, input_bias)  # [N, H]
        hidden_states = [x]
        stack = list(self.encoder.layers)[:layers]
        for layer in stack:
            inputs = (x, rounded, positions if layer is stack[-1] else None)
            x = recompute(layer, *inputs) if self.recompute and self.training else layer(*inputs)
            if output_hidden_states:
                hidden_states.append(x)
        if not stack:
            x = at_positions(x, positions)
        pooled = None
        if positions is None:
            pooled = self.pooler(paddle.gather(x, self._first(layout))) if pool else None
            x = x if rounded is layout else x[:count]
        states = tuple(state[:count] for state in hidden_states) if output_hidden_states else None
        return EncoderOutput(x, pooled, states)

    def _of_arrays(
        self, input_ids: Tensor | np.ndarray | SentBatch, position_ids: Tensor | None,
        output_hidden_states: bool, pool: bool, layers: int | None,
    ) -> EncoderOutput:  # fmt: skip
        if not paddle.in_dynamic_mode():
            return self._padded(input_ids, layers, pool)
        shape, layout, sent = self._sent(input_ids, position_ids)
        row, cells = (sent["row"], sent["position_ids"]), sent["cells"].flatten()
        found = self(*row, layout, None, output_hidden_states, pool, layers)

        def padded(states: Tensor) -> Tensor:
            return paddle.gather(F.pad(states, [0, 1, 0, 0]), cells).reshape([*shape, -1])

        states = found.hidden_states and tuple(map(padded, found.hidden_states))
        return EncoderOutput(states[-1] if states else padded(found.sequence), found.pooled, states)

    def pool(
        self, input_ids: Tensor, position_ids: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        """`forward(...).pooled` [S, H] alone: the last layer is computed for the first tokens only."""
        if layout is None:
            if not paddle.in_dynamic_mode():
                return self._padded(input_ids, None, True).pooled
            _, layout, sent = self._sent(input_ids, position_ids)
            input_ids, position_ids = sent["row"], sent["position_ids"]
        first = self._first(layout)
        return self.pooler(self(input_ids, position_ids, layout, pool=False, positions=first).sequence)

    def _first(self, layout: Layout) -> Tensor:
        """The first token of each sequence, [S]: sent with the layout, or else now."""
        return layout.tensors["first"] if "first" in layout.tensors else paddle.to_tensor(layout.starts)

    def send(
        self, batches: Sequence[np.ndarray], more: Sequence[Mapping[str, np.ndarray]] = ()
    ) -> list[SentBatch]:
        """Pack arrays of ids [B, T], and send all of them to the device in one copy.

        Args:
            more: for each of `batches`, further arrays to send.
        """
        layouts, groups = [], []
        for ids, others in zip(batches, more or [{}] * len(batches), strict=True):
            real = ids != self.config.pad_token_id
            layout = Layout(real.sum(axis=1))
            self._check(FIRST_POSITION + int(layout.lengths.max()) - 1)
            cells = np.where(real, np.cumsum(real).reshape(ids.shape) - 1, layout.tokens)
            row = {"row": ids[real], "position_ids": FIRST_POSITION + layout.places()}
            groups.append({**row, "first": layout.starts, "cells": cells, **others})
            layouts.append(layout)
        rounded = [layout.rounded_up for layout in layouts] if device.on_gpu() else []
        half = paddle.amp.is_autocast_enabled() or self.pooler.dense.weight.dtype not in EXACT
        sent = device.upload([*groups, *(one.arrays(device.flash_in(half)) for one in rounded)])
        for one, tensors in zip(rounded, sent[len(groups) :]):
            one.tensors.update(tensors)
        for one, tensors in zip(layouts, sent):
            one.tensors["first"] = tensors["first"]
        return [SentBatch(ids.shape, *both) for ids, *both in zip(batches, layouts, sent)]

    def _sent(self, input_ids: Tensor | np.ndarray | SentBatch, position_ids: Tensor | None) -> SentBatch:
        sent = input_ids if isinstance(input_ids, SentBatch) else self.send([np.asarray(input_ids)])[0]
        if position_ids is not None:
            real = sent.tensors["cells"] < sent.layout.tokens
            sent.tensors["position_ids"] = paddle.masked_select(position_ids, real)
        return sent

    def _padded(self, input_ids: Tensor, layers: int | None, pool: bool) -> EncoderOutput:
        """What an exported graph computes: [B, T] with a mask. Pads are closed to all rows but their own."""
        pad_id = self.config.pad_token_id
        x = self.embeddings(input_ids, absolute_positions(input_ids, pad_id), None)  # [B, T, H]
        real = input_ids != pad_id
        seen = real.unsqueeze(2) & real.unsqueeze(1) | paddle.eye(input_ids.shape[1]).astype("bool")
        bias = ((1.0 - seen.astype(x.dtype)) * CLOSED).unsqueeze(1)  # [B, 1, T, T]
        for layer in list(self.encoder.layers)[:layers]:
            x = layer(x, bias)
        return EncoderOutput(x, self.pooler(x[:, 0]) if pool else None, None)

    def _check(self, last: int) -> None:
        rows = self.config.max_position_embeddings
        if last >= rows:
            raise UserError(
                f"position {last} is past the model's table: at most {rows - FIRST_POSITION} tokens fit; "
                "shorten max_seq_len"
            )
