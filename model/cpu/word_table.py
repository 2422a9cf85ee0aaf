"""The word table on a CPU: rows that are looked up, products with the table, and cross-entropy in place."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from model.cpu.rows import add, as_array, as_rows, as_tensor, over_rows, row_sums

if TYPE_CHECKING:
    from model.word_table import TableGradient

_BLOCK_WORDS = 1 << 14  # rows of a word table whose gradients are added at a time


class LookUpOnCpu(PyLayer):
    """Rows of a table [V, H]: ids [N] -> [N, H]. The gradient is added to the table's own in place."""

    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor, table_gradient: "TableGradient") -> Tensor:
        ctx.ids = ids.numpy()
        ctx.table_gradient = table_gradient
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:
        # Returns no gradient: it is added in place.
        ctx.table_gradient.add_rows(ctx.ids.ravel(), as_rows(gradient))


def table_logits(x: Tensor, table: Tensor) -> Tensor:
    """x [m, H] times the word table [V, H]: [m, V]. `model/cpu/bfloat16.py` has the same in bfloat16."""
    return paddle.matmul(x, table, transpose_y=True)


def table_gradients(
    grad_logits: Tensor, x: Tensor, table: Tensor, grad_table: np.ndarray | None, accumulate: bool
) -> Tensor:
    """The gradients of `table_logits`: grad_logits.T @ x that of the table, grad_logits @ table that of x.

    Args:
        grad_logits: [m, V].
        x: [m, H], which the caller may have multiplied by the weights of the losses.
        grad_table: [V, H], where the gradient of the table is written; None: it is not needed.
        accumulate: add to `grad_table` instead.

    Returns:
        The gradient of x, [m, H].
    """
    if grad_table is not None and not accumulate:
        paddle.matmul(grad_logits, x, transpose_x=True, out=as_tensor(grad_table))
    elif grad_table is not None:  # accumulate
        # In blocks, because a product takes memory of its own before it is added.
        for start in range(0, len(grad_table), _BLOCK_WORDS):
            words = slice(start, start + _BLOCK_WORDS)
            product = paddle.matmul(grad_logits[:, words], x, transpose_x=True)
            add(grad_table[words], as_array(product))
    return paddle.matmul(grad_logits, table)


class Losses(NamedTuple):
    """The cross-entropy of m positions."""

    losses: np.ndarray  # [m]
    correct: np.ndarray  # bool [m], whether no logit is above the label's


def cross_entropy_(logits: Tensor, bias: Tensor, labels: np.ndarray, derive: bool) -> Losses:
    """The losses of logits [m, V] to which a bias [V] is still to be added. The logits are overwritten.

    Args:
        labels: int64 [m].
        derive: leave in the place of the logits the gradient of each loss with respect to its logits.
    """
    values = as_array(logits)
    biases = as_array(bias)
    losses = np.empty(len(values), values.dtype)
    correct = np.empty(len(values), bool)

    def work(rows: slice) -> None:
        part = values[rows]
        at_label = (np.arange(len(part)), labels[rows])  # indexes the logit of each row's label
        part += biases
        highest = part.max(1, keepdims=True)  # [rows, 1]
        label_logit = part[at_label][:, None]  # [rows, 1]
        correct[rows] = (label_logit >= highest)[:, 0]
        part -= highest
        np.exp(part, out=part)
        exp_sum = row_sums(part)
        losses[rows] = (np.log(exp_sum) + highest - label_logit)[:, 0]
        if derive:  # softmax, less 1 at the label
            part /= exp_sum
            part[at_label] -= 1.0

    over_rows(work, *values.shape)
    return Losses(losses, correct)


def add_rows(table: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
    """table[rows[i]] += values[i] for all i, always in the same order; a row may occur more than once."""
    order = np.argsort(rows, kind="stable")
    distinct, starts = np.unique(rows[order], return_index=True)
    table[distinct] += np.add.reduceat(values[order], starts, axis=0)
