"""The masked-LM loss on a CPU: cross-entropy over the vocabulary, in chunks of masked positions.

The gradients of a chunk are computed in the forward pass, so that no logits are kept. The backward pass only
multiplies the gradients by the gradient of the total loss.
"""

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from ernie_m.model.cpu import bfloat16
from ernie_m.model.cpu.numpy_views import add_scaled_, as_array, as_tensor, run_on_row_slices

BLOCK_WORDS = 1 << 14  # rows of the embedding matrix per gradient update


class CpuCrossEntropy(PyLayer):
    """Compute the fields of `ernie_m.model.lm_head.MaskedLMLoss`, and the gradients, in the forward pass.

    Only the total loss has a gradient.

    Args:
        x: output of `LMHead.transform`, [M, H].
        weight: embedding matrix, [V, H].
        bias: [V].
        labels: int64 [M].
        loss_weights: float [M], weight of each loss in the sum.
        kernels: keeps the gradients of `weight` and `bias` until the backward pass.
        chunks: slices of the M positions.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        loss_weights: Tensor,
        kernels: "CpuMaskedLMLoss",
        chunks: Sequence[slice],
    ) -> tuple[Tensor, Tensor, Tensor]:
        # `kernels` has weight and bias. They are arguments so that Paddle requests their gradients.
        # Each call of `compute_gradients` accumulates these in `kernels`, for the backward pass.
        results = [kernels.compute_gradients(x[rows], labels[rows], loss_weights[rows]) for rows in chunks]
        losses_of_chunks, correct_of_chunks, grad_x_of_chunks = zip(*results)
        losses = paddle.concat(losses_of_chunks)  # [M]
        correct = paddle.concat(correct_of_chunks)
        ctx.grad_x = None if x.stop_gradient else paddle.concat(grad_x_of_chunks)  # [M, H]
        ctx.kernels = kernels
        ctx.mark_non_differentiable(losses, correct)
        ctx.set_materialize_grads(False)  # the backward pass gets None for these two instead of zeros
        return (losses * loss_weights).sum(), losses, correct

    @staticmethod
    def backward(ctx, grad_total: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        grad_x = None if ctx.grad_x is None else ctx.grad_x * grad_total
        grad_weight, grad_bias = ctx.kernels.take_gradients(grad_total)
        # Free the memory now, because `ctx` may outlive this pass.
        ctx.grad_x = None
        ctx.kernels = None
        return grad_x, grad_weight, grad_bias, None, None  # no gradients of labels and loss weights


class CpuMaskedLMLoss:
    """Losses of chunks of masked positions, and the accumulated gradients of their weighted sum.

    Args:
        table: the embedding matrix [V, H].
        bias: [V], added to the logits.
    """

    def __init__(self, table: nn.Embedding, bias: Tensor):
        self._table = table
        self._bias = bias
        self._grad_weight: np.ndarray | None = None  # [V, H]
        self._grad_bias: Tensor | None = None  # [V]

    def compute_losses(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the losses of a chunk x [m, H] without gradients.

        Args:
            labels: int64 [m].

        Returns:
            The losses, [m], and whether no logit exceeds the label's, bool [m].
        """
        return cross_entropy_(self._compute_logits(x), self._bias, as_array(labels), with_gradients=False)

    def compute_gradients(
        self, x: Tensor, labels: Tensor, loss_weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the losses of a chunk x [m, H] and the gradients of their weighted sum.

        The gradients of the embedding matrix and the bias are accumulated for `take_gradients`.

        Args:
            labels: int64 [m].
            loss_weights: [m], weight of each loss.

        Returns:
            The results of `compute_losses`, and the gradient of x, [m, H].
        """
        logits = self._compute_logits(x)  # [m, V]
        losses, correct = cross_entropy_(logits, self._bias, as_array(labels), with_gradients=True)
        grad_logits = logits  # `cross_entropy_` has replaced logits by gradients
        factors = loss_weights.unsqueeze(1)  # [m, 1]
        if not self._bias.stop_gradient:
            product = paddle.matmul(factors, grad_logits, transpose_x=True).sum(0)  # [1, V] -> [V]
            self._grad_bias = product if self._grad_bias is None else self._grad_bias + product
        is_first = self._grad_weight is None  # the first chunk overwrites the borrowed memory
        if is_first and not self._table.weight.stop_gradient:
            weight, owner = self._table.weight, self._table.gradient
            self._grad_weight = as_array(paddle.empty_like(weight)) if owner is None else owner.get_buffer()
        # The weights of the losses are not multiplied into `grad_logits`, which is large, but into x for the
        # gradient of the matrix, and into the gradient of x.
        grad_x = self._compute_logits_gradient(grad_logits, x * factors, accumulate=not is_first)
        return losses, correct, grad_x * factors

    def take_gradients(self, grad_total: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the accumulated gradients of the embedding matrix [V, H] and of the bias [V].

        A result is None for a frozen parameter, and for a matrix whose gradient is accumulated in place.

        Args:
            grad_total: gradient of the weighted sum of all losses, [].
        """
        grad_weight = None
        if self._grad_weight is not None and self._table.gradient is None:
            grad_weight = as_tensor(self._grad_weight) * grad_total
        elif self._grad_weight is not None:
            self._table.gradient.add_buffer(self._grad_weight, factor=grad_total.item())
        return grad_weight, None if self._grad_bias is None else self._grad_bias * grad_total

    def _compute_logits(self, x: Tensor) -> Tensor:
        """Compute the logits of x [m, H] without the bias: [m, V]."""
        if self._table.in_bfloat16:
            return bfloat16.compute_logits(x, self._table.weight)
        return paddle.matmul(x, self._table.weight, transpose_y=True)

    def _compute_logits_gradient(self, grad_logits: Tensor, weighted_x: Tensor, accumulate: bool) -> Tensor:
        """Compute the backward pass of `_compute_logits`.

        The matrix gradient is added to `_grad_weight`, if needed.

        Args:
            grad_logits: [m, V], without the weights of the losses.
            weighted_x: [m, H], x times the weights of the losses.
            accumulate: whether to add the matrix gradient to that of earlier chunks, not overwrite it.

        Returns:
            The gradient of x, [m, H], without the weights of the losses.
        """
        weight = self._table.weight
        grad_weight = self._grad_weight
        if self._table.in_bfloat16:
            return bfloat16.compute_logits_gradient(grad_logits, weighted_x, weight, grad_weight, accumulate)
        if grad_weight is not None and not accumulate:
            # The tensor shares the memory of the array, so the product is written to `grad_weight`.
            paddle.matmul(grad_logits, weighted_x, transpose_x=True, out=as_tensor(grad_weight))
        elif grad_weight is not None:
            # In blocks, because a product needs additional memory before it is added.
            for start in range(0, len(grad_weight), BLOCK_WORDS):
                words = slice(start, start + BLOCK_WORDS)
                product = paddle.matmul(grad_logits[:, words], weighted_x, transpose_x=True)
                add_scaled_(grad_weight[words], as_array(product))
        return paddle.matmul(grad_logits, weight)


def cross_entropy_(
    logits: Tensor, bias: Tensor, labels: np.ndarray, with_gradients: bool
) -> tuple[Tensor, Tensor]:
    """Compute cross-entropy losses from logits [m, V] without the bias [V], and overwrite the logits.

    Args:
        labels: int64 [m].
        with_gradients: whether to overwrite the logits with each loss's gradient with respect to them.

    Returns:
        The losses [m], and whether no logit exceeds the label's, bool [m].
    """
    values = as_array(logits)
    biases = as_array(bias)
    losses = np.empty(len(values), values.dtype)
    correct = np.empty(len(values), bool)

    def process_rows(rows: slice) -> None:
        part = values[rows]
        at_label = (np.arange(len(part)), labels[rows])  # indexes the logit of each row's label
        part += biases
        highest = part.max(1, keepdims=True)  # [rows, 1]
        label_logit = part[at_label][:, None]  # [rows, 1]
        correct[rows] = (label_logit >= highest)[:, 0]
        part -= highest
        np.exp(part, out=part)
        exp_sum = np.einsum("ij->i", part)[:, None]  # [rows, 1], twice as fast as `sum`
        losses[rows] = (np.log(exp_sum) + highest - label_logit)[:, 0]
        if with_gradients:  # softmax, less 1 at the label
            part /= exp_sum
            part[at_label] -= 1.0

    run_on_row_slices(process_rows, *values.shape)
    return as_tensor(losses), as_tensor(correct)
