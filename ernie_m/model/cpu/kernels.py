"""The kernels of a CPU, for `ernie_m.model.kernels`: what is faster than Paddle's operations, and when."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import paddle
from paddle import Tensor, nn

from ernie_m.model.cpu import mkl, onednn_check
from ernie_m.model.cpu.attention_mask import CpuMask
from ernie_m.model.cpu.bfloat16 import Bfloat16Linear
from ernie_m.model.cpu.layers import (
    CpuDropout,
    CpuGelu,
    CpuLayerNorm,
    CpuLinear,
    reuse_dropout_masks,
)
from ernie_m.model.cpu.masked_lm_loss import CpuCrossEntropy, CpuMaskedLMLoss
from ernie_m.model.kernels import Kernels, is_recorded, sum_chunk_losses

T = TypeVar("T")


class CpuKernels(Kernels):
    """Kernels of a CPU in dynamic mode. `ernie_m.model.kernels.Kernels` documents the methods."""

    def apply_linear(self, x: Tensor, layers: Sequence[nn.Linear], dtype: str) -> Sequence[Tensor]:
        if layers[0].in_bfloat16:
            return Bfloat16Linear.apply(
                x, dtype, *(layer.weight for layer in layers), *(layer.bias for layer in layers)
            )
        if paddle.is_grad_enabled():
            return [CpuLinear.apply(x, layer.weight, layer.bias) for layer in layers]
        return super().apply_linear(x, layers, dtype)

    def layer_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
        if not _uses_onednn(x):
            return super().layer_norm(x, weight, bias, epsilon)
        return CpuLayerNorm.apply(x, weight, bias, epsilon)

    def gelu(self, x: Tensor) -> Tensor:
        return CpuGelu.apply(x) if _uses_onednn(x) else super().gelu(x)

    def dropout(self, x: Tensor, probability: float, residual: Tensor | None) -> Tensor:
        return CpuDropout.apply(x, probability, residual)

    def compute_cross_entropy(
        self,
        x: Tensor,
        table: nn.Embedding,
        bias: Tensor,
        labels: Tensor,
        loss_weights: Tensor,
        chunks: Sequence[slice],
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss = CpuMaskedLMLoss(table, bias)
        if is_recorded(x, table.weight, bias):  # gradients are computed with the losses
            return CpuCrossEntropy.apply(x, table.weight, bias, labels, loss_weights, loss, chunks)
        return sum_chunk_losses([loss.compute_losses(x[rows], labels[rows]) for rows in chunks], loss_weights)

    def get_mask_class(self) -> type | None:
        return CpuMask if mkl.is_supported() else None

    def repeat_dropout(self, function: Callable[..., T]) -> Callable[..., T]:
        return reuse_dropout_masks(function)


def _uses_onednn(x: Tensor) -> bool:
    """Return whether oneDNN computes operations on x: in a supported dtype, if it was verified."""
    return x.dtype in (paddle.float32, paddle.bfloat16) and onednn_check.is_supported()
