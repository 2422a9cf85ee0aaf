"""How far a value may be from the exact one, and what a failed check says."""

from collections.abc import Sequence

import numpy as np

REPORT = "report it with the output of `sh scripts/gpu_check.sh`"
# The largest difference from float64, relative to the largest value. On a stand-in those of ten seeds are
# below half of it. bfloat16 has 8 bits, and a gradient may be a sum that is much smaller than its parts.
BOUNDS = {"float64": 1e-9, "float32": 1e-5, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 2.5e-2}
TRAINING_BOUND = 1e-2  # of losses and gradient norms in half precision


class Failed(AssertionError):
    """A check found something wrong. The message says what, and what to do."""


def difference(values: Sequence, exact: Sequence) -> float:
    """The largest difference of the arrays from the exact ones, each relative to its largest exact value.

    It is infinite if a value, exact or not, is infinite or not a number.
    """
    largest = 0.0
    for array, exact_array in zip(map(np.asarray, values), map(np.asarray, exact), strict=True):
        # The exact values may come from other kernels of the same card, so they are checked, too.
        if not (np.isfinite(array).all() and np.isfinite(exact_array).all()):
            return np.inf
        scale = max(np.abs(exact_array).max(), 1e-30)  # never 0
        largest = max(largest, float(np.abs(array - exact_array).max() / scale))
    return largest


def compare(name: str, values: Sequence, exact: Sequence, *, bound: float, advice: str) -> float:
    """Return the `difference` of the values from the exact ones.

    Args:
        name: of the values, in the message.
        bound: the largest difference that is allowed.
        advice: what the user should do if it is larger, in the message.

    Raises:
        Failed: it is larger.
    """
    largest = difference(values, exact)
    if largest > bound:
        raise Failed(f"{name} is off by {largest:.1e}, allowed are {bound:.0e}; {advice}, and {REPORT}")
    return largest
