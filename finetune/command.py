"""What all fine-tuning commands do: open the log, lock --checkpoints, and write a report over the seeds."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle

from finetune import report
from finetune.flags import TrainingFlags
from model.device import use_kernels
from training import distributed
from training.run import Pace
from training.run_folder import BEST, RUN, SELECTED, FolderRules, RunFolder, has_state
from utils.command_line import log_no_effect, without_overridden
from utils.logging import RECIPE_BATCH, copy_log, logger, setup

_REPORTS = ("results.*", "evaluation.*", "retrieval.*", "sweep.*", "predictions", "test_result*")


def folder_rules(flags: TrainingFlags) -> FolderRules:
    """How a fine-tuning command uses --checkpoints."""
    return FolderRules(
        output_option="--checkpoints",
        overwrite_option="--overwrite true",
        # run.json first: if the removal is interrupted, what remains belongs to no run.
        contents=(RUN, "step_*", BEST, "seed_*", f"{SELECTED}*", *_REPORTS),
        # A step folder belongs to one seed, and other seeds may be run beside it.
        may_change=("random_seed",),
        # The end of the error for a folder that holds another run.
        advice=lambda identity, keys: "; to start a new run from its weights, use --init_pretraining_params",
    )


def begin(flags: TrainingFlags) -> None:
    """Start a command: join the other processes, open the log, and log the command line."""
    device = distributed.init(flags.use_cuda)
    use_kernels(flags.kernels)
    setup(rank=distributed.rank(), is_copied=True)
    logger.info("command: %s (paddle %s)", without_overridden(sys.argv), paddle.__version__)
    if device == "cpu" and flags.use_cuda and "use_cuda" in flags.on_command_line:
        logger.warning("--use_cuda true: Paddle sees no GPU, so the CPU is used")
    # launch.py prints how it divides the total batch of a recipe. job.log gets the same line.
    line = os.environ.get(RECIPE_BATCH)
    if line:
        logger.info("%s", line)
    log_no_effect(flags)


@contextmanager
def run_folder(flags: TrainingFlags, identity: dict[str, Any]) -> Iterator[RunFolder]:
    """Lock --checkpoints for a run.

    Raises:
        UserError: another command writes there, or the folder holds another run.
    """
    # Overwriting must not remove the weights that the run starts from.
    sources = [path for path in (flags.init_checkpoint, flags.init_pretraining_params) if path]
    resume_from = None  # a step folder of another run folder, to go on from
    if flags.init_checkpoint and has_state(Path(flags.init_checkpoint)):
        resume_from = Path(flags.init_checkpoint)
    folder = RunFolder(
        Path(flags.checkpoints),
        folder_rules(flags),
        keep_checkpoints=flags.keep_checkpoints,
        overwrite=flags.overwrite,
        sources=sources,
        resume_from=resume_from,
    )
    with folder.locked():
        folder.claim(identity)
        # The official place has the lines of all runs.
        distributed.on_main(lambda: copy_log(folder.path / "log" / "job.log.0"))
        yield folder


def pace_of(flags: TrainingFlags) -> Pace:
    """How often a run logs and saves, and when a stalled process is ended, as the flags say."""
    return Pace(
        log_steps=flags.skip_steps,  # the official name of this flag
        save_steps=flags.save_steps,
        stall_ends_seconds=flags.stall_ends_seconds,
    )


def log_and_write_report(
    flags: TrainingFlags,
    name: str,
    tables: Sequence[report.Table],
    facts: Mapping[str, Any],
    label_tables: Sequence[report.LabelTable] = (),
) -> None:
    """Log the tables, and write them and those of labels as <name>.txt, .md and .json into --checkpoints."""
    logger.info("results\n%s", report.to_text(tables))
    if distributed.is_main():
        report.write_report(Path(flags.checkpoints), name, tables, facts, label_tables)
