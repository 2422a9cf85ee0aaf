"""Open a checkpoint of any supported format. Needs neither Paddle nor torch."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint import configs, fluid, safetensors, tensor_names
from ernie_m.model.checkpoint.files import (
    CONFIGS,
    LANGUAGE_MEANS,
    PIECE_MODELS,
    PIECES,
    VOCAB,
    VOCABS,
    WEIGHTS,
    WITHOUT_UNKNOWN,
    Source,
    first_file,
    has_our_form,
    official_directory,
)
from ernie_m.model.checkpoint.foreign import (
    check_problem_type,
    find_weights,
    foreign_reading,
    local_folder,
    open_foreign,
)
from ernie_m.model.checkpoint.lazy_weights import Origin, Weights, to_our_names
from ernie_m.model.checkpoint.tensor_names import BERT, OFFICIAL, OURS, XLM_R
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.conventions import READING, Reading, own_reading
from ernie_m.model.tasks import TOKEN_CLASSIFICATION, task_named
from ernie_m.utils.checksums import check_folder
from ernie_m.utils.errors import UserError, listed, shown
from ernie_m.utils.logging import logger

TRAINED_LENGTH = "trained_max_seq_len"  # our key for the longest input of a pre-training from random weights


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of any format. Names and shapes are known; a tensor is read when it is accessed.

    Attributes:
        path: the folder or file that was opened.
        folder: the one that has its model card and the means of its languages.
        format: one of `ernie_m.model.checkpoint.tensor_names`, such as "ernie-m" or "paddlenlp".
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

    @property
    def has_pooler(self) -> bool:
        """Whether there is a pooler among the weights; where there is none, that of a model is random."""
        return "pooler.dense.weight" in self.tensors


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
    source = _open_ours(path) or _open_official(path) or open_foreign(path)
    format_name = source.format

    # The weights under our names; what is not understood is refused.
    tasks = _possible_tasks(source)
    # The heads of all of these tasks have the same names, so the first one serves. Only the user can say
    # which one it is.
    any_task = tasks[0] if tasks else None
    translated = to_our_names(format_name, source.tensors, any_task)
    dropped = translated.dropped
    unknown = translated.unknown
    if format_name == OFFICIAL:
        # Fine-tuning leaves Adam's state and counters in the directory. The tokenizer's files are no weights.
        no_variables = sorted(set(unknown).difference(VOCABS, PIECE_MODELS))
        dropped |= dict.fromkeys(no_variables, "not a variable of the model")
        unknown = []
    if not drop_unknown:
        if unknown:
            raise UserError(
                f"{path}: {len(unknown)} tensors unknown: {listed(unknown)}; they may be parts of "
                f"the model. {WITHOUT_UNKNOWN}"
            )
        if format_name not in (OURS, OFFICIAL):
            check_problem_type(source, translated.weights)

    # The model's shape, what it is for, and how it reads.
    config = None
    if source.raw_config or format_name not in (OURS, OFFICIAL):
        config = configs.config_of(
            source.raw_config, translated.weights, source.config_path or source.path, format_name
        )
    settings = _settings_of(source, config)
    raw_labels = settings.get("labels")
    names = raw_labels or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str | int | float) for name in names):
        raise UserError(f"{source.config_path}: 'labels' is {shown(raw_labels)}; it must be a list of names")
    labels = [str(name) for name in names]
    same = [label for label, count in Counter(labels).items() if count > 1]
    if same:
        raise UserError(
            f"{source.config_path}: {labels.count(same[0])} labels are called '{same[0]}', whose "
            "probabilities could not be told apart; give each label a name of its own there"
        )
    task = _task_of(source, tasks)
    if format_name in (OURS, OFFICIAL):
        reading = own_reading(source.raw_config, source.config_path)
        faults = []
    else:
        reading, faults = foreign_reading(
            source,
            root=path if path.is_dir() else source.folder,
            has_head=any(name != tensor_names.LM for name in tasks),
            config=config,
            tag_labels=labels if task == TOKEN_CLASSIFICATION else None,
            drop_unknown=drop_unknown,
        )
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
        vocab_path=first_file(source.tokenizer_folders, VOCABS) if has_own_vocab else None,
        piece_model_path=first_file(source.tokenizer_folders, PIECE_MODELS),
        language_means_path=first_file((source.folder,), (LANGUAGE_MEANS,)),
        origins=translated.origins,
        dropped=dropped,
        unknown=unknown,
    )


def _open_ours(path: Path) -> Source | None:
    """The folder or file of weights that this project wrote; None: the path is none."""
    weights_path = path / WEIGHTS if path.is_dir() else path
    has_modules = (path / "modules.json").is_file()  # sentence-transformers; the encoder may lie elsewhere
    if has_modules or weights_path.suffix != ".safetensors" or not weights_path.is_file():
        return None
    tensors = safetensors.read(weights_path)
    folder = weights_path.parent
    config_path = first_file([folder], CONFIGS)
    raw_config = configs.read_json(config_path) if config_path else {}
    if not has_our_form(tensors, weights_path, raw_config):
        return None
    return Source(weights_path, folder, tensors, config_path, (folder,), OURS, raw_config)


def _open_official(path: Path) -> Source | None:
    """The official parameter directory, or the folder that has it; None: the path is none."""
    params = official_directory(path)
    if params is None or find_weights(path) is not None:  # any other weights there count more
        return None
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
    config_path = first_file([params, parent], (fluid.CONFIG,))
    return Source(
        path=params,
        folder=folder,
        tensors=fluid.read_directory(params),
        config_path=config_path,
        tokenizer_folders=tuple(tokenizer_folders),
        format=OFFICIAL,
        raw_config=configs.read_json(config_path) if config_path else {},
    )


def _possible_tasks(source: Source) -> list[str]:
    """What a model of another format may be for, by its class or its tensors.

    Returns:
        Keys of `tensor_names.CLASSES[source.format]`.

    Raises:
        UserError: an official directory has the heads of several tasks.
    """
    if source.format == OURS:  # a tensor of ours has the same name in the models of all tasks
        return []
    class_name = configs.class_of(source.raw_config)
    tasks = tensor_names.tasks_of(source.format, source.tensors, class_name)
    if class_name not in (None, *(known.name for known in tensor_names.CLASSES[source.format].values())):
        logger.warning(
            "%s: architectures %s is not known; by its tensors the model is for %s",
            source.config_path,
            shown(class_name),
            " or ".join(tasks) or "vectors",
        )
    if source.format == OFFICIAL and len(tasks) > 1:
        raise UserError(
            f"{source.path}: heads of {len(tasks)} tasks ({', '.join(tasks)}); move the files of all but one "
            "elsewhere"
        )
    return tasks


def _task_of(source: Source, tasks: list[str]) -> str | None:
    """What the model was fine-tuned for; None: nothing, or the files do not say.

    Args:
        tasks: from `_possible_tasks`.
    """
    if source.format != OURS:
        was_fine_tuned = len(tasks) == 1 and tasks[0] != tensor_names.LM
        return tasks[0] if was_fine_tuned else None
    # ernie-m convert writes "head", fine-tuning "task"; the name of a model class tells its task, too.
    for key in ("head", "task", "architecture"):
        task = task_named(str(source.raw_config.get(key)))
        if task in tensor_names.TASKS:
            return task
        if task == source.raw_config.get(key) != "ErnieMModel":
            logger.warning("%s: %s %s is not known, and not read", source.config_path, key, shown(task))
    return None


def _settings_of(source: Source, config: ErnieMConfig | None) -> dict[str, Any]:
    """What the config file holds beside the model's shape."""
    if source.format == OURS:
        shape = config.to_dict() if config else {}
        return {key: value for key, value in source.raw_config.items() if key not in shape and key != READING}
    labels = configs.labels_of(source.raw_config)
    return {} if labels is None else {"labels": labels}
