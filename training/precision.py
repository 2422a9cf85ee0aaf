"""Automatic mixed precision on a GPU.

O1    weights in float32; the products of a forward pass in half precision
O2    weights and most of a forward pass in half precision; the optimizer updates float32 master weights,
      from float32 sums of the gradients
"""

import contextlib
from collections.abc import Iterable

import paddle
from paddle import Tensor, nn

from utils.errors import UserError
from utils.logging import logger

NONE = "none"
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
LEVELS = ("O1", "O2")


class Precision:
    """The precision of a run.

    Args:
        amp: "none", "bf16" or "fp16".
        level: one of LEVELS; of "none" it decides nothing.

    Attributes:
        amp: what is used: "none" on a CPU, where O1 changes nothing and the log says so.

    Raises:
        UserError: an unknown value, or O2 on a CPU, whose kernels take no weights in half precision.
    """

    def __init__(self, amp: str = NONE, level: str = "O1"):
        if amp not in (NONE, *DTYPES):
            raise UserError(f"amp {amp!r}: one of none, bf16, fp16")
        if level not in LEVELS:
            raise UserError(f"amp_level {level!r}: one of {', '.join(LEVELS)}")
        self.amp, self.level = amp, level
        self._sums: dict[str, Tensor] = {}
        if amp == NONE or on_gpu():
            return
        if level == "O2":
            raise UserError(
                f"amp_level O2 keeps the weights in {DTYPES[amp]}, for which Paddle has no kernels on this "
                "device: train on a GPU, or with amp_level O1 or amp none"
            )
        logger.warning(
            "amp %s needs a GPU: on this device everything is computed in %s", amp, paddle.get_default_dtype()
        )
        self.amp = NONE

    @property
    def halves_weights(self) -> bool:
        """Whether the model's own weights are in half precision."""
        return self.amp != NONE and self.level == "O2"

    def decorate(self, model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> None:
        """Before the first step: bring model and optimizer, themselves, to the level."""
        if self.halves_weights:
            paddle.amp.decorate(
                models=model, optimizers=optimizer, level="O2", dtype=DTYPES[self.amp], master_weight=True
            )

    def autocast(self) -> contextlib.AbstractContextManager:
        """Around forward passes."""
        if self.amp == NONE:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=DTYPES[self.amp])

    @paddle.no_grad()
    def take_gradients(self, parameters: Iterable[Tensor]) -> None:
        """After a backward pass: move gradients of O2 into float32 sums, where small ones are not lost."""
        if not self.halves_weights:
            return
        for parameter in parameters:
            if parameter.grad is None:
                continue
            gradient = parameter.grad.astype("float32")
            if parameter.name in self._sums:
                self._sums[parameter.name].add_(gradient)
            else:
                self._sums[parameter.name] = gradient
            parameter.grad = None

    def give_gradients(self, parameters: Iterable[Tensor]) -> None:
        """After the last backward pass: the sums become the parameters' gradients."""
        for parameter in parameters:
            if parameter.name in self._sums:
                parameter.grad_ = self._sums.pop(parameter.name)  # `grad_`: not a copy

    def no_gradient(self, parameter: Tensor) -> Tensor:
        """Zeros for a parameter that only other processes used."""
        dtype = "float32" if self.halves_weights else parameter.dtype
        return paddle.zeros(parameter.shape, dtype)


def on_gpu() -> bool:
    """Whether Paddle computes on a GPU."""
    return str(paddle.device.get_device()).startswith("gpu")
