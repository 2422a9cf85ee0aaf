"""Linear, layer norm, gelu and dropout: Paddle's own, or in training on a CPU those of `model.cpu`."""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from model.cpu import DropoutOnCpu, GeluOnCpu, LayerNormOnCpu, LinearOnCpu, on_cpu, training_on_cpu


def at_positions(x: Tensor, positions: Tensor | None) -> Tensor:
    """Rows of x [N, H] at `positions`, int64 [M]: [M, H]. None: x itself."""
    return x if positions is None else paddle.gather(x, positions)


def add_to(x: Tensor, y: Tensor) -> Tensor:
    """x + y, for an x that nothing else uses: in training on a CPU the sum takes x's own memory.

    Memory that is taken and freed between tensors that wait for the backward pass leaves holes. Adding in
    place therefore needs less memory, and it is faster.
    """
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

    Args:
        x: nothing else may use it: in training on a CPU the sum may take its memory.
    """
    if training and probability > 0.0:
        if on_cpu(x):
            return DropoutOnCpu.apply(x, probability, residual)
        x = F.dropout(x, probability, training=True)
    return x if residual is None else add_to(x, residual)
