"""The graph that `ernie-m export` traces for Paddle Inference.

The model itself computes on packed tokens. The graph computes on padded ids, with an attention mask.
"""

from dataclasses import dataclass

import paddle
from paddle import Tensor, nn

from ernie_m.model.attention import MASK_VALUE, padded_attention
from ernie_m.model.attention_mask import AttentionMask
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS
from ernie_m.model.positions import FIRST_POSITION, PAD_POSITION
from ernie_m.model.tasks import EMBEDDING, POOLED, TASKS, list_graph_outputs


@dataclass(frozen=True)
class BiasMask(AttentionMask):
    """The attention mask of a padded batch, as a bias added to the attention scores."""

    bias: Tensor  # [B, 1, T, T], 0 or MASK_VALUE

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, num_heads: int, dropout_rate: float
    ) -> Tensor:
        """Compute multi-head attention of query, key and value, [B, T, H] each: [B, T, H]."""
        return padded_attention(query, key, value, self.bias, num_heads)


class ExportedGraph(nn.Layer):
    """Module with the forward pass of a task on padded ids, for tracing by Paddle.

    Args:
        model: an encoder for embedding, otherwise a task model; in evaluation mode.
        task: one of `ernie_m.model.tasks.EXPORTED_TASKS`.
        layer: the layer at which an encoder ends.
        has_pooler: whether the encoder has a pooler, and therefore the output "pooled".

    Attributes:
        outputs: the names of the outputs.
    """

    def __init__(self, model: nn.Layer, task: str, layer: int, has_pooler: bool = True):
        super().__init__()
        self.model = model
        self.task = task
        self.layer = layer
        is_top = layer == self.encoder.config.num_hidden_layers
        self.outputs = list_graph_outputs(task, has_pooler and is_top)

    @property
    def encoder(self) -> ErnieMModel:
        """The encoder of the model."""
        return self.model if self.task == EMBEDDING else self.model.ernie_m

    @property
    def layers(self) -> list[nn.Layer]:
        """The encoder layers up to `layer`."""
        return list(self.encoder.encoder.layers)[: self.layer]

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of the task from ids, int64 [B, T], padded on the right."""
        sequence = self._encode(input_ids)  # [B, T, H]
        if self.task == EMBEDDING:
            if len(self.outputs) == 1:  # without the output "pooled"
                return (sequence,)
            return sequence, self.encoder.pooler(sequence[:, 0])
        if TASKS[self.task].head_reads == POOLED and self.model.pooling == MEAN_OF_TOKENS:
            is_real = (input_ids != self.encoder.config.pad_token_id).astype(sequence.dtype)  # [B, T]
            total = paddle.matmul(is_real.unsqueeze(1), sequence).squeeze(1)  # [B, H]
            return (self.model.classifier(total / is_real.sum(axis=1, keepdim=True)),)
        if TASKS[self.task].head_reads == POOLED:
            return (self.model.classifier(self.encoder.pooler(sequence[:, 0])),)
        logits = self.model.classifier(sequence)  # [B, T, labels]
        if len(self.outputs) == 1:
            return (logits,)
        return tuple(logits.unbind(-1))  # [B, T] each

    def _encode(self, input_ids: Tensor) -> Tensor:
        """Compute the hidden states at `layer`, [B, T, H]."""
        pad_token_id = self.encoder.config.pad_token_id
        x = self.encoder.embeddings(input_ids, make_position_ids(input_ids, pad_token_id))  # [B, T, H]
        is_real = input_ids != pad_token_id  # [B, T]
        # A pad attends to itself, so that no row of the mask is empty.
        is_itself = paddle.eye(input_ids.shape[1]).astype("bool")  # [T, T]
        is_visible = (is_real.unsqueeze(2) & is_real.unsqueeze(1)) | is_itself  # [B, T, T]
        bias = (1.0 - is_visible.astype(x.dtype)) * MASK_VALUE  # [B, T, T]
        mask = BiasMask(bias.unsqueeze(1))
        for layer in self.layers:
            x = layer(x, mask)
        return x


def make_position_ids(input_ids: Tensor, pad_token_id: int) -> Tensor:
    """Return the position ids of padded ids, int64 [B, T]: 2, 3, ... for tokens, 1 for padding."""
    is_real = (input_ids != pad_token_id).astype("int64")
    positions = is_real.cumsum(axis=1) + FIRST_POSITION - 1  # correct for tokens, not yet for padding
    return (positions - PAD_POSITION) * is_real + PAD_POSITION  # 0 for padding
