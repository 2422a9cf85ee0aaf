"""The command run_pretrain.py: output directory, log, training and the finished models.

    encoder/              the finished model for fine-tuning and retrieval, without its head
    full/                 the finished model with its head and language embeddings, for further pre-training
    checkpoints/step_N/   checkpoints (`ernie_m.training.checkpoint`)
    metrics.jsonl         losses and evaluations (`ernie_m.training.log`)
    config.yaml           all options of the run, for --config
    log/job.log.0         the log
    tensorboard/          curves, with --run.tensorboard true

The same command resumes a run from its last checkpoint.
"""

import dataclasses
import os
import re
from pathlib import Path

import yaml

from ernie_m.model.kernel_selection import select_kernels
from ernie_m.pretrain.config import RANDOM, SAME, PretrainConfig
from ernie_m.pretrain.evaluate import compute_language_means
from ernie_m.pretrain.pretraining import Pretraining
from ernie_m.training import distributed
from ernie_m.training.checkpoint import list_checkpoints, write_checkpoint
from ernie_m.training.log import CURVES, METRICS
from ernie_m.training.output_dir import FolderRules, OutputDir
from ernie_m.training.stop_requests import ShutdownHandler, StallWatchdog
from ernie_m.training.trainer import LoopConfig, Trainer
from ernie_m.utils import logging
from ernie_m.utils.args import get_default
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, read_bytes
from ernie_m.utils.logging import IN_FILE, logger
from ernie_m.utils.paddle_settings import prepare, reject_other_launchers

CHECKPOINTS = "checkpoints"
FULL = "full"  # the finished model with its head, for continued pre-training
ENCODER = "encoder"  # the finished model without its head, for fine-tuning
SETTINGS = "config.yaml"
_OURS = (
    "# All options of this run, written by run_pretrain.py.\n"  # the first line of the saved configuration
)
_WAYS_OUT = "choose another run.output, or start over with --run.overwrite true"


def train(config: PretrainConfig, stop: ShutdownHandler) -> None:
    """Start a run or resume it from its last checkpoint, train to the end or a shutdown request, and finish.

    Args:
        stop: handler of shutdown requests, such as SIGTERM.
    """
    # Join the other processes: later phases ask which one this is.
    run = config.run
    reject_other_launchers()
    distributed.init()

    # Lock the output directory first, so that a second command does not even write to the log.
    with open_output_dir(config).lock() as folder:
        # The log is in the output directory, unless a launcher sets another one.
        log_dir = None if logging.LOG_DIR in os.environ else str(folder.path / "log")
        logging.setup_logging(log_dir, distributed.rank())
        logger.info("%s", prepare(), extra=IN_FILE)

        # Finished models are not replaced; that is checked before the corpus is read.
        check_checkpoints(folder)
        select_kernels(run.kernels)  # before a model is made
        task = Pretraining(config)
        loop_config = LoopConfig(
            log_steps=run.log_steps,
            save_steps=run.save_steps,
            last_step=run.stop_after_steps or None,  # 0: run to the end
            stall_ends_seconds=run.stall_ends_seconds,
            tensorboard=run.tensorboard,
        )

        # `Trainer` refuses a run with other settings, so their file is replaced only after it.
        trainer = Trainer(task, folder, run.seed, loop_config)
        save_settings(task.config, folder)  # without unsupported objectives

        # A run that was stopped has no finished models: the same command resumes it.
        if trainer.run(stop):
            write_final_models(task, trainer, folder)


def open_output_dir(config: PretrainConfig) -> OutputDir:
    """Return the output directory of a run, `run.output`, with the rules for its contents."""
    output = Path(config.run.output)
    rules = FolderRules(
        ways_out=(
            f"{_WAYS_OUT}. To train a finished model further, start a new run with another run.output, "
            f"--init.encoder {output / FULL} --init.lm_head same, and another run.seed (the same seed reads "
            "the same text again)"
        ),
        # Not the configuration, which `save_settings` replaces.
        contents=tuple(map(re.escape, (CHECKPOINTS, METRICS, CURVES, FULL, ENCODER))),
        steps_folder=CHECKPOINTS,
        may_differ=r"objectives\..+|optimizer\.batch_size",
    )
    # The directories of initial weights, which overwriting must not remove; other values name no directory.
    start = config.init.checkpoint
    sources = {config.init.encoder, config.init.lm_head, start} - {RANDOM, SAME, ""}
    return OutputDir(
        output,
        rules,
        keep_checkpoints=config.run.keep_checkpoints,
        overwrite=config.run.overwrite,
        sources=sorted(sources),
        resume_from=Path(start) if start else None,
    )


def check_checkpoints(folder: OutputDir) -> None:
    """Check that the run will not replace a finished model. Call this with the lock held.

    Raises:
        UserError: the directory has a finished model but no checkpoint, so the run would start over and
            replace the model.
    """
    models = [name for name in (FULL, ENCODER) if (folder.path / name).exists()]
    if models and not list_checkpoints(folder.steps_folder) and not folder.overwrite:
        raise UserError(
            f"{folder.path} contains {' and '.join(models)}, which would be overwritten, but no checkpoint "
            f"to resume from. Restore {CHECKPOINTS}, {_WAYS_OUT}"
        )


def save_settings(config: PretrainConfig, folder: OutputDir) -> None:
    """Write the config of a run to config.yaml, and log its differences from the defaults.

    A config.yaml that this command did not write is not replaced.
    """
    # A command that resumes the run with this file must not delete its checkpoints.
    saved = dataclasses.replace(config, run=dataclasses.replace(config.run, overwrite=False))
    if distributed.is_main():
        path = folder.path / SETTINGS
        if path.exists() and not read_bytes(path).startswith(_OURS.encode()):
            logger.info("%s: not written by this command; left unchanged", path)
        else:
            options = yaml.safe_dump(
                dataclasses.asdict(saved), sort_keys=False, allow_unicode=True, width=110
            )
            with atomic_file(path, "w") as file:
                file.write(_OURS + options)
        for section, values in vars(saved).items():
            changed = [
                f"{field.name} {value}"
                for field in dataclasses.fields(values)
                if (value := getattr(values, field.name)) != get_default(field)
            ]
            logger.info("%s: %s", section, ", ".join(changed) or "the defaults")
        logger.info("options: %s", path)


def write_final_models(task: Pretraining, trainer: Trainer, folder: OutputDir) -> None:
    """Write the finished models, with the mean embedding of each language, unless they exist.

    Call this on every process.
    """
    full_path = folder.path / FULL
    encoder_path = folder.path / ENCODER

    # An earlier command did all steps and wrote both models.
    are_there = distributed.run_on_main(lambda: full_path.is_dir() and encoder_path.is_dir())
    if trainer.first_step == task.total_steps and are_there:
        logger.info("already finished: %d steps, models exported", task.total_steps)
        return

    # All processes take part in the export, because a sharded one has master weights that the main one lacks.
    # The language means, by which search and mining center embeddings, are the same in both models.
    stall_watch = StallWatchdog(trainer.loop_config.stall_ends_seconds)
    with stall_watch, stall_watch.watch("the export of the finished model"):
        engine = trainer.engine
        master_weights = engine.master_weights()  # float32 weights of parameters trained in lower precision
        full = None
        encoder = None
        if distributed.is_main():  # the other processes only take part in `write_checkpoint`
            max_seq_len = task.config.data.max_seq_len
            means = compute_language_means(engine.model.ernie_m, task.text, task.tokenizer, max_seq_len)
            full = dataclasses.replace(task.collect_files(engine, master_weights), language_means=means)
            encoder = dataclasses.replace(
                task.collect_encoder_files(engine, master_weights), language_means=means
            )
        write_checkpoint(full_path, full)
        write_checkpoint(encoder_path, encoder)
    logger.info(
        "for fine-tuning: --init_pretraining_params %s; to continue pre-training: "
        "--init.encoder %s --init.lm_head same",
        encoder_path,
        full_path,
    )
    logger.info("Next: ernie-m serve --model %s", full_path)
