"""Linear, layer norm, gelu, softmax and dropout: Paddle's own, but for the parts that a CPU can do better.

On a CPU in training, Paddle 3.3's gradients of a bias, of a layer norm and of gelu run on one thread or in
slow loops, its dropout draws one 64-bit number per element, and its softmax gives a closed column up to
exp(-64) instead of 0. Each function here says the same mathematics in other Paddle calls; tests hold them
to Paddle's own within 1e-9 in float64. Everywhere else (GPU, evaluation, export) they are Paddle's own.

They are made for `backward()`. Through a layer of one's own with several inputs Paddle refuses `paddle.grad`
with respect to some of them only: there, freeze what is to have no gradient (`stop_gradient`).
"""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from utils.arrays import as_array


def on_cpu(x: Tensor) -> bool:
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def training_on_cpu(x: Tensor) -> bool:
    return on_cpu(x) and paddle.is_grad_enabled()


def row_sum(x: Tensor) -> Tensor:
    """[..., H] -> [..., 1]. A product runs on all threads, Paddle's sums do not."""
    return paddle.matmul(x, paddle.ones([x.shape[-1], 1], x.dtype))


# What is to be added to x [..., H], or multiplied with it, is laid out in its shape by a product: that takes
# a tenth of the time of Paddle's broadcast, and the sum over the rows as a product a fiftieth of Paddle's.


def _ones(x: Tensor) -> Tensor:
    """[N, 1], N the rows of x [..., H]."""
    return paddle.ones([x.size // x.shape[-1], 1], x.dtype)


def _rows(vector: Tensor, x: Tensor) -> Tensor:
    """[H] as each row of the shape of x [..., H]."""
    return paddle.matmul(_ones(x), vector.unsqueeze(0)).reshape(x.shape)


def _columns(vector: Tensor, x: Tensor) -> Tensor:
    """[..., 1] as each column of the shape of x [..., H]."""
    return paddle.matmul(vector, paddle.ones([1, x.shape[-1]], x.dtype))


def _column_sum(x: Tensor) -> Tensor:
    """[..., H] -> [H]."""
    return paddle.matmul(_ones(x), x.reshape([-1, x.shape[-1]]), transpose_x=True).squeeze(0)


def at_positions(x: Tensor, positions: Tensor | None) -> Tensor:
    """x [B, T, H] at flat positions into B*T, int64 [M]: [M, H]. None: x itself."""
    return x if positions is None else paddle.gather(x.reshape([-1, x.shape[-1]]), positions)


def add_to(x: Tensor, y: Tensor) -> Tensor:
    """x + y, where nothing else uses x: in training on a CPU it is x's own memory.

    What is taken and freed between tensors that are kept for the backward pass leaves holes there, so in
    place is leaner as well as faster.
    """
    return x.add_(y) if training_on_cpu(x) else x + y


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """x [..., H] plus bias [H]."""
    return add_to(_rows(bias, x), x) if training_on_cpu(x) else x + bias


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
        y = paddle.matmul(x, weight)
        return y.add_(_rows(bias, y))

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
        size = x.shape[-1]
        normed = x - _columns(row_sum(x).scale_(1.0 / size), x)
        variance = row_sum(normed * normed).scale_(1.0 / size)
        scale = paddle.rsqrt(variance + epsilon)  # [..., 1]
        normed.multiply_(_columns(scale, x))
        ctx.save_for_backward(normed, scale, weight)
        ctx.needed = _needed(x, weight, bias)
        return (normed * _rows(weight, x)).add_(_rows(bias, x))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, weight = ctx.saved_tensor()
        x_needed, weight_needed, bias_needed = ctx.needed
        by_bias = _column_sum(gradient) if bias_needed else None
        by_weight = _column_sum(gradient * normed) if weight_needed else None
        if not x_needed:
            return None, by_weight, by_bias
        by_x = gradient * _rows(weight, gradient)
        size = gradient.shape[-1]
        mean = row_sum(by_x).scale_(1.0 / size)
        along = row_sum(by_x * normed).scale_(1.0 / size)  # [..., 1]
        by_x.subtract_(_columns(mean, by_x)).subtract_(_columns(along, by_x).multiply_(normed))
        return by_x.multiply_(_columns(scale, by_x)), by_weight, by_bias


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
        scaled = x * math.sqrt(0.5)
        cdf = paddle.erf(scaled).scale_(0.5, 0.5)
        pdf = scaled.multiply_(scaled).scale_(-1.0, -0.5 * math.log(2 * math.pi))
        np.exp(as_array(pdf), out=as_array(pdf))  # in half the time of Paddle's
        ctx.save_for_backward(pdf.multiply_(x).add_(cdf))
        return cdf.multiply_(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensor()
        return gradient * derivative


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's cdf, exact (erf)."""
    return _Gelu.apply(x) if training_on_cpu(x) else F.gelu(x)


class _Softmax(PyLayer):
    # Paddle's CPU softmax takes a score more than 64 below its row's maximum as 64 below: a closed column
    # would weigh up to exp(-64) = 1.6e-28. That is not nothing: a pad's input is 0 in a fresh model, each
    # layer norm multiplies the gradient of such a vector by 1 / sqrt(epsilon) = 316, and 25 of them make
    # 1e-28 overflow.
    NO_WEIGHT = 2e-28

    @staticmethod
    def forward(ctx, scores: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            scores.add_(bias)
        weights = F.relu_(F.softmax(scores, axis=-1).scale_(1.0, -_Softmax.NO_WEIGHT))
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensor()
        along = row_sum(weights * gradient)  # [..., 1]
        return (gradient - _columns(along, gradient)).multiply_(weights)


def softmax(scores: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax of scores + bias over the last axis; closed columns get exactly 0, in value and in gradient.

    Args:
        scores: where nothing else uses them: in training on a CPU the bias is added to their own memory.
        bias: of the same shape on a CPU; it gets no gradient.
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
    seed = paddle.randint(0, np.iinfo(np.int32).max, [4], "int32").numpy()
    size = math.prod(shape)
    bits = np.random.SFC64(np.random.SeedSequence(seed)).random_raw(-(-size // 4)).view(np.uint16)[:size]
    return (bits < kept).reshape(shape), levels / kept


class _Dropout(PyLayer):
    # A byte per element is kept; a product of tensors would keep two floats.
    @staticmethod
    def forward(ctx, x: Tensor, probability: float, residual: Tensor | None) -> Tensor:
        ctx.kept, ctx.scale = draw_kept(x.shape, probability)
        ctx.needed = _needed(x) if residual is None else _needed(x, residual)
        y = _Dropout.applied(x, ctx)
        return y if residual is None else y.add_(residual)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        by_x = _Dropout.applied(gradient, ctx) if ctx.needed[0] else None
        return (by_x, *(gradient if needed else None for needed in ctx.needed[1:]))

    @staticmethod
    def applied(x: Tensor, ctx) -> Tensor:
        y = paddle.empty_like(x)
        result = as_array(y)
        np.copyto(result, ctx.kept)
        result *= ctx.scale
        result *= as_array(x)
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
