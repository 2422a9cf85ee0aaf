"""What a path holds if no format finds a model there."""

from pathlib import Path

from ernie_m.model.checkpoint.files import CONFIG, WEIGHTS_FILES
from ernie_m.model.checkpoint.lazy_weights import Weights
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import UserError, command_name
from ernie_m.utils.folder import Folder

_FAMILIES = (
    "only ERNIE-M, XLM-R (model_type xlm-roberta) and BERT with XLM-R's vocabulary can be read, such as "
    "multilingual E5, multilingual MiniLM and BGE-M3"
)


def another_family(folder: Folder, weights: Weights) -> UserError:
    """The error for a folder whose weights no format takes."""
    config = f"config.json says model_type {folder.json(CONFIG).get('model_type')}"
    if CONFIG not in folder:
        config = "there is no config.json that says so"
    some = ", ".join(list(weights)[:3]) or "none"
    return UserError(
        f"{weights.source}: a model of another family: its tensors are {some}, and {config}; {_FAMILIES}. If "
        "it is one of these, put the config.json that belongs to it, with that model_type, beside it"
    )


def no_weights(path: Path) -> UserError:
    """The error for a path without weights: what is there, and what to do."""
    advice = "name the folder of a checkpoint, such as best or step_N of a run"
    if "configs" in path.parts:  # where the released weights would be
        is_e5 = "e5-small" in path.parts
        fetches = "e5-small fetches it" if is_e5 else "fetches the released weights into configs/"
        advice = f"{command_name()} download weights {fetches}"
    return UserError(f"{path}: {_description(path)}; {advice}")


def _description(path: Path) -> str:
    """What a path without weights is."""
    files = ", ".join(WEIGHTS_FILES)
    if not path.exists():
        no_name = ", and no name of a model on Hugging Face's hub, which is ORGANISATION/MODEL"
        return f"no such folder{no_name if len(path.parts) == 1 else ''}"
    if path.is_file():
        return f"no file of weights; these are {files}"
    folder = Folder(path)
    if {"pieces", "vocabulary", "files"} <= folder.json(MANIFEST).keys():
        return "a corpus for pre-training, no model"
    if "export" in folder.json(CONFIG):
        return "what ernie-m export wrote, only for prediction; name the checkpoint that it was made of"
    return f"holds no model: neither {files} nor the official params with word_embedding"
