"""Cross-entropy over the whole vocabulary, in memory that does not grow with the number of positions.

The masked positions are taken in chunks, as many as LOGITS_BYTES of logits hold. The gradients of each chunk
are made in the forward pass, so that no logits wait for the backward pass. The gradient from above is then
one number, the factor of the whole sum.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from model import device
from model.cpu import bfloat16, word_table
from model.cpu.rows import as_array, as_tensor, needs_gradient
from model.word_table import TableGradient, WordEmbeddings

LOGITS_BYTES = 1 << 29  # of the logits that exist at a time: 512 MB


class MaskedLoss(NamedTuple):
    """The loss of M masked positions."""

    total: Tensor  # the sum of the losses times their weights, [], with a gradient
    losses: Tensor  # [M], without their weights or a gradient, float32 (float64 of a model in float64)
    correct: Tensor  # bool [M], whether no logit is above the label's


def logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, H] times the table [V, H], plus bias [V]: [M, V]."""
    return paddle.matmul(x, weight, transpose_y=True) + bias


def logit_chunks(positions: int, words: int, bytes_each: int = 4) -> list[slice]:
    """Slices of the positions, so that the logits of none take more than LOGITS_BYTES."""
    size = max(1, LOGITS_BYTES // (words * bytes_each))
    return [slice(start, min(start + size, positions)) for start in range(0, positions, size)]


def cross_entropy(
    x: Tensor, table: WordEmbeddings, bias: Tensor, labels: Tensor, weights: Tensor | None = None
) -> MaskedLoss:
    """-log softmax(logits)[label] of each position, without an array of [M, V].

    Args:
        x: [M, H], M at least 1.
        bias: [V], added to the logits.
        labels: [M] int64, from 0 to V - 1.
        weights: [M] float, of each loss in the sum; None: 1. They get no gradient.
    """
    weight = table.weight
    weights = paddle.ones([x.shape[0]]) if weights is None else weights
    weights = weights.astype(paddle.float64 if x.dtype == paddle.float64 else paddle.float32)
    on_cpu = device.on_cpu(x)
    products = IN_BFLOAT16 if table.in_bfloat16 else IN_FULL_PRECISION
    if paddle.is_grad_enabled() and any(needs_gradient(x, weight, bias)):
        if on_cpu:
            outputs = CrossEntropyOnCpu.apply(x, weight, bias, labels, weights, table.gradient, products)
        else:
            outputs = CrossEntropy.apply(x, weight, bias, labels, weights)
        return MaskedLoss(*outputs)
    chunks = []
    for rows in _chunks_of(x, weight):
        if on_cpu:
            chunk, _ = _chunk_on_cpu(x[rows], weight, bias, labels[rows], products, derive=False)
        else:
            chunk, _ = _chunk(x[rows], weight, bias, labels[rows], derive=False)
        chunks.append(chunk)
    return _sum(chunks, weights)


class TableProducts(NamedTuple):
    """The products with the word table on a CPU, in one precision; see `model.cpu.word_table`."""

    logits: Callable[[Tensor, Tensor], Tensor]
    gradients: Callable[[Tensor, Tensor, Tensor, np.ndarray | None, bool], Tensor]


IN_FULL_PRECISION = TableProducts(word_table.table_logits, word_table.table_gradients)
IN_BFLOAT16 = TableProducts(bfloat16.table_logits, bfloat16.table_gradients)


class _Chunk(NamedTuple):
    """The losses of m positions."""

    losses: Tensor  # [m]
    correct: Tensor  # bool [m]


def _chunks_of(x: Tensor, weight: Tensor) -> list[slice]:
    return logit_chunks(x.shape[0], weight.shape[0], 8 if x.dtype == paddle.float64 else 4)


def _chunk_on_cpu(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, products: TableProducts, derive: bool
) -> tuple[_Chunk, Tensor]:
    """The losses of x [m, H] and, with `derive`, the gradient of each with respect to its logits, [m, V]."""
    logits = products.logits(x, weight)
    losses, correct = word_table.cross_entropy_(logits, bias, as_array(labels), derive)
    return _Chunk(as_tensor(losses), paddle.to_tensor(correct)), logits


def _chunk(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, derive: bool
) -> tuple[_Chunk, Tensor | None]:
    """As `_chunk_on_cpu`, with Paddle's own operations."""
    logits = paddle.matmul(x, weight, transpose_y=True)  # [m, V], in the precision of autocast
    precise = paddle.float64 if logits.dtype == paddle.float64 else paddle.float32
    logits = logits.astype(precise) + bias.astype(precise)
    column = labels.unsqueeze(1)  # [m, 1]
    highest = logits.max(1, keepdim=True)  # [m, 1]
    label_logit = paddle.take_along_axis(logits, column, 1)  # [m, 1]
    exponentials = (logits - highest).exp()
    del logits  # frees as much memory as the exponentials take
    total = exponentials.sum(1, keepdim=True)  # [m, 1]
    losses = (total.log() + highest - label_logit).squeeze(1)
    chunk = _Chunk(losses, correct=(label_logit >= highest).squeeze(1))
    if not derive:
        return chunk, None
    minus_one = -paddle.ones_like(total)
    return chunk, paddle.put_along_axis(exponentials / total, column, minus_one, 1, reduce="add")


def _sum(chunks: Sequence[_Chunk], weights: Tensor) -> MaskedLoss:
    losses = paddle.concat([chunk.losses for chunk in chunks])
    correct = paddle.concat([chunk.correct for chunk in chunks])
    return MaskedLoss((losses * weights).sum(), losses, correct)


def _outputs(ctx, chunks: Sequence[_Chunk], weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the forward pass of both layers below returns: total, losses, correct."""
    loss = _sum(chunks, weights)
    # Only the total has a gradient. The backward pass gets None for the other two, not zeros.
    ctx.mark_non_differentiable(loss.losses, loss.correct)
    ctx.set_materialize_grads(False)
    return tuple(loss)


class CrossEntropyOnCpu(PyLayer):
    """The cross-entropy that adds the table's gradient in place to that of its other use."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        weights: Tensor,
        table_gradient: TableGradient,
        products: TableProducts,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_needs, weight_needs, bias_needs = needs_gradient(x, weight, bias)
        chunks = []
        grads_x = []  # [m, H] each
        grad_weight = table_gradient.borrow() if weight_needs else None  # array [V, H]
        grad_bias = None  # [V]
        for rows in _chunks_of(x, weight):
            chunk, grad_logits = _chunk_on_cpu(x[rows], weight, bias, labels[rows], products, derive=True)
            chunks.append(chunk)
            factors = weights[rows].unsqueeze(1)  # [m, 1]
            if bias_needs:
                product = paddle.matmul(factors, grad_logits, transpose_x=True).sum(0)
                grad_bias = product if grad_bias is None else grad_bias + product
            is_first = rows.start == 0
            grad_x = products.gradients(grad_logits, x[rows] * factors, weight, grad_weight, not is_first)
            grads_x.append(grad_x * factors)
        ctx.grad_x = paddle.concat(grads_x) if x_needs else None
        ctx.grad_weight = grad_weight
        ctx.grad_bias = grad_bias
        ctx.table_gradient = table_gradient
        return _outputs(ctx, chunks, weights)

    @staticmethod
    def backward(ctx, grad_total: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        if ctx.grad_weight is not None:
            ctx.table_gradient.add(ctx.grad_weight, grad_total.item())
        grad_x = None if ctx.grad_x is None else ctx.grad_x * grad_total
        grad_bias = None if ctx.grad_bias is None else ctx.grad_bias * grad_total
        ctx.grad_x = ctx.grad_weight = ctx.grad_bias = None
        return grad_x, None, grad_bias, None, None


class CrossEntropy(PyLayer):
    """The cross-entropy in Paddle's own operations, in mixed precision too.

    float16 has no numbers below 6e-8, and a weight is 1 / count. So the products get gradients without
    weights, between -1 and 1, and the rest stays in float32 until the loss scale comes from above.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_needs, weight_needs, bias_needs = needs_gradient(x, weight, bias)
        autocast_dtype = paddle.matmul(x[:1], weight[:1], transpose_y=True).dtype
        largest = weights.abs().max().clip(min=1e-30)  # the products get weights relative to it
        chunks = []
        grads_x = []  # [m, H] each
        grad_weight = None  # [V, H]
        grad_bias = None  # [V]
        for rows in _chunks_of(x, weight):
            chunk, grad_logits = _chunk(x[rows], weight, bias, labels[rows], derive=True)
            chunks.append(chunk)
            factors = weights[rows].unsqueeze(1)  # [m, 1]
            if bias_needs:
                product = (grad_logits * factors).sum(0)
                grad_bias = product if grad_bias is None else grad_bias + product
            grad_logits = grad_logits.astype(autocast_dtype)
            if x_needs:
                grads_x.append(paddle.matmul(grad_logits, weight).astype(factors.dtype) * factors)
            if weight_needs:
                weighted = x[rows] * (factors / largest).astype(x.dtype)
                product = paddle.matmul(grad_logits, weighted, transpose_x=True)
                product = product.astype(largest.dtype) * largest
                grad_weight = product if grad_weight is None else grad_weight.add_(product)
        ctx.gradients = (paddle.concat(grads_x) if x_needs else None, grad_weight, grad_bias)
        ctx.dtypes = (x.dtype, weight.dtype, bias.dtype)
        return _outputs(ctx, chunks, weights)

    @staticmethod
    def backward(ctx, grad_total: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        scaled = []
        for gradient, dtype in zip(ctx.gradients, ctx.dtypes):
            if gradient is not None:
                gradient = (gradient * grad_total.astype(gradient.dtype)).astype(dtype)
            scaled.append(gradient)
        ctx.gradients = None
        return *scaled, None, None
