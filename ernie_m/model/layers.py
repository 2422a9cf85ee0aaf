"""Layers of the encoder, by Paddle's operations or faster ones (`ernie_m/model/kernels.py`)."""

from collections.abc import Sequence

import numpy as np
from paddle import Tensor, nn

from ernie_m.model.kernel_selection import get_kernels
from ernie_m.model.word_embeddings import WordEmbeddings


def use_bfloat16(model: nn.Layer) -> None:
    """Make the linear layers and the masked-LM loss of a model compute in bfloat16 on a CPU."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, Linear | WordEmbeddings):
            layer.in_bfloat16 = True


class Linear(nn.Linear):
    """paddle.nn.Linear with I inputs and O outputs, optionally in bfloat16 on a CPU.

    Attributes:
        in_bfloat16: whether the matrix product is in bfloat16 on a CPU.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.in_bfloat16 = False

    def forward(self, x: Tensor) -> Tensor:
        """Apply the linear layer: x [..., I] -> [..., O]."""
        return apply_linear_layers(x, [self])[0]


def apply_linear_layers(x: Tensor, layers: Sequence[Linear], dtype: str = "float32") -> Sequence[Tensor]:
    """Apply linear layers to the same input: x [..., I] -> [..., O] per layer.

    Args:
        layers: all or none of them compute in bfloat16, for which x is rounded once.
        dtype: dtype of the results if a CPU computes in bfloat16.
    """
    return get_kernels(x).apply_linear(x, layers, dtype)


class LayerNorm(nn.LayerNorm):
    """paddle.nn.LayerNorm over the last axis."""

    def __init__(self, size: int, epsilon: float):
        super().__init__(size, epsilon)
        # Paddle's kernels use epsilon as float32, even if x is float64; all kernels do the same.
        self.epsilon = float(np.float32(epsilon))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize over the last axis: x [..., H] -> [..., H]."""
        return get_kernels(x).layer_norm(x, self.weight, self.bias, self.epsilon)


def gelu(x: Tensor) -> Tensor:
    """Compute the exact GELU (with erf, not tanh) of each element: [..., H] -> [..., H]."""
    return get_kernels(x).gelu(x)


def dropout(x: Tensor, probability: float, training: bool, residual: Tensor | None = None) -> Tensor:
    """Apply inverted dropout to x [..., H] in training, then add `residual` [..., H], if given."""
    if training and probability > 0.0:
        return get_kernels(x).dropout(x, probability, residual)
    return x if residual is None else x + residual
