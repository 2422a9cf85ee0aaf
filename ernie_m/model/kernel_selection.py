"""Which kernels compute: those of `model/cpu/`, or Paddle's public operations alone.

With `--kernels plain` (`run.kernels`) every device takes Paddle's public operations alone, so what a CPU then
computes is what a GPU computes, FlashMask and autocast aside. Numbers that differ from those of the fast
kernels by more than rounding point to a faulty kernel.
"""

from collections.abc import Callable, Iterable

import paddle
from paddle import Tensor

from ernie_m.utils.logging import logger

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
    """Return whether this process takes Paddle's public operations alone."""
    return _kernels == PLAIN


def agrees(measure: Callable[[], Iterable[tuple[str, float]]], tolerance: float, otherwise: str) -> bool:
    """Return whether a kernel that no release of Paddle promises gives what Paddle's public operations give.

    Args:
        measure: tries it, and yields what it has computed and by how much that is off.
        tolerance: by how much it must not be off.
        otherwise: what the log says, and why, if it does not agree, or does not run.
    """
    try:
        for result, error in measure():
            if not error < tolerance:  # or it is NaN
                raise RuntimeError(f"its {result} is off by {error:.2g}")
    except (OSError, AttributeError, AssertionError, TypeError, ValueError, RuntimeError) as problem:
        # Of an error of Paddle the last line; its stack is above.
        logger.warning("%s: %s", otherwise, str(problem).strip().rpartition("\n")[2])
        return False
    return True


def on_gpu() -> bool:
    """Return whether Paddle computes on a GPU."""
    return str(paddle.device.get_device()).startswith("gpu")


def on_cpu(x: Tensor) -> bool:
    """Return whether the kernels of `model/cpu/` compute with a tensor.

    They do if it lies on a CPU, unless a graph is being traced or the kernels of the process are plain.
    """
    return paddle.in_dynamic_mode() and not has_plain_kernels() and x.place.is_cpu_place()


def training_on_cpu(x: Tensor) -> bool:
    """Return whether the kernels of `model/cpu/` compute with a tensor, and the result gets gradients."""
    return on_cpu(x) and paddle.is_grad_enabled()
