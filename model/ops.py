"""Linear, layer norm, gelu, softmax and dropout: Paddle's own, but for the parts that a CPU can do better.

On a CPU in training, Paddle 3.3's gradients of a bias, of a layer norm and of gelu run on one thread or in
slow loops, its dropout draws one 64-bit number per element, and its softmax gives a closed column up to
exp(-64) instead of 0. Each function here says the same mathematics in other Paddle calls; tests hold them
to Paddle's own within 1e-9 in float64. Everywhere else (GPU, evaluation, export) they are Paddle's own.
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


def _rows(vector: Tensor, x: Tensor) -> Tensor:
    """[H] repeated in the shape of x [..., H].

    Made as a product, its gradient is one too, 1 x N times N x H. Paddle's own gradient of a broadcast
    takes 20 to 100 times as long for that sum over the rows.
    """
    ones = paddle.ones([x.size // x.shape[-1], 1], vector.dtype)
    return paddle.matmul(ones, vector.unsqueeze(0)).reshape(x.shape)


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


class Linear(nn.Linear):
    """paddle.nn.Linear."""

    def forward(self, x: Tensor) -> Tensor:
        if not training_on_cpu(x):
            return super().forward(x)
        return add_bias(paddle.matmul(x, self.weight), self.bias)


class _Normalise(PyLayer):
    @staticmethod
    def forward(ctx, x: Tensor, epsilon: float) -> Tensor:
        centred = x - row_sum(x).scale_(1.0 / x.shape[-1])
        squares = np.einsum("...h,...h->...", as_array(centred), as_array(centred))[..., None]
        scale = paddle.to_tensor(1.0 / np.sqrt(squares / x.shape[-1] + epsilon))  # [..., 1]
        normed = centred.multiply_(scale)
        ctx.save_for_backward(normed, scale)
        return normed

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        normed, scale = ctx.saved_tensor()
        mean = row_sum(gradient).scale_(1.0 / gradient.shape[-1])
        along = row_sum(gradient * normed).scale_(1.0 / gradient.shape[-1])  # [..., 1]
        return (gradient - mean).subtract_(normed * along).multiply_(scale)


class LayerNorm(nn.LayerNorm):
    """paddle.nn.LayerNorm over the last axis."""

    def __init__(self, size: int, epsilon: float):
        super().__init__(size, epsilon)
        self.epsilon = float(np.float32(epsilon))  # as Paddle's kernels hold it, in float64 too

    def forward(self, x: Tensor) -> Tensor:
        if not training_on_cpu(x):
            return super().forward(x)
        normed = _Normalise.apply(x, self.epsilon)
        return add_bias(normed * _rows(self.weight, x), self.bias)


class _Gelu(PyLayer):
    # The derivative is made in the forward pass, where the cdf is at hand, and kept in place of x.
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        scaled = x * math.sqrt(0.5)
        cdf = paddle.erf(scaled).scale_(0.5, 0.5)
        pdf = scaled.multiply_(scaled).scale_(-1.0, -0.5 * math.log(2 * math.pi)).exp_()
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
    def forward(ctx, scores: Tensor) -> Tensor:
        weights = F.relu_(F.softmax(scores, axis=-1).scale_(1.0, -_Softmax.NO_WEIGHT))
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensor()
        along = row_sum(weights * gradient)  # [..., 1]
        return (gradient - along).multiply_(weights)


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis; closed columns get exactly 0, in value and in gradient."""
    return _Softmax.apply(scores) if training_on_cpu(scores) else F.softmax(scores, axis=-1)


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
    def forward(ctx, x: Tensor, probability: float) -> Tensor:
        ctx.kept, ctx.scale = draw_kept(x.shape, probability)
        return _Dropout.applied(x, ctx)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Dropout.applied(gradient, ctx)

    @staticmethod
    def applied(x: Tensor, ctx) -> Tensor:
        y = paddle.empty_like(x)
        result = as_array(y)
        np.copyto(result, ctx.kept)
        result *= ctx.scale
        result *= as_array(x)
        return y


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero elements with this probability and scale the rest up, in training only."""
    if not training or probability == 0.0:
        return x
    return _Dropout.apply(x, probability) if on_cpu(x) else F.dropout(x, probability, training=True)
