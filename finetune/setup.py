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
from model.checkpoint.folder import load_from, read_weights
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


def make_tokenizer(flags: Any) -> Tokenizer:
    """Open --piece_model_path and --vocab_path, or the tokenizer in the folder of the weights."""
    if flags.piece_model_path is not None:
        return Tokenizer(flags.vocab_path, flags.piece_model_path)
    source = flags.init_checkpoint or flags.init_pretraining_params
    if source and (checkpoint := read_weights(source)).piece_model_path:
        return Tokenizer(flags.vocab_path or checkpoint.vocab_path, checkpoint.piece_model_path)
    raise UserError("--piece_model_path is needed: the sentencepiece model (./configs/piece.model)")


def model_config(flags: Any, tokenizer: Tokenizer) -> ErnieMConfig:
    """Read the model's shape from --ernie_config_path or from the folder of the weights, and check it."""
    source = flags.ernie_config_path or flags.init_checkpoint or flags.init_pretraining_params
    if source is None:
        raise UserError("--ernie_config_path is needed: the model's shape (configs/base/ernie_config.json)")
    from_json = source == flags.ernie_config_path
    config = ErnieMConfig.from_json(source) if from_json else read_weights(source).config
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
    flags: FinetuneFlags, task: Task, config: ErnieMConfig, seed: int, step: Path | None = None
) -> paddle.nn.Layer:
    """Make the task's model in --dtype, identical on every process, and load its weights.

    Args:
        step: a step folder of the run; it takes precedence over the weights that the flags name.
    """
    paddle.seed(seed)
    paddle.set_default_dtype(flags.dtype)
    model = task.make_model(config)
    model.ernie_m.use_recompute(flags.recompute)
    checkpoint, pretrained = flags.init_checkpoint, flags.init_pretraining_params
    if source := step or checkpoint:
        found = read_weights(source)
        if not any(name.startswith("classifier.") for name in found.weights):
            raise UserError(
                f"{source}: not fine-tuned, there is no classifier in it; to train from it, "
                "name it with --init_pretraining_params"
            )
        labels, known = task.labels or [], found.extra.get("labels") or []  # 0, 1, ...: trained on bare ids
        if flags.label_map_config and known not in ([], labels, [str(id_) for id_ in range(len(known))]):
            raise UserError(
                f"{flags.label_map_config}: the labels are {', '.join(labels)}, but those of {source} are "
                f"{', '.join(map(str, known))}; give the label map of its training"
            )
        load_from(model, source)
    elif pretrained:
        load_from(model, pretrained, optional=("pooler.", "classifier."), ignore=("classifier.",))
    else:
        logger.warning("no --init_pretraining_params: training starts from random weights")
    return model


def open_encoder(
    flags: Any, dtype: str = "float32", seed: int = 1, optional: tuple[str, ...] = ("pooler.",)
) -> tuple[ErnieMModel, Tokenizer]:
    """Open tokenizer, config and weights of an encoder; a head in the weights is ignored.

    Args:
        flags: the flags of run_retrieval.py or encode_vector.py. Without weights the model is random.
        optional: prefixes of tensors that may be missing and are then random.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    tokenizer = make_tokenizer(flags)
    paddle.seed(seed)
    paddle.set_default_dtype(dtype)
    model = ErnieMModel(model_config(flags, tokenizer))
    if source := flags.init_checkpoint or flags.init_pretraining_params:
        load_from(model, source, optional, ignore=("classifier.", "lm_head.", "language_embeddings."))
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
    return Engine(model, optimizer, seed, precision=Precision(flags.amp, loss_scaling=scaling), sums=SUMS)
