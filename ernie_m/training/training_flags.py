"""Flags shared by pre-training, fine-tuning and `ernie-m fit`. Does not import Paddle."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar, Literal

from ernie_m.utils.args import option
from ernie_m.utils.errors import UserError, get_install_command
from ernie_m.utils.value_types import NonNegativeFloat


@dataclass(kw_only=True)
class PrecisionFlags:
    """Flags for the precision of training."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """Mixed precision for training: bf16 requires an A100 or later GPU, or a CPU with AVX512-BF16 or AMX;
    fp16 requires a GPU."""


@dataclass(kw_only=True)
class ComputeFlags(PrecisionFlags):
    """Flags for kernels, memory, logging and processes in training.

    Attributes:
        prefix: prefix of the option names on the command line.

    Raises:
        UserError: tensorboardX is not installed.
    """

    prefix: ClassVar[str] = "--"

    kernels: Literal["fast", "plain"] = option("fast", free=True)
    """Kernels: optimized ones (fast), or Paddle's own operations only, for debugging (plain)."""

    dtype: Literal["float32", "float64"] = "float32"
    """Data type of the weights; float64 is for numerical checks."""

    tensorboard: bool = option(False, free=True)
    """Whether to also write the metrics of metrics.jsonl as TensorBoard event files."""

    recompute: bool = option(False, free=True)
    """Whether to recompute activations in the backward pass (activation checkpointing), which saves
    memory."""

    stall_ends_seconds: NonNegativeFloat = option(3600.0, free=True)
    """In multi-process training, number of seconds without progress after which a process exits (0:
    never)."""

    def __post_init__(self) -> None:
        if self.tensorboard and find_spec("tensorboardX") is None:
            raise UserError(
                f"{self.prefix}tensorboard requires tensorboardX: {get_install_command('tensorboard')}"
            )
