"""The word table in its two uses: rows of the input, and the logits of masked positions with their loss.

The loss takes the vocabulary in slices and keeps a sum of exponentials, so no array of [M, V] exists: what
Apple's Cut Cross-Entropy (Wijmans et al. 2024) does in a kernel. The backward pass computes the slices again.

On a CPU Paddle makes a gradient of the whole table for each use in each micro-batch (768 MB at base size,
zeroed on one thread) and adds them up. In training on a CPU both uses therefore add to one `weight.grad` in
place, the slices stay in the processor's cache, and up to MOST_LOGITS of them are kept for the backward pass.

It is the same mathematics; tests hold both forms to Paddle's own within 1e-9 in float64.

So on a CPU the gradients of table and output bias grow in the backward pass itself: `paddle.grad` of a loss
adds to them too, and cannot return them.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from model.layers import training_on_cpu
from utils.threads import as_array, as_rows, over_rows

MOST_LOGITS = 1 << 27  # that exist at a time: 512 MB in float32
_SLICE = 2048  # words, on a CPU: with 300 positions 2.4 MB of logits and 6 MB of the table
_WIDE_SLICE = 1 << 14  # words, elsewhere: large products; with 2,500 positions 160 MB in float32


def row_parts(rows: int, columns: int) -> list[slice]:
    """Cut `rows` so that none of the parts has more than MOST_LOGITS logits in its `columns`."""
    size = max(1, MOST_LOGITS // columns)
    return [slice(start, start + size) for start in range(0, rows, size)]


class TableGradient:
    """The gradient of a word table in training on a CPU, and the rows of it that may differ from 0.

    A batch of fine-tuning touches a few thousand of 250,002 words. Both uses of the table add to
    `weight.grad` in place, and its memory is kept from step to step, because a hole of its size would be
    filled with other tensors. The optimizer asks for the rows and leaves the others alone
    (`training.lazy_adamw`).

    Args:
        weight: the table [V, H].

    Attributes:
        rows: bool [V], True where the kept gradient may differ from 0; None where any row may.
    """

    def __init__(self, weight: Tensor):
        self.weight, self.rows = weight, None
        self._kept: np.ndarray | None = None

    def array(self, zero: bool = True) -> np.ndarray:
        """`weight.grad` as an array [V, H] to add to.

        Args:
            zero: a gradient that begins here begins with zeros; False: with any content, for a caller that
                overwrites all of it.
        """
        if self.weight.grad is None:
            if self._kept is None:
                self._kept = as_array(paddle.zeros_like(self.weight))
                self.rows = np.zeros(len(self._kept), bool)
            if zero:
                self._kept[slice(None) if self.rows is None else self.rows] = 0
                self.rows = np.zeros(len(self._kept), bool)
            self.weight.grad_ = _tensor(self._kept)  # `grad_` and not `grad`, which would copy it
        return as_array(self.weight.grad)

    def add_rows(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Add `values` [N, H] to the rows `ids` [N]; a row may occur more than once."""
        table = self.array()
        if self.rows is not None:
            self.rows[ids] = True
        _add_rows(table, ids, values)

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


class WordEmbeddings(nn.Embedding):
    """paddle.nn.Embedding that owns the gradient of its table in training on a CPU.

    Attributes:
        gradient: of `weight`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradient = TableGradient(self.weight)
        if not self.weight.stop_gradient:
            self.weight.register_hook(self._paddle_adds)

    def _paddle_adds(self, gradient: Tensor | None) -> None:
        if gradient is not None:  # None is what `_LookUp` gives
            self.gradient.any_row()

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] int64 -> [B, T, H]."""
        if self.weight.stop_gradient or not training_on_cpu(self.weight):
            return super().forward(ids)
        return _LookUp.apply(self.weight, ids, self.gradient)


def logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, H] times the table [V, H], plus bias [V]: [M, V]."""
    return paddle.matmul(x, weight, transpose_y=True) + bias


def cross_entropy(x: Tensor, table: WordEmbeddings, bias: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label] of each position, without an array of [M, V].

    Args:
        x: [M, H], M at least 1.
        table: its weight is [V, H].
        bias: [V].
        labels: [M] int64, from 0 to V - 1.

    Returns:
        [M], in float64 where x is, else in float32 (under amp too).
    """
    if training_on_cpu(x):
        return _CrossEntropy.apply(x, table.weight, bias, labels.numpy(), table.gradient)
    return _RecomputedCrossEntropy.apply(x, table.weight, bias, labels)


class _LookUp(PyLayer):
    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor, table_gradient: TableGradient) -> Tensor:
        ctx.ids, ctx.table_gradient = ids.numpy(), table_gradient
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:
        ctx.table_gradient.add_rows(ctx.ids.ravel(), as_rows(gradient))


class _CrossEntropy(PyLayer):
    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor, labels: np.ndarray, table_gradient: TableGradient
    ) -> Tensor:
        ctx.table_gradient = table_gradient
        ctx.kept = [] if x.shape[0] * weight.shape[0] <= MOST_LOGITS else None
        total, before = 0.0, -np.inf
        with np.errstate(all="ignore"):  # numbers that are not finite are the training loop's to see
            for words, part, highest in _exponentials(x, weight, bias):
                total = total * np.exp(before - highest) + part.sum(1, keepdims=True)  # [M, 1]
                before = highest
                if ctx.kept is not None:
                    ctx.kept.append((words, part, highest))
            log_total = np.log(total) + highest
            own = (as_array(x) * as_array(weight)[labels]).sum(1) + as_array(bias)[labels]
            losses = log_total[:, 0] - own
        ctx.inputs, ctx.labels, ctx.log_total = (x, weight, bias), labels, log_total
        return _tensor(losses)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        x, weight, bias = ctx.inputs
        table, scale, by_x = as_array(weight), as_array(gradient)[:, None], np.zeros_like(as_array(x))
        is_first = weight.grad is None
        by_weight = None if weight.stop_gradient else ctx.table_gradient.array(zero=False)
        if not bias.stop_gradient and bias.grad is None:
            bias.grad_ = paddle.zeros_like(bias)
        by_bias = None if bias.stop_gradient else as_array(bias.grad)
        ctx.table_gradient.any_row()
        slices = _exponentials(x, weight, bias) if ctx.kept is None else ctx.kept
        with np.errstate(all="ignore"):
            # The softmax's part of the gradient. The factor of each row stands in x, not in [M, V].
            for words, part, highest in slices:
                part, factor = _tensor(part), scale * np.exp(highest - ctx.log_total)  # [M, 1]
                by_x += factor * as_array(paddle.matmul(part, _tensor(table[words])))
                if by_bias is not None:
                    factors = paddle.to_tensor(factor)
                    by_bias[words] += as_array(paddle.matmul(factors, part, transpose_x=True))[0]
                if by_weight is None:
                    continue
                scaled = paddle.to_tensor(factor * as_array(x))
                if is_first:
                    paddle.matmul(part, scaled, transpose_x=True, out=_tensor(by_weight[words]))
                else:
                    by_weight[words] += as_array(paddle.matmul(part, scaled, transpose_x=True))
            # The labels' part: -1 in one column each.
            by_x -= scale * table[ctx.labels]
            if by_bias is not None:
                np.subtract.at(by_bias, ctx.labels, scale[:, 0])
            if by_weight is not None:
                _add_rows(by_weight, ctx.labels, -scale * as_array(x))
        return None if x.stop_gradient else _tensor(by_x), None, None


class _RecomputedCrossEntropy(PyLayer):
    """For any device: Paddle's calls only. Products are in amp's precision, all else is in float32 or 64."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
        exact = paddle.float64 if x.dtype == paddle.float64 else paddle.float32
        total = own = paddle.zeros([x.shape[0], 1], exact)
        highest = paddle.full_like(total, -np.inf)
        for words in _slices(weight):
            part = paddle.matmul(x, weight[words], transpose_y=True)  # [M, words]
            ctx.precision = part.dtype
            part = part.astype(exact) + bias[words].astype(exact)
            before, highest = highest, paddle.maximum(highest, part.max(1, keepdim=True))
            total = total * (before - highest).exp() + (part - highest).exp().sum(1, keepdim=True)
            column, inside = _place(labels, words)
            own = own + paddle.take_along_axis(part, column, 1) * inside.astype(exact)
        log_total = total.log() + highest  # [M, 1]
        ctx.save_for_backward(x, weight, bias, labels, log_total)
        return (log_total - own).squeeze(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, labels, log_total = ctx.saved_tensor()
        exact, low = log_total.dtype, x.astype(ctx.precision)
        scale = gradient.astype(exact).unsqueeze(1)  # [M, 1]
        by_x = paddle.zeros(x.shape, exact)
        by_weight = None if weight.stop_gradient else paddle.empty_like(weight)
        by_bias = None if bias.stop_gradient else paddle.empty_like(bias)
        with paddle.amp.auto_cast(enable=False):
            for words in _slices(weight):
                table = weight[words].astype(ctx.precision)
                part = paddle.matmul(low, table, transpose_y=True).astype(exact) + bias[words].astype(exact)
                part = (part - log_total).exp() * scale  # the softmax's part of the gradient
                column, inside = _place(labels, words)
                label = -scale * inside.astype(exact)  # the label's: -1 in one column
                part = paddle.put_along_axis(part, column, label, 1, reduce="add")
                if by_bias is not None:
                    by_bias[words] = part.sum(0).astype(bias.dtype)
                part = part.astype(ctx.precision)
                by_x += paddle.matmul(part, table).astype(exact)
                if by_weight is not None:
                    by_weight[words] = paddle.matmul(part, low, transpose_x=True).astype(weight.dtype)
        return None if x.stop_gradient else by_x.astype(x.dtype), by_weight, by_bias, None


def _slices(weight: Tensor) -> Iterator[slice]:
    for start in range(0, weight.shape[0], _WIDE_SLICE):
        yield slice(start, min(start + _WIDE_SLICE, weight.shape[0]))


def _place(labels: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """Each label's column in a slice, or any where it is not there, int64 [M, 1]; whether it is, [M, 1]."""
    labels = labels.unsqueeze(1)
    inside = (labels >= words.start) & (labels < words.stop)
    return (labels - words.start).clip(0, words.stop - words.start - 1), inside


def _exponentials(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Consecutive words, their exp(logits - highest) [M, words], the highest logit so far [M, 1]."""
    table, biases, highest = as_array(weight), as_array(bias), -np.inf
    for start in range(0, len(table), _SLICE):
        words = slice(start, start + _SLICE)
        part = as_array(paddle.matmul(x.detach(), _tensor(table[words]), transpose_y=True))
        highest = np.array(np.broadcast_to(highest, [len(part), 1]), part.dtype)
        over_rows(partial(_exponentiate, part, biases[words], highest), *part.shape)
        yield words, part, highest


def _exponentiate(part: np.ndarray, bias: np.ndarray, highest: np.ndarray, rows: slice) -> None:
    """In place, some rows: `highest` [M, 1] grows to the maximum, part [M, n] becomes exp(logits - highest).

    Args:
        part: logits without their bias [n].
    """
    part, highest = part[rows], highest[rows]
    part += bias
    np.maximum(highest, part.max(1, keepdims=True), out=highest)
    part -= highest
    np.exp(part, out=part)


def _add_rows(table: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
    """table[rows[i]] += values[i] for all i, in one order always; a row may occur more than once."""
    order = np.argsort(rows, kind="stable")
    distinct, starts = np.unique(rows[order], return_index=True)
    table[distinct] += np.add.reduceat(values[order], starts, axis=0)


def _tensor(array: np.ndarray) -> Tensor:
    return paddle.from_dlpack(array)
