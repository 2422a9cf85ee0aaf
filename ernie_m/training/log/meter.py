"""What a run adds up between two lines of its log, for the line and for the record."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ernie_m.training.engine import Step


@dataclass(frozen=True)
class Interval:
    """The steps since the last line of the log.

    Attributes:
        steps: the number of optimizer steps of the run so far.
        step: the result of the last step.
        data: the `ernie_m.training.trainable.StepData` of the last step.
        sums: sums over the steps of this interval: those of the engine, "loss", "grad_norm" and the number of
            "steps". A step whose update was skipped counts as "skipped" and adds nothing else.
        tokens: the number of tokens trained since the first step of the run, if the engine sums up "tokens".
        tokens_per_second: the rate of all processes together since the last line, without the evaluations.
        steps_per_second: the rate since the start of the process, without the evaluations.
        remaining: the remaining time of the run, in words.
    """

    steps: int
    step: Step
    data: Any
    sums: Counter[str]
    tokens: float
    tokens_per_second: float
    steps_per_second: float
    remaining: str


class Meter:
    """Adds up steps. A checkpoint holds the sums, so that a resumed run logs what it would have logged.

    Attributes:
        sums: over the steps since the last line of the log, as `Interval.sums`.
        tokens: trained since the first step of the run.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, tokens: float = 0.0):
        self.sums: Counter[str] = Counter(sums)
        self.tokens = tokens
        # The seconds of training and the trained tokens before the present interval.
        self._seconds_before = 0.0
        self._tokens_before = tokens

    def add(self, step: Step) -> None:
        """Add a step."""
        if step.skipped:  # its loss or its gradient is not finite
            self.sums["skipped"] += 1.0
            return
        # `update` of a Counter adds to the old values.
        self.sums.update({**step.sums, "steps": 1.0, "loss": step.loss, "grad_norm": step.grad_norm})
        self.tokens += step.sums.get("tokens", 0.0)

    def end_interval(
        self, steps: int, step: Step, data: Any, seconds: float, steps_per_second: float, remaining: str
    ) -> Interval:
        """Return what was added since the last call, and begin a new interval.

        Args:
            steps, step, data, steps_per_second, remaining: attributes of the `Interval`.
            seconds: the seconds of training since the start of the process, without the evaluations.
        """
        seconds_of_interval = max(seconds - self._seconds_before, 1e-9)  # never 0
        interval = Interval(
            steps=steps,
            step=step,
            data=data,
            sums=self.sums,
            tokens=self.tokens,
            tokens_per_second=(self.tokens - self._tokens_before) / seconds_of_interval,
            steps_per_second=steps_per_second,
            remaining=remaining,
        )
        self.sums = Counter()
        self._tokens_before = self.tokens
        self._seconds_before = seconds
        return interval
