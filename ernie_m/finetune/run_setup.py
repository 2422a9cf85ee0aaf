"""Setup of fine-tuning commands: log, output directory, fingerprint, engine, model files, report."""

import hashlib
import math
import re
import shlex
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.finetune import score_tables
from ernie_m.finetune.finetune_args import TrainingFlags, log_ineffective_flags
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.checkpoint.write import ModelFiles, collect_model_files
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.kernel_selection import select_kernels
from ernie_m.model.optimization import Schedule, build_optimizer, linear_warmup_decay
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.training.checkpoint import has_training_state, read_state
from ernie_m.training.engine import Engine
from ernie_m.training.log import CURVES, METRICS, Evaluation, Interval
from ernie_m.training.output_dir import RUN, TRAINED, FolderRules, OutputDir
from ernie_m.training.precision import Precision
from ernie_m.training.trainer import LoopConfig, Trainable
from ernie_m.utils import logging
from ernie_m.utils.args import get_result_options
from ernie_m.utils.errors import UserError, get_command_line
from ernie_m.utils.files import compute_sha256
from ernie_m.utils.logging import IN_FILE, copy_log, logger
from ernie_m.utils.paddle_settings import prepare, reject_other_launchers

SUMS = ("correct", "count")  # the values besides the loss that `loss` returns, summed over a step
# Flags of input files, where a command has them.
_READ = (
    "init_checkpoint",
    "init_pretraining_params",
    "ernie_config_path",
    "vocab_path",
    "piece_model_path",
    "label_map_config",
    "lang_map_config",
    "train_set",
    "pairs",
)


def set_up_command(flags: TrainingFlags) -> None:
    """Set up a fine-tuning command: join the other processes, open the log, and log the command line."""
    reject_other_launchers()
    device = distributed.init(flags.use_cuda)
    select_kernels(flags.kernels)
    logging.setup_logging(rank=distributed.rank(), is_copied=True)  # `open_output_dir` copies the log
    command = f"command: {shlex.join(get_command_line())} (paddle {paddle.__version__})"
    for line in (prepare(), command):
        logger.info("%s", line, extra=IN_FILE)
    if device == "cpu" and flags.use_cuda and "use_cuda" in flags.on_command_line:
        logger.warning("--use_cuda true: Paddle finds no GPU; using the CPU")
    log_ineffective_flags(flags)


@contextmanager
def open_output_dir(flags: TrainingFlags, fingerprint: dict[str, Any]) -> Iterator[OutputDir]:
    """Lock the output directory --checkpoints for a run, as a context manager that yields it.

    Raises:
        UserError: another command is using the directory, or the directory contains another run.
    """
    # Files that --overwrite must not remove; %d stands for the seed in run_retrieval.py.
    paths = [path for name in _READ if (path := getattr(flags, name, None))]
    sources = {path.replace("%d", str(seed)) for path in paths for seed in flags.seeds}
    step = find_resumed_step(flags)
    its_model = step or f"{flags.checkpoints}/best (the last step_N if there is no best)"
    rules = FolderRules(
        ways_out="choose another --checkpoints, or start over with --overwrite true. To train its model "
        f"further, start a new run in another --checkpoints, with --init_pretraining_params {its_model}",
        # run.json first: if the removal is interrupted, the remaining files are of no run.
        contents=(*map(re.escape, (RUN, METRICS, CURVES)), *TRAINED, *flags.beside_run),
    )
    folder = OutputDir(
        Path(flags.checkpoints),
        rules,
        keep_checkpoints=flags.keep_checkpoints,
        overwrite=flags.overwrite,
        sources=sorted(sources),
        resume_from=step,
    )
    with folder.lock():
        # A checkpoint is of one seed; other seeds may be trained in the same directory.
        folder.check_or_write_fingerprint({**fingerprint, "random_seed": list(flags.seeds)})
        # ./log/job.log.0, the official path, has the lines of all runs; this copy only those of this run.
        distributed.run_on_main(lambda: copy_log(folder.path / "log" / "job.log.0"))
        yield folder


def find_resumed_step(flags: TrainingFlags) -> Path | None:
    """Return the path of --init_checkpoint if it has a training state to resume from, otherwise None."""
    path = flags.init_checkpoint
    return Path(path) if path and has_training_state(Path(path)) else None


def make_fingerprint(
    flags: TrainingFlags,
    task: str,
    initial_checkpoints: Iterable[Checkpoint | None],
    config: ErnieMConfig,
    tokenizer: Tokenizer,
    **further_values: Any,
) -> dict[str, Any]:
    """Return the fingerprint of a run, the settings and digests that determine its result, as JSON values.

    The seeds are not included.

    Args:
        task: the name of the task.
        initial_checkpoints: the initial checkpoint of each seed; None: random weights.
        further_values: additional values, such as digests of data files.
    """
    flags_that_decide = get_result_options(flags)
    del flags_that_decide["random_seed"]  # a checkpoint is of one seed
    return {
        "task": task,
        **flags_that_decide,
        **further_values,
        "start": _digest_initial_weights(flags, initial_checkpoints),
        "model": config.to_dict(),
        "vocabulary": tokenizer.digest,
    }


def _digest_initial_weights(flags: TrainingFlags, initial_checkpoints: Iterable[Checkpoint | None]) -> str:
    """Return the digests of the initial weights of all seeds, or "random".

    If --init_checkpoint has a training state, the digests are those in the fingerprint of the resumed run.

    Raises:
        UserError: the training state of --init_checkpoint has a seed other than --random_seed.
    """
    if step := find_resumed_step(flags):
        _, saved = read_state(step)
        if flags.seeds != (saved["seed"],):
            raise UserError(
                f"{flags.init_checkpoint} was trained with --random_seed {saved['seed']}. Pass only that seed"
            )
        return saved["identity"].get("start", "of a pre-training")
    # Seeds may share a checkpoint.
    by_path = {checkpoint.path: checkpoint for checkpoint in initial_checkpoints if checkpoint is not None}
    return ", ".join(_digest_weights(start) for start in by_path.values()) or "random"


def _digest_weights(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of the tensors of a checkpoint, which is the same in every file format."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        array = checkpoint.tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def digest_files(paths: Iterable[str | Path]) -> str | None:
    """Return the SHA-256 of the concatenated digests of files; None without files."""
    digests = "".join(compute_sha256(path) for path in paths)
    return hashlib.sha256(digests.encode()).hexdigest() if digests else None


def open_resumed_checkpoint(step: Path | None, initial_checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Open the checkpoint from which a run resumes.

    Args:
        step: the path of the checkpoint; None: the run does not resume.
        initial_checkpoint: the checkpoint to return if the run does not resume, or if `step` is its path.
    """
    if step is None or (initial_checkpoint is not None and step == initial_checkpoint.path):
        return initial_checkpoint
    return open_checkpoint(step)


def make_engine(
    flags: TrainingFlags,
    model: paddle.nn.Layer,
    total_steps: int,
    seed: int,
    schedule: Schedule | None = None,
    loss_scaling: Mapping[str, Any] | None = None,
) -> Engine:
    """Build the optimizer and the engine of a model.

    Args:
        total_steps: the length of the learning-rate schedule in steps.
        schedule: the learning-rate schedule; None: linear warm-up and decay.
        loss_scaling: the settings of fp16 loss scaling; see `Precision`.
    """
    warmup_steps = int(total_steps * flags.warmup_proportion)
    if flags.warmup_proportion and not warmup_steps and total_steps > 1:
        logger.warning(
            "--warmup_proportion %g of %d steps rounds to 0: constant learning rate",
            flags.warmup_proportion,
            total_steps,
        )
    if schedule is None:
        schedule = linear_warmup_decay(warmup_steps, total_steps, flags.lr_schedule_style)
    optimizer = build_optimizer(
        model,
        flags.learning_rate,
        schedule,
        flags.weight_decay,
        flags.layerwise_lr_decay,
    )
    return Engine(model, optimizer, seed, precision=Precision(flags.amp, "O1", loss_scaling), sums=SUMS)


def make_loop_config(flags: TrainingFlags) -> LoopConfig:
    """Return the configuration of the training loop: logging and saving intervals, and the stall timeout."""
    return LoopConfig(
        log_steps=flags.skip_steps,  # the official name of this flag
        save_steps=flags.save_steps,
        stall_ends_seconds=flags.stall_ends_seconds,
        tensorboard=flags.tensorboard,
    )


def format_official_line(interval: Interval, total_steps: int, measure: str) -> str:
    """Format a log line as the official code does.

    Args:
        measure: the metric, such as "ave acc: 0.912".
    """
    steps = interval.sums["steps"]
    loss = interval.sums["loss"] / steps if steps else math.nan
    return (
        f"step: {interval.steps}/{total_steps}, ave loss: {loss:f}, {measure}, lr: {interval.step.lr:.3e}, "
        f"grad norm: {interval.step.grad_norm:.3f}, speed: {interval.steps_per_second:.3f} steps/s, "
        f"{interval.remaining} left"
    )


class MultiSeedTraining(Trainable):
    """Base class of fine-tuning runs, which train one seed after another.

    Attributes:
        config: the configuration of the model.
        tokenizer: the tokenizer of the model.
        seed: the current seed.
    """

    config: ErnieMConfig
    tokenizer: Tokenizer
    seed: int

    @abstractmethod
    def log_line(self, interval: Interval) -> str:
        """Return the log line of an interval."""

    def log_interval(self, interval: Interval) -> dict[str, Any]:
        """Log an interval, and return its record for metrics.jsonl: step, learning rate, and mean loss.

        The loss is None if all steps were skipped.
        """
        logger.info("%s", self.log_line(interval))
        return {
            "step": interval.steps,
            "lr": interval.step.lr,
            "loss": interval.sums["loss"] / interval.sums["steps"] if interval.sums["steps"] else None,
        }

    def collect_model_files(
        self,
        engine: Engine,
        master_weights: Mapping[str, Tensor],
        evaluation: Evaluation | None,
        settings: Mapping[str, Any],
        card_facts: Mapping[str, Any],
        omitted_prefixes: tuple[str, ...] = (),
    ) -> ModelFiles:
        """Return the files of the model; see `ernie_m.training.trainer.Trainable.collect_files`.

        Args:
            settings: "task", "labels" and "pipeline" for config.json.
            card_facts: the facts of the model card; steps, seed, command and scores are added.
            omitted_prefixes: prefixes of the names of weights that are not written.
        """
        card_facts = {
            **card_facts,
            "steps": engine.steps,
            "seed": self.seed,
            "command": shlex.join(get_command_line()),
        }
        if evaluation is not None:
            card_facts["scores"] = evaluation.scores
        return collect_model_files(
            engine.model,
            self.config,
            tokenizer=self.tokenizer.files,
            card_facts=card_facts,
            settings={**settings, "step": engine.steps, "seed": self.seed},
            omitted_prefixes=omitted_prefixes,
            master_weights=master_weights,
        )


def log_and_write_report(
    folder: str,
    name: str,
    tables: Sequence[score_tables.ScoreTable],
    further_values: Mapping[str, Any],
) -> None:
    """Log score tables, and write them as <name>.txt, <name>.md and <name>.json to a directory."""
    logger.info(f"results\n{score_tables.to_text(tables)}")
    if distributed.is_main():
        score_tables.write_report(Path(folder), name, tables, further_values)
