"""The kernels and services of a CPU: what is faster than Paddle's operations, and when."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import paddle
from paddle import Tensor, nn

from ernie_m.model.cpu import bfloat16, lazy_adamw, mkl, onednn_check
from ernie_m.model.cpu.attention_mask import CpuMask
from ernie_m.model.cpu.bfloat16 import Bfloat16Linear
from ernie_m.model.cpu.embedding_gradient import EmbeddingLookup, EmbeddingMeans, accumulate_in_place
from ernie_m.model.cpu.layers import CpuDropout, CpuGelu, CpuLayerNorm, CpuLinear
from ernie_m.model.cpu.lazy_adamw import LazyAdamW
from ernie_m.model.cpu.masked_lm_loss import CpuCrossEntropy, CpuMaskedLMLoss
from ernie_m.model.cpu.replicas import SHARE_TOKENS, ParallelReplicas
from ernie_m.model.cpu.workers import make_paddle_workers
from ernie_m.model.kernels import Kernels, is_recorded, sum_chunk_losses
from ernie_m.model.services import Services
from ernie_m.model.threads import Workers


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

    def look_up(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        if table.gradient is None or not paddle.is_grad_enabled():
            return super().look_up(table, ids)
        return EmbeddingLookup.apply(table.weight, ids, table.gradient)

    def average_rows(self, table: nn.Embedding, ids: Tensor, lengths: Tensor) -> Tensor:
        if table.gradient is None or not paddle.is_grad_enabled():
            return super().average_rows(table, ids, lengths)
        return EmbeddingMeans.apply(table.weight, ids, lengths, table.gradient)

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


class CpuServices(Services):
    """Services of a CPU. `ernie_m.model.services.Services` documents the methods."""

    split_tokens: ClassVar[int | None] = SHARE_TOKENS

    def get_mask_class(self) -> type | None:
        return CpuMask if mkl.is_supported() else None

    def cache_rounded_weights(self) -> AbstractContextManager:
        return bfloat16.cache_rounded_weights()

    def make_replicas(self, model: nn.Layer) -> ParallelReplicas:
        return ParallelReplicas(model)

    def make_workers(self) -> Workers:
        return make_paddle_workers()

    def make_table_optimizer(
        self,
        table: nn.Embedding,
        lr_ratio: float,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> LazyAdamW | None:
        if not lazy_adamw.is_supported():
            return None
        return LazyAdamW(accumulate_in_place(table), lr_ratio, weight_decay, betas, epsilon)

    def find_missing_bf16_requirement(self) -> str | None:
        return onednn_check.find_missing_requirement()


def _uses_onednn(x: Tensor) -> bool:
    """Return whether oneDNN computes operations on x: in a supported dtype, if it was verified."""
    return x.dtype in (paddle.float32, paddle.bfloat16) and onednn_check.is_supported()
