"""What a run writes about itself: metrics.jsonl, lines of the log, curves for VisualDL."""

import json
from pathlib import Path
from typing import Any

from pretrain.evaluate import summary
from pretrain.metrics import Window, in_words, scalars
from utils.distributed import is_main
from utils.engine import Step
from utils.files import atomic_file, unwritable_is_a_user_error
from utils.logging import Progress, Scalars, logger


class Journal:
    """The records of a run, in a `with` statement. Made on every process; the main one writes.

    Args:
        output: the run's folder; gets metrics.jsonl and visualdl/.
        done: steps behind the run. Records of later ones are dropped: they will be written again.
        total: steps of the run.
        state: of the checkpoint that the run goes on from.
    """

    def __init__(self, output: Path, done: int, total: int, state: dict[str, Any] | None = None):
        self.path, self.total = output / "metrics.jsonl", total
        self.window = Window(state["window"] if state else None)
        self.evaluated: int = state["evaluated"] if state else -1  # the step of the last evaluation
        if is_main():
            cut_back(self.path, done)
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

    def write_evaluation(self, at: int, result: dict[str, Any] | None) -> None:
        """A held-out evaluation after step `at`; None: it was ended early and is still to be done."""
        if result is not None:
            self.evaluated = at
            self._write({"step": at, "held_out": result}, summary(result))

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"window": self.window.state(), "evaluated": self.evaluated}

    def _write(self, record: dict[str, Any], lines: list[str]) -> None:
        if not is_main():
            return
        for line in lines:
            logger.info("%s", line)
        with unwritable_is_a_user_error(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.curves.add(record["step"], scalars(record))


def cut_back(path: Path, step: int) -> None:
    """Drop the records after `step`, and with them a line that a kill cut short."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["step"] <= step:
            kept.append(line + "\n")
    with atomic_file(path, "w") as file:
        file.writelines(kept)
