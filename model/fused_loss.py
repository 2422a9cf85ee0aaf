"""The masked-LM loss on a GPU: products in half precision, and Paddle's fused softmax with cross-entropy.

All chunks share one copy of the word table in the type of the products. Its rows are padded to a multiple of
64, because a product with 250,002 words, 2 modulo 8, is misaligned. A word of padding has the bias -1e4, so
its probability is 0.

An operation on the logits takes as long as reading its inputs and writing its outputs. In half precision, 2
bytes a number, the operations read and write at most this many bytes for each logit:

    product 2   bias 4   label's logit 2   highest logit 2   softmax 4   gradient 4   three products 6

The fused operation (paddle/phi/kernels/gpu/cross_entropy_kernel.cu) computes in float32 whatever the type of
the logits is, and reads each logit before it writes there, so it may work in place.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from model import device
from model.chunk_loss import ChunkLoss, loss_outputs
from model.cpu.rows import needs_gradient

MULTIPLE = 64
PAD_BIAS = -1e4
# The last arguments of Paddle's operation: soft_label, use_softmax, numeric_stable_mode, ignore_index, axis.
_SOFTMAX_OPTIONS = (False, True, True, -100, -1)


class PaddedTable(NamedTuple):
    """The word table and its bias in the type of the products, V' words."""

    weight: Tensor  # [V', H]
    bias: Tensor  # [V']


def padded_size(words: int) -> int:
    """V', the number of words with those of padding: `words`, rounded up to a multiple of MULTIPLE."""
    return math.ceil(words / MULTIPLE) * MULTIPLE


def padded_table(weight: Tensor, bias: Tensor, dtype: paddle.dtype) -> PaddedTable:
    """The table [V, H] and its bias [V] in this type, with words of padding up to a multiple of MULTIPLE."""
    words, size = weight.shape
    weight = weight.astype(dtype)
    bias = bias.astype(dtype)
    missing = padded_size(words) - words
    if missing:
        weight = paddle.concat([weight, paddle.zeros([missing, size], dtype)])
        bias = paddle.concat([bias, paddle.full([missing], PAD_BIAS, dtype)])
    return PaddedTable(weight, bias)


def exact_losses(x: Tensor, table: PaddedTable, labels: Tensor) -> ChunkLoss:
    """The losses of x [m, H], labels int64 [m], with a softmax in float32. Call it with autocast off."""
    label_column = labels.unsqueeze(1)  # [m, 1]
    logits = _logits(x, table).astype(device.precise_dtype(x))
    correct = _is_highest(logits, label_column)
    _, losses = paddle._C_ops.cross_entropy_with_softmax_(logits, label_column, *_SOFTMAX_OPTIONS)
    return ChunkLoss(losses.squeeze(1), correct)


def losses_and_gradient(x: Tensor, table: PaddedTable, labels: Tensor) -> tuple[ChunkLoss, Tensor]:
    """The losses of x [m, H], and the gradient of each with respect to its logits, [m, V'].

    The logits and their gradient have the type of the table. Call this with autocast off, because autocast
    would cast the logits.
    """
    label_column = labels.unsqueeze(1)  # [m, 1]
    logits = _logits(x, table)
    # Compared now, because the softmax and then the gradient replace the logits.
    correct = _is_highest(logits, label_column)
    softmax, losses = paddle._C_ops.cross_entropy_with_softmax_(logits, label_column, *_SOFTMAX_OPTIONS)
    ones = paddle.ones_like(losses)
    gradient = paddle._C_ops.cross_entropy_with_softmax_grad_(label_column, softmax, ones, *_SOFTMAX_OPTIONS)
    return ChunkLoss(losses.squeeze(1).astype(device.precise_dtype(x)), correct), gradient


def _logits(x: Tensor, table: PaddedTable) -> Tensor:
    """[m, H] -> [m, V']."""
    return paddle.matmul(x, table.weight, transpose_y=True).add_(table.bias)


def _is_highest(logits: Tensor, label_column: Tensor) -> Tensor:
    """Whether no logit [m, V'] is above that in the label's column, int64 [m, 1]: bool [m]."""
    label_logit = paddle.take_along_axis(logits, label_column, 1, broadcast=False)  # [m, 1]
    return (label_logit >= logits.max(1, keepdim=True)).squeeze(1)


class FusedCrossEntropy(PyLayer):
    """The sum of weighted losses of x [M, H]; the gradients are made in the forward pass.

    float16 has no numbers below 6e-8, and a weight is as small as 1 / the number of masked tokens. So the
    products get the gradients of the losses without weights, between -1 and 1, and the weights divided by the
    largest. The backward pass multiplies by the largest in float32, together with the loss scale.

    Args:
        weight, bias: the word table [V, H] and its bias [V].
        labels: int64 [M].
        loss_weights: float [M], the factor of each loss in the sum.
        slices: the positions of each chunk.
        dtype: of the products.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        loss_weights: Tensor,
        slices: Sequence[slice],
        dtype: paddle.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_needs, weight_needs, bias_needs = needs_gradient(x, weight, bias)
        largest = loss_weights.abs().max().clip(min=1e-30)  # not 0, because it divides the weights
        chunks = []
        grads_x = []  # [m, H] each
        grad_weight = None  # [V', H]
        grad_bias = None  # [1, V']
        with paddle.amp.auto_cast(False):
            table = padded_table(weight, bias, dtype)
            states = x.astype(dtype)  # [M, H]
            for rows in slices:
                chunk, grad_logits = losses_and_gradient(states[rows], table, labels[rows])
                chunks.append(chunk)
                # A weight itself may be too small for float16; `backward` multiplies by `largest`.
                relative = (loss_weights[rows] / largest).astype(dtype).unsqueeze(1)  # [m, 1]
                if x_needs:
                    grad_x = paddle.matmul(grad_logits, table.weight)
                    grads_x.append(grad_x.astype(loss_weights.dtype) * loss_weights[rows].unsqueeze(1))
                if weight_needs:
                    weighted = states[rows] * relative
                    product = paddle.matmul(grad_logits, weighted, transpose_x=True)
                    grad_weight = _add(grad_weight, product, loss_weights.dtype)
                if bias_needs:
                    product = paddle.matmul(relative, grad_logits, transpose_x=True)
                    grad_bias = _add(grad_bias, product, loss_weights.dtype)
                del grad_logits  # frees the memory for the next chunk
        words = weight.shape[0]
        ctx.grad_x = paddle.concat(grads_x) if x_needs else None
        ctx.grad_weight = grad_weight[:words] if weight_needs else None
        ctx.grad_bias = grad_bias[0, :words] if bias_needs else None
        ctx.largest = largest
        ctx.dtypes = (x.dtype, weight.dtype, bias.dtype)
        return loss_outputs(ctx, chunks, loss_weights)

    @staticmethod
    def backward(ctx, grad_total: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        x_dtype, weight_dtype, bias_dtype = ctx.dtypes
        grad_total = grad_total.astype(ctx.largest.dtype)
        grad_x = _scaled(ctx.grad_x, grad_total, x_dtype)
        grad_weight = _scaled(ctx.grad_weight, grad_total * ctx.largest, weight_dtype)
        grad_bias = _scaled(ctx.grad_bias, grad_total * ctx.largest, bias_dtype)
        ctx.grad_x = ctx.grad_weight = ctx.grad_bias = None  # frees the memory
        return grad_x, grad_weight, grad_bias, None, None  # labels and weights have no gradient


def _add(total: Tensor | None, product: Tensor, dtype: paddle.dtype) -> Tensor:
    """The sum of products, with a further one.

    Args:
        total: the sum so far; None: `product` is the first one, and is returned in its own type, without a
            copy.
        dtype: of a sum of several products.
    """
    if total is None:
        return product
    return total.astype(dtype).add_(product.astype(dtype))


def _scaled(gradient: Tensor | None, factor: Tensor, dtype: paddle.dtype) -> Tensor | None:
    """A gradient times a factor, multiplied in the type of the factor."""
    if gradient is None:
        return None
    return (gradient.astype(factor.dtype) * factor).astype(dtype)
