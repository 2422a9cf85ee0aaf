"""Which kernels compute: those of `model/cpu/`, or Paddle's public operations alone.

With `--kernels plain` (`run.kernels`) every device takes Paddle's public operations alone, so what a CPU then
computes is what a GPU computes, FlashMask and autocast aside. Numbers that differ from those of the fast
kernels by more than rounding point to a faulty kernel.
"""

import paddle
from paddle import Tensor

FAST = "fast"
PLAIN = "plain"
_kernels = FAST


def use_kernels(kind: str) -> None:
    """Choose the kernels of this process: FAST or PLAIN. Call it before you make the optimizer.

    What PLAIN computes on a CPU is what a GPU computes, FlashMask and autocast aside.
    """
    global _kernels
    _kernels = kind


def has_plain_kernels() -> bool:
    """Whether this process takes Paddle's public operations alone."""
    return _kernels == PLAIN


def on_gpu() -> bool:
    """Whether Paddle computes on a GPU."""
    return str(paddle.device.get_device()).startswith("gpu")


def on_cpu(x: Tensor) -> bool:
    """Whether the kernels of `model/cpu/` compute with a tensor.

    They do if it lies on a CPU, unless a graph is being traced or the kernels of the process are plain.
    """
    return paddle.in_dynamic_mode() and not has_plain_kernels() and x.place.is_cpu_place()


def training_on_cpu(x: Tensor) -> bool:
    """Whether the kernels of `model/cpu/` compute with a tensor, and the result gets gradients."""
    return on_cpu(x) and paddle.is_grad_enabled()
