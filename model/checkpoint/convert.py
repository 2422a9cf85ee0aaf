"""Write a checkpoint in another format, and list what was written and what was not."""

import json
import logging
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.checkpoint.card import model_card
from model.checkpoint.formats import configs, fluid, paddle, safetensors, tables, translation
from model.checkpoint.formats.tables import CHOICE, CLASSES, EXTRACT, LM, OFFICIAL, OURS, PADDLENLP, XLM_R
from model.checkpoint.formats.weights import Weights, finite
from model.checkpoint.read import CONFIG, LEFT_OUT, READING, WEIGHTS, Checkpoint
from model.config import ErnieMConfig
from model.task_names import CLASSIFICATION, MODEL_CLASSES
from utils.errors import UserError
from utils.files import write_json

# The word on the command line -> the format.
TARGETS = {"ernie-m": OURS, "fluid": OFFICIAL, "paddlenlp": PADDLENLP, "huggingface": tables.HUGGING_FACE,
           "xlm-roberta": XLM_R}  # fmt: skip
HEADS = (*MODEL_CLASSES, CHOICE)  # the tasks whose head is named classifier
# Parts that a model has whole or not at all; the embeddings and the encoder it always has.
_PARTS = ("pooler.", "classifier.", "lm_head.", "linear_")
log = logging.getLogger(__name__)


class Line(NamedTuple):
    """A tensor that was written: its name and shape there, where it comes from, whether it was transposed."""

    name: str
    shape: tuple[int, ...]
    source: str
    transposed: bool


class Converted(NamedTuple):
    """What was written, and what was not.

    left_out: our names that have no place there. absent: our names that are wanted there and are not in the
    source. widened: dtype -> how many tensors of it became float32.
    """

    written: list[Line]
    left_out: list[str]
    absent: list[str]
    widened: dict[str, int]


def config_of(checkpoint: Checkpoint, source: str) -> ErnieMConfig:
    """The checkpoint's config, or one made from the shapes; every tensor is checked against it.

    Raises:
        UserError: a tensor is missing, or its shape does not fit the others.
    """
    weights, config = checkpoint.weights, checkpoint.config
    if config is None:
        try:
            config, notes = configs.settle({}, weights, source, "")
        except UserError as error:
            raise UserError(
                f"{source}: there is no ernie_config.json or config.json, and the shapes of the weights do "
                f"not show everything ({error}); put the config beside the weights"
            ) from error
        for note in notes:
            log.warning("%s", note)
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
        axes, shape = rows[name].axes, weights.shape(name)
        if len(axes) != len(shape) or any(sizes.get(axis, size) != size for axis, size in zip(axes, shape)):
            fitting = [sizes.get(axis, axis) for axis in axes]
            raise UserError(
                f"{source}: {name} has shape {list(shape)}, {fitting} is expected beside the others"
            )
    return config


def listed(items: list[str], most: int = 20) -> str:
    """The first items and the number of the others, for a message."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def head_for(checkpoint: Checkpoint, asked: str | None, source: str) -> str | None:
    """What the model is for. UserError: nothing says what its classifier is for."""
    weights = checkpoint.weights
    if "classifier.weight" in weights:
        head = asked or checkpoint.head
        if head not in HEADS:
            raise UserError(
                f"{source}: nothing says what its classifier is for; give --head {'|'.join(HEADS)}"
            )
        return head
    if asked:
        raise UserError(f"--head {asked}: there is no classifier in {source}")
    return EXTRACT if "linear_start.weight" in weights else None


def write(
    target: str, folder: Path, checkpoint: Checkpoint, config: ErnieMConfig, head: str | None,
    keep_rest: bool = False,
) -> Converted:  # fmt: skip
    """Write weights (float32, one tensor at a time) and config into an existing folder.

    Args:
        target: a key of `TARGETS`.
        folder: from `utils.files.atomic_dir`.
        checkpoint, config, head: the source, and what `config_of` and `head_for` say of it.
        keep_rest: write what has no place there into left_out.safetensors beside it.

    Raises:
        UserError: a size that the format cannot have.
    """
    widened: dict[str, set[str]] = {}
    layout, weights, extra = TARGETS[target], _counting(checkpoint.weights, widened), checkpoint.extra
    class_head = CLASSIFICATION if head == CHOICE and layout == OFFICIAL else head  # they have the same layer
    if layout == XLM_R and head is None and tables.LM_BIAS in weights:
        class_head = LM
    class_head = class_head if class_head in CLASSES[layout] else None
    theirs, origins, left_out, absent = translation.to_theirs(layout, weights, class_head)
    if layout == OURS:
        _write_ours(folder, theirs, config, head, extra)
        absent = []
    elif layout == OFFICIAL:
        fluid.write_fluid(folder, weights, config.to_dict(), class_head or CLASSIFICATION)
    else:
        labels = [str(label) for label in extra.get("labels") or ()]
        num_labels = weights.shape("classifier.bias")[0] if class_head in HEADS else None
        class_name = CLASSES[layout][class_head].name
        settings = configs.for_library(layout, config, class_name, labels, num_labels)
        settings |= {READING: extra[READING]} if READING in extra else {}
        if layout == PADDLENLP:
            paddle.write(folder / "model_state.pdparams", theirs)
        else:
            safetensors.write(folder / WEIGHTS, theirs, np.float32, {"format": "pt"})
        write_json(folder / CONFIG, settings)
    if keep_rest and left_out:
        rest = Weights(weights.source, {name: weights.shape(name) for name in left_out}, weights.__getitem__)
        metadata = {"format": "pt", "extra": json.dumps(extra, ensure_ascii=False)}
        safetensors.write(folder / LEFT_OUT, rest, np.float32, metadata)
    lines = []
    for name in theirs:
        (ours,), turned = origins[name]
        origin = checkpoint.origins.get(ours, translation.Origin((ours,), False))
        shown = f"params/{name}" if layout == OFFICIAL else name
        lines.append(Line(shown, theirs.shape(name), " + ".join(origin.names), origin.transposed != turned))
    return Converted(lines, left_out, absent, {dtype: len(names) for dtype, names in widened.items()})


def _write_ours(folder: Path, weights: Weights, config: ErnieMConfig, head: str | None, extra: dict) -> None:
    without = "PreTrainingModel" if "languages" in extra else "ErnieMModel"
    architecture = MODEL_CLASSES.get(CLASSIFICATION if head == CHOICE else head, without)
    settings = {**config.to_dict(), "model_type": "ernie_m", "architecture": architecture}
    settings |= {key: value for key, value in extra.items() if value is not None}
    if head:
        settings["head"] = head
    count = sum(map(math.prod, weights.shapes.values()))
    safetensors.write(folder / WEIGHTS, weights, np.float32)
    write_json(folder / CONFIG, settings)
    (folder / "README.md").write_text(model_card({"config": settings, "parameters": count}), encoding="utf-8")


def _counting(weights: Weights, widened: dict[str, set[str]]) -> Weights:
    """The same weights. Each tensor that is read and is not float32 is noted in `widened`."""

    def fetch(name: str) -> np.ndarray:
        array = finite(name, weights[name], weights.source)
        if array.dtype != np.float32:
            widened.setdefault(array.dtype.name, set()).add(name)
        return array

    return Weights(weights.source, weights.shapes, fetch)
