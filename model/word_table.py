"""The word table in its two uses: rows of the input, and the logits of masked positions with their loss.

The loss takes the positions in chunks, as many as LOGITS_BYTES of logits hold, and makes the gradients of
each chunk in the forward pass, so that no logits wait for the backward pass. The gradient from above is then
one number, the factor of the whole sum.

On a CPU Paddle makes a gradient of the whole table for each use in each micro-batch (768 MB at base size,
zeroed on one thread) and adds them up. In training on a CPU both uses therefore add to one `weight.grad` in
place. `paddle.grad` of a loss adds to it too, and cannot return it.
"""

import weakref
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from model import device
from model.cpu import bfloat16
from model.cpu.rows import add, as_array, as_tensor
from model.cpu.word_table import LookUpOnCpu, add_rows, cross_entropy_

LOGITS_BYTES = 1 << 29  # that exist at a time: 512 MB
_WORDS = 1 << 14  # of a gradient that is added to another one at a time


def row_parts(rows: int, columns: int, bytes_each: int = 4) -> list[slice]:
    """Cut `rows` so that the logits of no part need more than LOGITS_BYTES."""
    size = max(1, LOGITS_BYTES // (columns * bytes_each))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


class TableGradient:
    """The gradient of a word table [V, H] in training on a CPU, and the rows of it that may differ from 0.

    Both uses of the table add to `weight.grad` in place, and its memory is kept from step to step, because
    other tensors would take the space if it were freed. A batch of fine-tuning touches a few thousand of
    250,002 words: the optimizer asks for these rows and leaves the others alone (`training.optimizer`).

    Attributes:
        rows: bool [V], True where the kept gradient may differ from 0; None where any row may.
    """

    def __init__(self, weight: Tensor):
        self.weight, self.rows = weight, None
        self._kept: np.ndarray | None = None
        self._lent: weakref.ref | None = None  # the part of a loss that is made in the kept memory

    def array(self) -> np.ndarray:
        """`weight.grad` as an array [V, H] to add to; a gradient that begins here begins with zeros."""
        if self.weight.grad is None:
            if self._is_lent():
                self.weight.grad_ = paddle.zeros_like(self.weight)
            else:
                kept = self._memory()
                kept[slice(None) if self.rows is None else self.rows] = 0
                self.rows = np.zeros(len(kept), bool)
                self.weight.grad_ = as_tensor(kept)  # `grad_` and not `grad`, which would copy it
        return as_array(self.weight.grad)

    def add_rows(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Add `values` [N, H] to the rows `ids` [N]; a row may occur more than once."""
        table = self.array()
        if self.rows is not None:
            self.rows[ids] = True
        add_rows(table, ids, values)

    def borrow(self) -> np.ndarray:
        """Memory [V, H] for the gradient of one loss, with any content, to be given back to `add`.

        It is the kept memory where that is free: then the loss's gradient becomes `weight.grad` as it is.
        """
        if self.weight.grad is not None or self._is_lent():
            return as_array(paddle.empty_like(self.weight))
        part = self._memory()[:]
        self._lent, self.rows = weakref.ref(part), None
        return part

    def add(self, part: np.ndarray, factor: float) -> None:
        """Add `factor` times what `borrow` gave and the loss has filled."""
        if self._lent is not None and self._lent() is part:
            self._lent = None
            if self.weight.grad is None:
                self.weight.grad_ = as_tensor(self._kept)
                if factor != 1.0:
                    self._kept *= factor
                return
        add(self.array(), part, factor)
        self.rows = None

    def rows_of(self, gradient: Tensor) -> np.ndarray | None:
        """The rows, bool [V], where `gradient` may differ from 0; None: any row."""
        is_kept = self._kept is not None and as_array(gradient).ctypes.data == self._kept.ctypes.data
        return self.rows if is_kept else None

    def square(self) -> Tensor:
        """The sum of the squares of `weight.grad`, float64 []."""
        gradient, rows = self.weight.grad, self.rows_of(self.weight.grad)
        if rows is not None:
            gradient = paddle.to_tensor(as_array(gradient)[rows])
        return paddle._C_ops.squared_l2_norm(gradient).astype("float64")

    def scale_(self, factor: float) -> None:
        """Multiply `weight.grad` in place."""
        rows = self.rows_of(self.weight.grad)
        if rows is None:
            self.weight.grad.scale_(factor)
        else:
            as_array(self.weight.grad)[rows] *= factor

    def any_row(self) -> None:
        """From now on any row may differ from 0: others have added to the gradient."""
        self.rows = None

    def _memory(self) -> np.ndarray:
        if self._kept is None:
            self._kept = as_array(paddle.zeros_like(self.weight))
            self.rows = np.zeros(len(self._kept), bool)
        return self._kept

    def _is_lent(self) -> bool:
        return self._lent is not None and self._lent() is not None


class WordEmbeddings(nn.Embedding):
    """paddle.nn.Embedding that owns the `gradient` of its table in training on a CPU."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradient = TableGradient(self.weight)
        self.in_bfloat16 = False
        if not self.weight.stop_gradient:
            self.weight.register_hook(self._paddle_adds)

    def use_bfloat16(self) -> None:
        """Compute the three products of `cross_entropy` in bfloat16 on a CPU."""
        self.in_bfloat16 = True

    def _paddle_adds(self, gradient: Tensor | None) -> None:
        if gradient is not None:  # None is what `LookUpOnCpu` gives
            self.gradient.any_row()

    def forward(self, ids: Tensor) -> Tensor:
        """[N] int64 -> [N, H]."""
        if self.weight.stop_gradient or not device.training_on_cpu(self.weight):
            return super().forward(ids)
        return LookUpOnCpu.apply(self.weight, ids, self.gradient)


class MaskedLoss(NamedTuple):
    """What M masked positions gave."""

    total: Tensor  # the sum of the losses times their weights, [], with a gradient
    losses: Tensor  # [M], without their weights or a gradient, float32 (float64 of a model in float64)
    correct: Tensor  # bool [M], whether no logit is above the label's


def logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, H] times the table [V, H], plus bias [V]: [M, V]."""
    return paddle.matmul(x, weight, transpose_y=True) + bias


def cross_entropy(
    x: Tensor, table: WordEmbeddings, bias: Tensor, labels: Tensor, weights: Tensor | None = None
) -> MaskedLoss:
    """-log softmax(logits)[label] of each position, without an array of [M, V].

    Args:
        x, bias: [M, H], M at least 1; [V].
        labels: [M] int64, from 0 to V - 1.
        weights: [M] float, of each loss in the sum; None: 1. They get no gradient.
    """
    exact = "float64" if x.dtype == paddle.float64 else "float32"
    weights = paddle.ones([x.shape[0]], exact) if weights is None else weights.astype(exact)
    in_bfloat16 = table.in_bfloat16 and device.on_cpu(x)
    found: list[tuple[Tensor, Tensor]] = []
    if paddle.is_grad_enabled() and not all(part.stop_gradient for part in (x, table.weight, bias)):
        total = _CrossEntropy.apply(
            x, table.weight, bias, labels, weights, table.gradient, in_bfloat16, found
        )
    else:
        for rows in _parts(x, table.weight):
            found.append(_derive(x[rows], table.weight, bias, labels[rows], False, in_bfloat16)[:2])
        total = (paddle.concat([losses for losses, _ in found]) * weights).sum()
    losses, correct = (paddle.concat(list(column)) for column in zip(*found))
    return MaskedLoss(total, losses, correct)


def _parts(x: Tensor, weight: Tensor) -> list[slice]:
    return row_parts(x.shape[0], weight.shape[0], 8 if x.dtype == paddle.float64 else 4)


def _derive(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, derive: bool, in_bfloat16: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses and hits of rows x [m, H] and, with `derive`, the losses' gradients by logits [m, V]."""
    part = (
        bfloat16.table_logits(x, weight)
        if in_bfloat16
        else paddle.matmul(x, weight, transpose_y=True)  # in amp's precision
    )
    if device.on_cpu(part):
        losses, correct = cross_entropy_(part, bias, as_array(labels), derive)
        return as_tensor(losses), paddle.to_tensor(correct), part
    exact = paddle.float64 if part.dtype == paddle.float64 else paddle.float32
    column = labels.unsqueeze(1)
    part = part.astype(exact) + bias.astype(exact)
    top, own = part.max(1, keepdim=True), paddle.take_along_axis(part, column, 1)
    part = (part - top).exp()
    total = part.sum(1, keepdim=True)
    losses, correct = (total.log() + top - own).squeeze(1), (own >= top).squeeze(1)
    if derive:
        part = paddle.put_along_axis(part / total, column, -paddle.ones_like(total), 1, reduce="add")
    return losses, correct, part


class _CrossEntropy(PyLayer):
    # float16 has no numbers below 6e-8, and a weight is 1 / count. So the products get gradients without
    # weights, between -1 and 1, and the rest stays in float32 until the loss scale comes from above.
    @staticmethod
    def forward(
        ctx, x, weight, bias, labels, weights, table_gradient: TableGradient, in_bfloat16: bool, found: list
    ) -> Tensor:
        x_needed, weight_needed, bias_needed = (not part.stop_gradient for part in (x, weight, bias))
        ctx.table = table_gradient if device.on_cpu(x) else None
        ctx.dtypes = x.dtype, weight.dtype, bias.dtype
        top = weights.abs().max().clip(min=1e-30)
        by_x, by_weight, by_bias = [], None, None
        for rows in _parts(x, weight):
            losses, correct, part = _derive(x[rows], weight, bias, labels[rows], True, in_bfloat16)
            found.append((losses, correct))
            factors = weights[rows].unsqueeze(1)  # [m, 1]
            if bias_needed:
                product = paddle.matmul(factors, part, transpose_x=True) if ctx.table else part * factors
                by_bias = product.sum(0) if by_bias is None else by_bias + product.sum(0)
            if in_bfloat16:
                is_first = by_weight is None
                if is_first and weight_needed:
                    by_weight = table_gradient.borrow()
                scaled = x[rows] * factors
                by_part = bfloat16.table_gradients(part, scaled, weight, by_weight, add=not is_first)
                by_x.append(by_part * factors)
                continue
            low = paddle.matmul(x[:1], weight[:1], transpose_y=True).dtype  # amp's precision
            part = part.astype(low)
            if x_needed:
                by_x.append(paddle.matmul(part, weight).astype(factors.dtype) * factors)
            if weight_needed and ctx.table:
                by_weight = _add_product(by_weight, part, x[rows] * factors.astype(x.dtype), table_gradient)
            elif weight_needed:
                scaled = x[rows] * (factors / top).astype(x.dtype)
                product = paddle.matmul(part, scaled, transpose_x=True).astype(top.dtype) * top
                by_weight = product if by_weight is None else by_weight.add_(product)
        ctx.gradients = paddle.concat(by_x) if x_needed else None, by_weight, by_bias
        return (paddle.concat([losses for losses, _ in found]) * weights).sum()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_x, by_weight, by_bias = ctx.gradients
        ctx.gradients = None
        if ctx.table and by_weight is not None:
            ctx.table.add(by_weight, gradient.item())
            by_weight = None
        scaled = (
            None if part is None else (part * gradient.astype(part.dtype)).astype(dtype)
            for part, dtype in zip((by_x, by_weight, by_bias), ctx.dtypes)
        )  # fmt: skip
        return (*scaled, None, None)


def _add_product(total: np.ndarray | None, part: Tensor, x: Tensor, table: TableGradient) -> np.ndarray:
    """total [V, H] += part^T x, for part [m, V] and x [m, H]; None begins a total in the table's memory."""
    if total is None:
        total = table.borrow()
        paddle.matmul(part, x, transpose_x=True, out=as_tensor(total))
        return total
    for start in range(0, len(total), _WORDS):
        product = paddle.matmul(part[:, start : start + _WORDS], x, transpose_x=True)
        add(total[start : start + _WORDS], as_array(product))
    return total
