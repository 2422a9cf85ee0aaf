"""Mixed precision on a GPU with `paddle.amp`.

O1    float32 weights; the forward pass multiplies matrices in half precision
O2    weights and most of the forward pass in half precision; float32 gradients and master weights
"""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

import paddle
from paddle import Tensor, nn

from model.device import has_bf16, on_gpu, summary
from training import distributed
from utils.errors import UserError
from utils.logging import logger

NONE = "none"
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
HALF = (paddle.bfloat16, paddle.float16)


@dataclass(frozen=True)
class LossScaling:
    """The loss scale, which keeps float16 gradients from becoming zero. Official names and defaults.

    The scale grows by `incr_ratio` after `incr_every_n_steps` finite steps in a row, and shrinks by
    `decr_ratio` after `decr_every_n_nan_or_inf` overflows in a row, unless it is not dynamic.
    """

    init_loss_scaling: float = 102400.0
    use_dynamic_loss_scaling: bool = True
    incr_every_n_steps: int = 100
    decr_every_n_nan_or_inf: int = 2
    incr_ratio: float = 2.0
    decr_ratio: float = 0.8


class Precision:
    """The precision of a run.

    Args:
        amp: "none", "bf16" or "fp16".
        level: "O1" or "O2".
        loss_scaling: for "fp16" only.

    Attributes:
        amp: the type in use. On a CPU it is "none", with a warning: Paddle has no mixed precision there.
        scaler: a `paddle.amp.GradScaler`, disabled unless `amp` is "fp16".

    Raises:
        UserError: O2 on a CPU or without `amp`, or bf16 on a GPU below compute capability 8.0.
    """

    def __init__(self, amp: str = NONE, level: str = "O1", loss_scaling: LossScaling | None = None):
        if level == "O2" and (amp == NONE or not on_gpu()):
            raise UserError("amp_level O2 needs a GPU and amp bf16 or fp16: set them, or take amp_level O1")
        if amp != NONE and not on_gpu():
            logger.warning("amp %s needs a GPU: everything is computed in full precision here", amp)
            amp = NONE
        if amp == "bf16" and not has_bf16():
            raise UserError(
                "amp bf16 needs a GPU of compute capability 8.0 (A100 or newer); take fp16 or none"
            )
        self.amp, self.level = amp, level
        dtype = str(paddle.get_default_dtype())
        logger.info("%s", summary(dtype if amp == NONE else f"{amp} {level}", distributed.world_size()))
        self.scaler = paddle.amp.GradScaler(amp == "fp16", **asdict(loss_scaling or LossScaling()))

    def decorate(
        self, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, is_own: Callable[[Tensor], bool]
    ) -> None:
        """For O2: cast the loaded weights, and give the optimizer float32 masters of those that `is_own`.

        Paddle alone would make the masters later, from weights that are already rounded.
        """
        if self.amp != NONE and self.level == "O2":
            loaded = {name: parameter.numpy() for name, parameter in model.named_parameters()}
            paddle.amp.decorate(
                model, optimizer, level="O2", dtype=DTYPES[self.amp], master_weight=True, master_grad=True
            )
            for name, parameter in model.named_parameters():
                if parameter.dtype in HALF and is_own(parameter):  # also if it is frozen for now
                    optimizer._create_master_weight(parameter).set_value(loaded[name])

    def can_shrink(self) -> bool:
        """Whether a smaller loss scale may prevent an overflow."""
        state = self.scaler.state_dict()  # {} unless amp is fp16
        return bool(state) and state["use_dynamic_loss_scaling"] and state["scale"].item() > 1.0

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context for forward passes."""
        if self.amp == NONE:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=DTYPES[self.amp])
