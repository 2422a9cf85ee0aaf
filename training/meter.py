"""What a run adds up between two lines of its log, for the line and for the record."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.engine import Step


@dataclass(frozen=True)
class Interval:
    """The steps since the last line of the log.

    Attributes:
        steps: the number of optimizer steps of the run so far.
        step: the result of the last one.
        data: what the last one read.
        sums: sums over the steps: those of the engine, "loss", "grad_norm" and the number of "steps". A step
            whose update was skipped counts as "skipped" and adds nothing else.
        totals: the same sums since the first step of the run.
        per_second: the same sums for each second of this process since the last line.
        speed: steps per second since this process started.
        remaining: the remaining time of the run, in words.
    """

    steps: int
    step: "Step"
    data: Any
    sums: Counter[str]
    totals: Counter[str]
    per_second: Mapping[str, float]
    speed: float
    remaining: str


class Meter:
    """Adds up steps. A checkpoint holds both sums, so a resumed run logs what it would have logged.

    Args:
        sums: over the steps since the last line of the log, as `Interval.sums`.
        totals: over all steps.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, totals: Mapping[str, float] | None = None):
        self.sums: Counter[str] = Counter(sums)
        self.totals: Counter[str] = Counter(totals)
        self._began = time.monotonic()
        self._totals_before = self.totals.copy()

    def add(self, step: "Step") -> None:
        """Add a step."""
        if step.skipped:  # its values are not finite
            values = {"skipped": 1.0}
        else:
            values = {**step.sums, "steps": 1.0, "loss": step.loss, "grad_norm": step.grad_norm}
        self.sums.update(values)
        self.totals.update(values)

    def end_interval(self, steps: int, step: "Step", data: Any, speed: float, remaining: str) -> Interval:
        """Return the steps since the last call, and begin with the next ones. Arguments: see `Interval`."""
        now = time.monotonic()
        seconds = max(now - self._began, 1e-9)
        per_second = {
            name: (total - self._totals_before[name]) / seconds for name, total in self.totals.items()
        }
        totals = self.totals.copy()
        interval = Interval(steps, step, data, self.sums, totals, per_second, speed, remaining)
        self.sums = Counter()
        self._totals_before = totals
        self._began = now
        return interval
