"""Layers of the encoder, by Paddle or, on a CPU, by the kernels of `model/cpu/`."""

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ernie_m.model import kernel_selection
from ernie_m.model.cpu import onednn_check
from ernie_m.model.cpu.bfloat16 import Bfloat16Linear
from ernie_m.model.cpu.layers import CpuDropout, CpuGelu, CpuLayerNorm, CpuLinear
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
    if layers[0].in_bfloat16 and kernel_selection.is_on_cpu(x):
        return Bfloat16Linear.apply(
            x, dtype, *(layer.weight for layer in layers), *(layer.bias for layer in layers)
        )
    if kernel_selection.is_training_on_cpu(x):
        return [CpuLinear.apply(x, layer.weight, layer.bias) for layer in layers]
    return [F.linear(x, layer.weight, layer.bias) for layer in layers]


class LayerNorm(nn.LayerNorm):
    """paddle.nn.LayerNorm over the last axis, computed by oneDNN on a CPU."""

    def __init__(self, size: int, epsilon: float):
        super().__init__(size, epsilon)
        # Paddle's kernels use epsilon as float32, even if x is float64; `CpuLayerNorm` does the same.
        self.epsilon = float(np.float32(epsilon))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize over the last axis: x [..., H] -> [..., H]."""
        if not _uses_onednn(x):
            return super().forward(x)
        return CpuLayerNorm.apply(x, self.weight, self.bias, self.epsilon)


def gelu(x: Tensor) -> Tensor:
    """Compute the exact GELU (with erf, not tanh) of each element: [..., H] -> [..., H]."""
    return CpuGelu.apply(x) if _uses_onednn(x) else F.gelu(x)


def _uses_onednn(x: Tensor) -> bool:
    """Return whether oneDNN computes operations on x: on a CPU, in a supported dtype, if it was verified."""
    return (
        x.dtype in (paddle.float32, paddle.bfloat16)
        and kernel_selection.is_on_cpu(x)
        and onednn_check.is_supported()
    )


def dropout(x: Tensor, probability: float, training: bool, residual: Tensor | None = None) -> Tensor:
    """Apply inverted dropout to x [..., H] in training, then add `residual` [..., H], if given."""
    if training and probability > 0.0:
        if kernel_selection.is_on_cpu(x):
            return CpuDropout.apply(x, probability, residual)
        x = F.dropout(x, probability, training=True)
    return x if residual is None else x + residual


def select_rows(x: Tensor, indices: Tensor | None) -> Tensor:
    """Select rows of x [N, H] by their indices, int64 [M]: [M, H]; None: return x unchanged."""
    return x if indices is None else paddle.gather(x, indices)
