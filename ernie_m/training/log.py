"""The logs of a run: sums between log lines, evaluations, metrics.jsonl, TensorBoard.
Each line of metrics.jsonl is a record of the run, in the order of the steps, with a key "step". The record of
an evaluation after the step has its results under "held_out".
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_m.utils.files import atomic_file, parse_json, sync_file, translate_write_errors
from ernie_m.utils.logging import logger
from ernie_m.utils.output_lock import flat

if TYPE_CHECKING:
    from ernie_m.training.engine import Step

HELD_OUT = "held_out"
METRICS = "metrics.jsonl"
CURVES = "tensorboard"


@dataclass
class Evaluation:
    """The result of an evaluation; checkpoints, selected.json and metrics.jsonl store it.

    Attributes:
        step: number of optimizer steps before it.
        epoch: the epoch of that step.
        selected_by: the score that selects the best step, larger is better; None if the task does not select.
        scores: JSON values, in the task's format. They may be given as NumPy or Paddle numbers.
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
    """The steps since the last log line.

    Attributes:
        steps: number of optimizer steps of the run so far.
        step: result of the last step.
        data: `ernie_m.training.trainer.StepData` of the last step.
        sums: sums over the steps of this interval: those of the engine, "loss", "grad_norm" and the number of
            "steps". A step without an update counts as "skipped" and adds nothing else.
        tokens: number of tokens trained since the first step of the run, if the engine sums "tokens".
        tokens_per_second: speed of all processes together since the last line, without evaluations.
        steps_per_second: speed since the start of the process, without evaluations.
        remaining: remaining time of the run, formatted.
    """

    steps: int
    step: "Step"
    data: Any
    sums: Counter[str]
    tokens: float
    tokens_per_second: float
    steps_per_second: float
    remaining: str


class Meter:
    """Sums of steps. A checkpoint contains them, so that a resumed run logs the same.

    Attributes:
        sums: over the steps since the last log line, as in `Interval.sums`.
        tokens: number of tokens trained since the first step of the run.
    """

    def __init__(self, sums: Mapping[str, float] = {}, tokens: float = 0.0):
        self.sums: Counter[str] = Counter(sums)
        self.tokens = tokens
        # The trained tokens and the training time in seconds before the current interval.
        self._before = (tokens, 0.0)

    def add(self, step: "Step") -> None:
        """Add a step."""
        if step.skipped:  # its loss or gradient is not finite
            self.sums["skipped"] += 1
            return
        # `update` of a Counter adds to the old values.
        self.sums.update({**step.sums, "steps": 1.0, "loss": step.loss, "grad_norm": step.grad_norm})
        self.tokens += step.sums.get("tokens", 0.0)

    def end_interval(self, seconds: float, **others: Any) -> Interval:
        """Return the current interval, and start a new one.

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


class Records:
    """The file metrics.jsonl of a run, which may not exist yet. Only the main process may use it.

    Args:
        curves: writer from `curve_writer` for TensorBoard, if any.
    """

    def __init__(self, path: Path, curves: Any = None):
        self.path = path
        self.curves = curves

    def append(self, record: dict[str, Any]) -> None:
        """Append a record.

        Raises:
            UserError: the disk is full or read-only.
        """
        line = json.dumps(as_json_values(record)) + "\n"
        with translate_write_errors(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(line)
        if self.curves:
            for name, value in flat(json.loads(line)).items():
                if isinstance(value, int | float):
                    self.curves.add_scalar(name.replace(".", "/"), value, record["step"])

    def sync(self) -> None:
        """Sync all records to disk: a checkpoint must not contain a step without its record."""
        if self.path.is_file():
            sync_file(self.path)

    def cut_back(self, step: int, evaluated_step: int) -> int:
        """Drop the records that a resumed run will write again, and corrupt lines.

        The last line may be truncated by a kill. Any other corrupt line is logged.

        Args:
            step: drop records of later steps.
            evaluated_step: drop evaluations after later steps.

        Returns:
            The number of dropped lines.
        """
        text = self.path.read_bytes() if self.path.is_file() else b""
        records = [_record_in(line) for line in text.split(b"\n") if line.strip()]
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


def curve_writer(folder: Path, step: int) -> Any:
    """Return a TensorBoard writer, to be closed, for a run that resumes after `step`.

    It invalidates later points of an earlier writer.
    """
    from tensorboardX import SummaryWriter  # imported here, because it is optional

    return SummaryWriter(str(folder), purge_step=step + 1, flush_secs=10)


def _record_in(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; None if the line is corrupt."""
    record = parse_json(line)
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
