"""Opens a checkpoint of any supported format, or reports what a path contains instead.

The formats are tried in order. Imports neither Paddle nor torch.
"""

import os
from dataclasses import replace
from pathlib import Path

from ernie_m.model.checkpoint.convert_names import CHOICE
from ernie_m.model.checkpoint.foreign.base import READERS
from ernie_m.model.checkpoint.foreign.ernie_m import HuggingFace, PaddleNLP
from ernie_m.model.checkpoint.foreign.fairseq import Fairseq
from ernie_m.model.checkpoint.foreign.sentence_transformers import find_encoder_folder
from ernie_m.model.checkpoint.foreign.xlm_roberta import Bert, PaddleXlmR, XlmR
from ernie_m.model.checkpoint.format import Checkpoint, Format, Source, read_labels
from ernie_m.model.checkpoint.hub import resolve_model_path
from ernie_m.model.checkpoint.native import NativeFormat
from ernie_m.model.checkpoint.official import OfficialFormat
from ernie_m.model.checkpoint.weights import (
    ADAPTER,
    CONFIG,
    LANGUAGE_MEANS,
    PIECE_MODELS,
    VOCABS,
    WEIGHTS_FILES,
    WITHOUT_UNKNOWN,
    Weights,
    open_weights,
)
from ernie_m.utils.checksums import MANIFEST, check_folder
from ernie_m.utils.errors import UserError, get_command_name, join_items
from ernie_m.utils.files import Folder

_FAMILIES = (
    "supported are ERNIE-M, XLM-R (model_type xlm-roberta) and BERT with XLM-R's vocabulary, such as "
    "multilingual E5, multilingual MiniLM and BGE-M3"
)


def unsupported_family_error(folder: Folder, weights: Weights) -> UserError:
    """Return the error for a folder whose weights no format supports."""
    config = f"config.json has model_type {folder.read_object(CONFIG).get('model_type')}"
    if CONFIG not in folder:
        config = "config.json is missing"
    some = ", ".join(list(weights)[:3]) or "none"
    return UserError(
        f"{weights.source}: unsupported model family: its tensors are {some}, and {config}; {_FAMILIES}. If "
        "the model is one of these, put its config.json with this model_type next to the weights"
    )


def make_no_weights_error(path: Path) -> UserError:
    """Return the error for a path without weights: what the path is, and what to do."""
    advice = "Use the folder of a checkpoint, such as best or step_N of a run"
    if "configs" in path.parts:  # the folder of the released weights
        is_e5 = "e5-small" in path.parts
        what = "e5-small" if is_e5 else "weights, which writes the released weights to configs/"
        advice = f"Run {get_command_name()} download {what}"
    return UserError(f"{path}: {_describe_path(path)}. {advice}")


def _describe_path(path: Path) -> str:
    """Describe what a path without weights is, for an error message."""
    files = ", ".join(WEIGHTS_FILES)
    if path.suffix == ".pth" or (path.is_dir() and any(path.glob("*.pth"))):
        return "a .pth of Facebook's XLM is not supported; rename one of XLM-R to pytorch_model.bin"
    if not path.exists():
        no_name = " (a model on the Hugging Face Hub is ORGANIZATION/MODEL)"
        return f"no such folder{no_name if len(path.parts) == 1 else ''}"
    if path.is_file():
        return f"not a weights file (expected {files})"
    folder = Folder(path)
    if {"pieces", "vocabulary", "files"} <= folder.read_object(MANIFEST).keys():
        return "a pre-training corpus, not a model"
    if "export" in folder.read_object(CONFIG):
        return "an output of ernie-m export, for prediction only"
    return f"not a model (expected {files}, or the official params with word_embedding)"


# In order of precedence. A new format is one file and one entry here.
FORMATS = (
    NativeFormat(),
    OfficialFormat(),
    PaddleNLP(),
    HuggingFace(),
    PaddleXlmR(),
    XlmR(),
    Bert(),
    Fairseq(),
)
TRAINED_LENGTH = "trained_max_seq_len"  # native key of the maximum length in pre-training from random weights


def open_checkpoint(path: str | os.PathLike, drop_unknown: bool = False) -> Checkpoint:
    """Open a checkpoint in any of `FORMATS`: native, official, PaddleNLP, transformers or fairseq.

    Args:
        path: a folder, a file of weights in it, or a model name on the Hugging Face Hub.
        drop_unknown: drop unknown tensors outside the encoder. They may be part of the model, such as a CRF,
            so outputs may differ. Unknown tensors inside the encoder are always an error.

    Raises:
        UserError: the path does not exist or is in none of these formats, a file is corrupt or differs from
            the folder's manifest, a pickle contains code, tensors or a problem_type are unknown, the
            tokenizer is of an unsupported kind, or two files contradict each other.
    """
    path = resolve_model_path(path)
    root = Folder(path)
    # First, because a corrupt file may fail later in any way, or not at all.
    check_folder(root.path)
    folder = find_encoder_folder(root)
    if ADAPTER in folder:
        raise UserError(
            f"{folder.path / ADAPTER}: PEFT adapters are not supported. Merge the adapter "
            "(merge_and_unload), and save the model to another folder"
        )
    for format in FORMATS:
        source = format.find(folder)
        if source:
            return _convert_source(path, format, replace(source, root=root), drop_unknown)
    weights = open_weights(folder, READERS)
    if weights is not None:
        raise unsupported_family_error(folder, weights)
    raise make_no_weights_error(path if folder is root else folder.path)


def _convert_source(path: Path, format: Format, source: Source, drop_unknown: bool) -> Checkpoint:
    """Convert the files of a format to a `Checkpoint`, with tensors under native names.

    Raises:
        UserError: see `open_checkpoint`.
    """
    translated = format.to_native(source.weights, source.tasks[0] if source.tasks else None)
    unknown = translated.unknown
    inner = [name for name in unknown if format.is_encoder_weight(name)]
    if inner:
        raise UserError(
            f"{path}: {len(inner)} unknown tensors inside the encoder: {join_items(inner)}. Without them "
            "every output would be different. Load it with the library that wrote it"
        )
    if unknown and not drop_unknown:
        raise UserError(
            f"{path}: {len(unknown)} unknown tensors: {join_items(unknown)}; they may be part "
            f"of the model. {WITHOUT_UNKNOWN}"
        )
    has_config = source.raw_config or format.needs_config
    config = format.read_config(source, translated.weights) if has_config else None
    outputs = sum(translated.weights.shapes.get("classifier.bias", ())[:1])
    labels = read_labels(source.raw_config, format.labels_key, source.config_path, outputs)
    pipeline_config, errors = format.read_pipeline_config(
        source, translated.weights, config, labels, drop_unknown
    )
    # The official code trains one output as a regression, and the scores of choices are logits of a softmax.
    if outputs == 1 and (format.name == OfficialFormat.name or source.task == CHOICE):
        pipeline_config = replace(pipeline_config, regression=True)
    return Checkpoint(
        path=path,
        folder=source.folder,
        format=format.name,
        tensors=translated.weights,
        config=config,
        task=source.task,
        labels=labels,
        settings=format.read_settings(source, config),
        pipeline_config=pipeline_config,
        pipeline_errors=errors,
        config_path=source.config_path,
        vocab_path=source.find_first(VOCABS) if format.has_own_vocab else None,
        piece_model_path=source.find_first(PIECE_MODELS),
        language_means_path=source.folder.find_first([LANGUAGE_MEANS]),
        dropped=translated.dropped,
        unknown=unknown,
    )
