"""Our checkpoint folder, written from a model and loaded into one.

    config.json             the model's config, with architecture, task and labels
    model.safetensors       weights, named as in `model.checkpoint.formats.tables`; float32 or float64
    vocab.txt, piece.model  the tokenizer's files, if known
    README.md               the model card
    manifest.json           sizes and checksums of the files above, except the card
    training_state/         what a run resumes from (`model.checkpoint.training_state`), if asked for

`model.checkpoint.read` reads this folder and all other formats.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import paddle

from model.checkpoint.card import model_card
from model.checkpoint.formats import safetensors, tables
from model.checkpoint.formats.fluid import write_fluid
from model.checkpoint.formats.weights import Weights, finite
from model.checkpoint.manifest import MANIFEST, write_manifest
from model.checkpoint.read import CONFIG, PIECES, VOCAB, WEIGHTS, Checkpoint, read_weights
from model.checkpoint.training_state import as_numpy, save_training_state
from model.config import ErnieMConfig
from utils.errors import UserError
from utils.files import as_json, atomic_dir

__all__ = [
    "Checkpoint", "ModelFiles", "load_from", "load_into", "model_files", "model_weights", "read_weights",
    "save_model", "write_fluid",
]  # fmt: skip

CARD, STATE = "README.md", "training_state"
_ENCODER = "ernie_m."  # the prefix of the encoder's parameters within a task model
_EXACT = (paddle.float32, paddle.float64)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFiles:
    """The contents of a model's checkpoint folder, ready to be written."""

    weights: Mapping[str, np.ndarray]  # canonical name -> array; on a CPU the parameters' own memory
    settings: Mapping[str, Any]  # the contents of config.json
    card: str  # the contents of README.md
    copies: Mapping[str, Path]  # file name -> the file to copy

    def write(self, folder: Path) -> None:
        """Write into an existing folder, with a manifest; not atomic.

        UserError: a tokenizer file is missing.
        """
        safetensors.write(folder / WEIGHTS, self.weights)
        (folder / CONFIG).write_text(as_json(self.settings), encoding="utf-8")
        for name, source in self.copies.items():
            if not source.is_file():
                raise UserError(f"{source}: no such file; it is to be copied into the checkpoint")
            shutil.copyfile(source, folder / name)
        write_manifest(folder / MANIFEST, sorted((WEIGHTS, CONFIG, *self.copies)))
        (folder / CARD).write_text(self.card, encoding="utf-8")


def model_files(
    model: paddle.nn.Layer, config: ErnieMConfig, *, vocab_path: str | os.PathLike | None = None,
    piece_model_path: str | os.PathLike | None = None, extra: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None, leave_out: tuple[str, ...] = (),
    masters: Mapping[str, paddle.Tensor] | None = None,
) -> ModelFiles:  # fmt: skip
    """What a checkpoint folder of a model holds.

    Args:
        model: an encoder, or a model with one as `.ernie_m`.
        config: of the model.
        vocab_path, piece_model_path: copied as vocab.txt and piece.model; None: unknown.
        extra: more keys for config.json: "task", "labels", "languages".
        facts: for the model card (`model.checkpoint.card.model_card`); sizes and config are added.
        leave_out: prefixes of canonical names that are not written ("lm_head.", "language_embeddings.").
        masters: float32 tensors that are written instead of the parameters with these `parameter.name`s.
    """
    found = model_weights(model, masters or {})
    weights = {name: array for name, array in found.items() if not name.startswith(leave_out)}
    settings = {**config.to_dict(), "model_type": "ernie_m", "architecture": type(model).__name__}
    settings |= extra or {}
    size = sum(array.size for array in weights.values())
    card = model_card({**(facts or {}), "config": settings, "parameters": size})
    paths = {VOCAB: vocab_path, PIECES: piece_model_path}
    copies = {name: Path(path) for name, path in paths.items() if path is not None}
    return ModelFiles(weights, settings, card, copies)


def save_model(
    path: str | os.PathLike, model: paddle.nn.Layer, config: ErnieMConfig, *,
    training_state: Mapping[str, Any] | None = None, **options,
) -> None:  # fmt: skip
    """Write a checkpoint folder, atomically: at any moment `path` is the complete old one or the complete
    new one.

    Args:
        path: replaces an older checkpoint.
        training_state: also write `training_state/`, whose manifest covers that of the model.
        model, config, options: the arguments of `model_files`.

    Raises:
        UserError: the disk is full (the older checkpoint is untouched), or a tokenizer file is missing.
    """
    files = model_files(model, config, **options)
    with atomic_dir(path) as folder:
        files.write(folder)
        if training_state is not None:
            save_training_state(folder / STATE, training_state, beside=(MANIFEST,))


def model_weights(
    model: paddle.nn.Layer, masters: Mapping[str, paddle.Tensor] = MappingProxyType({})
) -> dict[str, np.ndarray]:
    """A model's parameters as arrays under canonical names: float64 stays, everything else becomes float32.

    On a CPU the arrays share the parameters' memory: use them before the next training step.
    """
    weights = {}
    for name, parameter in _parameters_of(model).items():
        tensor = masters.get(parameter.name, parameter)
        if tensor.dtype not in _EXACT:
            tensor = tensor.detach().astype("float32")
        weights[name] = as_numpy(tensor)
    return weights


def load_from(
    model: paddle.nn.Layer, path: str | os.PathLike, optional: tuple[str, ...] = ("pooler.",),
    ignore: tuple[str, ...] = (),
) -> list[str]:  # fmt: skip
    """`read_weights`, then `load_into`; also compares the number of attention heads, which no shape shows."""
    checkpoint = read_weights(path)
    ours = getattr(model, "ernie_m", model).config
    theirs = checkpoint.config
    if theirs and theirs.num_attention_heads != ours.num_attention_heads:
        raise UserError(
            f"{checkpoint.config_path or path}: num_attention_heads is {theirs.num_attention_heads}, "
            f"the model was built with {ours.num_attention_heads}; use the config that belongs to the weights"
        )
    return load_into(model, checkpoint.weights, optional, ignore)


def load_into(
    model: paddle.nn.Layer, weights: Mapping[str, np.ndarray], optional: tuple[str, ...] = ("pooler.",),
    ignore: tuple[str, ...] = (),
) -> list[str]:  # fmt: skip
    """Fill a model by name. All names and shapes are checked before the first parameter is changed.

    Args:
        model: an encoder, or a model with one as `.ernie_m`.
        weights: canonical name -> array.
        optional: prefixes of names that may be absent; these stay as initialised and the log says so. With
            "classifier." a task starts from pre-trained weights; without it the head must be there.
        ignore: prefixes of names that are ignored on both sides.

    Returns:
        The names of the parameters that stay as initialised.

    Raises:
        UserError: a shape that differs (with the config key to look at), another number of layers than the
            model has, or missing names, listed.
    """
    weights = Weights.of(weights)
    parameters = _parameters_of(model)
    wanted = {name: p for name, p in parameters.items() if not name.startswith(ignore)}
    _check_shapes({name: tuple(p.shape) for name, p in wanted.items()}, weights)
    ours = tables.count_layers(wanted)
    theirs = tables.count_layers(name for name in weights if not name.startswith(ignore))
    if ours and theirs and ours != theirs:
        raise UserError(
            f"{weights.source}: num_hidden_layers is {ours} in the config, the weights have {theirs} layers"
        )
    absent = [name for name in wanted if name not in weights]
    if missing := [name for name in absent if not name.startswith(optional)]:
        raise UserError(f"{weights.source}: {_count(missing)} missing: {', '.join(missing)}")

    for group in dict.fromkeys(name.split(".")[0] for name in absent):
        # Users search for the official name of the pooler.
        label = "pooled_fc" if group == "pooler" else group
        log.warning("%s is not in %s, %s starts fresh", label, weights.source, group)
    loaded = [name for name in wanted if name in weights]
    for name in loaded:
        parameter, array = wanted[name], finite(name, weights[name], weights.source)
        if parameter.dtype in _EXACT:
            # Directly from numpy: a tensor in between would hold the largest table in memory a second time.
            parameter.set_value(np.asarray(array, dtype=str(parameter.dtype).removeprefix("paddle.")))
        else:
            parameter.set_value(paddle.to_tensor(array).astype(parameter.dtype))
    if unused := [name for name in weights if name not in wanted and not name.startswith(ignore)]:
        log.info("%s: %s not used: %s", weights.source, _count(unused), ", ".join(unused))
    return [name for name in parameters if name not in loaded]


def _parameters_of(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    # A tied parameter appears once.
    return {name.removeprefix(_ENCODER): parameter for name, parameter in model.named_parameters()}


def _check_shapes(wanted: Mapping[str, tuple[int, ...]], weights: Weights) -> None:
    wrong = [name for name in wanted if name in weights and weights.shape(name) != wanted[name]]
    blame = {}  # config key -> how it differs; the first tensor that shows a key decides
    for name in wrong:
        for key, ours, theirs in zip(tables.axes_of(name), wanted[name], weights.shape(name), strict=False):
            if ours != theirs:
                blame.setdefault(key, f"{key} is {ours} in the config and {theirs} in the weights")
    if wrong:
        raise UserError(
            f"{weights.source}: {wrong[0]} has shape {list(weights.shape(wrong[0]))}, the model has "
            f"{list(wanted[wrong[0]])}{': ' if blame else ''}{'; '.join(blame.values())}"
        )


def _count(listed: list[str]) -> str:
    return f"{len(listed)} tensor{'' if len(listed) == 1 else 's'}"
