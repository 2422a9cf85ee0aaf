"""What a CPU can do better than Paddle's own kernels: the same mathematics, in blocks of rows on all threads.

docs/cpu.md says why. NumPy releases the interpreter lock while it computes, so Python threads are enough;
OpenMP's threads must sleep between products (`KMP_BLOCKTIME` in utils/runtime.py). Use the layers with
`backward()`: for a custom `PyLayer`, Paddle refuses `paddle.grad` with respect to only some of the inputs.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

BLOCK = 1 << 18  # numbers in one slice of rows, so that a slice stays in the processor's cache
DRAWN = 1 << 18  # numbers of dropout that one stream of random bits decides on


def on_cpu(x: Tensor) -> bool:
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def training_on_cpu(x: Tensor) -> bool:
    return on_cpu(x) and paddle.is_grad_enabled()


def as_array(x: Tensor) -> np.ndarray:
    """The memory of a CPU tensor as an array; writing to the array changes the tensor."""
    x = x.detach()
    return np.asarray(_Memory(x)) if x.size else x.numpy()  # NumPy refuses the null pointer of an empty one


def as_rows(x: Tensor) -> np.ndarray:
    """A contiguous CPU tensor [..., H] as an array [N, H] that shares its memory."""
    return as_array(x).reshape([-1, x.shape[-1]])


class _Memory:
    # The array of np.from_dlpack may be read-only, so the pointer is passed on directly.
    def __init__(self, x: Tensor):
        dtype = np.dtype(str(x.dtype).removeprefix("paddle."))
        self.owner = x
        self.__array_interface__ = {
            "version": 3, "shape": tuple(x.shape), "typestr": dtype.str, "data": (x.data_ptr(), False),
            "strides": tuple(dtype.itemsize * stride for stride in x.strides),
        }  # fmt: skip


def over_rows(work: Callable[[slice], None], rows: int, width: int) -> None:
    """Call `work` for slices of `rows` rows of `width` numbers, several at a time and in no order.

    `work` must not call `over_rows`, and each row may depend only on its own values, so that the result does
    not depend on the number of threads. NumPy's floating-point warnings are switched off.
    """
    threads = thread_count()
    size = max(1, min(BLOCK // width, -(-rows // threads)))
    parts = [slice(start, start + size) for start in range(0, rows, size)]
    own, *shares = (parts[first::threads] for first in range(threads))
    others = [_pool().submit(_each, work, share) for share in shares if share]
    _each(work, own)
    for other in others:
        other.result()  # raises what went wrong in that thread


def thread_count() -> int:
    """The number of threads that this process should use."""
    return max(1, int(os.environ.get("OMP_NUM_THREADS") or 1))


def _each(work: Callable[[slice], None], parts: list[slice]) -> None:
    with np.errstate(all="ignore"):
        for part in parts:
            work(part)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), "rows")


def _sums(*arrays: np.ndarray) -> np.ndarray:
    """The row sums of an array [N, H], or of the product of two: [N, 1]. Twice as fast as numpy's `sum`."""
    return np.einsum(",".join(["ij"] * len(arrays)) + "->i", *arrays)[:, None]


def column_sum(x: Tensor) -> Tensor:
    """[..., H] -> [H], in a fiftieth of the time of Paddle's sum."""
    rows = x.reshape([-1, x.shape[-1]])
    return paddle.matmul(paddle.ones([rows.shape[0], 1], x.dtype), rows, transpose_x=True).squeeze(0)


def _needed(*tensors: Tensor) -> tuple[bool, ...]:
    """Which inputs of a layer want a gradient; for the others the backward pass must return None."""
    return tuple(not tensor.stop_gradient for tensor in tensors)


class LinearOnCpu(PyLayer):
    # Paddle's own backward pass of a sum copies the gradient for each of its terms.
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.needed = _needed(x, weight, bias)
        y = paddle.matmul(x, weight)
        add(as_rows(y), as_array(bias))
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensor()
        x_needed, weight_needed, bias_needed = ctx.needed
        by_x = paddle.matmul(gradient, weight, transpose_y=True) if x_needed else None
        by_weight = None
        if weight_needed:
            rows, by_row = (tensor.reshape([-1, tensor.shape[-1]]) for tensor in (x, gradient))
            by_weight = paddle.matmul(rows, by_row, transpose_x=True)
        return by_x, by_weight, column_sum(gradient) if bias_needed else None


class LayerNormOnCpu(PyLayer):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        y, normed = paddle.empty_like(x), paddle.empty_like(x)
        inputs, results, normed_rows = as_rows(x), as_rows(y), as_rows(normed)
        scale = np.empty([len(inputs), 1], inputs.dtype)
        factors, terms, size = as_array(weight), as_array(bias), x.shape[-1]

        def norm(rows: slice) -> None:
            part = np.subtract(inputs[rows], _sums(inputs[rows]) / size, out=normed_rows[rows])
            scale[rows] = 1.0 / np.sqrt(_sums(part, part) / size + epsilon)
            part *= scale[rows]
            np.multiply(part, factors, out=results[rows])
            results[rows] += terms

        over_rows(norm, *inputs.shape)
        ctx.save_for_backward(normed, weight)
        ctx.scale, ctx.needed = scale, _needed(x, weight, bias)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, weight = ctx.saved_tensor()
        x_needed, weight_needed, bias_needed = ctx.needed
        by_bias = column_sum(gradient) if bias_needed else None
        by_weight = column_sum(gradient * normed) if weight_needed else None
        if not x_needed:
            return None, by_weight, by_bias
        by_x = paddle.empty_like(gradient)
        gradients, normed_rows, results = as_rows(gradient), as_rows(normed), as_rows(by_x)
        factors, size = as_array(weight), gradient.shape[-1]

        def derive(rows: slice) -> None:
            part = np.multiply(gradients[rows], factors, out=results[rows])
            along = _sums(part, normed_rows[rows]) / size
            part -= _sums(part) / size
            part -= along * normed_rows[rows]
            part *= ctx.scale[rows]

        over_rows(derive, *gradients.shape)
        return by_x, by_weight, by_bias


class GeluOnCpu(PyLayer):
    # The derivative is made in the forward pass, where the cdf is at hand, and kept in place of x.
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y, derivative = paddle.empty_like(x), paddle.empty_like(x)
        inputs, results, derivatives = as_rows(x), as_rows(y), as_rows(derivative)

        def work(rows: slice) -> None:
            part, pdf = inputs[rows], derivatives[rows]
            scaled = part * math.sqrt(0.5)
            cdf = as_array(paddle.erf(paddle.from_dlpack(scaled)).scale_(0.5, 0.5))
            np.multiply(scaled, scaled, out=pdf)
            np.subtract(-0.5 * math.log(2 * math.pi), pdf, out=pdf)
            np.exp(pdf, out=pdf)
            pdf *= part
            pdf += cdf
            np.multiply(cdf, part, out=results[rows])

        over_rows(work, *inputs.shape)
        ctx.save_for_backward(derivative)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensor()
        by_x = paddle.empty_like(gradient)
        gradients, derivatives, results = as_rows(gradient), as_rows(derivative), as_rows(by_x)
        over_rows(
            lambda rows: np.multiply(gradients[rows], derivatives[rows], out=results[rows]), *gradients.shape
        )
        return by_x


def draw_kept(shape: list[int], probability: float) -> tuple[np.ndarray, float]:
    """Draw the elements that dropout keeps, bool of `shape`; also return the factor that scales them.

    Each element uses 16 random bits, so the probability is rounded to 1/65536; the expectation is exact.
    The seed is drawn from Paddle's generator, so paddle.seed, its saved state and recompute work as usual.
    """
    levels = 1 << 16
    kept = round((1 - probability) * levels)
    if kept in (0, levels):
        return np.full(shape, kept > 0), 1.0
    seed = paddle.randint(0, np.iinfo(np.int32).max, [4], "int32").tolist()
    size = math.prod(shape)
    result = np.empty(size, bool)
    parts = np.split(result, range(DRAWN, size, DRAWN))

    def draw(numbers: slice) -> None:
        for number in range(len(parts))[numbers]:
            part, key = parts[number], (number,) if number else ()
            source = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key))
            bits = source.random_raw(-(-len(part) // 4)).view(np.uint16)[: len(part)]
            np.less(bits, kept, out=part)

    over_rows(draw, len(parts), DRAWN)
    return result.reshape(shape), levels / kept


class DropoutOnCpu(PyLayer):
    # A byte per element is kept; a product of tensors would keep two floats.
    @staticmethod
    def forward(ctx, x: Tensor, probability: float, residual: Tensor | None) -> Tensor:
        ctx.kept, ctx.scale = draw_kept(x.shape, probability)
        ctx.needed = _needed(x) if residual is None else _needed(x, residual)
        return DropoutOnCpu.applied(x, ctx, residual)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        by_x = DropoutOnCpu.applied(gradient, ctx) if ctx.needed[0] else None
        return (by_x, *(gradient if needed else None for needed in ctx.needed[1:]))

    @staticmethod
    def applied(x: Tensor, ctx, residual: Tensor | None = None) -> Tensor:
        y = paddle.empty_like(x)
        inputs, results = as_rows(x), as_rows(y)
        kept = ctx.kept.reshape(inputs.shape)
        terms = None if residual is None else as_rows(residual)

        def work(rows: slice) -> None:
            part = results[rows]
            np.copyto(part, kept[rows])
            part *= ctx.scale
            part *= inputs[rows]
            if terms is not None:
                part += terms[rows]

        over_rows(work, *inputs.shape)
        return y


class AttentionOnCpu(PyLayer):
    """softmax(q k^T / sqrt(D)) v of sequences in one row of tokens: [N, H] -> [N, H].

    Each group of sequences is copied into rectangles [b, heads, T, D] and back, on all threads.
    """

    @staticmethod
    def forward(ctx, query, key, value, groups: Sequence, heads: int, probability: float) -> Tensor:
        context = paddle.empty_like(query)
        ctx.groups, ctx.heads, ctx.parts = groups, heads, []
        ctx.scale = (query.shape[-1] // heads) ** -0.5
        keep = not all(x.stop_gradient for x in (query, key, value))
        for group in groups:
            q = _into_rectangle(query, group, heads, ctx.scale)
            k, v = (_into_rectangle(x, group, heads) for x in (key, value))
            weights = paddle.matmul(q, k, transpose_y=True)  # [b, heads, T, T]
            kept = draw_kept(weights.shape, probability) if probability > 0.0 else None
            dropped = _softmax_(weights, group.closed, kept)
            _out_of_rectangle(paddle.matmul(dropped, v), group, context)
            if keep:
                ctx.parts.append((q, k, v, weights, dropped, kept))
        return context

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        by_query, by_key, by_value = (paddle.empty_like(gradient) for _ in range(3))
        for group, (q, k, v, weights, dropped, kept) in zip(ctx.groups, ctx.parts):
            by_context = _into_rectangle(gradient, group, ctx.heads)
            by_weights = paddle.matmul(by_context, v, transpose_y=True)
            _out_of_rectangle(paddle.matmul(dropped, by_context, transpose_x=True), group, by_value)
            _softmax_gradient_(by_weights, weights, kept)
            _out_of_rectangle(paddle.matmul(by_weights, k), group, by_query, ctx.scale)
            _out_of_rectangle(paddle.matmul(by_weights, q, transpose_x=True), group, by_key)
        return by_query, by_key, by_value


def _into_rectangle(x: Tensor, group, heads: int, factor: float = 1.0) -> Tensor:
    """The group's rows of x [N, H], times `factor`: [b, heads, T, D], 0 at pads."""
    (count, width), size = group.shape, x.shape[-1] // heads
    result = paddle.empty([count, heads, width, size], x.dtype)
    _copy(result, group, x, factor, inwards=True)
    return result


def _out_of_rectangle(rectangle: Tensor, group, x: Tensor, factor: float = 1.0) -> None:
    """Write the real tokens of [b, heads, T, D], times `factor`, into their rows of x [N, H]."""
    _copy(rectangle, group, x, factor, inwards=False)


def _copy(rectangle: Tensor, group, x: Tensor, factor: float, inwards: bool) -> None:
    values, rows = as_array(rectangle), as_array(x)
    count, heads, _, size = values.shape

    def copy(numbers: slice) -> None:
        for number in range(count)[numbers]:
            start, length = group.starts[number], group.lengths[number]
            part = rows[start : start + length].reshape([length, heads, size]).swapaxes(0, 1)
            inside = values[number, :, :length]
            source, target = (part, inside) if inwards else (inside, part)
            np.multiply(source, factor, out=target)
            if inwards:
                values[number, :, length:] = 0.0

    over_rows(copy, count, values[0].size)


def _softmax_(scores: Tensor, closed: np.ndarray | None, kept: tuple[np.ndarray, float] | None) -> Tensor:
    """In place: softmax over the last axis of scores [b, heads, T, T]. Returns what dropout leaves of it.

    `closed`, bool [b, 1, 1 or T, T], is where the result is exactly 0; `kept` is from `draw_kept`.
    """
    values, width = as_array(scores), scores.shape[-1]
    dropped = scores if kept is None else paddle.empty_like(scores)
    results = as_array(dropped)

    def work(numbers: slice) -> None:
        part = values[numbers]
        if closed is not None:
            np.copyto(part, -np.inf, where=closed[numbers])
        part -= part.max(-1, keepdims=True)
        np.exp(part, out=part)
        rows = part.reshape([-1, width])
        rows /= _sums(rows)
        if kept is not None:
            np.multiply(part, kept[0][numbers], out=results[numbers])
            results[numbers] *= kept[1]

    over_rows(work, len(values), values[0].size)
    return dropped


def _softmax_gradient_(gradient: Tensor, weights: Tensor, kept: tuple[np.ndarray, float] | None) -> None:
    """In place: the gradient of the dropped weights becomes the gradient of the scores."""
    gradients, shares = as_rows(gradient), as_rows(weights)
    mask = None if kept is None else kept[0].reshape(shares.shape)

    def work(rows: slice) -> None:
        part = gradients[rows]
        if kept is not None:
            part *= mask[rows]
            part *= kept[1]
        part -= _sums(part, shares[rows])
        part *= shares[rows]

    over_rows(work, *gradients.shape)


class LookUpOnCpu(PyLayer):
    """Rows of a table [V, H]; the gradient is added to the table's own in place."""

    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor, table_gradient) -> Tensor:
        ctx.ids, ctx.table_gradient = ids.numpy(), table_gradient
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:
        ctx.table_gradient.add_rows(ctx.ids.ravel(), as_rows(gradient))


def cross_entropy_(
    logits: Tensor, bias: Tensor, labels: np.ndarray, derive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The losses [m] of logits [m, V] without their bias [V], and whether no logit is above the label's.

    The logits are lost; with `derive` each loss's gradient with respect to its logits takes their place.
    """
    values, terms = as_array(logits), as_array(bias)
    losses, right = np.empty(len(values), values.dtype), np.empty(len(values), bool)

    def work(rows: slice) -> None:
        part, own = values[rows], labels[rows]
        columns = np.arange(len(own)), own
        part += terms
        top, label = part.max(1, keepdims=True), part[columns][:, None]
        right[rows] = (label >= top)[:, 0]
        part -= top
        np.exp(part, out=part)
        total = _sums(part)
        losses[rows] = (np.log(total) + top - label)[:, 0]
        if derive:
            part /= total
            part[columns] -= 1.0

    over_rows(work, *values.shape)
    return losses, right


def add_rows(table: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
    """table[rows[i]] += values[i] for all i, always in the same order; a row may occur more than once."""
    order = np.argsort(rows, kind="stable")
    distinct, starts = np.unique(rows[order], return_index=True)
    table[distinct] += np.add.reduceat(values[order], starts, axis=0)


def add(total: np.ndarray, part: np.ndarray, factor: float = 1.0) -> None:
    """total [V, H] += factor x part, [V, H] or [H], on all threads."""

    def work(rows: slice) -> None:
        terms = part if part.ndim == 1 else part[rows]
        total[rows] += terms if factor == 1.0 else terms * factor

    over_rows(work, *total.shape)


# What the model calls, on every device


def at_positions(x: Tensor, positions: Tensor | None) -> Tensor:
    """Rows of x [N, H] at `positions`, int64 [M]: [M, H]. None: x itself."""
    return x if positions is None else paddle.gather(x, positions)


def add_to(x: Tensor, y: Tensor) -> Tensor:
    """x + y, for an x that nothing else uses: in training on a CPU the sum takes x's own memory."""
    return x.add_(y) if training_on_cpu(x) else x + y


class Linear(nn.Linear):
    """paddle.nn.Linear."""

    def forward(self, x: Tensor) -> Tensor:
        if not training_on_cpu(x):
            return super().forward(x)
        return LinearOnCpu.apply(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """paddle.nn.LayerNorm over the last axis."""

    def __init__(self, size: int, epsilon: float):
        super().__init__(size, epsilon)
        self.epsilon = float(np.float32(epsilon))  # as Paddle's kernels hold it, in float64 too

    def forward(self, x: Tensor) -> Tensor:
        if not training_on_cpu(x):
            return super().forward(x)
        return LayerNormOnCpu.apply(x, self.weight, self.bias, self.epsilon)


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's cdf, exact (erf)."""
    return GeluOnCpu.apply(x) if training_on_cpu(x) else F.gelu(x)


def dropout(x: Tensor, probability: float, training: bool, residual: Tensor | None = None) -> Tensor:
    """Zero elements with this probability and scale the rest up, in training only; then add `residual`.

    Nothing else may use x: in training on a CPU the sum may take its memory.
    """
    if training and probability > 0.0:
        if on_cpu(x):
            return DropoutOnCpu.apply(x, probability, residual)
        x = F.dropout(x, probability, training=True)
    return x if residual is None else add_to(x, residual)
