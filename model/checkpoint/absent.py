"""What a path holds if it holds no model, and which folders near it do."""

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from utils.errors import UserError
from utils.files import read_json

_DEPTH = 3  # levels of folders that are searched for models
_MOST_SEARCHED = 1000  # folders
_MOST_LISTED = 8
_NO_DOWNLOAD = (
    ", and models are not downloaded by name: put the model's config.json, weights and "
    "sentencepiece.bpe.model (or tokenizer.json) into a folder, and name the folder"
)
_FETCH = "sh scripts/data/get_weights.sh fetches the released weights into configs/"


def no_model_at(path: Path, holds_model: Callable[[Path], bool], weights_files: str) -> UserError:
    """The error for a path without weights: what is there, and what to name instead.

    Args:
        holds_model: whether a folder or file has weights.
        weights_files: the names of files that would be weights.
    """
    return UserError(f"{path}: {_description(path, weights_files)}; {_advice(path, holds_model)}")


def _advice(path: Path, holds_model: Callable[[Path], bool]) -> str:
    """What the user can name instead: models in the nearest folder that exists, or in the one above it."""
    nearest = _nearest_folder(path)
    for folder in (nearest, nearest.parent):
        models = [below for below in _folders_in(folder) if holds_model(below)]
        # configs/base holds a model because configs/base/params does: only the upper one is named.
        names = sorted(str(model) for model in models if model.parent not in models)
        if len(names) > _MOST_LISTED:
            return f"models are in {', '.join(names[:_MOST_LISTED])} and others"
        if names:
            return f"models are in {', '.join(names)}"
    if "configs" in path.parts:  # where the released weights would be
        return _FETCH
    return "name the folder of a checkpoint, such as best or step_N of a run"


def _description(path: Path, weights_files: str) -> str:
    """What a path without weights is."""
    if not path.exists():
        # Such as "xlm-roberta-base" or "FacebookAI/xlm-roberta-base".
        is_name = len(path.parts) < 3 and _nearest_folder(path) == Path() and "configs" not in path.parts
        return f"no such folder{_NO_DOWNLOAD if is_name else ''}"
    if path.is_file():
        return f"no file of weights; these are {weights_files}"
    if _is_corpus(path):
        return "a corpus for pre-training, no model"
    if _is_export(path):
        return "what export.py wrote, which only prediction can use; name the checkpoint that it was made of"
    return f"holds no model: neither {weights_files} nor the official params with word_embedding"


def _is_corpus(folder: Path) -> bool:
    """Whether the folder's manifest is that of a corpus, which `pretrain.build_corpus` wrote."""
    manifest = _json_object(folder / "manifest.json")
    return {"pieces", "vocabulary", "files"} <= manifest.keys()


def _is_export(folder: Path) -> bool:
    """Whether export.py wrote the folder."""
    return "export" in _json_object(folder / "config.json")


def _json_object(path: Path) -> dict:
    """The object in a JSON file; empty if there is none."""
    try:
        contents = read_json(path)
    except UserError:
        return {}
    return contents if isinstance(contents, dict) else {}


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the lowest folder above it that exists."""
    for folder in (path, *path.parents):
        if folder.is_dir():
            return folder
    return Path()


def _folders_in(folder: Path) -> list[Path]:
    """The folder and those below it, level by level, without hidden ones; the first `_MOST_SEARCHED`."""
    folders: list[Path] = []
    queue = deque([(folder, 0)])  # folders to search, with their level
    while queue and len(folders) < _MOST_SEARCHED:
        parent, level = queue.popleft()
        folders.append(parent)
        if level < _DEPTH:
            queue.extend((subfolder, level + 1) for subfolder in _subfolders(parent))
    return folders


def _subfolders(folder: Path) -> list[Path]:
    """The folders right below a folder, sorted, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:  # it may not be read
        return []
    return [folder / name for name in sorted(names)]
