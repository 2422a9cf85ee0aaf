"""Linear, layer norm, gelu, softmax and dropout: Paddle's own, but for the parts that a CPU can do better.

On a CPU Paddle 3.3's products run on all threads and everything else on one, the gradient of a layer norm in
a slow loop; its dropout draws one 64-bit number per element, and its softmax gives a closed column up to
exp(-64) instead of 0. In training on a CPU each function here does the same mathematics in blocks of rows on
all threads (utils/threads.py), sums over rows as products; tests hold them to Paddle's own within 1e-9 in
float64. Everywhere else (GPU, evaluation, export) they are Paddle's own.

They are made for `backward()`. Through a layer of one's own with several inputs Paddle refuses `paddle.grad`
with respect to some of them only: there, freeze what is to have no gradient (`stop_gradient`).
"""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from utils.threads import as_array, as_rows, over_rows

DRAWN = 1 << 18  # dropout's numbers that one stream of random bits decides on


def on_cpu(x: Tensor) -> bool:
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def training_on_cpu(x: Tensor) -> bool:
    return on_cpu(x) and paddle.is_grad_enabled()


def row_sum(x: Tensor) -> Tensor:
    """[..., H] -> [..., 1]. A product runs on all threads, Paddle's sums do not."""
    return paddle.matmul(x, paddle.ones([x.shape[-1], 1], x.dtype))


def _sums(*arrays: np.ndarray) -> np.ndarray:
    """Of the rows of an array [N, H], or of the product of two: [N, 1]. In half the time of numpy's `sum`."""
    return np.einsum(",".join(["ij"] * len(arrays)) + "->i", *arrays)[:, None]


def _column_sum(x: Tensor) -> Tensor:
    """[..., H] -> [H], in a fiftieth of the time of Paddle's sum."""
    rows = x.reshape([-1, x.shape[-1]])
    return paddle.matmul(paddle.ones([rows.shape[0], 1], x.dtype), rows, transpose_x=True).squeeze(0)


def at_positions(x: Tensor, positions: Tensor | None) -> Tensor:
    """x [B, T, H] at flat positions into B*T, int64 [M]: [M, H]. None: x itself."""
    return x if positions is None else paddle.gather(x.reshape([-1, x.shape[-1]]), positions)


def add_to(x: Tensor, y: Tensor) -> Tensor:
    """x + y, where nothing else uses x: in training on a CPU it is x's own memory.

    What is taken and freed between tensors that are kept for the backward pass leaves holes there, so in
    place is leaner as well as faster.
    """
    return x.add_(y) if training_on_cpu(x) else x + y


def _add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """x [..., H] plus bias [H], in x's own memory."""
    values, terms = as_rows(x), as_array(bias)

    def add(rows: slice) -> None:
        values[rows] += terms

    over_rows(add, *values.shape)
    return x


def _needed(*tensors: Tensor) -> tuple[bool, ...]:
    """Which of a layer's inputs want a gradient, as it stands in the forward pass: to the others Paddle wants
    None from the backward pass."""
    return tuple(not tensor.stop_gradient for tensor in tensors)


class _Linear(PyLayer):
    # Paddle's own backward pass of a sum copies the gradient for each of its terms.
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.needed = _needed(x, weight, bias)
        return _add_bias(paddle.matmul(x, weight), bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensor()
        x_needed, weight_needed, bias_needed = ctx.needed
        by_x = paddle.matmul(gradient, weight, transpose_y=True) if x_needed else None
        by_weight = None
        if weight_needed:
            rows, by_row = (tensor.reshape([-1, tensor.shape[-1]]) for tensor in (x, gradient))
            by_weight = paddle.matmul(rows, by_row, transpose_x=True)
        return by_x, by_weight, _column_sum(gradient) if bias_needed else None


class Linear(nn.Linear):
    """paddle.nn.Linear."""

    def forward(self, x: Tensor) -> Tensor:
        if not training_on_cpu(x):
            return super().forward(x)
        return _Linear.apply(x, self.weight, self.bias)


class _LayerNorm(PyLayer):
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
        by_bias = _column_sum(gradient) if bias_needed else None
        by_weight = _column_sum(gradient * normed) if weight_needed else None
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


class LayerNorm(nn.LayerNorm):
    """paddle.nn.LayerNorm over the last axis."""

    def __init__(self, size: int, epsilon: float):
        super().__init__(size, epsilon)
        self.epsilon = float(np.float32(epsilon))  # as Paddle's kernels hold it, in float64 too

    def forward(self, x: Tensor) -> Tensor:
        if not training_on_cpu(x):
            return super().forward(x)
        return _LayerNorm.apply(x, self.weight, self.bias, self.epsilon)


class _Gelu(PyLayer):
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


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's cdf, exact (erf)."""
    return _Gelu.apply(x) if training_on_cpu(x) else F.gelu(x)


class _Softmax(PyLayer):
    # Paddle's CPU softmax takes a score more than 64 below its row's maximum as 64 below: a closed column
    # would weigh up to exp(-64) = 1.6e-28. That is not nothing: a pad's input is 0 in a fresh model, each
    # layer norm multiplies the gradient of such a vector by 1 / sqrt(epsilon) = 316, and 25 of them make
    # 1e-28 overflow. numpy's exp gives 0.
    @staticmethod
    def forward(ctx, scores: Tensor, bias: Tensor | None) -> Tensor:
        weights = paddle.empty_like(scores)
        inputs, results = as_rows(scores), as_rows(weights)
        if bias is not None and bias.shape != scores.shape:
            bias = bias.expand_as(scores)  # it copies
        terms = None if bias is None else as_rows(bias)

        def work(rows: slice) -> None:
            part = results[rows]
            given = inputs[rows] if terms is None else np.add(inputs[rows], terms[rows], out=part)
            np.subtract(given, given.max(1, keepdims=True), out=part)
            np.exp(part, out=part)
            part /= _sums(part)

        over_rows(work, *inputs.shape)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensor()
        by_scores = paddle.empty_like(gradient)
        gradients, shares, results = as_rows(gradient), as_rows(weights), as_rows(by_scores)

        def derive(rows: slice) -> None:
            along = _sums(gradients[rows], shares[rows])
            part = np.subtract(gradients[rows], along, out=results[rows])
            part *= shares[rows]

        over_rows(derive, *gradients.shape)
        return by_scores


def softmax(scores: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax of scores + bias over the last axis; closed columns get exactly 0, in value and in gradient.

    Args:
        bias: it gets no gradient. On a CPU one of the same shape is the fastest.
    """
    if training_on_cpu(scores):
        return _Softmax.apply(scores, bias)
    return F.softmax(scores if bias is None else scores + bias, axis=-1)


def draw_kept(shape: list[int], probability: float) -> tuple[np.ndarray, float]:
    """What dropout keeps, bool of `shape`, and what it multiplies that by.

    16 random bits decide on an element, so the probability is kept to 1/65536 (and the expectation exactly).
    Seeded by a draw from Paddle's own generator: paddle.seed, its saved state and recompute all hold.
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


class _Dropout(PyLayer):
    # A byte per element is kept; a product of tensors would keep two floats.
    @staticmethod
    def forward(ctx, x: Tensor, probability: float, residual: Tensor | None) -> Tensor:
        ctx.kept, ctx.scale = draw_kept(x.shape, probability)
        ctx.needed = _needed(x) if residual is None else _needed(x, residual)
        return _Dropout.applied(x, ctx, residual)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        by_x = _Dropout.applied(gradient, ctx) if ctx.needed[0] else None
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


def dropout(x: Tensor, probability: float, training: bool, residual: Tensor | None = None) -> Tensor:
    """Zero elements with this probability and scale the rest up, in training only; then add `residual`.

    Args:
        x: where nothing else uses it: in training on a CPU the sum may be its own memory.
    """
    if training and probability > 0.0:
        if on_cpu(x):
            return _Dropout.apply(x, probability, residual)
        x = F.dropout(x, probability, training=True)
    return x if residual is None else add_to(x, residual)
