"""The layers of the network: Paddle's, or those of `model/cpu/` for training on a CPU."""

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ernie_m.model import kernel_selection
from ernie_m.model.cpu import onednn_check
from ernie_m.model.cpu.bfloat16 import LinearInBfloat16
from ernie_m.model.cpu.layers import DropoutOnCpu, GeluOnCpu, LayerNormOnCpu, LinearOnCpu
from ernie_m.model.word_embeddings import WordEmbeddings


def use_bfloat16(model: nn.Layer) -> None:
    """Compute linear layers and the masked-LM loss of a model in bfloat16 on a CPU."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, Linear | WordEmbeddings):
            layer.in_bfloat16 = True


class Linear(nn.Linear):
    """paddle.nn.Linear with I inputs and O outputs, optionally in bfloat16 on a CPU.

    Attributes:
        in_bfloat16: whether it multiplies in bfloat16 on a CPU.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.in_bfloat16 = False

    def forward(self, x: Tensor) -> Tensor:
        """Compute [..., I] -> [..., O]."""
        return linear_layers(x, [self])[0]


def linear_layers(x: Tensor, layers: Sequence[Linear], dtype: str = "float32") -> Sequence[Tensor]:
    """Apply linear layers to the same x [..., I]: [..., O] each. In bfloat16 x is rounded once.

    All or none of the layers compute in bfloat16.

    Args:
        dtype: dtype of the results where a CPU multiplies in bfloat16.
    """
    if layers[0].in_bfloat16 and kernel_selection.on_cpu(x):
        return LinearInBfloat16.apply(
            x, dtype, *(layer.weight for layer in layers), *(layer.bias for layer in layers)
        )
    if kernel_selection.training_on_cpu(x):
        return [LinearOnCpu.apply(x, layer.weight, layer.bias) for layer in layers]
    return [F.linear(x, layer.weight, layer.bias) for layer in layers]


class LayerNorm(nn.LayerNorm):
    """paddle.nn.LayerNorm over the last axis."""

    def __init__(self, size: int, epsilon: float):
        super().__init__(size, epsilon)
        # Paddle's kernels use epsilon as float32, even if x is float64; `LayerNormOnCpu` does the same.
        self.epsilon = float(np.float32(epsilon))

    def forward(self, x: Tensor) -> Tensor:
        """Compute [..., H] -> [..., H]."""
        if not _takes_onednn(x):
            return super().forward(x)
        return LayerNormOnCpu.apply(x, self.weight, self.bias, self.epsilon)


def gelu(x: Tensor) -> Tensor:
    """Compute the exact GELU: x times the normal cdf (erf)."""
    return GeluOnCpu.apply(x) if _takes_onednn(x) else F.gelu(x)


def _takes_onednn(x: Tensor) -> bool:
    """Return whether oneDNN computes with x: on a CPU, in a supported dtype, with Paddle's results."""
    return (
        x.dtype in (paddle.float32, paddle.bfloat16) and kernel_selection.on_cpu(x) and onednn_check.works()
    )


def dropout(x: Tensor, probability: float, training: bool, residual: Tensor | None = None) -> Tensor:
    """Apply dropout with rescaling in training; then add `residual`."""
    if training and probability > 0.0:
        if kernel_selection.on_cpu(x):
            return DropoutOnCpu.apply(x, probability, residual)
        x = F.dropout(x, probability, training=True)
    return x if residual is None else x + residual


def at_positions(x: Tensor, positions: Tensor | None) -> Tensor:
    """Return the rows of x [N, H] at `positions`, int64 [M]: [M, H]. None: x itself."""
    return x if positions is None else paddle.gather(x, positions)
