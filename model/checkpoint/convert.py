"""A checkpoint into another format: what of it has a place there, under which name, and what has none."""

import json
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.checkpoint.card import model_card
from model.checkpoint.formats import configs, translation
from model.checkpoint.formats import fluid as official
from model.checkpoint.formats import paddle as paddle_file
from model.checkpoint.formats import safetensors as safe
from model.checkpoint.formats import tables as names
from model.checkpoint.formats import tables as peers
from model.checkpoint.formats.tables import CHOICE, EXTRACT, LM, H
from model.checkpoint.formats.weights import Weights
from model.checkpoint.read import CONFIG, LEFT_OUT, READING, WEIGHTS, Checkpoint
from model.config import ErnieMConfig
from model.task_names import CLASSIFICATION, MODEL_CLASSES
from utils.errors import UserError
from utils.files import write_json

OURS, FLUID = "ernie-m", "fluid"
# Our word on the command line -> the library of `model.checkpoint.formats.tables`.
LIBRARIES = {"paddlenlp": peers.PADDLENLP, "huggingface": peers.HUGGING_FACE, "xlm-roberta": peers.XLM_R}
TARGETS = (OURS, FLUID, *LIBRARIES)
HEADS = (*MODEL_CLASSES, CHOICE)  # whose head is named classifier
# Groups of which all or none must be there; the encoder's own are in `names`.
_GROUPS = {
    "pooler": [v.canonical for v in names.POOLER],
    "classifier": [v.canonical for v in names.HEADS[CLASSIFICATION]],
    "lm_head": [v.canonical for v in names.LM_HEAD],
    "linear": [f"linear_{end}.{part}" for end in ("start", "end") for part in ("weight", "bias")],
}
log = logging.getLogger(__name__)
_EXTRACTION_AXES = {name: (H, "one") if name.endswith("weight") else ("one",) for name in _GROUPS["linear"]}


class Line(NamedTuple):
    """A tensor that was written: its name there, where it comes from, whether it was turned on the way."""

    name: str
    shape: tuple[int, ...]
    source: str
    transposed: bool


class Converted(NamedTuple):
    """What was written, and what was not.

    left_out: our names that have no place there; absent: our names that are wanted there and are not in the
    source; widened: dtype -> how many tensors of it became float32.
    """

    written: list[Line]
    left_out: list[str]
    absent: list[str]
    widened: dict[str, int]


def config_of(checkpoint: Checkpoint, source: str) -> ErnieMConfig:
    """The checkpoint's config, or one made of the shapes; every tensor is checked against it.

    Raises:
        UserError: a tensor is missing, or has another shape than the rest.
    """
    weights, config = checkpoint.weights, checkpoint.config
    if config is None:
        config, notes = configs.settle({}, weights, source, "")
        for note in notes:
            log.warning("%s", note)
    layers = [
        name
        for v in names.LAYER
        for i in range(config.num_hidden_layers)
        for name in [v.canonical.format(i=i)]
    ]
    wanted = [*(v.canonical for v in names.EMBEDDINGS), *layers]
    for group in _GROUPS.values():
        if any(name in weights for name in group):
            wanted += group
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise UserError(f"{source}: {len(missing)} tensors missing: {listed(missing)}")
    sizes = {**config.to_dict(), "one": 1}
    if "classifier.bias" in weights:
        sizes["num_labels"] = int(np.prod(weights.shape("classifier.bias")))
    for name in weights:
        axes = names.axes_of(name) or _EXTRACTION_AXES.get(name)
        shape = weights.shape(name)
        if axes:
            expected = tuple(sizes.get(axis, size) for axis, size in zip(axes, shape))
            if len(axes) != len(shape) or shape != expected:
                fitting = [sizes.get(axis, axis) for axis in axes]
                raise UserError(
                    f"{source}: {name} has shape {list(shape)}, {fitting} is expected beside the others"
                )
    return config


def listed(items: list[str], most: int = 20) -> str:
    """For a message: the first ones, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def head_for(checkpoint: Checkpoint, asked: str | None, source: str) -> str | None:
    """What the model is for: as asked, or as its files say. UserError: nothing says what a classifier is."""
    weights = checkpoint.weights
    if "classifier.weight" in weights:
        head = asked or checkpoint.info["head"]
        if head not in HEADS:
            raise UserError(
                f"{source}: nothing says what its classifier is for; give --head {'|'.join(HEADS)}"
            )
        return head
    if asked:
        raise UserError(f"--head {asked}: there is no classifier in {source}")
    return EXTRACT if "linear_start.weight" in weights else None


def write(
    target: str,
    folder: Path,
    checkpoint: Checkpoint,
    config: ErnieMConfig,
    head: str | None,
    keep_rest: bool = False,
) -> Converted:
    """Write weights (float32, one tensor at a time) and config into an existing folder.

    Args:
        target: one of `TARGETS`.
        folder: of `utils.files.atomic_dir`.
        checkpoint: the source.
        config: of `config_of`.
        head: of `head_for`.
        keep_rest: what has no place there goes into left_out.safetensors beside it.

    Raises:
        UserError: a size that the format cannot have.
    """
    widened: dict[str, int] = {}
    weights = _counting(checkpoint.weights, widened)
    labels = checkpoint.info["extra"].get("labels")
    labels = [str(label) for label in labels] if labels else None
    if target == OURS:
        written, left_out, absent = _write_ours(folder, checkpoint, weights, config, head)
    elif target == FLUID:
        written, left_out, absent = _write_fluid(folder, weights, config, head)
    else:
        reading = {READING: checkpoint.info["extra"][READING]} if READING in checkpoint.info["extra"] else {}
        written, left_out, absent = _write_library(
            LIBRARIES[target], folder, weights, config, head, labels, reading
        )
    lines = [_line(checkpoint, *row) for row in written]
    if keep_rest and left_out:
        rest = Weights(weights.source, {name: weights.shape(name) for name in left_out}, weights.__getitem__)
        extra = json.dumps(checkpoint.info["extra"], ensure_ascii=False)
        safe.write(folder / LEFT_OUT, rest, np.float32, {"format": "pt", "extra": extra})
    return Converted(lines, left_out, absent, widened)


# name there, its shape, our name (None: made here), whether it is turned on the way out
_Row = tuple[str, tuple[int, ...], str | None, bool]


def _write_ours(folder, checkpoint, weights, config, head) -> tuple[list[_Row], list[str], list[str]]:
    extra = dict(checkpoint.info["extra"])
    without = "PreTrainingModel" if "languages" in extra else "ErnieMModel"
    architecture = MODEL_CLASSES.get(CLASSIFICATION if head == CHOICE else head, without)
    settings = {**config.to_dict(), "model_type": "ernie_m", "architecture": architecture}
    settings |= {key: value for key, value in extra.items() if value is not None}
    if head:
        settings["head"] = head
    count = sum(int(np.prod(weights.shape(name))) for name in weights)
    safe.write(folder / WEIGHTS, weights, np.float32)
    write_json(folder / CONFIG, settings)
    (folder / "README.md").write_text(model_card({"config": settings, "parameters": count}), encoding="utf-8")
    return [(name, weights.shape(name), name, False) for name in weights], [], []


def _write_fluid(folder, weights, config, head) -> tuple[list[_Row], list[str], list[str]]:
    configs.check_fixed_sizes(config, "the official format")
    head = CLASSIFICATION if head == CHOICE else head  # the same layer on the same vector
    head = head if head in names.HEADS else None
    left_out = official.write_fluid(folder, weights, config.to_dict(), head or CLASSIFICATION)
    table = names.variables(names.count_layers(weights), head, lm_head=True)
    rows = [(f"params/{v.official}", weights.shape(v.canonical), v.canonical, False)
            for v in table if v.canonical in weights]  # fmt: skip
    return rows, left_out, [v.canonical for v in names.POOLER if v.canonical not in weights]


def _write_library(
    library, folder, weights, config, head, labels, reading
) -> tuple[list[_Row], list[str], list[str]]:
    if library == peers.XLM_R and head is None and "lm_head.bias" in weights:
        head = LM
    head = head if head in peers.CLASSES[library] else None
    theirs, origins, left_out, absent = translation.to_theirs(library, weights, head)
    num_labels = weights.shape("classifier.bias")[0] if head in HEADS else None
    settings = configs.for_library(library, config, peers.CLASSES[library][head].name, labels, num_labels)
    settings |= reading
    if library == peers.PADDLENLP:
        paddle_file.write(folder / "model_state.pdparams", theirs)
    else:
        safe.write(folder / WEIGHTS, theirs, np.float32, {"format": "pt"})
    write_json(folder / CONFIG, settings)
    rows = []
    for name in theirs:
        (canonical,), transposed = origins[name]
        rows.append((name, theirs.shape(name), canonical if canonical in weights else None, transposed))
    return rows, left_out, absent


def _line(
    checkpoint: Checkpoint, name: str, shape: tuple[int, ...], canonical: str | None, transposed: bool
) -> Line:
    if canonical is None:
        return Line(name, shape, "zeros", False)
    origin = checkpoint.info["origins"][canonical]
    return Line(name, shape, " + ".join(origin.names), origin.transposed != transposed)


def _counting(weights: Weights, widened: dict[str, int]) -> Weights:
    """The same weights; each that is read and is not float32 is counted in `widened`, once."""
    seen = set()

    def fetch(name: str) -> np.ndarray:
        array = weights[name]
        if array.dtype.kind != "f":
            raise UserError(
                f"{weights.source}: {name} has dtype {array.dtype.name}; weights are floating point numbers"
            )
        if array.dtype != np.float32 and name not in seen:
            seen.add(name)
            widened[array.dtype.name] = widened.get(array.dtype.name, 0) + 1
        return array

    return Weights(weights.source, {name: weights.shape(name) for name in weights}, fetch)
