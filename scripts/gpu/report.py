"""Runs checks, prints a line for each, and then all results as JSON.

A check that finds nothing wrong returns what its line says. Otherwise it raises `Skipped` or `Failed`.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import paddle

REPORT = "report it with the output of `sh scripts/gpu_check.sh`"
# The largest difference from float64, relative to the largest value.
BOUNDS = {"float64": 1e-9, "float32": 1e-5, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 1e-2}
TRAINING_BOUND = 1e-2  # of losses and gradient norms in half precision

# A check takes whether shapes are tiny, and returns what its line says.
Check = Callable[[bool], str]


class Failed(Exception):
    """A check found something wrong. The message says what, and what to do."""


class Skipped(Exception):
    """A check cannot run here. The message says why."""


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


def run_checks(quick: bool, checks: Mapping[str, Check], needed: Sequence[str] = ()) -> int:
    """Run the checks; print a line for each, and the JSON. Returns the exit code.

    Args:
        needed: after one of these has failed, the others are left out, because they would all fail.
    """
    results = []
    for number, (name, check) in enumerate(checks.items(), 1):
        began = time.perf_counter()
        result, message = _outcome(check, quick)
        seconds = round(time.perf_counter() - began, 1)
        print(f"{number} of {len(checks)} {name}: {result}: {message} ({seconds} s)", flush=True)
        results.append({"check": name, "result": result, "message": message, "seconds": seconds})
        if result == "failed" and name in needed:
            break
    ok = all(outcome["result"] != "failed" for outcome in results)
    print(json.dumps({"ok": ok, "device": paddle.device.get_device(), "checks": results}))
    return 0 if ok else 1


def _outcome(check: Check, quick: bool) -> tuple[str, str]:
    """Run a check; returns "ok", "skipped" or "failed", and its message."""
    try:
        return "ok", check(quick)
    except Skipped as reason:
        return "skipped", str(reason)
    except Failed as reason:
        return "failed", str(reason)
    except Exception as error:  # whatever a driver or Paddle raises
        return "failed", f"{error!r:.300}; {REPORT}"  # at most 300 characters of the error
