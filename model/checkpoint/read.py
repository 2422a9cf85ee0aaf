"""Read weights from every folder and file that is supported. Needs neither Paddle nor torch."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint.formats import configs, fluid, pickles, safetensors, tables, torch
from model.checkpoint.formats.tables import FAIRSEQ, OFFICIAL, OURS, PADDLENLP, XLM_R
from model.checkpoint.formats.weights import Origin, Weights, from_theirs, heads_of, layout_of
from model.checkpoint.manifest import check_model
from model.config import ErnieMConfig
from model.task_names import task_named
from utils.errors import UserError
from utils.files import read_json

CONFIG, WEIGHTS, VOCAB, PIECES = "config.json", "model.safetensors", "vocab.txt", "piece.model"
READING = "reading"  # our key for how inputs were read in training; other libraries ignore it
_CONFIGS = (CONFIG, "model_config.json")  # the second one: old PaddleNLP
_VOCABS = (VOCAB, "ernie_m.vocab.txt")
_PIECES = (PIECES, "sentencepiece.bpe.model", "ernie_m.sentencepiece.bpe.model")
# The first that a folder has is read. `X.index.json` says which of several files holds which name.
_FILES: dict[str, Callable[[Path], Weights]] = {
    WEIGHTS: safetensors.read,
    "pytorch_model.bin": torch.read,
    "model_state.pdparams": pickles.read_pdparams,
    "model.pt": torch.read,
}
_READERS = {Path(name).suffix: read for name, read in _FILES.items()}
_FETCH = "sh scripts/data/get_weights.sh fetches the released weights into configs/"


@dataclass
class Checkpoint:
    """What `read_weights` found. A path is None if there is no such file."""

    format: str  # "ours", "official", "paddlenlp", "huggingface", "xlm-r" or "fairseq"
    weights: Weights  # canonical name -> array, read when it is accessed
    config: ErnieMConfig | None  # None if there is no config file (only in our own and the official format)
    head: str | None  # what the model is for, a key of `tables.CLASSES`; None: the files do not say
    extra: dict[str, Any]  # what else our config.json holds (architecture, task); labels of other formats
    origins: dict[str, Origin]  # by canonical name
    dropped: dict[str, str]  # name in the source -> why it was not taken
    unknown: list[str]  # names in the source that were not understood
    config_path: Path | None
    vocab_path: Path | None
    piece_model_path: Path | None


def read_weights(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint of ours, an official parameter directory, PaddleNLP, Hugging Face or fairseq.

    Args:
        path: a folder, or a file of weights in it.

    Raises:
        UserError: no such folder, none of these formats, a damaged file (also one that does not match the
            folder's manifest), a pickle with code.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such folder; {_FETCH}")
    folder = path if path.is_dir() else path.parent
    check_model(folder)
    others = sorted(file.name for file in folder.glob("*.pdparams"))  # such as ernie_m_base.pdparams
    for name in [path.name] if path.is_file() else [*_FILES, *others]:
        file, read = folder / name, _READERS.get(Path(name).suffix)
        index = folder / f"{name}.index.json"
        if read and (file.is_file() or index.is_file()):
            weights = read(file) if file.is_file() else _open_parts(index, read)
            return _translate(weights, file, _first((folder,), _CONFIGS), (folder,))
    for params in (path, path / "params"):
        if (params / fluid.MARK).is_file():
            folders = (params, params.resolve().parent)[: 1 + (params.name == "params")]
            above = folders[-1].resolve().parent  # configs/{base,large} share the files in configs/
            if all((above / name).is_file() for name in (VOCAB, PIECES)):
                folders = (*folders, above)
            config_path = _first((params, params.resolve().parent), (fluid.CONFIG,))
            return _translate(fluid.read_directory(params), params, config_path, folders, OFFICIAL)
    raise UserError(
        f"{path}: no checkpoint here: neither {', '.join(_FILES)} nor word_embedding (official params "
        f"directory); of a run, name its best or step_N folder; {_FETCH}"
    )


def _translate(
    found: Weights, place: Path, config_path: Path | None, folders: tuple[Path, ...], layout: str = ""
) -> Checkpoint:
    """The checkpoint under our names, with its config, labels and tokenizer."""
    raw = configs.read_json(config_path) if config_path else {}
    layout = layout or _layout_of(found, raw, place)
    if layout == FAIRSEQ:
        flags = found.metadata  # of the run
        raw = {ours: flags[theirs] for theirs, ours in configs.FAIRSEQ_FLAGS.items() if theirs in flags}
    if layout == OURS:
        head = task_named(str(raw.get("head") or raw.get("architecture")))
        heads = [head] if head in tables.CLASSES[PADDLENLP] else []
    else:
        heads = heads_of(layout, found, configs.class_of(raw))
        if layout == OFFICIAL and len(heads) > 1:
            raise UserError(
                f"{place}: heads of {len(heads)} tasks ({', '.join(heads)}); move the files of all but one "
                "elsewhere"
            )
    # All candidates name the tensors alike; only the user can say which one it is.
    chosen = heads[0] if heads and layout != OURS else None
    weights, origins, dropped, unknown = from_theirs(layout, found, chosen)
    config = None
    if raw or layout not in (OURS, OFFICIAL):
        config = configs.settle(raw, weights, str(config_path or place), layout)
    if layout == OURS:
        extra = {key: value for key, value in raw.items() if config is None or key not in config.to_dict()}
    else:
        extra = {"labels": configs.labels_of(raw), READING: raw.get(READING)}
        extra = {key: value for key, value in extra.items() if value is not None}
    if layout == OFFICIAL:  # a folder of fine-tuning holds the state of Adam and counters, too
        others = {name for name in unknown if name not in (*_VOCABS, *_PIECES)}
        dropped, unknown = dropped | dict.fromkeys(sorted(others), "not a variable of the model"), []
    head = heads[0] if len(heads) == 1 and heads[0] != tables.LM else None
    return Checkpoint(
        layout, weights, config, head, extra, origins, dropped, unknown, config_path,
        # XLM-R's vocabulary derives from the piece model.
        vocab_path=None if layout == XLM_R else _first(folders, _VOCABS),
        piece_model_path=_first(folders, _PIECES),
    )  # fmt: skip


def _layout_of(found: Weights, raw: dict[str, Any], file: Path) -> str:
    """The format of a file of weights, by its names and its config."""
    layout, model_type = layout_of(found), raw.get("model_type")
    if layout is None:  # no layer at all
        if not any(tables.PREFIX.sub("", name) == tables.WORDS for name in found):
            some = ", ".join(list(found)[:3]) or "nothing"
            raise UserError(f"{file}: no names of ERNIE-M or XLM-R: no {tables.WORDS}, but {some}")
        layout = XLM_R if model_type == configs.MODEL_TYPES[XLM_R] else PADDLENLP
    wanted = configs.MODEL_TYPES.get(layout)
    # BERT and others have the names of XLM-R, and other positions.
    if model_type != wanted and wanted and (model_type or layout == XLM_R):
        says = f"config.json says model_type {model_type}" if raw else "there is no config.json that says so"
        raise UserError(
            f"{file}: the tensors have the names of {layout}, but {says}; put the config.json that belongs "
            f"to the weights, with model_type {wanted}, beside them"
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
    return Weights(index, shapes, lambda name: files[place[name]][name])


def _first(folders: tuple[Path, ...], names: tuple[str, ...]) -> Path | None:
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)
