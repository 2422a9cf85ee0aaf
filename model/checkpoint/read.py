"""One door to every folder, file and name that weights are read from. Needs neither Paddle nor torch."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from model.checkpoint import hub
from model.checkpoint.formats import configs, translation
from model.checkpoint.formats import fluid as official
from model.checkpoint.formats import paddle as paddle_file
from model.checkpoint.formats import safetensors as safe
from model.checkpoint.formats import tables as names
from model.checkpoint.formats import tables as peers
from model.checkpoint.formats import torch as torch_file
from model.checkpoint.formats.translation import Origin, Translated
from model.checkpoint.formats.weights import Weights
from model.checkpoint.manifest import check_model
from model.checkpoint.step_folders import step_folders
from model.config import ErnieMConfig
from model.task_names import task_named
from utils.errors import UserError
from utils.files import read_json

OURS, OFFICIAL = "ours", "official"
CONFIG, WEIGHTS, VOCAB, PIECES = "config.json", "model.safetensors", "vocab.txt", "piece.model"
# Our key of how inputs were read in training; libraries leave keys that they do not know alone.
READING = "reading"
# What the format of a folder had no place for, kept beside it by convert.py.
LEFT_OUT = "left_out.safetensors"
_CONFIGS = (CONFIG, "model_config.json")  # the second one: old PaddleNLP
_VOCABS = (VOCAB, "ernie_m.vocab.txt")
_PIECES = (PIECES, "sentencepiece.bpe.model", "ernie_m.sentencepiece.bpe.model")
_WORDS = "embeddings.word_embeddings.weight"
# In the order in which they are looked for; `X.index.json` says which of several files holds which name.
_FILES: dict[str, Callable[[Path], Weights]] = {
    WEIGHTS: safe.read,
    "pytorch_model.bin": torch_file.read,
    "model_state.pdparams": paddle_file.read,
    "model.pt": torch_file.read,
}
_READERS = {Path(name).suffix: read for name, read in _FILES.items()}
_ALIKE = {WEIGHTS, "pytorch_model.bin"}  # of these two side by side, which is common, the first counts
log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What `read_weights` found.

    weights: canonical name -> array, read when asked for.
    config: None where no config file is near (ours and official only).
    info: "format": "ours", "official", "paddlenlp", "huggingface", "xlm-r" or "fairseq"; "config_path",
        "vocab_path", "piece_model_path": Path or None; "extra": what our config.json holds besides the config
        (architecture, task, labels), of others their labels; "head": what the model is for, a key of
        `peers.CLASSES`, or None; "unknown": names or files that were not understood; "dropped": name -> why;
        "origins": canonical name -> `Origin`; "notes": lines on what did not agree.
    """

    weights: Weights
    config: ErnieMConfig | None
    info: dict[str, Any]


def read_weights(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint of ours, an official parameter directory, PaddleNLP, Hugging Face or fairseq.

    Args:
        path: a folder, a file of weights in it, or a name on a hub (`model.checkpoint.hub`).

    Raises:
        UserError: no such folder, none of these formats or several, a damaged file (also one that is not as
            the folder's manifest says), a pickle with code.
    """
    path = hub.local_folder(path)
    check_model(path if path.is_dir() else path.parent)
    if path.is_file() and path.suffix in _READERS:
        checkpoint = _read_file(path, _READERS[path.suffix](path), path.parent)
    elif not path.is_dir():
        raise UserError(
            f"{path}: "
            + ("a file; give its folder" if path.exists() else "no such folder; give a checkpoint or params "
               "directory (sh scripts/data/get_weights.sh fetches the released ones)")
        )  # fmt: skip
    else:
        checkpoint = _read_folder(path)
    for note in checkpoint.info["notes"]:
        log.warning("%s", note)
    return checkpoint


def _read_folder(folder: Path) -> Checkpoint:
    held = {
        name: read
        for name, read in _FILES.items()
        if (folder / name).is_file() or _index(folder, name).is_file()
    }
    if "model_state.pdparams" not in held:
        for path in sorted(folder.glob("*.pdparams")):  # such as ernie_m_base.pdparams
            held[path.name] = paddle_file.read
    found = official.find(folder)
    all_held = [*held, *([found[0] / official.MARK] if found and found[0] == folder else [])]
    if len(all_held) > 1 and not set(all_held) <= _ALIKE:
        listed = ", ".join(Path(name).name for name in all_held)
        raise UserError(f"{folder}: files of several formats ({listed}); name the file that is meant")
    if held:
        name, read = next(iter(held.items()))
        file = folder / name
        weights = read(file) if file.is_file() else _open_parts(_index(folder, name), read)
        return _read_file(file, weights, folder)
    if found:
        return _read_official(*found)
    raise UserError(f"{folder}: no checkpoint here: {_what_is_there(folder)}")


def _read_file(file: Path, found: Weights, folder: Path) -> Checkpoint:
    for name in found:
        if not name.isprintable():
            raise UserError(f"{file}: a tensor has the name {ascii(name)[:100]}, which cannot be printed")
    config_path = _first(folder, _CONFIGS)
    raw = configs.read_json(config_path) if config_path else {}
    library = _library(found, raw, file)
    is_paddle = library == peers.PADDLENLP
    ours = (
        is_paddle and file.suffix == ".safetensors" and not any(name.startswith("ernie_m.") for name in found)
    )
    ours = ours and "paddlenlp_version" not in raw
    if library == peers.FAIRSEQ:
        raw = _of_fairseq(found)
    labels, class_name = configs.labels_of(raw), configs.class_of(raw)
    if ours:
        head = task_named(str(raw.get("head") or raw.get("architecture")))
        head = head if head in peers.CLASSES[peers.PADDLENLP] else None
        translated = _as_ours(found)
    else:
        heads = translation.heads_of(library, found, class_name)
        # Those that may be meant name the tensors alike; which of them it is, is for the user to say.
        translated = translation.from_theirs(library, found, heads[0] if heads else None)
        head = heads[0] if len(heads) == 1 and heads[0] != peers.LM else None
    where = str(config_path or file)
    config, notes = None, []
    if raw or not ours:
        config, notes = configs.settle(raw, translated.weights, where, library)
    extra = {"labels": labels} if labels else {}
    if READING in raw:
        extra[READING] = raw[READING]
    if ours:
        extra = {key: value for key, value in raw.items() if config is None or key not in config.to_dict()}
    info = {"format": OURS if ours else library, "extra": extra, "head": head, "notes": notes}
    info |= _paths((folder,), config_path)
    if library == peers.XLM_R:
        info["vocab_path"] = None  # derived from the piece model
    return _with_left_out(_checkpoint(translated, config, info), folder)


def _read_official(folder: Path, config_path: Path | None) -> Checkpoint:
    found = official.read_directory(folder)
    config, notes = None, []
    if config_path:
        raw = configs.read_json(config_path)
        config, notes = configs.settle(raw, found.weights, str(config_path), OFFICIAL)
    info = {"format": OFFICIAL, "extra": {}, "head": found.head, "notes": notes}
    folders = (folder, folder.parent) if folder.name == "params" else (folder,)
    info |= _paths(folders, config_path)
    tokenizer = {*_VOCABS, *_PIECES, LEFT_OUT}
    unknown = [name for name in found.unknown if name not in tokenizer]
    translated = Translated(found.weights, found.origins, found.dropped, unknown)
    return _with_left_out(_checkpoint(translated, config, info), folders[-1])


def _checkpoint(translated: Translated, config: ErnieMConfig | None, info: dict[str, Any]) -> Checkpoint:
    info |= {"unknown": translated.unknown, "dropped": translated.dropped, "origins": translated.origins}
    return Checkpoint(translated.weights, config, info)


def _as_ours(found: Weights) -> Translated:
    origins = {name: Origin((name,), False) for name in found}
    unknown = [
        name
        for name in found
        if not names.axes_of(name) and not name.startswith(("linear_start.", "linear_end."))
    ]
    return Translated(found, origins, {}, unknown)


def _with_left_out(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Add what convert.py kept beside a folder, if it did."""
    if not (folder / LEFT_OUT).is_file():
        return checkpoint
    beside, weights, info = safe.read(folder / LEFT_OUT), checkpoint.weights, checkpoint.info
    added = {name for name in beside if name not in weights}
    shapes = {name: weights.shape(name) for name in weights} | {name: beside.shape(name) for name in added}
    merged = Weights(weights.source, shapes, lambda name: beside[name] if name in added else weights[name])
    info["origins"] |= {name: Origin((f"{LEFT_OUT}: {name}",), False) for name in added}
    try:
        info["extra"] = json.loads(beside.metadata.get("extra", "{}")) | info["extra"]
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{folder / LEFT_OUT}: not as convert.py wrote it ({error}); move it away") from error
    return Checkpoint(merged, checkpoint.config, info)


def _library(found: Weights, raw: dict[str, Any], file: Path) -> str:
    library = translation.library_of(found)
    model_type = raw.get("model_type")
    if library is None:
        if model_type == configs.MODEL_TYPES[peers.XLM_R]:
            library = peers.XLM_R
        elif any(name.removeprefix("ernie_m.") == _WORDS for name in found):
            library = peers.PADDLENLP
    if library is None:
        some = ", ".join(list(found)[:3]) or "nothing"
        raise UserError(f"{file}: no names of ERNIE-M or XLM-R: no {_WORDS}, but {some}")
    wanted = configs.MODEL_TYPES.get(library)
    if library == peers.XLM_R and model_type != wanted:
        # BERT and others have the same names, and other positions
        told = "there is no config.json beside it" if model_type is None else f"config.json says {model_type}"
        raise UserError(
            f"{file}: names of the BERT family, of which only {wanted} is ERNIE-M's architecture: {told}"
        )
    if wanted and model_type not in (None, wanted):
        raise UserError(
            f"{file}: the names are those of {library}, but config.json says model_type {model_type}; put "
            "the config that belongs to the weights beside them"
        )
    return library


def _of_fairseq(found: Weights) -> dict[str, Any]:
    """The flags of a fairseq run that say what no shape shows."""
    flags = {"encoder_attention_heads": "num_attention_heads", "activation_fn": "hidden_act",
             "dropout": "hidden_dropout_prob",
             "attention_dropout": "attention_probs_dropout_prob"}  # fmt: skip
    told = {ours: found.metadata.get(theirs) for theirs, ours in flags.items()}
    return {key: value for key, value in told.items() if isinstance(value, str | int | float)}


def _open_parts(index: Path, read: Callable[[Path], Weights]) -> Weights:
    found = read_json(index)
    try:
        place = found["weight_map"]
        if any(Path(file).name != file for file in place.values()):
            raise ValueError("a part in another folder")
        files = {name: read(index.parent / name) for name in sorted(set(place.values()))}
        shapes = {name: files[file].shape(name) for name, file in place.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: damaged, or not of the files beside it ({error!r})") from error
    more = [f"{file}: {name}" for file in files for name in files[file] if place.get(name) != file]
    return Weights(index, shapes, lambda name: files[place[name]][name], others=more)


def _index(folder: Path, name: str) -> Path:
    return folder / f"{name}.index.json"


def _first(folder: Path, file_names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in file_names if (folder / name).is_file()), None)


def _paths(folders: tuple[Path, ...], config_path: Path | None) -> dict[str, Path | None]:
    def find(file_names: tuple[str, ...]) -> Path | None:
        return next((path for folder in folders if (path := _first(folder, file_names))), None)

    return {"config_path": config_path, "vocab_path": find(_VOCABS), "piece_model_path": find(_PIECES)}


def _what_is_there(folder: Path) -> str:
    if steps := step_folders(folder):
        return f"it holds step folders, give one of them ({steps[-1][1]})"
    if (folder / CONFIG).is_file():
        kind = configs.read_json(folder / CONFIG).get("model_type") or "a model"
        return f"a config.json of {kind} without weights: no {' or '.join(_FILES)}"
    return f"neither {WEIGHTS} nor word_embedding (official params directory) is in it"
