"""Cross-entropy over the whole vocabulary, in memory that does not grow with the number of positions.

The masked positions are taken in chunks; the logits of one take at most LOGITS_BYTES. The gradients of a
chunk are made in the forward pass, so that no logits wait for the backward pass. What the backward pass then
gets from above is one number, the factor of the whole sum. On a GPU `model/fused_loss.py` computes this;
plain kernels make all logits at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from model import device
from model.chunk_loss import ChunkLoss, joined, loss_outputs
from model.cpu import bfloat16, word_table
from model.cpu.rows import as_array, as_tensor, needs_gradient
from model.fused_loss import FusedCrossEntropy, exact_losses, padded_size, padded_table
from model.word_table import TableGradient, WordEmbeddings

LOGITS_BYTES = 1 << 29  # of the logits that exist at a time: 512 MB
MANY_LOGITS_BYTES = 1 << 31  # the same on a GPU with MUCH_MEMORY
MUCH_MEMORY = 39 << 30  # bytes; a card that is sold with 40 GB reports a little less than 40 << 30
# Paddle's fused cross-entropy computes the place of a row in 32 bits (`VectorizedSoftmaxForward` in
# paddle/phi/kernels/gpu/cross_entropy_kernel.cu).
MOST_LOGITS = (1 << 31) - 1


class MaskedLoss(NamedTuple):
    """The loss of M masked positions."""

    total: Tensor  # the sum of the losses times their weights, [], with a gradient
    losses: Tensor  # [M], without their weights or a gradient, float32 (float64 of a model in float64)
    correct: Tensor  # bool [M], whether no logit is above the label's


def logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, H] times the table [V, H], plus bias [V]: [M, V]."""
    return paddle.matmul(x, weight, transpose_y=True) + bias


def logit_chunks(position_count: int, vocab_size: int, bytes_per_logit: int = 4) -> list[slice]:
    """Slices of the positions, such that the logits of a slice fit into the memory for logits.

    Args:
        position_count: M, the number of masked positions.
        vocab_size: V, the number of logits of a position.
    """
    memory_for_logits = MANY_LOGITS_BYTES if device.memory() >= MUCH_MEMORY else LOGITS_BYTES
    logits_per_slice = min(memory_for_logits // bytes_per_logit, MOST_LOGITS)
    size = max(1, logits_per_slice // vocab_size)  # positions of a slice
    return [slice(start, min(start + size, position_count)) for start in range(0, position_count, size)]


def cross_entropy(
    x: Tensor, table: WordEmbeddings, bias: Tensor, labels: Tensor, loss_weights: Tensor | None = None
) -> MaskedLoss:
    """-log softmax(logits)[label] of each position, without an array of [M, V].

    Args:
        x: [M, H], M at least 1.
        table: the word table [V, H].
        bias: [V], added to the logits.
        labels: [M] int64, from 0 to V - 1.
        loss_weights: [M] float, the factor of each loss in the sum; None: 1. They get no gradient.
    """
    if loss_weights is None:
        loss_weights = paddle.ones([x.shape[0]])
    loss_weights = loss_weights.astype(device.precise_dtype(x))
    if device.has_plain_kernels():
        return _plain(x, table.weight, bias, labels, loss_weights)
    if device.on_cpu(x):
        return _on_cpu(x, table, bias, labels, loss_weights)
    return _fused(x, table.weight, bias, labels, loss_weights)


def _plain(x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, loss_weights: Tensor) -> MaskedLoss:
    """The loss by its definition, with all logits at once.

    Args:
        weight: that of the word table, [V, H]. The other arguments are those of `cross_entropy`.
    """
    scores = logits(x, weight, bias).astype(loss_weights.dtype)  # [M, V]
    losses = F.cross_entropy(scores, labels, reduction="none")  # [M]
    label_logit = paddle.take_along_axis(scores, labels.unsqueeze(1), axis=1).squeeze(1)  # [M]
    correct = label_logit >= scores.max(1)
    return MaskedLoss((losses * loss_weights).sum(), losses.detach(), correct)


def _fused(x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, loss_weights: Tensor) -> MaskedLoss:
    """The loss on a GPU.

    Args:
        weight: that of the word table, [V, H]. The other arguments are those of `cross_entropy`.
    """
    dtype = device.product_dtype(x)
    slices = logit_chunks(
        position_count=x.shape[0],
        vocab_size=padded_size(weight.shape[0]),
        bytes_per_logit=device.bytes_of(dtype),
    )
    if paddle.is_grad_enabled() and any(needs_gradient(x, weight, bias)):
        return MaskedLoss(*FusedCrossEntropy.apply(x, weight, bias, labels, loss_weights, slices, dtype))
    with paddle.amp.auto_cast(False):
        table = padded_table(weight, bias, dtype)
        states = x.astype(dtype)
        chunks = [exact_losses(states[rows], table, labels[rows]) for rows in slices]
        return MaskedLoss(*joined(chunks, loss_weights))


def _on_cpu(
    x: Tensor, table: WordEmbeddings, bias: Tensor, labels: Tensor, loss_weights: Tensor
) -> MaskedLoss:
    """The loss on a CPU; arguments as in `cross_entropy`."""
    weight = table.weight
    products = IN_BFLOAT16 if table.in_bfloat16 else IN_FULL_PRECISION
    if paddle.is_grad_enabled() and any(needs_gradient(x, weight, bias)):
        outputs = CrossEntropyOnCpu.apply(x, weight, bias, labels, loss_weights, table.gradient, products)
        return MaskedLoss(*outputs)
    chunks = []
    for rows in _chunks_of(x, weight):
        chunk, _logits = _chunk_on_cpu(x[rows], weight, bias, labels[rows], products, derive=False)
        chunks.append(chunk)
    return MaskedLoss(*joined(chunks, loss_weights))


class TableProducts(NamedTuple):
    """The products with the word table on a CPU, in one precision."""

    logits: Callable[[Tensor, Tensor], Tensor]  # as `model.cpu.word_table.table_logits`
    gradients: Callable[..., Tensor]  # as `model.cpu.word_table.table_gradients`


IN_FULL_PRECISION = TableProducts(word_table.table_logits, word_table.table_gradients)
IN_BFLOAT16 = TableProducts(bfloat16.table_logits, bfloat16.table_gradients)


def _chunks_of(x: Tensor, weight: Tensor) -> list[slice]:
    """The positions of x [M, H] in chunks, for logits in the type of x."""
    return logit_chunks(
        position_count=x.shape[0], vocab_size=weight.shape[0], bytes_per_logit=device.bytes_of(x.dtype)
    )


def _chunk_on_cpu(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, products: TableProducts, derive: bool
) -> tuple[ChunkLoss, Tensor]:
    """The losses of x [m, H] and, with `derive`, the gradient of each with respect to its logits, [m, V].

    Without `derive` the second tensor has no meaning.
    """
    logits = products.logits(x, weight)  # [m, V], which the gradient replaces
    losses, correct = word_table.cross_entropy_(logits, bias, as_array(labels), derive=derive)
    return ChunkLoss(as_tensor(losses), paddle.to_tensor(correct)), logits


class CrossEntropyOnCpu(PyLayer):
    """The sum of weighted losses of x [M, H]; the gradients are made in the forward pass.

    The table's gradient is added in place to that of the words that are looked up (`TableGradient`).

    Args:
        weight, bias: the word table [V, H] and its bias [V].
        labels: int64 [M].
        loss_weights: float [M], the factor of each loss in the sum.
        table_gradient: of the word table.
        products: with the table, in the precision of the model.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        loss_weights: Tensor,
        table_gradient: TableGradient,
        products: TableProducts,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_needs, weight_needs, bias_needs = needs_gradient(x, weight, bias)
        chunks = []
        grads_x = []  # [m, H] each
        grad_weight = table_gradient.borrow() if weight_needs else None  # array [V, H] with any content
        grad_bias = None  # [V]
        for rows in _chunks_of(x, weight):
            chunk, grad_logits = _chunk_on_cpu(x[rows], weight, bias, labels[rows], products, derive=True)
            chunks.append(chunk)
            factors = loss_weights[rows].unsqueeze(1)  # [m, 1]
            if bias_needs:
                product = paddle.matmul(factors, grad_logits, transpose_x=True).sum(0)  # [1, V] -> [V]
                grad_bias = product if grad_bias is None else grad_bias + product
            # `grad_logits` is without the factors of the losses: the product for the table gets them with x,
            # and the gradient of x gets them after its product.
            is_first = rows.start == 0  # the first chunk overwrites what the borrowed memory holds
            grad_x = products.gradients(
                grad_logits, x[rows] * factors, weight, grad_table=grad_weight, accumulate=not is_first
            )
            grads_x.append(grad_x * factors)
        ctx.grad_x = paddle.concat(grads_x) if x_needs else None
        ctx.grad_weight = grad_weight
        ctx.grad_bias = grad_bias
        ctx.table_gradient = table_gradient
        return loss_outputs(ctx, chunks, loss_weights)

    @staticmethod
    def backward(ctx, grad_total: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        if ctx.grad_weight is not None:
            ctx.table_gradient.add_borrowed(ctx.grad_weight, factor=grad_total.item())
        grad_x = None if ctx.grad_x is None else ctx.grad_x * grad_total
        grad_bias = None if ctx.grad_bias is None else ctx.grad_bias * grad_total
        ctx.grad_x = ctx.grad_weight = ctx.grad_bias = None  # frees the memory
        # The table's gradient is in place already; labels and weights have none.
        return grad_x, None, grad_bias, None, None
