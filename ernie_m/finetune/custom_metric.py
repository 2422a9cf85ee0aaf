"""Custom metrics: a function in a Python file, FILE.py:FUNCTION (--metric)."""

import hashlib
from collections.abc import Callable, Sequence
from inspect import isfunction
from pathlib import Path
from typing import Any

from ernie_m.utils.errors import UserError, format_value
from ernie_m.utils.files import read_bytes
from ernie_m.utils.user_code import run_code, translate_user_errors
from ernie_m.utils.value_types import is_valid

# Predictions, targets -> name -> percent.
CustomMetric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


def load_metric(metric: str) -> tuple[str, CustomMetric, str]:
    """Load the function of --metric: its name, a wrapper that checks its result, and the file's SHA-256.

    The returned function raises UserError if the metric fails, or does not return a dict of finite numbers
    that includes its name.

    Raises:
        UserError: the file cannot be read, has an error, or lacks the function.
    """
    path, _, name = metric.partition(":")
    content = read_bytes(path)
    function = getattr(run_code(content, path, f"{__name__}.{Path(path).stem}"), name, None)
    if not isfunction(function):
        raise UserError(f"--metric {metric}: no function {name} in {path}")

    def check_result(predictions: Sequence[Any], targets: Sequence[Any]) -> dict[str, float]:
        with translate_user_errors([path]):
            scores = function(predictions, targets)
        if not is_valid(dict[str, float], scores) or name not in scores:
            raise UserError(
                f"{path}, line {function.__code__.co_firstlineno}: {name} returned {format_value(scores)} "
                f"(expected a dict of finite numbers, including '{name}', which selects the best checkpoint)"
            )
        return scores

    return name, check_result, hashlib.sha256(content).hexdigest()
