"""Write a checkpoint in another format, and list what was written and what was not."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.checkpoint.card import model_card
from model.checkpoint.formats import configs, fluid, pickles, safetensors, tables
from model.checkpoint.formats.tables import CHOICE, CLASSES, EXTRACT, LM, OFFICIAL, OURS, PADDLENLP, XLM_R
from model.checkpoint.formats.weights import Weights, finite, to_theirs
from model.checkpoint.read import CONFIG, READING, WEIGHTS, Checkpoint
from model.config import ErnieMConfig
from model.task_names import CLASSIFICATION, MODEL_CLASSES
from utils.errors import UserError
from utils.files import as_json

# The word on the command line -> the format.
TARGETS = {"ernie-m": OURS, "fluid": OFFICIAL, "paddlenlp": PADDLENLP, "huggingface": tables.HUGGING_FACE,
           "xlm-roberta": XLM_R}  # fmt: skip
HEADS = (*MODEL_CLASSES, CHOICE)  # the tasks whose head is named classifier
# Parts that a model has whole or not at all; the embeddings and the encoder it always has.
_PARTS = ("pooler.", "classifier.", "lm_head.", "linear_")


class Converted(NamedTuple):
    """What was written, and what was not.

    written: (name, shape, names in the source, whether it was transposed) of each tensor.
    left_out: our names that have no place there. absent: our names that are wanted there and are not in the
    source.
    """

    written: list[tuple[str, tuple[int, ...], str, bool]]
    left_out: list[str]
    absent: list[str]


def config_of(checkpoint: Checkpoint, source: str) -> ErnieMConfig:
    """The checkpoint's config; every tensor is checked against it.

    UserError: there is none, a tensor is missing, or its shape does not fit the others.
    """
    weights, config = checkpoint.tensors, checkpoint.config
    if config is None:
        raise UserError(f"{source}: no ernie_config.json or config.json is beside the weights; put it there")
    rows = {row.ours: row for row in tables.rows_of(OURS, config.num_hidden_layers)}
    parts = (part for part in _PARTS if any(n in rows and n.startswith(part) for n in weights))
    whole = ("embeddings.", "encoder.", *parts)
    missing = [name for name in rows if name.startswith(whole) and name not in weights]
    if missing:
        raise UserError(f"{source}: {len(missing)} tensors missing: {listed(missing)}")
    sizes = {**config.to_dict(), tables.ONE: 1}
    if "classifier.bias" in weights:
        sizes[tables.LABELS] = int(np.prod(weights.shape("classifier.bias")))
    for name in filter(rows.__contains__, weights):
        shape = weights.shape(name)
        fitting = [sizes.get(axis, size) for axis, size in zip(rows[name].axes, shape)]
        if len(shape) != len(rows[name].axes) or fitting != list(shape):
            raise UserError(f"{source}: {name} has shape {list(shape)}, {fitting} is expected by the others")
    return config


def listed(items: list[str], most: int = 20) -> str:
    """The first items and the number of the others, for a message."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def head_for(checkpoint: Checkpoint, asked: str | None, source: str) -> str | None:
    """What the model is for. UserError: nothing says what its classifier is for."""
    weights = checkpoint.tensors
    if "classifier.weight" in weights:
        head = asked or checkpoint.task
        if head not in HEADS:
            raise UserError(
                f"{source}: nothing says what its classifier is for; give --head {'|'.join(HEADS)}"
            )
        return head
    return EXTRACT if "linear_start.weight" in weights else None


def write(
    target: str, folder: Path, checkpoint: Checkpoint, config: ErnieMConfig, head: str | None
) -> Converted:
    """Write weights (float32, one tensor at a time) and config into an existing folder.

    Args:
        target: a key of `TARGETS`.
        folder: from `utils.files.atomic_dir`.
        checkpoint, config, head: the source, and what `config_of` and `head_for` say of it.

    Raises:
        UserError: a size that the format cannot have; a value that is not finite.
    """
    source, extra, layout = checkpoint.tensors, checkpoint.settings, TARGETS[target]
    weights = Weights(source.source, source.shapes, lambda name: finite(name, source[name], source.source))
    class_head = CLASSIFICATION if head == CHOICE and layout == OFFICIAL else head  # they have the same layer
    if layout == XLM_R and head is None and tables.LM_BIAS in weights:
        class_head = LM
    class_head = class_head if class_head in CLASSES[layout] else None
    theirs, origins, left_out, absent = to_theirs(layout, weights, class_head)
    if layout == OURS:
        _write_ours(folder, theirs, config, head, extra)
        absent = []
    elif layout == OFFICIAL:
        fluid.write_fluid(folder, weights, config.to_dict(), class_head or CLASSIFICATION)
    else:
        num_labels = weights.shape("classifier.bias")[0] if class_head in HEADS else None
        class_name = CLASSES[layout][class_head].name
        settings = configs.for_library(layout, config, class_name, checkpoint.labels, num_labels)
        settings |= {READING: extra[READING]} if READING in extra else {}
        if layout == PADDLENLP:
            pickles.write_pdparams(folder / "model_state.pdparams", theirs)
        else:
            safetensors.write(folder / WEIGHTS, theirs, np.float32, {"format": "pt"})
        (folder / CONFIG).write_text(as_json(settings), encoding="utf-8")
    written = []
    for name in theirs:
        (ours,), turned = origins[name]
        names, transposed = checkpoint.origins.get(ours, ((ours,), False))
        shown = f"params/{name}" if layout == OFFICIAL else name
        written.append((shown, theirs.shape(name), " + ".join(names), transposed != turned))
    return Converted(written, left_out, absent)


def _write_ours(folder: Path, weights: Weights, config: ErnieMConfig, head: str | None, extra: dict) -> None:
    without = "PreTrainingModel" if "languages" in extra else "ErnieMModel"
    architecture = MODEL_CLASSES.get(CLASSIFICATION if head == CHOICE else head, without)
    settings = {**config.to_dict(), "model_type": "ernie_m", "architecture": architecture}
    settings |= {key: value for key, value in extra.items() if value is not None}
    if head:
        settings["head"] = head
    count = sum(map(math.prod, weights.shapes.values()))
    safetensors.write(folder / WEIGHTS, weights, np.float32)
    (folder / CONFIG).write_text(as_json(settings), encoding="utf-8")
    (folder / "README.md").write_text(model_card({"config": settings, "parameters": count}), encoding="utf-8")
