"""Comparison of a fast kernel with Paddle's public operations, before it is used."""

from collections.abc import Callable, Iterable

from ernie_m.utils.logging import logger


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
