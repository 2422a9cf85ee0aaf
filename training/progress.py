"""The time that a run still takes: its steps, and the evaluations between them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from utils.logging import as_time


class RemainingTime:
    """Measures steps and evaluations apart, from when it is made; checkpoints count with the steps.

    Args:
        steps: of the run in all.
        done: steps that were done before (a resumed run); they say nothing about speed.
    """

    def __init__(self, steps: int, done: int = 0):
        self.steps, self.first = steps, done
        self._began = time.monotonic()
        self._evaluating, self._evaluations = 0.0, 0

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Around one evaluation."""
        began = time.monotonic()
        yield
        self._evaluating += time.monotonic() - began
        self._evaluations += 1

    def eta(self, done: int, evaluations: int) -> str:
        """What is left, as h:mm:ss; "?" before the first step.

        Args:
            done: steps of the run so far.
            evaluations: still to come. Before the first one nobody knows how long one takes: they are named
                beside the time then, as in "0:12:30 + 3 evaluations".
        """
        if done <= self.first:
            return "?"
        seconds = (time.monotonic() - self._began - self._evaluating) / (done - self.first)
        seconds *= max(self.steps - done, 0)
        if self._evaluations or not evaluations:
            return as_time(seconds + evaluations * self._evaluating / max(self._evaluations, 1))
        return f"{as_time(seconds)} + {evaluations} evaluation{'s' if evaluations > 1 else ''}"
