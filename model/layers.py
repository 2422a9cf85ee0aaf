"""The layers that the network is made of: Paddle's own, or on a CPU in training those of `model/cpu/`."""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from model import device
from model.cpu.dropout import DropoutOnCpu
from model.cpu.gelu import GeluOnCpu
from model.cpu.layer_norm import LayerNormOnCpu
from model.cpu.linear import LinearOnCpu


class Linear(nn.Linear):
    """paddle.nn.Linear."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        if not device.training_on_cpu(x):
            return super().forward(x)
        return LinearOnCpu.apply(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """paddle.nn.LayerNorm over the last axis."""

    def __init__(self, size: int, epsilon: float):
        super().__init__(size, epsilon)
        self.epsilon = float(np.float32(epsilon))  # as Paddle's kernels hold it, in float64 too

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        if not device.training_on_cpu(x):
            return super().forward(x)
        return LayerNormOnCpu.apply(x, self.weight, self.bias, self.epsilon)


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's cdf, exact (erf)."""
    return GeluOnCpu.apply(x) if device.training_on_cpu(x) else F.gelu(x)


def dropout(x: Tensor, probability: float, training: bool, residual: Tensor | None = None) -> Tensor:
    """Zero elements with this probability and scale the rest up, in training only; then add `residual`.

    Nothing else may use x: in training on a CPU the sum may take its memory.
    """
    if training and probability > 0.0:
        if device.on_cpu(x):
            return DropoutOnCpu.apply(x, probability, residual)
        x = F.dropout(x, probability, training=True)
    return x if residual is None else add_to(x, residual)


def add_to(x: Tensor, y: Tensor) -> Tensor:
    """x + y, for an x that nothing else uses: in training on a CPU the sum takes x's own memory."""
    return x.add_(y) if device.training_on_cpu(x) else x + y


def at_positions(x: Tensor, positions: Tensor | None) -> Tensor:
    """Rows of x [N, H] at `positions`, int64 [M]: [M, H]. None: x itself."""
    return x if positions is None else paddle.gather(x, positions)
