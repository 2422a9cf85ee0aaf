"""Metrics of a run: sums between log lines, evaluations, metrics.jsonl, TensorBoard.

Each line of metrics.jsonl is an entry with the key "step", in the order of the steps. The entry of an
evaluation has its scores under "held_out".
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_m.utils.errors import open_in_place
from ernie_m.utils.files import atomic_file, parse_json, translate_write_errors
from ernie_m.utils.logging import logger

if TYPE_CHECKING:
    from ernie_m.training.engine import StepResult

HELD_OUT = "held_out"
METRICS = "metrics.jsonl"
CURVES = "tensorboard"


@dataclass
class Evaluation:
    """The result of an evaluation, which checkpoints, selected.json and metrics.jsonl store.

    Attributes:
        step: number of optimizer steps before the evaluation.
        epoch: the epoch of this step.
        selected_by: score that selects the best step, larger is better; None: the task does not select one.
        scores: JSON values in the task's format; NumPy and Paddle numbers are converted.
    """

    step: int
    epoch: int
    selected_by: float | None
    scores: dict[str, Any]

    def __post_init__(self):
        self.selected_by = as_json_values(self.selected_by)
        self.scores = as_json_values(self.scores)


def as_json_values(values: Any) -> Any:
    """Convert NumPy and Paddle values to numbers and lists, and tuples to lists."""
    return json.loads(json.dumps(values, default=lambda array: array.tolist()))


@dataclass(frozen=True)
class Interval:
    """The steps between two log lines.

    Attributes:
        steps: number of optimizer steps of the run so far.
        step: result of the last step.
        data: `ernie_m.training.trainer.StepData` of the last step.
        sums: sums over the steps: the named sums of the engine, "loss", "grad_norm", and the number of
            "steps". A step that was not applied only counts as "skipped".
        tokens: number of tokens trained since the first step of the run, if the engine sums "tokens".
        tokens_per_second: speed of all processes together since the last log line, without evaluations.
        steps_per_second: speed since the start of the process, without evaluations.
        remaining: remaining time of the run, formatted.
    """

    steps: int
    step: "StepResult"
    data: Any
    sums: Counter[str]
    tokens: float
    tokens_per_second: float
    steps_per_second: float
    remaining: str


class Meter:
    """Sums over the steps since the last log line. Checkpoints contain them, so a resumed run logs the same.

    Attributes:
        sums: as in `Interval.sums`.
        tokens: number of tokens trained since the first step of the run.
    """

    def __init__(self, sums: Mapping[str, float] = {}, tokens: float = 0.0):
        self.sums: Counter[str] = Counter(sums)
        self.tokens = tokens
        # The trained tokens and the training time in seconds before the current interval.
        self._before = (tokens, 0.0)

    def add(self, step: "StepResult") -> None:
        """Add the result of a step to the sums."""
        if step.skipped:  # its loss or gradient is not finite
            self.sums["skipped"] += 1
            return
        # `update` of a Counter adds to the old values.
        self.sums.update({**step.sums, "steps": 1.0, "loss": step.loss, "grad_norm": step.grad_norm})
        self.tokens += step.sums.get("tokens", 0.0)

    def end_interval(self, seconds: float, **others: Any) -> Interval:
        """Return the current log interval, and start a new one.

        Args:
            seconds: training time in seconds since the start of the process, without evaluations.
            others: other attributes of `Interval`.
        """
        tokens_before, seconds_before = self._before
        speed = (self.tokens - tokens_before) / max(seconds - seconds_before, 1e-9)  # avoid division by 0
        interval = Interval(sums=self.sums, tokens=self.tokens, tokens_per_second=speed, **others)
        self.sums = Counter()
        self._before = (self.tokens, seconds)
        return interval


class MetricsFile:
    """The file metrics.jsonl of a run, for the main process only.

    Args:
        path: path of the file, which may not exist yet.
        curves: TensorBoard writer from `make_curve_writer`, if any.
    """

    def __init__(self, path: Path, curves: Any = None):
        self.path = path
        self.curves = curves

    def append(self, record: dict[str, Any]) -> None:
        """Append an entry to metrics.jsonl, and add its numbers to TensorBoard.

        The entry is on the disk when this returns: a checkpoint that follows must not lack it.

        Raises:
            UserError: the disk is full or read-only.
        """
        line = json.dumps(as_json_values(record)) + "\n"
        with translate_write_errors(self.path), open_in_place(self.path, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if self.curves:
            for tag, value in _list_scalars(json.loads(line)):
                self.curves.add_scalar(tag, value, record["step"])

    def truncate_after(self, step: int, evaluated_step: int) -> int:
        """Remove the entries that a resumed run will write again, and corrupt lines.

        The last line may have been truncated by a kill. Any other corrupt line causes a warning.

        Args:
            step: entries of later steps are removed.
            evaluated_step: evaluations after later steps are removed.

        Returns:
            The number of removed lines.
        """
        text = self.path.read_bytes() if self.path.is_file() else b""
        records = [_parse_record(line) for line in text.split(b"\n") if line.strip()]
        remaining = []
        for number, record in enumerate(records, 1):
            if record is None and number < len(records):
                logger.warning("%s, line %d: corrupt; dropping the record", self.path, number)
            elif record and record["step"] <= (evaluated_step if HELD_OUT in record else step):
                remaining.append(json.dumps(record) + "\n")
        if records:
            with atomic_file(self.path, "w") as file:
                file.writelines(remaining)
        return len(records) - len(remaining)


def make_curve_writer(folder: Path, step: int) -> Any:
    """Make a TensorBoard writer for a run that resumes after `step`; it invalidates later points."""
    from tensorboardX import SummaryWriter  # imported here, because it is optional

    return SummaryWriter(str(folder), purge_step=step + 1, flush_secs=10)


def _list_scalars(value: Any, tag: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a JSON value with their tags, such as "held_out/layers/0"."""
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in members:
            yield from _list_scalars(member, f"{tag}/{key}" if tag else str(key))
    elif isinstance(value, int | float):
        yield tag, value


def _parse_record(line: bytes) -> dict[str, Any] | None:
    """Parse a line of metrics.jsonl; None: the line is corrupt."""
    record = parse_json(line)
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
