"""The remaining time of a run: its steps and the evaluations between them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from utils.logging import as_time


class RemainingTime:
    """Measures the time of steps and of evaluations separately. Checkpoints count as part of the steps.

    Args:
        steps: the number of steps of the run.
        done: the steps that an earlier process has done; their time is unknown.
    """

    def __init__(self, steps: int, done: int = 0):
        self.steps, self.first = steps, done
        self._began = time.monotonic()
        self._evaluating, self._evaluations = 0.0, 0

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Use it as a context around one evaluation."""
        began = time.monotonic()
        yield
        self._evaluating += time.monotonic() - began
        self._evaluations += 1

    def eta(self, done: int, evaluations: int) -> str:
        """The remaining time as h:mm:ss; "?" before the first step.

        Args:
            done: the number of steps done so far.
            evaluations: the number of evaluations to come. Before the first one their time is unknown, and
                the result is, for example, "0:12:30 + 3 evaluations".
        """
        if done <= self.first:
            return "?"
        seconds = (time.monotonic() - self._began - self._evaluating) / (done - self.first)
        seconds *= max(self.steps - done, 0)
        if self._evaluations or not evaluations:
            return as_time(seconds + evaluations * self._evaluating / max(self._evaluations, 1))
        return f"{as_time(seconds)} + {evaluations} evaluation{'s' if evaluations > 1 else ''}"
