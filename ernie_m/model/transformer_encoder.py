"""The post-norm Transformer layers of the encoder."""

import paddle
from paddle import Tensor, nn

from ernie_m.model.attention import SelfAttention
from ernie_m.model.attention_mask import AttentionMask
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.layers import LayerNorm, Linear, apply_linear_layers, dropout, gelu
from ernie_m.model.rows import select_rows


def make_weight_initializer(config: ErnieMConfig) -> paddle.ParamAttr:
    """Return the weight initializer: Normal(0, initializer_range), truncated at two standard deviations."""
    scale = config.initializer_range
    return paddle.ParamAttr(initializer=nn.initializer.TruncatedNormal(std=scale, a=-2 * scale, b=2 * scale))


class EncoderLayer(nn.Layer):
    """A Transformer layer: self-attention and feed-forward, each with dropout, residual and post-norm."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        attr = make_weight_initializer(config)
        self.self_attn = SelfAttention(
            config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob, attr
        )
        self.linear1 = Linear(config.hidden_size, config.intermediate_size, attr)
        self.linear2 = Linear(config.intermediate_size, config.hidden_size, attr)
        self.norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout_rate = config.hidden_dropout_prob

    def forward(self, x: Tensor, mask: AttentionMask, positions: Tensor | None = None) -> Tensor:
        """Apply the layer: x [N, H] -> [N, H].

        Args:
            positions: int64 [M], indices of the tokens whose output is computed: [M, H]; None: all tokens.
                These tokens still attend to all tokens of their sequences.
        """
        attended = self.self_attn(x, mask, positions)
        x = self.norm1(self._add_residual(select_rows(x, positions), attended))
        (middle,) = apply_linear_layers(x, [self.linear1], "bfloat16")
        return self.norm2(self._add_residual(x, self.linear2(gelu(middle))))

    def _add_residual(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add a residual connection: return x + dropout(branch), [N, H]."""
        return dropout(branch, self.dropout_rate, self.training, residual=x)


class Encoder(nn.Layer):
    """The container of the Transformer layers, which gives them the names `encoder.layers.{i}`."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        self.layers = nn.LayerList([EncoderLayer(config) for _ in range(config.num_hidden_layers)])
