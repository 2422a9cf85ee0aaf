"""Whether the head of a checkpoint is used for a task: a classifier with the same labels."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.model.checkpoint.convert_names import CHOICE
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.pipeline_config import NEITHER
from ernie_m.model.tasks import CLASSIFICATION, make_default_label_names
from ernie_m.utils.errors import UserError, join_items
from ernie_m.utils.logging import logger


def check_head(task: FinetuningTask, checkpoint: Checkpoint, label_map: str | None) -> Checkpoint:
    """Check that --init_checkpoint was fine-tuned for the task, and return its checkpoint.

    Args:
        label_map: the value of --label_map_config; None: the task has the labels of the checkpoint.

    Raises:
        UserError: the head or the labels do not match the task; see `find_head_error`.
    """
    if error := find_head_error(task, checkpoint):
        raise UserError(
            f"{checkpoint.path}: {error}. To train from its encoder, pass it as --init_pretraining_params"
        )
    labels = task.labels or []
    if label_map and _are_label_names(checkpoint.labels) and checkpoint.labels != labels:
        raise UserError(
            f"{label_map}: labels {', '.join(labels)} do not match those of {checkpoint.path}: "
            f"{', '.join(checkpoint.labels)}. Use the label map it was trained with"
        )
    if label_map and not _are_label_names(checkpoint.labels):
        names = ", ".join(f"{number}: {label}" for number, label in enumerate(labels))
        logger.warning("%s: no label names; %s assigns %s", checkpoint.path, label_map, names)
    return checkpoint


def find_head_error(task: FinetuningTask, checkpoint: Checkpoint) -> str:
    """Return the reason why a checkpoint has no usable classifier for a task; "" if it has one."""
    # A multiple-choice head has one output, as a regression head has.
    head_task = CLASSIFICATION if checkpoint.task == CHOICE else checkpoint.task
    if head_task not in (None, task.name):
        return f"its head is for {head_task}, not {task.name}"
    if checkpoint.pipeline_config.regression and not task.get_pipeline_settings().get("regression"):
        return "it is a regression model (--is_regression true)"
    if "classifier.weight" not in checkpoint.tensors:
        return "not fine-tuned (it has no classifier)"
    several = checkpoint.pipeline_config.multi_label
    if several != task.get_pipeline_settings().get("multi_label", False):
        kind = "multi-label" if several else "single-label"
        return f"it is a {kind} classifier of ernie-m fit"
    return ""


def _are_label_names(labels: Sequence[str]) -> bool:
    """Return whether the labels of a checkpoint are names, not ids (training without a label map)."""
    return labels not in ([], make_default_label_names(len(labels)))


def find_fine_tuned(task: FinetuningTask, start: Checkpoint | None) -> Checkpoint | None:
    """Return the checkpoint of --init_pretraining_params if its classifier matches the task, and log this.

    The official function loads every parameter with a matching name. Here, the classifier must also have the
    labels of the task, in any order.

    Returns:
        The checkpoint, with the outputs of its classifier in the order of the task's labels; None if the
        classifier is missing or does not match.
    """
    if start is None or "classifier.weight" not in start.tensors:
        return None
    tensors = start.tensors
    labels = task.labels or ["start", "end"]
    names = start.labels if _are_label_names(start.labels) and _are_label_names(labels) else labels
    error = find_head_error(task, start)
    if not error and (
        len(labels) != tensors.shape("classifier.weight")[-1] or sorted(names) != sorted(labels)
    ):
        error = f"its labels are not {join_items(labels)}"
    if not error and start.pipeline_config.get_prompt(NEITHER) != task.prompt:
        error = "it requires a prompt, which only --init_checkpoint keeps"
    if error:
        logger.warning("%s: ignoring its classifier and training a new one: %s", start.path, error)
        return None
    by_number = (
        " (by index: it has no label names)" if task.labels and not _are_label_names(start.labels) else ""
    )
    logger.info("%s: loading its classifier%s: %s", start.path, by_number, join_items(labels))
    order = [names.index(label) for label in labels]
    head = {name: tensors[name][..., order] for name in tensors if name.startswith("classifier.")}

    def fetch(name: str) -> np.ndarray:
        return head[name] if name in head else tensors[name]

    return replace(start, tensors=Weights(tensors.source, tensors.shapes, fetch))
