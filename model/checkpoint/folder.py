"""A checkpoint folder of ours, written and loaded.

    config.json             the model's config, with architecture, task and labels
    model.safetensors       weights, named as in `model.checkpoint.formats.tables`; float32, or float64
    where the model is
    vocab.txt, piece.model  the tokenizer's files, where known
    README.md               the model card
    manifest.json           sizes and checksums of these, but for the card (`model.checkpoint.manifest`)
    training_state/         what a run resumes from (`model.checkpoint.training_state`), where asked for

What else is read, official directories and other libraries' files, is told in `model.checkpoint.read`.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from model.checkpoint.card import model_card
from model.checkpoint.formats import safetensors as safe
from model.checkpoint.formats.fluid import write_fluid
from model.checkpoint.loading import LoadReport, load_into, model_weights
from model.checkpoint.manifest import MANIFEST, write_manifest
from model.checkpoint.read import CONFIG, PIECES, VOCAB, WEIGHTS, Checkpoint, read_weights
from model.checkpoint.step_folders import keep_last, load_newest, set_aside, step_folders
from model.checkpoint.training_state import load_training_state, save_training_state
from model.config import ErnieMConfig
from utils.errors import UserError
from utils.files import atomic_dir

__all__ = [
    "Checkpoint", "LoadReport", "ModelFiles", "keep_last", "load_from", "load_into", "load_newest",
    "load_training_state", "model_files", "model_weights", "read_weights", "save_model",
    "save_training_state", "set_aside", "step_folders", "write_fluid",
]  # fmt: skip

CARD, STATE = "README.md", "training_state"


def load_from(
    model: paddle.nn.Layer,
    path: str | os.PathLike,
    optional: tuple[str, ...] = ("pooler.",),
    ignore: tuple[str, ...] = (),
) -> tuple[Checkpoint, LoadReport]:
    """`read_weights`, then `load_into`; also compares what no shape shows, the number of attention heads."""
    checkpoint = read_weights(path)
    ours = getattr(model, "ernie_m", model).config
    theirs = checkpoint.config
    if theirs and theirs.num_attention_heads != ours.num_attention_heads:
        raise UserError(
            f"{checkpoint.info['config_path'] or path}: num_attention_heads is {theirs.num_attention_heads}, "
            f"the model was built with {ours.num_attention_heads}; use the config that belongs to the weights"
        )
    return checkpoint, load_into(model, checkpoint.weights, optional, ignore)


@dataclass(frozen=True)
class ModelFiles:
    """What a checkpoint folder holds of a model, ready to be written.

    Attributes:
        weights: canonical name -> array; on a CPU the parameters' own memory.
        settings: of config.json.
        card: of README.md.
        copies: file name -> the file it is a copy of.
    """

    weights: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]
    card: str
    copies: Mapping[str, Path]

    def write(self, folder: Path) -> None:
        """Write into a folder that is there, with a manifest; not atomic.

        Raises:
            UserError: a tokenizer file is missing.
        """
        safe.write(folder / WEIGHTS, self.weights)
        text = json.dumps(self.settings, indent=2, ensure_ascii=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        for name, source in self.copies.items():
            _copy(source, folder / name)
        write_manifest(folder / MANIFEST, sorted((WEIGHTS, CONFIG, *self.copies)))
        (folder / CARD).write_text(self.card, encoding="utf-8")  # not in the manifest: people edit it


def model_files(
    model: paddle.nn.Layer,
    config: ErnieMConfig,
    *,
    vocab_path: str | os.PathLike | None = None,
    piece_model_path: str | os.PathLike | None = None,
    extra: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
) -> ModelFiles:
    """What `save_model` writes of a model; the arguments are the same."""
    weights = {name: array for name, array in model_weights(model).items() if not name.startswith(leave_out)}
    settings = {
        **config.to_dict(), "model_type": "ernie_m", "architecture": type(model).__name__, **(extra or {}),
    }  # fmt: skip
    size = sum(array.size for array in weights.values())
    card = model_card({**(facts or {}), "config": settings, "parameters": size})
    paths = {VOCAB: vocab_path, PIECES: piece_model_path}
    copies = {name: Path(path) for name, path in paths.items() if path is not None}
    return ModelFiles(weights, settings, card, copies)


def save_model(
    path: str | os.PathLike,
    model: paddle.nn.Layer,
    config: ErnieMConfig,
    *,
    training_state: Mapping[str, Any] | None = None,
    **options,
) -> None:
    """Write a checkpoint folder, atomically: at any moment `path` is the old one or the new one, whole.

    Args:
        path: takes the place of an older checkpoint.
        model: an encoder, or a model with one as `.ernie_m`.
        config: of the model.
        training_state: also write `training_state/`, whose manifest covers that of the model.
        vocab_path, piece_model_path: copied as vocab.txt and piece.model; None: unknown.
        extra: more keys for config.json: "task", "labels", "languages".
        facts: for the model card (`model.checkpoint.card.model_card`); sizes and config are added.
        leave_out: prefixes of canonical names that are not written ("lm_head.", "language_embeddings.").

    Raises:
        UserError: the disk is full (the older checkpoint is untouched), or a tokenizer file is missing.
    """
    files = model_files(model, config, **options)
    with atomic_dir(path) as folder:
        files.write(folder)
        if training_state is not None:
            save_training_state(folder / STATE, training_state, beside=(MANIFEST,))


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UserError(f"{source}: no such file; it is to be copied into the checkpoint")
    shutil.copyfile(source, target)
