"""Selection of kernels: the device's own (`ernie_m/model/kernels.py`), or only Paddle's public operations.

With `--kernels plain` (`run.kernels`) every device uses only Paddle's public operations, so a CPU computes
the same as a GPU, except for FlashMask and autocast. Results that differ from those of the fast kernels by
more than rounding indicate a faulty kernel.
"""

from collections.abc import Callable, Iterable

import paddle

from ernie_m.utils.logging import logger

FAST = "fast"
PLAIN = "plain"
_kernels = FAST


def select_kernels(kind: str) -> None:
    """Set the kernels of this process: FAST or PLAIN. Call this before `build_optimizer`."""
    global _kernels
    _kernels = kind


def has_plain_kernels() -> bool:
    """Return whether this process uses only Paddle's public operations."""
    return _kernels == PLAIN


def check_agreement(
    measure_errors: Callable[[], Iterable[tuple[str, float]]], tolerance: float, fallback: str
) -> bool:
    """Return whether a kernel agrees with Paddle's public operations; log a warning if it does not.

    Args:
        measure_errors: runs the kernel on a small example, and yields the name and the error of each result.
        tolerance: maximum error.
        fallback: the warning, to which the difference or exception is appended.
    """
    try:
        for result, error in measure_errors():
            if not error < tolerance:  # or NaN
                raise RuntimeError(f"{result}: error {error:.2g}")
    except (OSError, AttributeError, AssertionError, TypeError, ValueError, RuntimeError) as problem:
        # The last line of Paddle's error; its stack is above.
        logger.warning("%s: %s", fallback, str(problem).strip().rpartition("\n")[2])
        return False
    return True


def is_on_gpu() -> bool:
    """Return whether Paddle computes on a GPU."""
    return str(paddle.device.get_device()).startswith("gpu")
