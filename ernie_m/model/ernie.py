"""The ERNIE-M encoder: word and position embeddings, post-norm Transformer layers, tanh pooler.

A config without layers defines a static model (`ErnieMConfig.is_static`), which only has word embeddings.

Symbols used in all files:
        S sequences   N their tokens   H hidden size   D size of an attention head   L layers
        V vocabulary size   M masked tokens   B, T batch size and length of a padded array

Padding is never computed: the sequences of a batch are packed, N tokens concatenated
(`model/packed_batch.py`). Only an exported graph computes on padded arrays
(`ernie_m/inference/export_paddle.py`).

Positions are absolute: a sequence's first token has position 2 and padding has position 1, so 514 position
embeddings are enough for 512 tokens. Parameter names are those of PaddleNLP's ErnieM without `ernie_m.`.
"""

import os
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.device_transfer import upload
from ernie_m.model.dropout_stream import repeat_dropout
from ernie_m.model.layers import LayerNorm, Linear, dropout
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.positions import FIRST_POSITION, PAD_POSITION
from ernie_m.model.rows import select_rows
from ernie_m.model.transformer_encoder import Encoder, make_weight_initializer
from ernie_m.model.word_embeddings import WordEmbeddings
from ernie_m.utils.errors import UserError


class EncoderOutput(NamedTuple):
    """The output of `ErnieMModel.encode`: hidden states and attention weights."""

    sequence: Tensor  # [N, H], or [M, H] at the given positions
    # Of the embeddings, then of each layer, the last as `sequence`, [N, H] each; empty unless requested.
    hidden_states: list[Tensor]
    attentions: list[Tensor]  # of each layer, [B, heads, T, T]; empty unless requested


class StaticEmbeddings(nn.Layer):
    """The embedding layer of a static model: word embeddings only."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        self.word_embeddings = WordEmbeddings(
            config.vocab_size, config.hidden_size, weight_attr=make_weight_initializer(config)
        )
        with paddle.no_grad():
            self.word_embeddings.weight[config.pad_token_id] = 0.0

    def forward(self, input_ids: Tensor, position_ids: Tensor, input_bias: Tensor | None = None) -> Tensor:
        """Look up the word embeddings: input_ids int64 [N] -> [N, H]. The other arguments are ignored."""
        return self.word_embeddings(input_ids)


class Embeddings(StaticEmbeddings):
    """The embedding layer: word plus position embeddings and an optional bias; layer norm; dropout."""

    def __init__(self, config: ErnieMConfig):
        super().__init__(config)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, config.hidden_size, weight_attr=make_weight_initializer(config)
        )
        self.layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout_rate = config.hidden_dropout_prob
        with paddle.no_grad():
            self.position_embeddings.weight[PAD_POSITION] = 0.0

    def forward(self, input_ids: Tensor, position_ids: Tensor, input_bias: Tensor | None = None) -> Tensor:
        """Compute the input embeddings: input_ids and position_ids int64 [N], input_bias [N, H] -> [N, H]."""
        x = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)  # [N, H]
        if input_bias is not None:
            x = x + input_bias
        return dropout(self.layer_norm(x), self.dropout_rate, self.training)


class Pooler(nn.Layer):
    """The pooler, tanh(dense(x)), of each sequence's first token in the last layer: [S, H] -> [S, H]."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, make_weight_initializer(config))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the pooler output from the last hidden states of first tokens: [S, H] -> [S, H]."""
        return paddle.tanh(self.dense(x))


class ErnieMModel(nn.Layer):
    """The ERNIE-M encoder (paper, section 3; sizes in appendix A.2)."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        config.check_memory()
        self.config = config
        self.recompute = False  # see `set_recompute`
        self.embeddings = StaticEmbeddings(config) if config.is_static else Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = None if config.is_static else Pooler(config)

    if TYPE_CHECKING:  # nn.Layer accepts any arguments

        def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor: ...

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike) -> Self:
        """Load the encoder of a checkpoint, in evaluation mode, without heads.

        Args:
            path: a folder in any supported format, or a model name on the Hugging Face Hub.

        Raises:
            UserError: the checkpoint is missing or corrupt, or has no model config.
        """
        # Imported here, because the network does not depend on checkpoint formats otherwise.
        from ernie_m.model.checkpoint.load import load_weights
        from ernie_m.model.checkpoint.open import open_checkpoint

        checkpoint = open_checkpoint(path)
        model = cls(checkpoint.required_config)
        load_weights(model, checkpoint)
        return model.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Compute the last hidden states of a padded batch, for custom training loops.

        The batch is packed before it is encoded, so padding is not computed. The pooler output, [B, H], is
        `model.pooler(states[:, 0])`.

        Args:
            input_ids: int64 [B, T].
            attention_mask: [B, T], 1 for tokens and 0 for padding; None: padding is `config.pad_token_id`.

        Returns:
            Hidden states of the last layer, [B, T, H], 0 at padding.

        Raises:
            UserError: the mask has the wrong shape or invalid values, a row has no tokens or padding between
                tokens, a sequence is too long, or the call is traced by `paddle.jit.to_static` with
                `full_graph=True`.
        """
        if not paddle.in_dynamic_mode():
            raise UserError(
                "ErnieMModel.forward cannot be traced: it packs tokens by the values of the mask, which a "
                "traced graph does not have. Call it directly, or write a graph with ernie-m export"
            )
        ids = np.asarray(input_ids)
        mask = (ids != self.config.pad_token_id) if attention_mask is None else np.asarray(attention_mask)
        if mask.shape != ids.shape or ids.ndim != 2 or not np.isin(mask, (0, 1)).all():
            raise UserError(
                f"input_ids {list(ids.shape)}, attention_mask {list(mask.shape)} (expected [B, T] for both, "
                "the mask 1 for tokens and 0 for padding)"
            )
        is_real = mask.astype(bool)
        empty_rows = np.flatnonzero(~is_real.any(axis=1))
        if len(empty_rows):
            raise UserError(f"input_ids: row {empty_rows[0]} has only padding")
        batch = upload(PackedBatch.from_attention_mask(ids, is_real))
        return batch.to_padded(self.encode(batch).sequence)

    def set_recompute(self, enabled: bool) -> None:
        """Set activation recomputation: training keeps only each layer's input until the backward pass."""
        self.recompute = enabled

    def encode(
        self,
        batch: PackedBatch,
        positions: Tensor | None = None,
        layers: int | None = None,
        input_bias: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Compute hidden states of a packed batch.

        Args:
            batch: the sequences, on the device.
            positions: int64 [M], indices of tokens: the last layer is computed only for these tokens, and
                `sequence` is [M, H]. For small M, this saves about 6 % of the computation of 12 layers.
            layers: number of layers to compute, 0 .. L; None: all. `sequence` is the output of the last one.
            input_bias: [N, H], added to word and position embeddings before the layer norm.
            output_hidden_states: also return the embeddings and the output of every layer; not with
                `positions`.
            output_attentions: also return the attention weights of every layer; only for a batch made from
                a padded array.

        Raises:
            UserError: a position exceeds the position embeddings, or `output_attentions` is set for a batch
                that was not made from a padded array.
        """
        rows = self.config.max_position_embeddings
        if batch.last_position >= rows:
            raise UserError(
                f"a sequence of {batch.last_position - FIRST_POSITION + 1} tokens exceeds the maximum of "
                f"{rows - FIRST_POSITION}. Reduce max_seq_len"
            )
        x = self.embeddings(batch.input_ids, batch.position_ids, input_bias)  # [N, H]
        hidden_states = [x]
        attentions = []
        stack = list(self.encoder.layers)[:layers]
        for layer in stack:
            if output_attentions:
                states = batch.to_padded(batch.remove_filler(x))  # [B, T, H]
                attentions.append(layer.self_attn.compute_weights(states, batch.get_padding_mask()))
            # The last layer is computed only where its output is used.
            only_at = positions if layer is stack[-1] else None
            if self.recompute and self.training:
                x = recompute(repeat_dropout(layer), x, batch.mask, only_at)
            else:
                x = layer(x, batch.mask, only_at)
            if output_hidden_states:
                hidden_states.append(x)
        if not stack:  # no layer has applied the positions
            x = select_rows(x, positions)
        if positions is None:
            x = batch.remove_filler(x)
        if not output_hidden_states:
            return EncoderOutput(x, [], attentions)
        return EncoderOutput(x, [batch.remove_filler(state) for state in hidden_states], attentions)


# `forward` reads values of tensors, which a graph does not have. Not a decorator: type checkers lose the
# class.
paddle.jit.marker.force_dynamic(ErnieMModel)
