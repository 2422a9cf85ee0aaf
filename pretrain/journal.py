"""What a run writes about itself: metrics.jsonl, trace.jsonl, lines of the log, curves for VisualDL."""

import json
from pathlib import Path
from typing import Any

from pretrain.evaluate import summary
from pretrain.metrics import Window, in_words, scalars
from pretrain.reader import StepBatches
from pretrain.spikes import Spike
from training import distributed
from training.engine import Step
from utils.files import atomic_file, sync_file, unwritable_is_a_user_error
from utils.logging import Progress, Scalars, logger

ROLLBACK = "rollback"  # a record's key


class Journal:
    """The records of a run, in a `with` statement. Made on every process; the main one writes.

    Args:
        output: the run's folder; gets metrics.jsonl, trace.jsonl and visualdl/.
        done: steps behind the run. Records of later ones are dropped: they will be written again.
        total: steps of the run.
        state: of the checkpoint that the run goes on from.
        rollbacks: for spikes of the loss, that the checkpoint knows of.
    """

    def __init__(
        self, output: Path, done: int, total: int, state: dict[str, Any] | None = None, rollbacks: int = 0
    ):
        self.path, self.trace_path, self.total = output / "metrics.jsonl", output / "trace.jsonl", total
        self.window = Window(state["window"] if state else None)
        self.evaluated: int = state["evaluated"] if state else -1  # the step of the last evaluation
        if distributed.is_main():
            for path in (self.path, self.trace_path):
                cut_back(path, done, rollbacks)
        self.curves = Scalars(output / "visualdl")
        self.bar = Progress(total, "pre-training", initial=done, unit="steps", lines=False)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        self.curves.close()

    def add(self, step: Step) -> None:
        """Take in a step."""
        self.window.add(step)
        self.bar.update()

    def write_line(self, at: int, step: Step) -> None:
        """A record of the steps since the last line; `step` is the last of them, number `at`."""
        record = self.window.close(at, step.lr)
        self._write(record, [in_words(record, self.total, self.bar.eta())])

    def write_rollback(self, at: int, spike: Spike) -> None:
        """The run has gone back to step `at` for a spike in its loss."""
        self._write({"step": at, ROLLBACK: spike.record()}, [str(spike)])

    def write_trace(self, at: int, work: StepBatches) -> None:
        """Which items of the corpus step number `at` read, on all processes; call it on every one."""
        samples = sorted(sample for part in distributed.gather(work.samples) for sample in part)
        if distributed.is_main():
            record = {"step": at, "batch": work.number, "samples": [sample[1:] for sample in samples]}
            _append(self.trace_path, record)

    def write_evaluation(self, at: int, result: dict[str, Any] | None) -> None:
        """A held-out evaluation after step `at`; None: it was ended early and is still to be done."""
        if result is not None:
            self.evaluated = at
            self._write({"step": at, "held_out": result}, summary(result))

    def state(self) -> dict[str, Any]:
        """For the checkpoint. What was written so far is on the disk then, as the checkpoint will be."""
        for path in (self.path, self.trace_path):
            if distributed.is_main() and path.is_file():
                sync_file(path)
        return {"window": self.window.state(), "evaluated": self.evaluated}

    def _write(self, record: dict[str, Any], lines: list[str]) -> None:
        if not distributed.is_main():
            return
        for line in lines:
            logger.info("%s", line)
        _append(self.path, record)
        self.curves.add(record["step"], scalars(record))


def _append(path: Path, record: dict[str, Any]) -> None:
    with unwritable_is_a_user_error(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def cut_back(path: Path, step: int, rollbacks: int = 0) -> None:
    """Drop the records after `step`, and with them a line that a kill or a full disk cut short.

    Of the rollbacks the first `rollbacks` stay: what the checkpoint does not know of will come again.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):
        record = _record(line)
        if record and record["step"] <= step and record.get(ROLLBACK, {"number": 0})["number"] <= rollbacks:
            kept.append(line + b"\n")
    with atomic_file(path) as file:
        file.writelines(kept)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None: there is none in it, a kill or a failing disk cut it short."""
    try:
        record = json.loads(line)
        numbers = record["step"], record[ROLLBACK]["number"] if ROLLBACK in record else 0
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return record if all(isinstance(number, int) for number in numbers) else None
