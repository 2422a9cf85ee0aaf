"""Mixed precision: on a GPU with `paddle.amp`, on a CPU with its own kernels.

O1          float32 weights; matrix products of the forward pass are in half precision, on a CPU also those
            of the backward pass (bfloat16)
O2          weights and most of the forward pass in half precision; float32 gradients and master weights
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor, nn

from ernie_m.model.device_capabilities import has_bf16
from ernie_m.model.kernel_selection import get_services, is_on_gpu
from ernie_m.model.layers import use_bfloat16
from ernie_m.training import distributed
from ernie_m.training.device_summary import format_device_summary
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

Level = Literal["O1", "O2"]
NONE = "none"
DTYPES: dict[str, Literal["bfloat16", "float16"]] = {"bf16": "bfloat16", "fp16": "float16"}
HALF = (paddle.bfloat16, paddle.float16)
# Loss scaling keeps float16 gradients from underflowing. The scale grows by incr_ratio after
# incr_every_n_steps consecutive finite steps, and shrinks by decr_ratio after decr_every_n_nan_or_inf
# consecutive overflows, if it is dynamic. Official names, which are those of `paddle.amp.GradScaler`, and
# official defaults.
LOSS_SCALING = {
    "init_loss_scaling": 102400.0,
    "use_dynamic_loss_scaling": True,
    "incr_every_n_steps": 100,
    "decr_every_n_nan_or_inf": 2,
    "incr_ratio": 2.0,
    "decr_ratio": 0.8,
}
Autocast = Callable[[], contextlib.AbstractContextManager]


class Precision:
    """Mixed precision of a training run: autocast, master weights and loss scaling.

    Args:
        amp: "none", "bf16" or "fp16". A CPU without support computes in float32 with a warning, because
            recipes for GPUs set amp.
        level: "O1" or "O2".
        loss_scaling: values that override LOSS_SCALING; only for "fp16".
        option: option that sets `amp`, for the log.

    Attributes:
        amp: the dtype of `paddle.amp` on a GPU; "none" on a CPU.
        cpu_bf16: whether matrix products are in bfloat16 on a CPU.
        scaler: a `paddle.amp.GradScaler`, disabled unless `amp` is "fp16".

    Raises:
        UserError: O2 on a CPU or without `amp`, or bf16 on a GPU below compute capability 8.0.
    """

    def __init__(
        self,
        amp: str = NONE,
        level: Level = "O1",
        loss_scaling: Mapping[str, Any] | None = None,
        option: str = "--amp",
    ):
        if level == "O2" and (amp == NONE or not is_on_gpu()):
            raise UserError("amp_level O2 requires a GPU and amp bf16 or fp16. Set them, or use amp_level O1")
        dtype = str(paddle.get_default_dtype())
        self.cpu_bf16 = is_bf16_on_cpu(amp)
        if amp != NONE and not is_on_gpu() and not self.cpu_bf16:
            missing = "a GPU" if amp == "fp16" else _find_missing_bf16_requirement()
            logger.warning("amp %s requires %s; using float32", amp, missing)
        self.amp = amp if is_on_gpu() else NONE
        self.level = level
        _check_gpu(self.amp)
        description = describe_precision(dtype, self.cpu_bf16) if self.amp == NONE else f"{amp} {level}"
        logger.info("%s", format_device_summary(description, distributed.world_size()))
        if not is_on_gpu() and not self.cpu_bf16 and dtype == "float32":
            _recommend_bfloat16(option)
        scaling = {**LOSS_SCALING, **(loss_scaling or {})}
        self.scaler = paddle.amp.GradScaler(enable=self.amp == "fp16", **scaling)

    def prepare(self, model: nn.Layer) -> None:
        """Make a model compute in bfloat16 on a CPU, if `cpu_bf16`; call this before training."""
        if self.cpu_bf16:
            use_bfloat16(model)

    def decorate(
        self, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, is_own: Callable[[Tensor], bool]
    ) -> None:
        """For level O2, cast the weights to half precision, and make the optimizer's float32 master weights.

        By default Paddle would make the master weights later, from rounded weights.

        Args:
            is_own: whether this process updates a parameter, and therefore needs its master weight.
        """
        if self.level == "O2":
            loaded = {name: parameter.numpy() for name, parameter in model.named_parameters()}
            paddle.amp.decorate(
                model, optimizer, level="O2", dtype=DTYPES[self.amp], master_weight=True, master_grad=True
            )
            # Frozen parameters also get a master, because they may be trained later.
            master_weights = {
                parameter.name: paddle.to_tensor(loaded[name])
                for name, parameter in model.named_parameters()
                if parameter.dtype in HALF and is_own(parameter)
            }
            optimizer.set_state_dict({**optimizer.state_dict(), "master_weights": master_weights})

    def loss_scale(self) -> float:
        """Return the current loss scale; 1 unless amp is fp16."""
        return np.asarray(self.scaler.state_dict().get("scale", 1.0)).item()

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context manager of forward passes: autocast, or none on a CPU and in full precision."""
        return contextlib.nullcontext() if self.amp == NONE else autocast(self.amp, self.level)


def autocast(amp: str, level: Level = "O1") -> contextlib.AbstractContextManager:
    """Return the context manager of forward passes in half precision on a GPU, `paddle.amp.auto_cast`.

    Args:
        amp: "bf16" or "fp16".
    """
    return paddle.amp.auto_cast(level=level, dtype=DTYPES[amp])


def is_bf16_on_cpu(amp: str) -> bool:
    """Return whether `amp` makes models compute in bfloat16 on this CPU."""
    return amp == "bf16" and not is_on_gpu() and _find_missing_bf16_requirement() is None


def describe_precision(dtype: str, cpu_bf16: bool) -> str:
    """Describe the precision of a model without `paddle.amp`, for the log.

    Args:
        dtype: dtype of the weights.
        cpu_bf16: whether matrix products are in bfloat16 on a CPU.
    """
    return f"{dtype}, products in bfloat16" if cpu_bf16 else dtype


def prepare_for_prediction(model: nn.Layer, amp: str) -> Autocast:
    """Make a model compute in half precision for prediction.

    Args:
        amp: "none", "bf16", or, on a GPU, "fp16".

    Returns:
        A function that makes the context manager for making a batch and its forward pass.

    Raises:
        UserError: the device does not support `amp`.
    """
    if amp == NONE:
        return contextlib.nullcontext
    if amp not in DTYPES:
        raise UserError(f"invalid amp '{amp}' (choose from none, {', '.join(DTYPES)})")
    if is_on_gpu():
        _check_gpu(amp)
        return functools.partial(autocast, amp)
    if amp != "bf16":
        raise UserError(f"amp {amp} requires a GPU (on a CPU: bf16 or none)")
    missing = _find_missing_bf16_requirement()
    if missing is not None:
        raise UserError(f"amp bf16 requires {missing}. Remove amp")
    use_bfloat16(model)
    return contextlib.nullcontext


def _check_gpu(amp: str) -> None:
    """Check that the current GPU supports a dtype of `paddle.amp`.

    Raises:
        UserError: the GPU does not support bf16.
    """
    if amp == "bf16" and not has_bf16():
        raise UserError("amp bf16 requires a GPU of compute capability 8.0 (A100 or newer). Use fp16 or none")


def _find_missing_bf16_requirement() -> str | None:
    """Return what is missing for bfloat16 products on this CPU, for an error message; None: nothing."""
    if paddle.get_default_dtype() != "float32":
        return "weights in float32"
    return get_services().find_missing_bf16_requirement()


@functools.cache  # once for all seeds of a command
def _recommend_bfloat16(option: str) -> None:
    """Log that `option` may select bfloat16, if this CPU supports it."""
    if get_services().find_missing_bf16_requirement() is None:
        logger.info("bfloat16 available (%s bf16); may be faster on this CPU (docs/hardware.md)", option)
