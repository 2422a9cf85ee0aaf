"""The records of a run: metrics.jsonl and lines of the log."""

import json
import math
import time
from pathlib import Path
from typing import Any

from pretrain.config import OBJECTIVES
from pretrain.evaluate import summary
from pretrain.run_folder import METRICS
from training import distributed
from training.engine import Step
from utils.files import atomic_file, sync_file, unwritable_is_a_user_error
from utils.logging import Progress, logger

HELD_OUT = "held_out"  # a record's key


class StepSums:
    """Sums over the steps since the last record. Checkpoints hold them, so a resumed run has the same log.

    Args:
        state: of earlier sums, to continue from; the clock starts anew.
    """

    def __init__(self, state: dict[str, Any] | None = None):
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.trained_tokens: float = state["trained_tokens"] if state else 0.0
        self._clock, self._tokens_before = time.monotonic(), self.trained_tokens

    def add(self, step: Step) -> None:
        """Add a step. A skipped step counts as skipped and adds nothing else."""
        values = {**step.sums, "steps": 1.0, "grad_norm": step.grad_norm, "loss": step.loss}
        if step.skipped:
            values = {"skipped": 1.0}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.trained_tokens += values.get("tokens", 0.0)

    def state(self) -> dict[str, Any]:
        """What `StepSums(state)` continues from."""
        return {"sums": dict(self.sums), "trained_tokens": self.trained_tokens}

    def close(self, step: int, lr: float) -> dict[str, Any]:
        """Make one record of the steps since the last one, and start again from zero.

        Returns:
            step, lr, loss and grad_norm (means over steps; None if all were skipped), tokens (trained so
            far), tokens_per_second, skipped, and per objective loss (mean over masked tokens), perplexity and
            accuracy; btmlm also copy_rate and repeat_rate.
        """
        sums, steps, now = self.sums, self.sums.get("steps", 0.0), time.monotonic()
        record: dict[str, Any] = {
            "step": step,
            "lr": lr,
            "loss": sums["loss"] / steps if steps else None,
            "grad_norm": sums["grad_norm"] / steps if steps else None,
            "tokens": self.trained_tokens,
            "tokens_per_second": (self.trained_tokens - self._tokens_before) / max(now - self._clock, 1e-9),
            "skipped": sums.get("skipped", 0.0),
        }
        for name in OBJECTIVES:
            if count := sums.get(f"{name}.count"):
                loss, accuracy = sums[f"{name}.loss"] / count, sums[f"{name}.correct"] / count
                perplexity = math.exp(min(loss, 50.0))
                record[name] = {"loss": loss, "perplexity": perplexity, "accuracy": accuracy}
        if sums.get("pseudo"):
            record["btmlm"]["copy_rate"] = sums["copied"] / sums["pseudo"]
            record["btmlm"]["repeat_rate"] = sums["repeated"] / sums["pseudo"]
        self.sums, self._clock, self._tokens_before = {}, now, self.trained_tokens
        return record


class Journal:
    """The records of a run, for a `with` statement. Every process makes one; the main process writes.

    Args:
        output: the folder of the run; gets metrics.jsonl.
        done: completed steps. Records of later steps are dropped, because they will be written again.
        total: steps of the run.
        state: from the checkpoint that the run continues from.

    Attributes:
        evaluated: the step of the last evaluation; -1: there was none.
    """

    def __init__(self, output: Path, done: int, total: int, state: dict[str, Any] | None = None):
        self.path, self.total = output / METRICS, total
        self.sums = StepSums(state["window"] if state else None)
        self.evaluated: int = state["evaluated"] if state else -1
        if distributed.is_main():
            dropped = cut_back(self.path, done, self.evaluated)
            if dropped and not done:
                logger.warning(
                    "%s: no checkpoint: the run begins at step 0, and the %d records of %s are dropped",
                    output, dropped, METRICS,
                )  # fmt: skip
        self.bar = Progress(total, "pre-training", initial=done, unit="steps", lines=False)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def add(self, step: Step) -> None:
        """Add a step."""
        self.sums.add(step)
        self.bar.update()

    def write_line(self, at: int, step: Step) -> None:
        """Write a record of the steps since the last line, up to `step`, whose number is `at`."""
        record = self.sums.close(at, step.lr)
        self._write(record, [in_words(record, self.total, self.bar.eta())])

    def write_evaluation(self, at: int, result: dict[str, Any] | None) -> None:
        """Write the held-out evaluation after step `at`. None means that it was interrupted."""
        if result is not None:
            self.evaluated = at
            self._write({"step": at, HELD_OUT: result}, summary(result))

    def write_finished(self) -> None:
        """Say that the run is finished, and repeat the last held-out evaluation."""
        logger.info("the run is finished: all %d steps are done, and its models are exported", self.total)
        results = [record[HELD_OUT] for record, _ in _records(self.path) if record and HELD_OUT in record]
        for line in summary(results[-1]) if results else ():
            logger.info("%s", line)

    def state(self) -> dict[str, Any]:
        """For the checkpoint. Everything that was written is synced to disk first."""
        if distributed.is_main() and self.path.is_file():
            sync_file(self.path)
        return {"window": self.sums.state(), "evaluated": self.evaluated}

    def _write(self, record: dict[str, Any], lines: list[str]) -> None:
        if not distributed.is_main():
            return
        for line in lines:
            logger.info("%s", line)
        with unwritable_is_a_user_error(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def in_words(record: dict[str, Any], total_steps: int, eta: str) -> str:
    """A record as one line of the log."""
    parts = [f"step {record['step']:,} of {total_steps:,}"]
    for name in OBJECTIVES:
        if found := record.get(name):
            rates = f"ppl {found['perplexity']:.1f}, acc {100 * found['accuracy']:.1f}"
            parts.append(f"{name} {found['loss']:.4f} ({rates})")
    norm = "-" if record["grad_norm"] is None else f"{record['grad_norm']:.2f}"
    parts.append(f"grad {norm}, lr {record['lr']:.3g}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s, {eta} left")
    if record["skipped"]:
        parts.append(f"{record['skipped']:.0f} steps skipped")
    return " | ".join(parts)


def cut_back(path: Path, step: int, evaluated: int) -> int:
    """Drop the records that will be written again, and lines that a kill or a full disk cut short.

    Args:
        path: of metrics.jsonl, which need not exist.
        step: drop records of later steps.
        evaluated: drop evaluations after this step.

    Returns:
        The number of dropped records.
    """
    records = _records(path)
    kept = [
        line + b"\n"
        for record, line in records
        if record and record["step"] <= (evaluated if HELD_OUT in record else step)
    ]
    if records:
        with atomic_file(path) as file:
            file.writelines(kept)
    return len(records) - len(kept)


def _records(path: Path) -> list[tuple[dict[str, Any] | None, bytes]]:
    """Each line and its record; None if a kill or a failing disk cut it short."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    return [(_record(line), line) for line in lines if line.strip()]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return record if isinstance(record["step"], int) else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
