"""A fine-tuning command from start to end: one run per seed, then the report. Every task goes through it."""

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from finetune import report
from finetune.run_folder import owned_by, seed_folders, step_to_resume
from finetune.setup import begin
from finetune.trainer import Evaluation, FineTuningTrainer, Training
from training import distributed
from training.engine import Engine
from utils.files import read_dataclass
from utils.logging import logger

SELECTED = "selected.json"


class Run(Protocol):
    """What a command does: `SupervisedRun` or `RetrievalRun`.

    Attributes:
        flags: `do_train`, `checkpoints`, `overwrite` and the flags that name the weights are read.
        seeds: the seeds, in the order in which they are run.
    """

    flags: Any
    seeds: tuple[int, ...]

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same; see `finetune.run_folder.identity`."""

    def flags_yaml(self) -> str:
        """All flags as YAML."""

    def run_seed(self, seed: int, folder: Path, run: dict[str, Any]) -> Any:
        """Train and evaluate a seed; return what `report` needs, or None."""

    def report(self, records: dict[int, Any]) -> tuple[str, list[report.Table], dict[str, Any]]:
        """Name of the files, tables, and facts for the JSON file, from what `run_seed` returned."""


def run_command(use_cuda: bool, make_run: Callable[[], Run]) -> None:
    """Run every seed in turn, each from where it stopped; then write the report into --checkpoints.

    Args:
        make_run: reads and checks all files, in processes that can talk to each other.

    Raises:
        UserError: a flag or a file is wrong, or another run owns --checkpoints; before the first step.
    """
    begin(use_cuda)
    run = make_run()
    flags, identity, records = run.flags, run.identity() if run.flags.do_train else {}, {}
    owned = owned_by(flags, identity, run.flags_yaml()) if flags.do_train else contextlib.nullcontext()
    with owned:
        for seed, folder in seed_folders(flags.checkpoints, run.seeds).items():
            if (record := run.run_seed(seed, folder, identity)) is not None:
                records[seed] = record
            gc.collect()  # the model and its moments, before those of the next seed are made
        if records:
            name, tables, facts = run.report(records)
            logger.info("results\n%s", report.to_text(tables))
            if distributed.is_main():
                report.write_report(Path(flags.checkpoints), name, tables, facts)


def fine_tune(
    flags: Any, make: Callable[[Path | None], tuple[Training, Engine]], run: dict[str, Any], seed: int,
    folder: Path,
) -> FineTuningTrainer:  # fmt: skip
    """Train one seed to its last step, from the step where it stopped.

    Args:
        make: makes the training and the engine, with the weights of a step folder or those of the flags.
    """
    start = step_to_resume(folder, run, seed, flags.init_checkpoint)
    training, engine = make(start and start[0])
    trainer = FineTuningTrainer(training, engine, run, folder, flags)
    if start:
        trainer.resume(*start)
    trainer.run()
    return trainer


def read_record(folder: Path) -> Evaluation:
    """Read the selected evaluation of a finished seed."""
    return read_dataclass(folder / SELECTED, Evaluation, "remove it, and the same command makes it again")
