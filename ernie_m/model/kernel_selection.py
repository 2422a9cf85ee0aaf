"""Selection of kernels: those of `model/cpu/`, or only Paddle's public operations.

With `--kernels plain` (`run.kernels`) every device uses only Paddle's public operations, so a CPU computes
the same as a GPU, except for FlashMask and autocast. Results that differ from those of the fast kernels by
more than rounding indicate a faulty kernel.
"""

from collections.abc import Callable, Iterable

import paddle
from paddle import Tensor

from ernie_m.utils.logging import logger

FAST = "fast"
PLAIN = "plain"
_kernels = FAST


def use_kernels(kind: str) -> None:
    """Choose the kernels of this process: FAST or PLAIN. Call it before making the optimizer.

    With PLAIN, a CPU computes the same as a GPU, except for FlashMask and autocast.
    """
    global _kernels
    _kernels = kind


def has_plain_kernels() -> bool:
    """Return whether this process uses only Paddle's public operations."""
    return _kernels == PLAIN


def agrees(measure: Callable[[], Iterable[tuple[str, float]]], tolerance: float, otherwise: str) -> bool:
    """Return whether a kernel without a stable API agrees with Paddle's public operations.

    Args:
        measure: tries it, and yields the name and the error of each result.
        tolerance: maximum error.
        otherwise: log message if it does not agree or fails.
    """
    try:
        for result, error in measure():
            if not error < tolerance:  # or NaN
                raise RuntimeError(f"{result}: error {error:.2g}")
    except (OSError, AttributeError, AssertionError, TypeError, ValueError, RuntimeError) as problem:
        # The last line of Paddle's error; its stack is above.
        logger.warning("%s: %s", otherwise, str(problem).strip().rpartition("\n")[2])
        return False
    return True


def on_gpu() -> bool:
    """Return whether Paddle computes on a GPU."""
    return str(paddle.device.get_device()).startswith("gpu")


def on_cpu(x: Tensor) -> bool:
    """Return whether the kernels of `model/cpu/` compute with a tensor.

    They do for tensors on a CPU, except in a traced graph or with plain kernels.
    """
    return paddle.in_dynamic_mode() and not has_plain_kernels() and x.place.is_cpu_place()


def training_on_cpu(x: Tensor) -> bool:
    """Return whether the kernels of `model/cpu/` compute with a tensor whose result needs gradients."""
    return on_cpu(x) and paddle.is_grad_enabled()
