"""A checkpoint folder of ours; and one door to every folder that weights are read from.

    config.json             the model's config, with architecture, task and labels
    model.safetensors       weights, named as in `model.formats.names`; float32, or float64 where the model is
    vocab.txt, piece.model  the tokenizer's files, where known
    README.md               the model card
    training_state/         what a run resumes from (`model.training_state`), where asked for

Official directories, one file per variable, are read and written through `model.formats.official`; XLM-R, as
Hugging Face saves it, is read through `model.formats.xlm_r`.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import paddle

from model.card import model_card
from model.ernie_m import ErnieMConfig
from model.formats import official, safe, xlm_r
from model.formats.official import write_fluid
from model.formats.weights import Weights
from model.loading import LoadReport, load_into, model_weights
from model.steps import keep_last, newest_complete, step_folders
from model.training_state import load_training_state, save_training_state
from utils.errors import UserError
from utils.files import atomic_dir

__all__ = [
    "Checkpoint", "LoadReport", "keep_last", "load_from", "load_into", "load_training_state", "model_weights",
    "newest_complete", "read_weights", "save_model", "save_training_state", "step_folders", "write_fluid",
]  # fmt: skip

CONFIG, WEIGHTS, VOCAB, PIECES, CARD, STATE = (
    "config.json", "model.safetensors", "vocab.txt", "piece.model", "README.md", "training_state",
)  # fmt: skip
# Files of other libraries, so that a user who points at one learns what it is.
_FOREIGN = {"model_state.pdparams": "PaddleNLP", "pytorch_model.bin": "Hugging Face", "model.pt": "fairseq"}
_WORDS = "embeddings.word_embeddings.weight"


class Checkpoint(NamedTuple):
    """What `read_weights` found.

    weights: canonical name -> array, read when asked for.
    config: None where no config file is near.
    info: "format": "ours", "official" or "xlm-r"; "config_path", "vocab_path", "piece_model_path": Path or
        None; "extra": what config.json holds besides the config (architecture, task, labels; ours only);
        "head": the task whose head an official directory holds, or None; "unknown": files that were not read.
    """

    weights: Weights
    config: ErnieMConfig | None
    info: dict[str, Any]


def read_weights(path: str | os.PathLike) -> Checkpoint:
    """Read a folder of ours, an official parameter directory, a folder that holds one as `params/`, or XLM-R.

    Raises:
        UserError: no such folder, none of these formats, or a damaged file.
    """
    path = Path(path)
    if not path.is_dir():
        what = (
            "a file; give its folder"
            if path.exists()
            else "no such folder; give a checkpoint or params directory (sh scripts/data/get_weights.sh "
            "fetches the released ones)"
        )
        raise UserError(f"{path}: {what}")
    if xlm_r.is_here(path):  # before ours: a file of its weights has the same name
        return _read_xlm_r(path)
    if (path / WEIGHTS).is_file():
        return _read_ours(path)
    if found := official.find(path):
        return _read_official(*found)
    raise UserError(f"{path}: no checkpoint here: {_what_is_there(path)}")


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
            f"{checkpoint.info['config_path']}: num_attention_heads is {theirs.num_attention_heads}, "
            f"the model was built with {ours.num_attention_heads}; use the config that belongs to the weights"
        )
    return checkpoint, load_into(model, checkpoint.weights, optional, ignore)


def save_model(
    path: str | os.PathLike,
    model: paddle.nn.Layer,
    config: ErnieMConfig,
    *,
    vocab_path: str | os.PathLike | None = None,
    piece_model_path: str | os.PathLike | None = None,
    extra: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    training_state: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
) -> None:
    """Write a checkpoint folder, atomically: at any moment `path` is the old one or the new one, whole.

    Args:
        path: takes the place of an older checkpoint.
        model: an encoder, or a model with one as `.ernie_m`.
        config: of the model.
        vocab_path, piece_model_path: copied as vocab.txt and piece.model; None: unknown.
        extra: more keys for config.json: "task", "labels", "languages".
        facts: for the model card (`model.card.model_card`); sizes and config are added.
        training_state: also write `training_state/`; its manifest then covers model.safetensors too.
        leave_out: prefixes of canonical names that are not written ("lm_head.", "language_embeddings.").

    Raises:
        UserError: the disk is full (the older checkpoint is untouched), or a tokenizer file is missing.
    """
    weights = {name: array for name, array in model_weights(model).items() if not name.startswith(leave_out)}
    settings = {
        **config.to_dict(), "model_type": "ernie_m", "architecture": type(model).__name__, **(extra or {}),
    }  # fmt: skip
    size = sum(array.size for array in weights.values())
    card = model_card({**(facts or {}), "config": settings, "parameters": size})
    with atomic_dir(path) as folder:
        safe.write(folder / WEIGHTS, weights)
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        (folder / CARD).write_text(card, encoding="utf-8")
        for source, name in ((vocab_path, VOCAB), (piece_model_path, PIECES)):
            if source is not None:
                _copy(Path(source), folder / name)
        if training_state is not None:
            save_training_state(folder / STATE, training_state, beside=(WEIGHTS,))


def _read_ours(folder: Path) -> Checkpoint:
    weights = safe.read(folder / WEIGHTS)
    if _WORDS not in weights:
        some = ", ".join(list(weights)[:3])
        raise UserError(f"{folder / WEIGHTS}: not a checkpoint of ours: no {_WORDS}, but {some or 'nothing'}")
    config_path = folder / CONFIG if (folder / CONFIG).is_file() else None
    config = ErnieMConfig.from_json(config_path) if config_path else None
    settings = json.loads(config_path.read_text(encoding="utf-8")) if config_path else {}
    extra = {key: value for key, value in settings.items() if key not in config.to_dict()} if config else {}
    info = {"format": "ours", "extra": extra, "head": None, "unknown": []}
    return Checkpoint(weights, config, {**info, **_paths(folder, config_path)})


def _read_official(folder: Path, config_path: Path | None) -> Checkpoint:
    found = official.read_directory(folder)
    config = ErnieMConfig.from_json(config_path) if config_path else None
    info = {"format": "official", "extra": {}, "head": found.head, "unknown": found.unknown}
    return Checkpoint(found.weights, config, {**info, **_paths(folder, config_path)})


def _read_xlm_r(folder: Path) -> Checkpoint:
    weights, unknown = xlm_r.read_directory(folder)
    config_path, pieces = folder / xlm_r.CONFIG, folder / xlm_r.PIECES
    info = {"format": "xlm-r", "extra": {}, "head": None, "unknown": unknown, "config_path": config_path}
    info |= {"vocab_path": None, "piece_model_path": pieces if pieces.is_file() else None}
    return Checkpoint(weights, ErnieMConfig.from_json(config_path), info)


def _paths(folder: Path, config_path: Path | None) -> dict[str, Path | None]:
    files = {"vocab_path": folder / VOCAB, "piece_model_path": folder / PIECES}
    return {
        "config_path": config_path,
        **{key: path if path.is_file() else None for key, path in files.items()},
    }


def _what_is_there(folder: Path) -> str:
    if steps := step_folders(folder):
        return f"it holds step folders, give one of them ({steps[-1][1]})"
    for name, library in _FOREIGN.items():
        if (folder / name).is_file():
            return f"{name} is a file of {library}, which is not read here"
    return f"neither {WEIGHTS} nor word_embedding (official params directory) is in it"


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UserError(f"{source}: no such file; it is to be copied into the checkpoint")
    shutil.copyfile(source, target)
