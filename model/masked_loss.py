"""Cross-entropy over the whole vocabulary, in memory that does not grow with the number of positions.

The masked positions are taken in chunks; the logits of one take at most LOGITS_BYTES. The gradients of a
chunk are made in the forward pass, so that no logits wait for the backward pass. What the backward pass then
gets from above is one number, the factor of the whole sum. `model/loss_on_cpu.py` and `model/loss_on_gpu.py`
compute a chunk; plain kernels make all logits at once.
"""

from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from model import device
from model.loss_on_cpu import LossOnCpu
from model.loss_on_gpu import LossOnGpu
from model.word_table import WordEmbeddings

LOGITS_BYTES = 1 << 29  # of the logits that exist at a time: 512 MB
# The same on a GPU with MUCH_MEMORY. There must be fewer than 2^31 logits, because Paddle's fused
# cross-entropy computes the place of a row in 32 bits (`VectorizedSoftmaxForward` in
# paddle/phi/kernels/gpu/cross_entropy_kernel.cu).
MANY_LOGITS_BYTES = 1 << 31
MUCH_MEMORY = 39 << 30  # bytes; a card that is sold with 40 GB reports a little less than 40 << 30


class MaskedLoss(NamedTuple):
    """The loss of M masked positions."""

    total: Tensor  # the sum of the losses times their weights, [], with a gradient
    losses: Tensor  # [M], without their weights or a gradient, float32 (float64 of a model in float64)
    correct: Tensor  # bool [M], whether no logit is above the label's


def logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, H] times the table [V, H], plus bias [V]: [M, V]."""
    return paddle.matmul(x, weight, transpose_y=True) + bias


def logit_chunks(position_count: int, vocab_size: int, bytes_per_logit: int) -> list[slice]:
    """Slices of the positions, such that the logits of a slice fit into the memory for logits.

    Args:
        position_count: M, the number of masked positions.
        vocab_size: V, the number of logits of a position.
        bytes_per_logit: of their type.
    """
    memory_for_logits = MANY_LOGITS_BYTES if device.memory() >= MUCH_MEMORY else LOGITS_BYTES
    size = max(1, memory_for_logits // (bytes_per_logit * vocab_size))  # positions of a slice
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
    if device.has_plain_kernels():  # the definition, with all logits at once
        scores = logits(x, table.weight, bias).astype(loss_weights.dtype)  # [M, V]
        losses = F.cross_entropy(scores, labels, reduction="none")  # [M]
        label_logit = paddle.take_along_axis(scores, labels.unsqueeze(1), axis=1).squeeze(1)  # [M]
        correct = label_logit >= scores.max(1)
        return MaskedLoss((losses * loss_weights).sum(), losses.detach(), correct)

    all_frozen = x.stop_gradient and table.weight.stop_gradient and bias.stop_gradient
    kernels_class = LossOnCpu if device.on_cpu(x) else LossOnGpu
    kernels = kernels_class(x, table, bias, loss_weights)
    # `words` is V, on a GPU with padding.
    chunks = logit_chunks(x.shape[0], kernels.words, kernels.bytes_per_logit)
    if paddle.is_grad_enabled() and not all_frozen:
        outputs = CrossEntropy.apply(x, table.weight, bias, labels, loss_weights, kernels, chunks)
        return MaskedLoss(*outputs)
    with paddle.amp.auto_cast(False):
        results = [kernels.losses(x[rows], labels[rows]) for rows in chunks]
    losses, correct = (paddle.concat(parts) for parts in zip(*results))
    return MaskedLoss((losses * loss_weights).sum(), losses, correct)


class CrossEntropy(PyLayer):
    """The sum of weighted losses of x [M, H]; the gradients are made in the forward pass.

    Args:
        weight, bias: the word table [V, H] and its bias [V].
        labels: int64 [M].
        loss_weights: float [M], the factor of each loss in the sum.
        kernels: those of the device, which keep the gradients of the table until the backward pass.
        chunks: the positions of each chunk.

    Returns:
        What `MaskedLoss` has. Only the sum has a gradient.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        loss_weights: Tensor,
        kernels: LossOnCpu | LossOnGpu,
        chunks: list[slice],
    ) -> tuple[Tensor, Tensor, Tensor]:
        with paddle.amp.auto_cast(False):
            results = [kernels.derive(x[rows], labels[rows], loss_weights[rows]) for rows in chunks]
        losses, correct, grads_x = zip(*results)
        losses = paddle.concat(losses)
        correct = paddle.concat(correct)
        ctx.grad_x = None if x.stop_gradient else paddle.concat(grads_x)  # [M, H]
        ctx.x_dtype = x.dtype
        ctx.kernels = kernels
        ctx.mark_non_differentiable(losses, correct)
        ctx.set_materialize_grads(False)  # the backward pass gets None for these two, not zeros
        return (losses * loss_weights).sum(), losses, correct

    @staticmethod
    def backward(ctx, grad_total: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        grad_x = None if ctx.grad_x is None else (ctx.grad_x * grad_total).astype(ctx.x_dtype)
        grad_weight, grad_bias = ctx.kernels.table_gradients(grad_total)
        ctx.grad_x = ctx.kernels = None  # frees the memory
        return grad_x, grad_weight, grad_bias, None, None  # labels and loss weights have no gradient
