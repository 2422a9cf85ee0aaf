"""Self-attention and its masks. Symbols: see `model/ernie_m.py`.

Convention of every mask: a row is a query, a column a key, True (or 1) may attend. Every row sees at least
itself, and a pad is visible to its own row only, so no row is empty and no softmax is 0/0 in any dtype.
"""

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

# Added to closed scores. exp(-1e4) is exactly 0 in float32 and float64, and -1e4 is finite in float16.
CLOSED = -1e4
# Weights up to this are set to 0; see `_Softmax`.
NO_WEIGHT = 2e-28


@dataclass
class CompactMask:
    """The pattern "context, plus placeholders that see the context and themselves" (CAMLM, and BTMLM stage 1).

    The row is C context columns, then T - C placeholder columns. With C = 4, the context's last column a pad:

                x1 x2 x3  . | M5 M6 M7
        x1       1  1  1  . |  .  .  .
        x2       1  1  1  . |  .  .  .
        x3       1  1  1  . |  .  .  .
        pad      .  .  .  1 |  .  .  .      a pad sees itself only
        M5       1  1  1  . |  1  .  .
        M6       1  1  1  . |  .  1  .
        M7       1  1  1  . |  .  .  1

    It costs C x T scores instead of T x T: each row's scores are its C context columns and one column of its own.

    Attributes:
        context_length: C, 1 <= C <= T.
        valid: [B, T] bool, True at real tokens and placeholders, False at pads of either part.
    """

    context_length: int
    valid: Tensor

    def dense(self) -> Tensor:
        """The same mask as [B, 1, T, T] bool: the definition that the compact computation is tested against."""
        valid = self.valid.astype("bool")
        length = valid.shape[1]
        in_context = paddle.arange(length) < self.context_length  # [T]
        seen = valid.unsqueeze(2) & (valid & in_context).unsqueeze(1)  # [B, T, T]
        return (seen | paddle.eye(length).astype("bool")).unsqueeze(1)

    def biases(self, dtype) -> tuple[Tensor, Tensor]:
        """What is added to the scores: context columns [B, 1, T, C], self column [B, 1, T, 1]."""
        valid = self.valid.astype("bool")
        context = valid[:, : self.context_length]  # [B, C]
        seen = valid.unsqueeze(2) & context.unsqueeze(1)  # [B, T, C]
        # A valid context row meets itself among the context columns already.
        in_context = paddle.arange(valid.shape[1]) < self.context_length
        alone = ~(valid & in_context).unsqueeze(2)  # [B, T, 1]
        return _closed_where_false(seen, dtype).unsqueeze(1), _closed_where_false(alone, dtype).unsqueeze(1)


def _closed_where_false(seen: Tensor, dtype) -> Tensor:
    return (1.0 - seen.astype(dtype)) * CLOSED


def additive_mask(attention_mask: Tensor, dtype) -> Tensor:
    """0 where a row may attend and -1e4 elsewhere, [B, 1, T, T].

    Args:
        attention_mask: [B, T], 1 at real tokens, or [B, 1, T, T], 1 where the row may attend to the column.
            Bool, integer or float. The diagonal is opened in either case.
        dtype: of the result.
    """
    seen = attention_mask.astype("bool")
    if seen.ndim == 2:
        seen = (seen.unsqueeze(2) & seen.unsqueeze(1)).unsqueeze(1)  # [B, 1, T, T]
    seen = seen | paddle.eye(seen.shape[-1]).astype("bool")
    return _closed_where_false(seen, dtype)


class SelfAttention(nn.Layer):
    """Multi-head self-attention, queries scaled by 1 / sqrt(D) before the product."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, weight_attr=None):
        super().__init__()
        self.num_heads = num_heads
        self.head_size = hidden_size // num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden_size, hidden_size, weight_attr)
        self.k_proj = nn.Linear(hidden_size, hidden_size, weight_attr)
        self.v_proj = nn.Linear(hidden_size, hidden_size, weight_attr)
        self.out_proj = nn.Linear(hidden_size, hidden_size, weight_attr)

    def forward(self, x: Tensor, bias: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """[B, T, H] -> [B, T, H]. `bias`: `additive_mask(...)`, or `CompactMask.biases(...)`."""
        query = self._heads(self.q_proj(x) * self.head_size**-0.5)  # [B, N, T, D]
        key, value = self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        attend = self._compact if isinstance(bias, tuple) else self._dense
        context = attend(query, key, value, bias)  # [B, N, T, D]
        return self.out_proj(context.transpose([0, 2, 1, 3]).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape([0, 0, self.num_heads, self.head_size]).transpose([0, 2, 1, 3])

    def _dense(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        scores = paddle.matmul(query, key, transpose_y=True) + bias  # [B, N, T, T]
        return paddle.matmul(self._weights(scores), value)

    def _compact(self, query: Tensor, key: Tensor, value: Tensor, biases: tuple[Tensor, Tensor]) -> Tensor:
        context_bias, self_bias = biases
        length = context_bias.shape[-1]
        context = paddle.matmul(query, key[:, :, :length], transpose_y=True) + context_bias  # [B, N, T, C]
        alone = (query * key).sum(-1, keepdim=True) + self_bias  # [B, N, T, 1]
        weights = self._weights(paddle.concat([context, alone], axis=-1))  # [B, N, T, C + 1]
        return paddle.matmul(weights[..., :length], value[:, :, :length]) + weights[..., length:] * value

    def _weights(self, scores: Tensor) -> Tensor:
        return F.dropout(_Softmax.apply(scores), self.dropout, training=self.training)


class _Softmax(PyLayer):
    """Softmax over the last axis whose closed columns are exactly 0, in the weights and in the gradient.

    Paddle's CPU softmax takes a score more than 64 below its row's maximum as 64 below: a closed column would weigh
    up to exp(-64) = 1.6e-28. That is not nothing: a pad's input is 0 in a fresh model, each layer norm multiplies the
    gradient of such a vector by 1 / sqrt(epsilon) = 316, and 25 of them in a row make 1e-28 overflow.
    """

    @staticmethod
    def forward(ctx, scores: Tensor) -> Tensor:
        weights = F.thresholded_relu(F.softmax(scores, axis=-1), NO_WEIGHT)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensor()
        return paddle._C_ops.softmax_grad(weights, gradient, -1)
