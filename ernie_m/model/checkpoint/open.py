"""Open a checkpoint of any supported format. Needs neither Paddle nor torch."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint.conventions import READING, reading_of
from ernie_m.model.checkpoint.formats import configs, fluid, pickles, safetensors, tensor_names, torch_save
from ernie_m.model.checkpoint.formats.lazy_weights import Origin, Weights, from_foreign
from ernie_m.model.checkpoint.formats.sentence_transformers import encoder_folder
from ernie_m.model.checkpoint.formats.tensor_names import BERT, FAIRSEQ, OFFICIAL, OURS, PADDLENLP, XLM_R
from ernie_m.model.checkpoint.hub import local_folder
from ernie_m.model.checkpoint.no_model_here import no_model_at
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.conventions import NO_ENTITIES, Reading, entity_tags
from ernie_m.model.tasks import TAGGING, task_named
from ernie_m.tokenizer.foreign_files import TokenizerFiles
from ernie_m.utils.checksums import check_folder
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.files import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
VOCAB = "vocab.txt"
PIECES = "piece.model"
TOKENIZER_JSON = "tokenizer.json"  # XLM-R has it; `ernie_m.tokenizer.tokenizer` makes a piece model of it
LANGUAGE_MEANS = "language_means.safetensors"  # language -> its mean sentence vector by layer, [L + 1, H]
TRAINED_LENGTH = "trained_max_seq_len"  # our key for the longest input of a pre-training from random weights
# What to do about a part that is not understood; the end of a message.
WITHOUT_UNKNOWN = "ernie-m convert FOLDER NEW --drop_unknown writes the model without it"
_FAMILIES = (
    "only ERNIE-M, XLM-R (model_type xlm-roberta) and BERT with XLM-R's vocabulary can be read, such as "
    "multilingual E5, multilingual MiniLM and BGE-M3"
)
_CONFIGS = (CONFIG, "model_config.json")  # the second one: old PaddleNLP
_VOCABS = (VOCAB, "ernie_m.vocab.txt")
_PIECES = (PIECES, "sentencepiece.bpe.model", "ernie_m.sentencepiece.bpe.model", TOKENIZER_JSON)
# The first of these that a folder has is read. `X.index.json` says which of several files holds which name.
_READERS_BY_NAME: dict[str, Callable[[Path], Weights]] = {
    WEIGHTS: safetensors.read,
    "pytorch_model.bin": torch_save.read,
    "model_state.pdparams": pickles.read_pdparams,
    "model.pt": torch_save.read,
}
_READERS = {Path(name).suffix: read for name, read in _READERS_BY_NAME.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of any format. Names and shapes are known; a tensor is read when it is accessed.

    Attributes:
        path: the folder or file that was opened.
        folder: the one that has its model card and the means of its languages.
        format: one of `ernie_m.model.checkpoint.formats.tensor_names`, such as "ernie-m" or "paddlenlp".
        tensors: our name -> array.
        config: the model's shape; None if there is no config file, which only our own and the official format
            can do without.
        task: what the model was fine-tuned for: a task of `ernie_m.model.tasks`, `tensor_names.CHOICE` or
            `tensor_names.EXTRACT`; None: nothing, or the files do not say.
        labels: the names of the labels, in the order of their ids; empty if the files do not say.
        settings: the keys of our config.json beside the model's shape and "reading", such as "languages" and
            "step"; of other formats "labels".
        reading: how the model reads its inputs.
        reading_faults: what the model's makers did in another way than this project can, in words; mostly
            nothing.
        config_path, vocab_path, piece_model_path, language_means_path: None if there is no such file.
        origins: our name -> where the tensor comes from.
        dropped: name in the source -> why the tensor was not taken.
        unknown: names in the source that were not understood, and were left out because that was asked for.
    """

    path: Path
    folder: Path
    format: str
    tensors: Weights
    config: ErnieMConfig | None
    task: str | None
    labels: list[str]
    settings: dict[str, Any]
    reading: Reading
    reading_faults: list[str]
    config_path: Path | None
    vocab_path: Path | None
    piece_model_path: Path | None
    language_means_path: Path | None
    origins: dict[str, Origin]
    dropped: dict[str, str]
    unknown: list[str]


@dataclass(frozen=True)
class _Source:
    """The files of a checkpoint, before anything is translated.

    Attributes:
        path: the file of the weights, or the official parameter directory; messages name it.
        folder: as for `Checkpoint`.
        tensors: the weights under their names in the file.
        config_path: None if there is no config file.
        tokenizer_folders: where its tokenizer may be, the most likely folder first.
    """

    path: Path
    folder: Path
    tensors: Weights
    config_path: Path | None
    tokenizer_folders: tuple[Path, ...]


def open_checkpoint(path: str | os.PathLike, drop_unknown: bool = False) -> Checkpoint:
    """Open a checkpoint of ours, an official parameter directory, PaddleNLP, Hugging Face or fairseq.

    Args:
        path: a folder, a file of weights in it, or the name of a model on Hugging Face's hub.
        drop_unknown: go on without what is not understood. It may be a part of the model, such as relative
            positions, adapters or a CRF, without which every output is another one.

    Raises:
        UserError: no such folder, none of these formats, a damaged file (also one that does not match the
            folder's manifest), a pickle with code; tensors or a problem_type that are not understood; a
            tokenizer of another kind; two files that disagree.
    """
    path = local_folder(path)
    # First of all, because a damaged file may fail in any way later, or not at all.
    check_folder(path if path.is_dir() else path.parent)
    source = _open_source(encoder_folder(path) if path.is_dir() else path)

    # Whose names and config these are.
    raw_config = configs.read_json(source.config_path) if source.config_path else {}
    format_name = _format_of(source, raw_config)
    if format_name == FAIRSEQ:  # its config is in the file of the weights
        raw_config = configs.of_fairseq(source.tensors.metadata)
    tokenizer_files = TokenizerFiles(source.tokenizer_folders[0])
    if format_name not in (OURS, OFFICIAL):
        tokenizer_files.check_kind(raw_config, source.config_path)
    if format_name == BERT:
        _check_vocabulary_of_bert(source, raw_config)

    # The weights under our names; what is not understood is refused.
    tasks = _possible_tasks(format_name, source, raw_config)
    # The heads of all of these tasks have the same names, so the first one serves. Only the user can say
    # which one it is.
    translated = from_foreign(format_name, source.tensors, tasks[0] if tasks else None)
    dropped = translated.dropped
    unknown = translated.unknown
    if format_name == OFFICIAL:
        dropped |= _not_of_the_model(unknown)
        unknown = []
    if not drop_unknown:
        if unknown:
            raise UserError(
                f"{path}: {len(unknown)} tensors unknown: {listed(unknown)}; they may be parts of "
                f"the model. {WITHOUT_UNKNOWN}"
            )
        _check_problem_type(raw_config, source, translated.weights)

    # The model's shape, what it is for, and how it reads.
    config = _config_of(format_name, source, raw_config, translated.weights)
    settings = _settings_of(format_name, raw_config, config)
    labels = settings.get("labels")
    labels = [str(label) for label in labels] if isinstance(labels, list) else []
    task = _task_of(format_name, raw_config, tasks)
    root = path if path.is_dir() else source.folder
    reading, faults = reading_of(
        format_name,
        raw_config,
        source.config_path,
        tokenizer_files,
        root,
        has_head=any(name != tensor_names.LM for name in tasks),
        config=config,
    )
    if task == TAGGING and format_name != OURS:
        reading = _with_known_tags(reading, labels, source.config_path, drop_unknown)
    has_own_vocab = format_name not in (XLM_R, BERT)  # theirs is derived from the piece model
    return Checkpoint(
        path=path,
        folder=source.folder,
        format=format_name,
        tensors=translated.weights,
        config=config,
        task=task,
        labels=labels,
        settings=settings,
        reading=reading,
        reading_faults=faults,
        config_path=source.config_path,
        vocab_path=_first_file(source.tokenizer_folders, _VOCABS) if has_own_vocab else None,
        piece_model_path=_first_file(source.tokenizer_folders, _PIECES),
        language_means_path=_first_file((source.folder,), (LANGUAGE_MEANS,)),
        origins=translated.origins,
        dropped=dropped,
        unknown=unknown,
    )


def _find_weights(path: Path) -> Path | None:
    """The file of weights in a folder, or the official parameter directory; None if there is neither.

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
    for params in (path, path / "params"):
        if (params / fluid.MARK).is_file():
            return params
    return None


def _index_of(file: Path) -> Path:
    """The file that names the parts, if the weights of `file` are in several files."""
    return file.with_name(f"{file.name}.index.json")


def _open_source(path: Path) -> _Source:
    """Read the names and shapes of the weights at a path, and find the files beside them.

    Raises:
        UserError: there are no weights, or they cannot be read.
    """
    weights_path = _find_weights(path)
    if weights_path is None:
        raise no_model_at(
            path,
            holds_model=lambda near_path: _find_weights(near_path) is not None,
            weights_files=", ".join(_READERS_BY_NAME),
        )
    if weights_path.is_dir():
        return _open_official_directory(weights_path)
    read = _READERS[weights_path.suffix]
    # Without a file of this name, an index names the files of the parts.
    tensors = read(weights_path) if weights_path.is_file() else _read_parts(_index_of(weights_path), read)
    folder = weights_path.parent
    return _Source(
        path=weights_path,
        folder=folder,
        tensors=tensors,
        config_path=_first_file([folder], _CONFIGS),
        tokenizer_folders=(folder,),
    )


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
        if any(Path(file).name != file for file in file_of.values()):
            raise ValueError("a part in another folder")
        parts = {file: read(index.parent / file) for file in sorted(set(file_of.values()))}
        shapes = {name: parts[file].shape(name) for name, file in file_of.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: damaged, or not of the files beside it ({error!r})") from error
    return Weights(index, shapes, lambda name: parts[file_of[name]][name])


def _open_official_directory(params: Path) -> _Source:
    """As `_open_source`, for an official parameter directory."""
    parent = params.resolve().parent
    folder = params
    tokenizer_folders = [params]
    if params.name == "params":  # then the folder of the checkpoint is the one above
        folder = parent
        tokenizer_folders.append(parent)
    # configs/base and configs/large share the tokenizer in configs/.
    folder_above = folder.resolve().parent
    if (folder_above / VOCAB).is_file() and (folder_above / PIECES).is_file():
        tokenizer_folders.append(folder_above)
    return _Source(
        path=params,
        folder=folder,
        tensors=fluid.read_directory(params),
        config_path=_first_file([params, parent], (fluid.CONFIG,)),
        tokenizer_folders=tuple(tokenizer_folders),
    )


def _first_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first file of one of these names in the first folder that has one; None if no folder does."""
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def _format_of(source: _Source, raw_config: Mapping[str, Any]) -> str:
    """The format of a checkpoint, by the names of its tensors and its config.

    Raises:
        UserError: the names are not those of ERNIE-M or XLM-R, or the config is that of another model.
    """
    if source.path.is_dir():
        return OFFICIAL
    names = list(source.tensors)
    format_name = tensor_names.format_of_names(names)
    if format_name is None:  # there are no layers, by which the formats differ
        if not any(tensor_names.bare(name) == tensor_names.WORDS for name in names):
            some = ", ".join(names[:3]) or "nothing"
            family = f", {raw_config['model_type']}" if "model_type" in raw_config else ""
            raise UserError(
                f"{source.path}: a model of another family{family}: it has no {tensor_names.WORDS}, but "
                f"{some}; {_FAMILIES}"
            )
        is_xlm_r = raw_config.get("model_type") == configs.MODEL_TYPES[XLM_R]
        format_name = XLM_R if is_xlm_r else PADDLENLP
    if format_name == XLM_R and raw_config.get("model_type") == configs.MODEL_TYPES[BERT]:
        return BERT
    _check_model_type(format_name, source, raw_config)
    # Our names are PaddleNLP's without a prefix, which PaddleNLP's encoder lacks, too. But a safetensors file
    # of PaddleNLP has a config with the version of PaddleNLP.
    has_our_names = format_name == PADDLENLP and not any(name.startswith("ernie_m.") for name in names)
    if has_our_names and source.path.suffix == ".safetensors" and "paddlenlp_version" not in raw_config:
        return OURS
    return format_name


def _check_vocabulary_of_bert(source: _Source, raw_config: Mapping[str, Any]) -> None:
    """Check that a model with the names of BERT has the vocabulary of XLM-R.

    Raises:
        UserError: nothing says so.
    """
    class_name = str(raw_config.get("tokenizer_class"))
    has_pieces = _first_file(source.tokenizer_folders, _PIECES) is not None
    if not has_pieces and not class_name.startswith("XLMRobertaTokenizer"):
        raise UserError(
            f"{source.path}: a BERT with a vocabulary of its own; of BERT's form only models with XLM-R's "
            f"vocabulary can be read, such as multilingual E5-small, and those have {_PIECES[1]} or "
            f"{TOKENIZER_JSON} beside the weights"
        )


def _check_model_type(format_name: str, source: _Source, raw_config: Mapping[str, Any]) -> None:
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
        f"{source.path}: the tensors have the names of {format_name}, but {reason}; {_FAMILIES}. If it is "
        f"one of these, put the config.json that belongs to it, with model_type {needed_type}, beside it"
    )


def _possible_tasks(format_name: str, source: _Source, raw_config: Mapping[str, Any]) -> list[str]:
    """What a model of another format may be for, by its class or its tensors.

    Returns:
        Keys of `tensor_names.CLASSES[format_name]`.

    Raises:
        UserError: an official directory has the heads of several tasks.
    """
    if format_name == OURS:  # a tensor of ours has the same name in the models of all tasks
        return []
    tasks = tensor_names.tasks_of(format_name, source.tensors, configs.class_of(raw_config))
    if format_name == OFFICIAL and len(tasks) > 1:
        raise UserError(
            f"{source.path}: heads of {len(tasks)} tasks ({', '.join(tasks)}); move the files of all but one "
            "elsewhere"
        )
    return tasks


def _task_of(format_name: str, raw_config: Mapping[str, Any], tasks: list[str]) -> str | None:
    """What the model was fine-tuned for; None: nothing, or the files do not say."""
    if format_name != OURS:
        was_fine_tuned = len(tasks) == 1 and tasks[0] != tensor_names.LM
        return tasks[0] if was_fine_tuned else None
    # ernie-m convert writes "head", fine-tuning "task"; the name of a model class tells its task, too.
    for key in ("head", "task", "architecture"):
        task = task_named(str(raw_config.get(key)))
        if task in tensor_names.TASKS:
            return task
    return None


def _check_problem_type(raw_config: Mapping[str, Any], source: _Source, tensors: Weights) -> None:
    """Check what transformers says that the outputs of a classifier are.

    Raises:
        UserError: it is not known, or the classifier predicts several numbers, which would pass for labels.
    """
    problem_type = raw_config.get("problem_type")
    if problem_type is None or "classifier.bias" not in tensors:
        return
    place = f"{source.config_path}: problem_type {problem_type!r}"
    if problem_type not in configs.PROBLEM_TYPES:
        known = ", ".join(configs.PROBLEM_TYPES)
        raise UserError(f"{place} is not known, only {known}; {WITHOUT_UNKNOWN}")
    (outputs,) = tensors.shape("classifier.bias")
    if problem_type == configs.REGRESSION and outputs > 1:
        raise UserError(f"{place} with {outputs} outputs, but a regression has one; {WITHOUT_UNKNOWN}")


def _with_known_tags(
    reading: Reading, labels: list[str], config_path: Path | None, drop_unknown: bool
) -> Reading:
    """The reading of a tagger, after a check that its labels have a scheme that is known.

    Raises:
        UserError: they have none, and it is not to go on without entities.
    """
    try:
        entity_tags(labels)
    except UserError as error:
        if not drop_unknown:
            raise UserError(
                f"{config_path}: id2label: {error}, which is no scheme of tags that is known; "
                "ernie-m convert FOLDER NEW --drop_unknown writes a model whose tags mark no entities"
            ) from error
        return replace(reading, chunk_scheme=NO_ENTITIES)
    return reading


def _config_of(
    format_name: str, source: _Source, raw_config: dict[str, Any], tensors: Weights
) -> ErnieMConfig | None:
    """The model's shape; None if there is no config file, and the format can do without."""
    if not raw_config and format_name in (OURS, OFFICIAL):
        return None
    return configs.config_of(raw_config, tensors, source.config_path or source.path, format_name)


def _settings_of(
    format_name: str, raw_config: Mapping[str, Any], config: ErnieMConfig | None
) -> dict[str, Any]:
    """What the config holds beside the model's shape."""
    if format_name == OURS:
        shape = config.to_dict() if config else {}
        return {key: value for key, value in raw_config.items() if key not in shape and key != READING}
    labels = configs.labels_of(raw_config)
    return {} if labels is None else {"labels": labels}


def _not_of_the_model(unknown: Iterable[str]) -> dict[str, str]:
    """The files of an official directory that are not taken: name -> the reason.

    Fine-tuning leaves Adam's state and counters there. The tokenizer's files are no weights and not listed.

    Args:
        unknown: the names of all files there that are no variables of the encoder or of a head.
    """
    tokenizer_files = (*_VOCABS, *_PIECES)
    names = sorted(set(unknown).difference(tokenizer_files))
    return dict.fromkeys(names, "not a variable of the model")
