"""The flags that pre-training, fine-tuning and `ernie-m fit` share. It does not import Paddle."""

from dataclasses import dataclass
from typing import Literal

from ernie_m.utils.args import NonNegativeFloat, option


@dataclass(kw_only=True)
class PrecisionFlags:
    """In which precision a training computes."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """Mixed precision for training: bf16 requires an A100 or later GPU, or a CPU with AVX512-BF16 or AMX;
    fp16 requires a GPU."""


@dataclass(kw_only=True)
class ComputeFlags(PrecisionFlags):
    """How a training computes."""

    kernels: Literal["fast", "plain"] = option("fast", free=True)
    """Kernels: optimized ones (fast), or Paddle's own operations only, for debugging (plain)."""

    dtype: Literal["float32", "float64"] = "float32"
    """Data type of the weights; float64 is for numerical checks."""

    tensorboard: bool = option(False, free=True)
    """Whether to write metrics.jsonl for TensorBoard, too."""

    recompute: bool = option(False, free=True)
    """Whether to recompute activations in the backward pass (activation checkpointing), which saves
    memory."""

    stall_ends_seconds: NonNegativeFloat = option(3600.0, free=True)
    """In multi-process training, number of seconds without progress after which a process exits (0:
    never)."""
