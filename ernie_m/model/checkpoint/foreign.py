"""Open the weights of other libraries: PaddleNLP, transformers, fairseq, sentence-transformers, torch.

The form that this project writes and the official one are read without this file
(`ernie_m.model.checkpoint.open`); only a head whose encoder lies elsewhere is not.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint import configs, pickles, safetensors, tensor_names, torch_save
from ernie_m.model.checkpoint.files import (
    CONFIGS,
    PIECE_MODELS,
    TOKENIZER_JSON,
    WEIGHTS,
    WITHOUT_UNKNOWN,
    Source,
    first_file,
    has_our_form,
    official_directory,
)
from ernie_m.model.checkpoint.foreign_conventions import reading_of
from ernie_m.model.checkpoint.hub import local_folder
from ernie_m.model.checkpoint.lazy_weights import Weights
from ernie_m.model.checkpoint.no_model_here import no_model_at
from ernie_m.model.checkpoint.sentence_transformers import encoder_folder
from ernie_m.model.checkpoint.tensor_names import BERT, FAIRSEQ, OURS, PADDLENLP, XLM_R
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.conventions import Reading
from ernie_m.model.entity_tags import NO_ENTITIES, entity_tags
from ernie_m.tokenizer.foreign_files import TokenizerFiles
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_json

_FAMILIES = (
    "only ERNIE-M, XLM-R (model_type xlm-roberta) and BERT with XLM-R's vocabulary can be read, such as "
    "multilingual E5, multilingual MiniLM and BGE-M3"
)
__all__ = [
    "check_problem_type",
    "find_weights",
    "foreign_reading",
    "local_folder",
    "open_foreign",
]

# The first of these that a folder has is read. `X.index.json` says which of several files holds which name.
_READERS_BY_NAME: dict[str, Callable[[Path], Weights]] = {
    WEIGHTS: safetensors.read,
    "pytorch_model.bin": torch_save.read,
    "model_state.pdparams": pickles.read_pdparams,
    "model.pt": torch_save.read,
}
_READERS = {Path(name).suffix: read for name, read in _READERS_BY_NAME.items()}


def open_foreign(path: Path) -> Source:
    """Read the names and shapes of the weights at a path, find the files beside them, and name the format.

    Args:
        path: a folder, or a file of weights in it.

    Raises:
        UserError: there are no weights, or they cannot be read; they are of another family of models, or
            beside a tokenizer of another kind.
    """
    path = encoder_folder(path) if path.is_dir() else path
    weights_path = find_weights(path)
    if weights_path is None:
        raise no_model_at(path, holds_model=_holds_model, weights_files=", ".join(_READERS_BY_NAME))
    read = _READERS[weights_path.suffix]
    # Without a file of this name, an index names the files of the parts.
    tensors = read(weights_path) if weights_path.is_file() else _read_parts(_index_of(weights_path), read)
    folder = weights_path.parent
    config_path = first_file([folder], CONFIGS)
    raw_config = configs.read_json(config_path) if config_path else {}
    if "linked_encoder" in raw_config:  # of an earlier version
        raise UserError(
            f"{config_path}: linked_encoder: the folder has a head without its encoder; fit it again"
        )
    source = Source(
        path=weights_path,
        folder=folder,
        tensors=tensors,
        config_path=config_path,
        tokenizer_folders=(folder,),
        format=_format_of(tensors, weights_path, raw_config),
        raw_config=raw_config,
    )
    if source.format == OURS:
        return source

    if source.format == FAIRSEQ:  # its config is in the file of the weights
        source = replace(source, raw_config=configs.of_fairseq(tensors.metadata))
    TokenizerFiles(folder).check_kind(source.raw_config, config_path)
    if source.format == BERT:
        _check_vocabulary_of_bert(source)
    return source


def find_weights(path: Path) -> Path | None:
    """The file of weights at a path, but not those of an official directory; None if there is none.

    If the weights are in several files, which `X.index.json` names, the result is `X`, which need not exist.

    Args:
        path: a folder, or a file of weights.
    """
    if path.is_file():
        return path if path.suffix in _READERS else None
    other_names = sorted(file.name for file in path.glob("*.pdparams"))  # such as ernie_m_base.pdparams
    for name in (*_READERS_BY_NAME, *other_names):
        if (path / name).is_file() or _index_of(path / name).is_file():
            return path / name
    return None


def _holds_model(path: Path) -> bool:
    """Whether there are weights of any form at a path."""
    return find_weights(path) is not None or official_directory(path) is not None


def _index_of(file: Path) -> Path:
    """The file that names the parts, if the weights of `file` are in several files."""
    return file.with_name(f"{file.name}.index.json")


def _read_parts(index: Path, read: Callable[[Path], Weights]) -> Weights:
    """The tensors of all files that an index names.

    Args:
        read: the reader of one of these files.

    Raises:
        UserError: the index is damaged, or does not belong to the files beside it.
    """
    contents = read_json(index)
    try:
        file_of = contents["weight_map"]  # name of a tensor -> name of its file
        files = sorted(set(file_of.values()))
        if any(Path(file).name != file for file in files):
            raise ValueError("a part in another folder")
        parts = {file: read(index.parent / file) for file in files}
        shapes = {name: parts[file].shape(name) for name, file in file_of.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: damaged, or not of the files beside it ({error!r})") from error
    return Weights(index, shapes, lambda name: parts[file_of[name]][name])


def _format_of(tensors: Weights, path: Path, raw_config: Mapping[str, Any]) -> str:
    """The format of a checkpoint, by the names of its tensors and its config.

    Raises:
        UserError: the names are not those of ERNIE-M or XLM-R, or the config is that of another model.
    """
    if has_our_form(tensors, path, raw_config):
        return OURS
    names = list(tensors)
    format_name = tensor_names.format_of_names(names)
    if format_name is None:  # there are no layers, by which the formats differ
        if not any(tensor_names.bare(name) == tensor_names.WORDS for name in names):
            some = ", ".join(names[:3]) or "nothing"
            family = f", {raw_config['model_type']}" if "model_type" in raw_config else ""
            raise UserError(
                f"{path}: a model of another family{family}: it has no {tensor_names.WORDS}, but "
                f"{some}; {_FAMILIES}"
            )
        is_xlm_r = raw_config.get("model_type") == configs.MODEL_TYPES[XLM_R]
        format_name = XLM_R if is_xlm_r else PADDLENLP
    if format_name == XLM_R and raw_config.get("model_type") == configs.MODEL_TYPES[BERT]:
        return BERT
    _check_model_type(format_name, path, raw_config)
    return format_name


def _check_vocabulary_of_bert(source: Source) -> None:
    """Check that a model with the names of BERT has the vocabulary of XLM-R.

    Raises:
        UserError: nothing says so.
    """
    class_name = str(source.raw_config.get("tokenizer_class"))
    has_pieces = first_file(source.tokenizer_folders, PIECE_MODELS) is not None
    if not has_pieces and not class_name.startswith("XLMRobertaTokenizer"):
        raise UserError(
            f"{source.path}: a BERT with a vocabulary of its own; of BERT's form only models with XLM-R's "
            f"vocabulary can be read, such as multilingual E5-small, and those have {PIECE_MODELS[1]} or "
            f"{TOKENIZER_JSON} beside the weights"
        )


def _check_model_type(format_name: str, path: Path, raw_config: Mapping[str, Any]) -> None:
    """Check that the config is that of a model with the names of this format.

    Raises:
        UserError: it names another model; or it names none, and the names are those of XLM-R.
    """
    model_type = raw_config.get("model_type")
    needed_type = configs.MODEL_TYPES.get(format_name)
    if needed_type is None or model_type == needed_type:  # None: fairseq, which has no config file
        return
    # A config may leave the type out, but not for XLM-R: BERT has the same names and other positions.
    if not model_type and format_name != XLM_R:
        return
    reason = f"config.json says model_type {model_type}"
    if not raw_config:
        reason = "there is no config.json that says so"
    raise UserError(
        f"{path}: the tensors have the names of {format_name}, but {reason}; {_FAMILIES}. If it is "
        f"one of these, put the config.json that belongs to it, with model_type {needed_type}, beside it"
    )


def check_problem_type(source: Source, tensors: Weights) -> None:
    """Check what transformers says that the outputs of a classifier are.

    Raises:
        UserError: it is not known, or the classifier predicts several numbers, which would pass for labels.
    """
    problem_type = source.raw_config.get("problem_type")
    if problem_type is None or "classifier.bias" not in tensors:
        return
    place = f"{source.config_path}: problem_type {problem_type!r}"
    if problem_type not in configs.PROBLEM_TYPES:
        raise UserError(f"{place} is not known, only {', '.join(configs.PROBLEM_TYPES)}; {WITHOUT_UNKNOWN}")
    (outputs,) = tensors.shape("classifier.bias")
    if problem_type == configs.REGRESSION and outputs > 1:
        raise UserError(f"{place} with {outputs} outputs, but a regression has one; {WITHOUT_UNKNOWN}")


def foreign_reading(
    source: Source,
    root: Path,
    has_head: bool,
    config: ErnieMConfig | None,
    tag_labels: list[str] | None,
    drop_unknown: bool,
) -> tuple[Reading, list[str]]:
    """How the model of another library reads, and what its makers did in another way than this project can.

    Args:
        root: the folder that has modules.json, if there is any.
        has_head: whether the model was fine-tuned for a task.
        config: the model's shape.
        tag_labels: the labels of a tagger; None: the model is none.
        drop_unknown: whether a tagger whose labels have no known scheme reads on, without entities.

    Raises:
        UserError: a file is damaged, two files disagree, or the labels have no scheme of tags.
    """
    reading, faults = reading_of(
        source.format,
        source.raw_config,
        source.config_path,
        TokenizerFiles(source.tokenizer_folders[0]),
        root,
        has_head=has_head,
        config=config,
    )
    try:
        entity_tags(tag_labels or ())  # refuses labels that have no known scheme
    except UserError as error:
        if not drop_unknown:
            raise UserError(
                f"{source.config_path}: id2label: {error}, which is no scheme of tags that is known; "
                "ernie-m convert FOLDER NEW --drop_unknown writes a model whose tags mark no entities"
            ) from error
        reading = replace(reading, chunk_scheme=NO_ENTITIES)
    return reading, faults
