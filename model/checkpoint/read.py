"""Read weights from every folder, file and name that is supported. Needs neither Paddle nor torch."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from model.checkpoint import hub
from model.checkpoint.formats import configs, fluid, paddle, safetensors, tables, torch, translation
from model.checkpoint.formats.tables import FAIRSEQ, OFFICIAL, OURS, PADDLENLP, XLM_R
from model.checkpoint.formats.translation import Origin
from model.checkpoint.formats.weights import Weights
from model.checkpoint.manifest import check_model
from model.checkpoint.step_folders import step_folders
from model.config import ErnieMConfig
from model.task_names import task_named
from utils.errors import UserError
from utils.files import read_json

CONFIG, WEIGHTS, VOCAB, PIECES = "config.json", "model.safetensors", "vocab.txt", "piece.model"
READING = "reading"  # our key for how inputs were read in training; other libraries ignore it
LEFT_OUT = "left_out.safetensors"  # what a format has no place for; convert.py --keep_rest writes it
_CONFIGS = (CONFIG, "model_config.json")  # the second one: old PaddleNLP
_VOCABS = (VOCAB, "ernie_m.vocab.txt")
_PIECES = (PIECES, "sentencepiece.bpe.model", "ernie_m.sentencepiece.bpe.model")
# In the order in which they are looked for. `X.index.json` says which of several files holds which name.
_FILES: dict[str, Callable[[Path], Weights]] = {
    WEIGHTS: safetensors.read,
    "pytorch_model.bin": torch.read,
    "model_state.pdparams": paddle.read,
    "model.pt": torch.read,
}
_READERS = {Path(name).suffix: read for name, read in _FILES.items()}
_ALIKE = {WEIGHTS, "pytorch_model.bin"}  # the first is read if a folder has both, which is common
log = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """What `read_weights` found.

    Attributes:
        format: "ours", "official", "paddlenlp", "huggingface", "xlm-r" or "fairseq".
        weights: canonical name -> array, read when it is accessed.
        config: None if there is no config file (only in our own and the official format).
        head: what the model is for, a key of `tables.CLASSES`; None: the files do not say.
        extra: what our config.json holds besides the config (architecture, task, labels); labels of
            other formats.
        origins: canonical name -> `Origin`.
        dropped: name in the source -> why it was not taken.
        unknown: names in the source that were not understood.
        notes: lines about disagreements between config and weights.
        config_path, vocab_path, piece_model_path: None if there is no such file.
    """

    format: str
    weights: Weights
    config: ErnieMConfig | None
    head: str | None
    extra: dict[str, Any]
    origins: dict[str, Origin]
    dropped: dict[str, str]
    unknown: list[str]
    notes: list[str] = field(default_factory=list)
    config_path: Path | None = None
    vocab_path: Path | None = None
    piece_model_path: Path | None = None


class _Opened(NamedTuple):
    """Weights under the names of their file, the file or folder, its config, the folders to look into."""

    weights: Weights
    place: Path
    config_path: Path | None
    folders: tuple[Path, ...]
    is_official: bool = False


def read_weights(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint of ours, an official parameter directory, PaddleNLP, Hugging Face or fairseq.

    Args:
        path: a folder, a file of weights in it, or a name on a hub (`model.checkpoint.hub`).

    Raises:
        UserError: no such folder, none of these formats or several, a damaged file (also one that does not
            match the folder's manifest), a pickle with code.
    """
    path = hub.local_folder(path)
    check_model(path if path.is_dir() else path.parent)
    if path.is_file() and path.suffix in _READERS:
        opened = _open_file(path.parent, path.name, _READERS[path.suffix])
    elif path.is_dir():
        opened = _open_folder(path)
    elif path.exists():
        raise UserError(f"{path}: a file; give its folder")
    else:
        raise UserError(
            f"{path}: no such folder; give a checkpoint or params directory (sh scripts/data/get_weights.sh "
            "fetches the released ones into configs/; fine-tuning writes <checkpoints>/best, pre-training "
            "<run.output>/encoder; docs/pretraining.md has XLM-R's address)"
        )
    checkpoint = _translate(opened)
    for note in checkpoint.notes:
        log.warning("%s", note)
    return checkpoint


def _open_file(folder: Path, name: str, read: Callable[[Path], Weights]) -> _Opened:
    file, index = folder / name, _index(folder, name)
    weights = read(file) if file.is_file() else _open_parts(index, read)
    return _Opened(weights, file, _first((folder,), _CONFIGS), (folder,))


def _open_folder(folder: Path) -> _Opened:
    held = {
        name: read
        for name, read in _FILES.items()
        if (folder / name).is_file() or _index(folder, name).is_file()
    }
    if "model_state.pdparams" not in held:  # but, for example, ernie_m_base.pdparams
        held |= {path.name: paddle.read for path in sorted(folder.glob("*.pdparams"))}
    official = fluid.find(folder)
    all_held = [*held, *([fluid.MARK] if official and official[0] == folder else [])]
    if len(all_held) > 1 and not set(all_held) <= _ALIKE:
        raise UserError(
            f"{folder}: files of several formats ({', '.join(all_held)}); name the file that is meant"
        )
    if held:
        return _open_file(folder, *next(iter(held.items())))
    if official:
        params, config_path = official
        folders = (params, params.parent) if params.name == "params" else (params,)
        # configs/{base,large} share the tokenizer's files in configs/.
        above = folders[-1].resolve().parent
        if all((above / name).is_file() for name in (VOCAB, PIECES)):
            folders = (*folders, above)
        return _Opened(fluid.read_directory(params), params, config_path, folders, True)
    if steps := step_folders(folder):
        there = f"it holds step folders, give one of them ({steps[-1][1]})"
    elif (folder / CONFIG).is_file():
        kind = configs.read_json(folder / CONFIG).get("model_type") or "a model"
        there = f"a config.json of {kind} without weights: no {' or '.join(_FILES)}"
    else:
        there = (
            f"neither {WEIGHTS} nor word_embedding (official params directory) is in it; "
            "sh scripts/data/get_weights.sh fetches the released ones"
        )
    raise UserError(f"{folder}: no checkpoint here: {there}")


def _translate(opened: _Opened) -> Checkpoint:
    """The checkpoint under our names, with its config, labels and tokenizer."""
    found, place, config_path, folders, is_official = opened
    for name in found:
        if not name.isprintable():
            raise UserError(f"{place}: a tensor has the name {ascii(name)[:100]}, which cannot be printed")
    raw = configs.read_json(config_path) if config_path else {}
    layout = OFFICIAL if is_official else _layout_of(found, raw, place)
    if layout == FAIRSEQ:
        raw = configs.of_fairseq(found.metadata)
    if layout == OURS:
        head = task_named(str(raw.get("head") or raw.get("architecture")))
        heads = [head] if head in tables.CLASSES[PADDLENLP] else []
        translated = translation.from_theirs(layout, found, None)
    else:
        heads = translation.heads_of(layout, found, configs.class_of(raw))
        if is_official and len(heads) > 1:
            raise UserError(
                f"{place}: heads of {len(heads)} tasks ({', '.join(heads)}); move the files of all but one "
                "elsewhere"
            )
        # All candidates name the tensors alike; only the user can say which one it is.
        translated = translation.from_theirs(layout, found, heads[0] if heads else None)
    config, notes = None, []
    if raw or layout not in (OURS, OFFICIAL):
        config, notes = configs.settle(raw, translated.weights, str(config_path or place), layout)
    labels = configs.labels_of(raw)
    extra = ({"labels": labels} if labels else {}) | ({READING: raw[READING]} if READING in raw else {})
    if layout == OURS:
        extra = {key: value for key, value in raw.items() if config is None or key not in config.to_dict()}
    dropped, unknown = translated.dropped, translated.unknown
    if is_official:
        state = list(filter(tables.NOT_WEIGHTS.search, unknown))
        dropped = dropped | dict.fromkeys(state, "state of training")
        known = {*state, *_VOCABS, *_PIECES, LEFT_OUT}
        unknown = [name for name in unknown if name not in known]
    checkpoint = Checkpoint(
        layout, translated.weights, config, heads[0] if len(heads) == 1 and heads[0] != tables.LM else None,
        extra, translated.origins, dropped, unknown, notes, config_path,
        # XLM-R's vocabulary derives from the piece model.
        vocab_path=None if layout == XLM_R else _first(folders, _VOCABS),
        piece_model_path=_first(folders, _PIECES),
    )  # fmt: skip
    left_out = _first(folders, (LEFT_OUT,))
    return _with_left_out(checkpoint, left_out) if left_out else checkpoint


def _with_left_out(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Add what convert.py kept beside the weights."""
    weights, beside = checkpoint.weights, safetensors.read(path)
    added = {name: beside.shape(name) for name in beside if name not in weights}
    shapes = weights.shapes | added
    try:
        extra = json.loads(beside.metadata.get("extra", "{}")) | checkpoint.extra
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not as convert.py wrote it ({error}); move it away") from error
    return replace(
        checkpoint,
        weights=Weights(weights.source, shapes, lambda name: (beside if name in added else weights)[name]),
        origins=checkpoint.origins | {name: Origin((f"{LEFT_OUT}: {name}",), False) for name in added},
        extra=extra,
    )


def _layout_of(found: Weights, raw: dict[str, Any], file: Path) -> str:
    """The format of a file of weights, by its names and its config."""
    layout, model_type = translation.layout_of(found), raw.get("model_type")
    if layout is None:
        if model_type == configs.MODEL_TYPES[XLM_R]:
            layout = XLM_R
        elif any(name.removeprefix("ernie_m.") == tables.WORDS for name in found):
            layout = PADDLENLP
        else:
            some = ", ".join(list(found)[:3]) or "nothing"
            raise UserError(f"{file}: no names of ERNIE-M or XLM-R: no {tables.WORDS}, but {some}")
    wanted = configs.MODEL_TYPES.get(layout)
    if layout == XLM_R and model_type != wanted:
        # BERT and others have the same names, and other positions.
        says = "there is no config.json beside it" if model_type is None else f"config.json says {model_type}"
        raise UserError(
            f"{file}: names of the BERT family, of which only {wanted} is ERNIE-M's architecture: {says}"
        )
    if wanted and model_type not in (None, wanted):
        raise UserError(
            f"{file}: the names are those of {layout}, but config.json says model_type {model_type}; put "
            "the config that belongs to the weights beside them"
        )
    is_ours = file.suffix == ".safetensors" and not any(name.startswith("ernie_m.") for name in found)
    return OURS if layout == PADDLENLP and is_ours and "paddlenlp_version" not in raw else layout


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


def _first(folders: tuple[Path, ...], names: tuple[str, ...]) -> Path | None:
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)
