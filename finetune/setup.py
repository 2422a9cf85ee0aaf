"""From flags to processes, tokenizer, model, weights, optimizer and engine."""

import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import paddle

from finetune.flags import FinetuneFlags, TrainingFlags
from finetune.task import Task
from model.checkpoint.load import load_from
from model.checkpoint.read import Checkpoint, open_checkpoint
from model.ernie_m import ErnieMConfig, ErnieMModel
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine
from training.optimizer import build_optimizer, linear_warmup_decay, noam_decay
from training.precision import LossScaling, Precision
from utils.errors import UserError
from utils.logging import RECIPE_BATCH, logger, setup

SUMS = ("correct", "count")  # the values that `Training.loss` returns beside the loss, summed over a step


def begin(use_cuda: bool) -> None:
    """Start a command: join the other processes, open the log, and log the command."""
    distributed.init(use_cuda)
    setup(rank=distributed.rank())
    logger.info("command: %s (paddle %s)", shlex.join(sys.argv), paddle.__version__)
    if line := os.environ.get(RECIPE_BATCH):
        logger.info("%s", line)


def open_start(flags: Any) -> Checkpoint | None:
    """Open the weights that --init_checkpoint or --init_pretraining_params names; None: neither is given."""
    path = flags.init_checkpoint or flags.init_pretraining_params
    return open_checkpoint(path) if path else None


def open_step(step: Path | None, start: Checkpoint | None) -> Checkpoint | None:
    """The step folder that a run resumes from, opened unless it is the start, which is; None: the start."""
    if step is None or (start is not None and step == start.path):
        return start
    return open_checkpoint(step)


def make_tokenizer(flags: Any, checkpoint: Checkpoint | None) -> Tokenizer:
    """Open --piece_model_path and --vocab_path, or the tokenizer in the folder of the weights."""
    if flags.piece_model_path is not None:
        return Tokenizer(flags.vocab_path, flags.piece_model_path)
    if checkpoint and checkpoint.piece_model_path:
        return Tokenizer(flags.vocab_path or checkpoint.vocab_path, checkpoint.piece_model_path)
    raise UserError("--piece_model_path is needed: the sentencepiece model (./configs/piece.model)")


def model_config(flags: Any, checkpoint: Checkpoint | None, tokenizer: Tokenizer) -> ErnieMConfig:
    """Read the model's shape from --ernie_config_path or from the folder of the weights, and check it."""
    if flags.ernie_config_path:
        source = flags.ernie_config_path
        config = ErnieMConfig.from_json(source)
    elif checkpoint:
        source = checkpoint.path
        config = checkpoint.config
    else:
        raise UserError("--ernie_config_path is needed: the model's shape (configs/base/ernie_config.json)")
    if config is None:
        raise UserError(f"{source}: no config.json or ernie_config.json there; give --ernie_config_path")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{source}: vocab_size is {config.vocab_size}, the tokenizer's {tokenizer.vocab_size}"
        )
    if tokenizer.pad_id != config.pad_token_id:
        raise UserError(f"{source}: pad_token_id is {config.pad_token_id}, but [PAD] is {tokenizer.pad_id}")
    if flags.max_seq_len > (room := config.max_position_embeddings - 2):
        raise UserError(f"--max_seq_len {flags.max_seq_len}: {source} has room for {room} tokens")
    return config


def make_model(
    flags: FinetuneFlags, task: Task, config: ErnieMConfig, seed: int, checkpoint: Checkpoint | None,
    fine_tuned: bool,
) -> paddle.nn.Layer:  # fmt: skip
    """Make the task's model in --dtype, identical on every process, and load its weights.

    Args:
        checkpoint: None: the weights stay random.
        fine_tuned: the checkpoint is one of this task, and not of pre-training.
    """
    paddle.seed(seed)
    paddle.set_default_dtype(flags.dtype)
    model = task.make_model(config)
    model.ernie_m.use_recompute(flags.recompute)
    if checkpoint is None:
        logger.warning("no --init_pretraining_params: training starts from random weights")
    elif fine_tuned:
        if not any(name.startswith("classifier.") for name in checkpoint.tensors):
            raise UserError(
                f"{checkpoint.path}: not fine-tuned, there is no classifier in it; to train from it, "
                "name it with --init_pretraining_params"
            )
        labels = task.labels or []
        bare_ids = [str(id_) for id_ in range(len(checkpoint.labels))]  # it was trained without a label map
        if flags.label_map_config and checkpoint.labels not in ([], labels, bare_ids):
            raise UserError(
                f"{flags.label_map_config}: the labels are {', '.join(labels)}, but those of "
                f"{checkpoint.path} are {', '.join(checkpoint.labels)}; give the label map of its training"
            )
        load_from(model, checkpoint)
    else:
        load_from(model, checkpoint, optional=("pooler.", "classifier."), ignore=("classifier.",))
    return model


def open_encoder(
    flags: Any, checkpoint: Checkpoint | None, dtype: str = "float32", seed: int = 1,
    optional: tuple[str, ...] = ("pooler.",),
) -> tuple[ErnieMModel, Tokenizer]:  # fmt: skip
    """Make tokenizer and encoder; a head in the weights is ignored.

    Args:
        flags: the flags of run_retrieval.py or encode_vector.py.
        checkpoint: None: the model stays random.
        optional: prefixes of tensors that may be missing and are then random.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    tokenizer = make_tokenizer(flags, checkpoint)
    paddle.seed(seed)
    paddle.set_default_dtype(dtype)
    model = ErnieMModel(model_config(flags, checkpoint, tokenizer))
    if checkpoint:
        load_from(model, checkpoint, optional, ignore=("classifier.", "lm_head.", "language_embeddings."))
    else:
        logger.warning("no --init_pretraining_params: the weights are random")
    return model, tokenizer


def make_engine(flags: TrainingFlags, model: paddle.nn.Layer, total_steps: int, seed: int) -> Engine:
    """Make optimizer, schedule and engine. run_retrieval.py has fewer flags; the others have defaults."""
    warmup_steps = int(total_steps * flags.warmup_proportion)
    if getattr(flags, "lr_scheduler", None) == "noam_decay":
        schedule = noam_decay(warmup_steps)
    else:
        schedule = linear_warmup_decay(warmup_steps, total_steps, flags.lr_schedule_style)
    optimizer = build_optimizer(
        model, flags.learning_rate, schedule, flags.weight_decay, flags.layerwise_lr_decay,
        decay_style=getattr(flags, "decay_style", "official"),
    )  # fmt: skip
    names = [field.name for field in fields(LossScaling) if hasattr(flags, field.name)]
    scaling = LossScaling(**{name: getattr(flags, name) for name in names})
    precision = Precision(flags.amp, loss_scaling=scaling, cpu_bf16=flags.cpu_bf16)
    return Engine(model, optimizer, seed, precision=precision, sums=SUMS)
