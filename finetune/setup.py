"""From flags to model, weights, optimizer and engine; from a model to the files of its folder."""

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor

from finetune.classification import names_of_ids
from finetune.flags import FinetuneFlags, TrainingFlags
from finetune.task import SupervisedTask
from model.checkpoint.folder import ModelFiles, model_files
from model.checkpoint.formats.tables import CHOICE
from model.checkpoint.load import load_from
from model.checkpoint.read import READING, Checkpoint, open_checkpoint
from model.config import ErnieMConfig
from model.ernie_m import ErnieMModel
from model.tasks import CLASSIFICATION
from training.engine import Engine
from training.optimizer import FULL_RATE, build_optimizer
from training.precision import LossScaling, Precision
from training.schedules import linear_warmup_decay, noam_decay
from training.task import Evaluation
from utils.command_line import without_overridden
from utils.errors import UserError
from utils.logging import logger

SUMS = ("correct", "count")  # the values that a task's `loss` returns beside the loss, summed over a step


def open_step(step: Path | None, start: Checkpoint | None) -> Checkpoint | None:
    """Open the step folder that a run goes on from, unless it is the start; without one, return the start."""
    if step is None or (start is not None and step == start.path):
        return start
    return open_checkpoint(step)


def check_head(task: SupervisedTask, checkpoint: Checkpoint) -> None:
    """Refuse a fine-tuned checkpoint whose head is known to be of another task, or of a regression."""
    # The classifier of a multiple choice has one number, as that of a regression.
    head_task = CLASSIFICATION if checkpoint.task == CHOICE else checkpoint.task
    if head_task not in (None, task.name):
        raise UserError(
            f"{checkpoint.path}: its head is for {head_task}, not {task.name}; to train from its encoder, "
            "name it with --init_pretraining_params"
        )
    predicts_numbers = checkpoint.settings.get(READING, {}).get("regression", False)
    if predicts_numbers and not task.reading().get("regression"):
        raise UserError(f"{checkpoint.path}: it predicts numbers; add --is_regression true")


def make_model(
    flags: FinetuneFlags,
    task: SupervisedTask,
    config: ErnieMConfig,
    seed: int,
    checkpoint: Checkpoint | None,
    fine_tuned: bool,
) -> paddle.nn.Layer:
    """Make the task's model in --dtype, identical on every process, and load its weights.

    Args:
        checkpoint: the weights; None: they stay random.
        fine_tuned: whether the checkpoint is one of this task, and not of pre-training.
    """
    paddle.seed(seed)
    paddle.set_default_dtype(flags.dtype)
    model = task.make_model(config)
    model.ernie_m.use_recompute(flags.recompute)
    if checkpoint is None:
        logger.warning("no --init_pretraining_params: training starts from random weights")
    elif fine_tuned:
        _check_classifier(flags, task, checkpoint)
        load_from(model, checkpoint)
    else:
        load_from(model, checkpoint, ignore=("classifier.",))  # that of another task may be there
    return model


def _check_classifier(flags: FinetuneFlags, task: SupervisedTask, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint without a classifier, or with the classifier of other labels."""
    if not any(name.startswith("classifier.") for name in checkpoint.tensors):
        raise UserError(
            f"{checkpoint.path}: not fine-tuned, there is no classifier in it; to train from it, "
            "name it with --init_pretraining_params"
        )
    labels = task.labels or []
    # A checkpoint may have no names of labels. If it was trained without a label map, they are only numbers.
    numbers = names_of_ids(len(checkpoint.labels))
    has_names = checkpoint.labels not in ([], numbers)
    if flags.label_map_config and has_names and checkpoint.labels != labels:
        raise UserError(
            f"{flags.label_map_config}: the labels are {', '.join(labels)}, but those of "
            f"{checkpoint.path} are {', '.join(checkpoint.labels)}; give the label map of its training"
        )


def make_encoder(
    config: ErnieMConfig,
    checkpoint: Checkpoint | None,
    dtype: str = "float32",
    seed: int = 1,
    optional: tuple[str, ...] = ("pooler.",),
) -> ErnieMModel:
    """Make an encoder, identical on every process, and load its weights; a head among them is ignored.

    Args:
        checkpoint: the weights; None: they stay random.
        optional: prefixes of tensors that may be missing and are then random.
    """
    paddle.seed(seed)
    paddle.set_default_dtype(dtype)
    model = ErnieMModel(config)
    if checkpoint is None:
        logger.warning("no --init_pretraining_params: the weights are random")
    else:
        heads = ("classifier.", "lm_head.", "language_embeddings.")
        load_from(model, checkpoint, optional=optional, ignore=heads)
    return model


def make_engine(flags: TrainingFlags, model: paddle.nn.Layer, total_steps: int, seed: int) -> Engine:
    """Make optimizer, schedule and engine. Flags that run_retrieval.py does not have take their defaults."""
    warmup_steps = int(total_steps * flags.warmup_proportion)
    if getattr(flags, "lr_scheduler", None) == "noam_decay":
        schedule = noam_decay(warmup_steps)
    else:
        schedule = linear_warmup_decay(warmup_steps, total_steps, flags.lr_schedule_style)
    optimizer = build_optimizer(
        model,
        flags.learning_rate,
        schedule,
        flags.weight_decay,
        flags.layerwise_lr_decay,
        decay_style=getattr(flags, "decay_style", FULL_RATE),
    )
    # The official flags of loss scaling have the names of its fields.
    names = [field.name for field in fields(LossScaling) if hasattr(flags, field.name)]
    loss_scaling = LossScaling(**{name: getattr(flags, name) for name in names})
    precision = Precision(flags.amp, loss_scaling=loss_scaling, cpu_bf16=flags.cpu_bf16)
    return Engine(model, optimizer, seed, precision=precision, sums=SUMS)


def files_of_checkpoint(
    task: Any,
    engine: Engine,
    masters: Mapping[str, Tensor],
    evaluation: Evaluation | None,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> ModelFiles:
    """The files of a fine-tuned model; see `training.task.Task.files`.

    Args:
        task: has the config, the tokenizer and the seed.
        settings: "task", "labels" and "reading" for config.json.
        facts: for the model card; steps, seed, command and scores are added.
    """
    facts = {**facts, "steps": engine.steps, "seed": task.seed, "command": without_overridden(sys.argv)}
    if evaluation is not None:
        facts["scores"] = evaluation.scores
    return model_files(
        engine.model,
        task.config,
        vocab_path=task.tokenizer.vocab_path,
        piece_model_path=task.tokenizer.piece_model_path,
        facts=facts,
        settings={**settings, "step": engine.steps},
        masters=masters,
    )
