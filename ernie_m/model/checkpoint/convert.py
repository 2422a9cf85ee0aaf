"""Write a checkpoint in another format, and list what was written and what was not."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.model.checkpoint import (
    configs,
    safetensors,
    sentence_transformers,
    tensor_names,
)
from ernie_m.model.checkpoint.card import model_card
from ernie_m.model.checkpoint.files import CARD, CONFIG, LANGUAGE_MEANS, WEIGHTS
from ernie_m.model.checkpoint.lazy_weights import Origin, Weights, finite
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.checkpoint.tensor_names import (
    CHOICE,
    CLASSES,
    EXTRACT,
    HUGGING_FACE,
    LM,
    OFFICIAL,
    OURS,
    PADDLENLP,
    STATIC,
    XLM_R,
)
from ernie_m.model.checkpoint.writing import (
    RenamedWeights,
    for_library,
    to_names_of,
    write_official,
    write_pdparams,
)
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.conventions import READING
from ernie_m.model.tasks import CLASSIFICATION, MEAN_OF_TOKENS, SEARCH, SUPERVISED_TASKS, TASKS, stored_name
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.files import as_json

# The word on the command line -> the format; tables of pieces are written in another one, too.
ENCODER_TARGETS = {
    "ernie-m": OURS,
    "fluid": OFFICIAL,
    "paddlenlp": PADDLENLP,
    "huggingface": HUGGING_FACE,
    "xlm-roberta": XLM_R,
}
TARGETS = {**ENCODER_TARGETS, "sentence-transformers": STATIC}
# The format -> its library, for the model card.
_LIBRARIES = {
    OURS: "paddle",
    OFFICIAL: "paddle",
    PADDLENLP: "paddlenlp",
    HUGGING_FACE: "transformers",
    XLM_R: "transformers",
    STATIC: "sentence-transformers",
}
CLASSIFIER_TASKS = (*SUPERVISED_TASKS, CHOICE)  # the tasks whose head is named classifier
# The embeddings and the encoder are in every model. A model has all tensors of one of these parts, or none.
_PARTS = ("pooler.", "classifier.", "lm_head.", "linear_")  # prefixes of our names


@dataclass(frozen=True)
class WrittenTensor:
    """A tensor of the new folder.

    Attributes:
        sources: the names in the source that it comes from.
        transposed: whether its axes are in the reverse order of those in the source.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    transposed: bool


@dataclass(frozen=True)
class Report:
    """What a conversion wrote, and what it did not.

    Attributes:
        left_out: our names that have no place in the format.
        absent: our names that the format needs and that are not in the source.
        pooling_files: names of the files that say how a text gets its vector; empty for most formats.
    """

    written: list[WrittenTensor]
    left_out: list[str]
    absent: list[str]
    pooling_files: list[str]


def checked_config(checkpoint: Checkpoint) -> ErnieMConfig:
    """The checkpoint's config; every tensor is checked against it.

    Raises:
        UserError: there is no config, a tensor is missing, or its shape does not fit the others.
    """
    tensors = checkpoint.tensors
    config = checkpoint.config
    if config is None:
        raise UserError(
            f"{checkpoint.path}: no ernie_config.json or config.json is beside the weights; put it there"
        )
    row_of = {row.canonical: row for row in tensor_names.rows_of(OURS, config.num_hidden_layers)}
    our_names = [name for name in tensors if name in row_of]
    # The parts of which the checkpoint has any tensor; it needs all tensors of these.
    parts = [part for part in _PARTS if any(name.startswith(part) for name in our_names)]
    needed_prefixes = ("embeddings.", "encoder.", *parts)
    missing = [name for name in row_of if name.startswith(needed_prefixes) and name not in tensors]
    if missing:
        raise UserError(f"{checkpoint.path}: {len(missing)} tensors missing: {listed(missing)}")
    sizes = {**config.to_dict(), tensor_names.ONE: 1}  # axis -> its size; most axes are keys of the config
    if "classifier.bias" in tensors:
        # Its shape should be [labels]. `math.prod` does not fail if a damaged shape has no axis or several;
        # `_check_shape` then refuses the shape.
        sizes[tensor_names.LABELS] = math.prod(tensors.shape("classifier.bias"))
    for name in our_names:
        _check_shape(checkpoint, name, row_of[name].axes, sizes)
    return config


def _check_shape(checkpoint: Checkpoint, name: str, axes: tuple[str, ...], sizes: dict[str, int]) -> None:
    """Compare the shape of a tensor with the sizes of its axes.

    Raises:
        UserError: it has another number of axes, or one of another size.
    """
    shape = checkpoint.tensors.shape(name)
    # An axis without a known size, such as the languages, may have any.
    expected = [sizes.get(axis, size) for axis, size in zip(axes, shape)]
    if len(shape) != len(axes) or expected != list(shape):
        raise UserError(
            f"{checkpoint.path}: {name} has shape {list(shape)}, {expected} is expected by the others"
        )


def with_tokens(
    checkpoint: Checkpoint, ids: np.ndarray, pad_token_id: int, added_tokens: Mapping[str, int]
) -> Checkpoint:
    """The checkpoint with a part of its vocabulary.

    Args:
        ids: [new vocab_size] int64, the id in the checkpoint of each token that stays.
        pad_token_id: the new id of [PAD].
        added_tokens: token -> its new id.
    """
    tensors = checkpoint.tensors
    # The tensors with a row for each token: the word table [V, H] and the bias of the masked-LM head [V].
    with_token_rows = {name for name in tensors if tensor_names.VOCAB in tensor_names.axes_of(name)}
    shapes = {}
    for name in tensors:
        shape = tensors.shape(name)
        shapes[name] = (len(ids), *shape[1:]) if name in with_token_rows else shape

    def fetch(name: str) -> np.ndarray:
        return tensors[name][ids] if name in with_token_rows else tensors[name]

    config = replace(checkpoint.config, vocab_size=len(ids), pad_token_id=pad_token_id)
    reading = replace(checkpoint.reading, added_tokens=added_tokens)
    return replace(checkpoint, tensors=Weights(tensors.source, shapes, fetch), config=config, reading=reading)


def count_parameters(tensors: Weights) -> int:
    """The total number of elements of the tensors."""
    return sum(math.prod(shape) for shape in tensors.shapes.values())


def task_to_convert(checkpoint: Checkpoint, head_flag: str | None) -> str | None:
    """What the head of a model is for; None: it has no head of a task.

    Args:
        head_flag: what the user says that the classifier is for. It counts more than the files, because the
            official name of a classifier is also that of a model for multiple choice.

    Raises:
        UserError: nothing says what the classifier is for.
    """
    if "classifier.weight" in checkpoint.tensors:
        task = head_flag or checkpoint.task
        if task not in CLASSIFIER_TASKS:
            raise UserError(
                f"{checkpoint.path}: nothing says what its classifier is for; give --head "
                f"{'|'.join(CLASSIFIER_TASKS)}"
            )
        return task
    if head_flag:
        raise UserError(f"{checkpoint.path}: --head {head_flag}: there is no classifier in it; leave it out")
    return EXTRACT if "linear_start.weight" in checkpoint.tensors else None


def write(
    target: str,
    folder: Path,
    checkpoint: Checkpoint,
    config: ErnieMConfig,
    task: str | None,
    metadata: Mapping[str, Any],
    further_facts: Mapping[str, Any],
) -> Report:
    """Write weights (float32, one tensor at a time), config and model card into an existing folder.

    Args:
        target: a key of `TARGETS`.
        folder: from `ernie_m.utils.files.atomic_dir`.
        config: from `checked_config`.
        task: from `task_to_convert`.
        metadata: the metadata of the model card, such as "license"; it may be from the card of the source.
        further_facts: for the model card: what is read otherwise in the new form, what was trimmed.

    Raises:
        UserError: a size that the format cannot have; a value that is not finite.
    """
    format_name = TARGETS[target]
    _check_fits(target, checkpoint, config, task)
    tensors = _finite_only(checkpoint.tensors)
    class_task = _task_of_class(format_name, tensors, task)
    translated = to_names_of(format_name, tensors, class_task)
    weights = translated.weights

    # Weights and config. The config is made first: it refuses a size that the format cannot have.
    contents: dict[str, Any] = {}
    if format_name == OURS:
        contents = _config_of_ours(checkpoint, config, task)
    elif format_name in (PADDLENLP, HUGGING_FACE, XLM_R):
        contents = _config_of_library(format_name, checkpoint, config, class_task)
    if format_name == OFFICIAL:
        write_official(folder, weights, config)
    elif format_name == PADDLENLP:
        write_pdparams(folder / "model_state.pdparams", weights)
    else:
        is_for_transformers = format_name in (HUGGING_FACE, XLM_R)
        header = {"format": "pt"} if is_for_transformers else None  # PyTorch: transformers asks for it
        safetensors.write(folder / WEIGHTS, weights, dtype=np.float32, metadata=header)
    if contents:
        (folder / CONFIG).write_text(as_json(contents), encoding="utf-8")

    # What a search needs. A model without a head of a task is used for vectors.
    pooling_files = []
    if format_name == XLM_R and class_task in (None, LM):
        pooling_files = sentence_transformers.write(folder, config, checkpoint.reading)
    if format_name == STATIC:
        pooling_files = sentence_transformers.write_table(folder, checkpoint.reading)
    has_means = checkpoint.language_means_path is not None
    if has_means:
        shutil.copyfile(checkpoint.language_means_path, folder / LANGUAGE_MEANS)

    # The model card.
    library = "sentence-transformers" if pooling_files else _LIBRARIES[format_name]
    facts = {
        "name": "ERNIE-M" if format_name == OURS else f"ERNIE-M for {library}",
        "task": task and stored_name(task),
        "labels": checkpoint.labels or None,
        "languages": checkpoint.settings.get("languages"),
        "reads_at_most": f"{config.longest_input} tokens",
        "reads": checkpoint.reading.to_json() or None,
        **further_facts,
        "metadata": {"library_name": library, **metadata},
    }
    if pooling_files:
        facts["metadata"]["pipeline_tag"] = TASKS[SEARCH].pipeline
    card = model_card(facts, config.to_dict(), count_parameters(weights))
    (folder / CARD).write_text(card, encoding="utf-8")

    left_out = list(translated.left_out)
    if format_name == OFFICIAL:  # its config has no place for these
        without_place = {"labels": checkpoint.labels, READING: checkpoint.reading.to_json()}
        left_out += [f"{key} of config.json" for key, value in without_place.items() if value]
    absent = [] if format_name == OURS else translated.absent  # a checkpoint of ours may lack any head
    return Report(_written(format_name, checkpoint, translated), left_out, absent, pooling_files)


def _config_of_ours(checkpoint: Checkpoint, config: ErnieMConfig, task: str | None) -> dict[str, Any]:
    """The contents of config.json of a checkpoint folder of ours."""
    if task is None or task == EXTRACT:  # no model class of ours has the head of EXTRACT
        # A pre-training model is known by its languages, which have embeddings.
        architecture = "PreTrainingModel" if checkpoint.settings.get("languages") else "ErnieMModel"
    elif task == CHOICE:  # has the same layer as a classifier
        architecture = TASKS[CLASSIFICATION].model_class
    else:
        architecture = TASKS[task].model_class
    contents = {**config.to_dict(), "model_type": "ernie_m", "architecture": architecture}
    further = {**checkpoint.settings, READING: checkpoint.reading.to_json() or None}
    contents |= {key: value for key, value in further.items() if value is not None}
    if task:
        contents["head"] = stored_name(task)
    return contents


def _config_of_library(
    format_name: str, checkpoint: Checkpoint, config: ErnieMConfig, class_task: str | None
) -> dict[str, Any]:
    """The contents of config.json for PaddleNLP or transformers.

    Args:
        class_task: from `_task_of_class`.

    Raises:
        UserError: a size that the library cannot have.
    """
    num_labels = None
    if class_task in CLASSIFIER_TASKS:
        (num_labels,) = checkpoint.tensors.shape("classifier.bias")
    class_name = CLASSES[format_name][class_task].name
    contents = for_library(format_name, config, class_name, checkpoint.labels, num_labels)
    # ERNIE-M's own reading is written, too: without the key, a folder is read as its library reads it.
    contents[READING] = checkpoint.reading.to_json()
    if checkpoint.reading.multi_label:
        contents["problem_type"] = configs.MULTI_LABEL
    return contents


def _check_fits(target: str, checkpoint: Checkpoint, config: ErnieMConfig, task: str | None) -> None:
    """Raise a UserError if a format cannot hold the model, or how its head is used."""
    format_name = TARGETS[target]
    reading = checkpoint.reading
    if format_name == STATIC and (task or not config.is_table):
        what = "a head" if config.is_table else f"{config.num_hidden_layers} layers"
        raise UserError(
            f"{checkpoint.path}: it has {what}, and --to {target} is for tables of pieces alone; --to "
            "xlm-roberta writes encoders for that library, too"
        )
    if config.is_table and format_name not in (OURS, STATIC):
        raise UserError(
            f"{checkpoint.path}: it is a table of pieces, without the layers that --to {target} needs; --to "
            "sentence-transformers writes it for that library"
        )
    if reading.multi_label and format_name == OFFICIAL:
        raise UserError(
            f"{checkpoint.path}: a text has several labels or none, which the files of --to {target} cannot "
            "say; --to ernie-m keeps it"
        )
    if task == CLASSIFICATION and reading.pooling == MEAN_OF_TOKENS and format_name != OURS:
        raise UserError(
            f"{checkpoint.path}: its classifier reads the mean of all tokens, and that of --to {target} the "
            "first one; --to ernie-m keeps it, and ernie-m fit --finetune trains one that reads the first one"
        )


def _finite_only(tensors: Weights) -> Weights:
    """The same weights; reading one that holds a NaN or an infinity is a UserError."""
    return Weights(tensors.source, tensors.shapes, lambda name: finite(name, tensors[name], tensors.source))


def _task_of_class(format_name: str, tensors: Weights, task: str | None) -> str | None:
    """The key of `CLASSES[format_name]` for a model; None if the format has no class with its head.

    Args:
        task: from `task_to_convert`.
    """
    if format_name == OFFICIAL and task == CHOICE:  # its layer has the official name of a classifier
        return CLASSIFICATION
    # Only XLM-R has a class for a masked-LM head.
    if format_name == XLM_R and task is None and tensor_names.LM_BIAS in tensors:
        return LM
    return task if task in CLASSES[format_name] else None


def _written(format_name: str, checkpoint: Checkpoint, translated: RenamedWeights) -> list[WrittenTensor]:
    """The tensors that were written.

    Each was translated twice: from its names in the source to ours, and from ours to that of the new format.
    """
    written = []
    for new_name, to_new in translated.origins.items():
        (canonical,) = to_new.names
        # Only the token types of XLM-R, which are made of zeros, have no origin.
        to_ours = checkpoint.origins.get(canonical, Origin(to_new.names, transposed=False))
        name = f"params/{new_name}" if format_name == OFFICIAL else new_name
        shape = translated.weights.shape(new_name)
        is_transposed = to_ours.transposed != to_new.transposed  # transposed twice is not transposed
        written.append(WrittenTensor(name, shape, to_ours.names, is_transposed))
    return written
