"""The Transformer layers of the encoder: attention and feed-forward."""

import paddle
from paddle import Tensor, nn

from ernie_m.model.attention import AttentionMask, SelfAttention
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.layers import LayerNorm, Linear, at_positions, dropout, gelu, linear_layers


def init_weights(config: ErnieMConfig) -> paddle.ParamAttr:
    """Return Normal(0, initializer_range), truncated at two deviations, as in BERT and ERNIE."""
    scale = config.initializer_range
    return paddle.ParamAttr(initializer=nn.initializer.TruncatedNormal(std=scale, a=-2 * scale, b=2 * scale))


class EncoderLayer(nn.Layer):
    """Attention, then feed-forward; after each: dropout, residual, layer norm."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        attr = init_weights(config)
        self.self_attn = SelfAttention(
            config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob, attr
        )
        self.linear1 = Linear(config.hidden_size, config.intermediate_size, attr)
        self.linear2 = Linear(config.intermediate_size, config.hidden_size, attr)
        self.norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout_rate = config.hidden_dropout_prob

    def forward(self, x: Tensor, mask: AttentionMask, positions: Tensor | None = None) -> Tensor:
        """Compute [N, H] -> [N, H].

        With `positions`, int64 [M], the result is computed only for these tokens, [M, H]; they still attend
        to all tokens of their sequences.
        """
        attended = self.self_attn(x, mask, positions)
        x = self.norm1(self._add_with_dropout(at_positions(x, positions), attended))
        (middle,) = linear_layers(x, [self.linear1], "bfloat16")
        return self.norm2(self._add_with_dropout(x, self.linear2(gelu(middle))))

    def _add_with_dropout(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return x + dropout(branch)."""
        return dropout(branch, self.dropout_rate, self.training, residual=x)


class Encoder(nn.Layer):
    """The stack of layers, for the parameter names `encoder.layers.{i}`."""

    def __init__(self, config: ErnieMConfig):
        super().__init__()
        self.layers = nn.LayerList([EncoderLayer(config) for _ in range(config.num_hidden_layers)])
