"""What a path holds if it holds no model, and which folders beside it do."""

from collections.abc import Callable
from pathlib import Path

from ernie_m.utils.errors import UserError, start_of
from ernie_m.utils.files import read_object

_MOST_LISTED = 8
_NO_NAME = ", and no name of a model on Hugging Face's hub, which is ORGANISATION/MODEL"


def no_model_at(path: Path, holds_model: Callable[[Path], bool], weights_files: str) -> UserError:
    """The error for a path without weights: what is there, and what to name instead.

    Args:
        holds_model: whether a folder or file has weights.
        weights_files: the names of files that would be weights.
    """
    # The folder itself, or the lowest folder above it that exists.
    nearest = next((folder for folder in (path, *path.parents) if folder.is_dir()), Path())
    return UserError(
        f"{path}: {_description(path, nearest, weights_files)}; {_advice(path, nearest, holds_model)}"
    )


def _description(path: Path, nearest: Path, weights_files: str) -> str:
    """What a path without weights is."""
    if not path.exists():
        is_name = len(path.parts) == 1 and nearest == Path()  # such as "xlm-roberta-base"
        return f"no such folder{_NO_NAME if is_name else ''}"
    if path.is_file():
        return f"no file of weights; these are {weights_files}"
    if {"pieces", "vocabulary", "files"} <= _keys_of(path / "manifest.json"):
        return "a corpus for pre-training, no model"
    if "export" in _keys_of(path / "config.json"):
        return "what ernie-m export wrote, only for prediction; name the checkpoint that it was made of"
    return f"holds no model: neither {weights_files} nor the official params with word_embedding"


def _keys_of(file: Path) -> set[str]:
    """The keys of a JSON file; none if it cannot be read."""
    try:
        return set(read_object(file))
    except UserError:
        return set()


def _advice(path: Path, nearest: Path, holds_model: Callable[[Path], bool]) -> str:
    """What the user can do: fetch what should be there, or name a model near the nearest folder."""
    advice = []
    if "configs" in path.parts:  # where the released weights would be
        is_e5 = "e5-small" in path.parts
        fetches = "e5-small fetches it" if is_e5 else "fetches the released weights into configs/"
        advice.append(f"{start_of('get_weights')} {fetches}")
    advice += _models_near(nearest, holds_model)
    return "; ".join(advice) or "name the folder of a checkpoint, such as best or step_N of a run"


def _models_near(nearest: Path, holds_model: Callable[[Path], bool]) -> list[str]:
    """Words that name the models in a folder, right below it, or else beside it; [] if there are none."""
    if holds_model(nearest):
        return [f"a model is in {nearest}"]
    for folder in (nearest, nearest.parent):
        models = [str(path) for path in sorted(folder.glob("[!.]*")) if path.is_dir() and holds_model(path)]
        if models:
            others = " and others" if len(models) > _MOST_LISTED else ""
            return [f"models are in {', '.join(models[:_MOST_LISTED])}{others}"]
    return []
