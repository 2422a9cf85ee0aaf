"""Writes a checkpoint in another format, and reports what the format cannot represent."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.model.checkpoint import native_names
from ernie_m.model.checkpoint.convert_names import CHOICE, ConversionResult
from ernie_m.model.checkpoint.foreign.ernie_m import HuggingFace, PaddleNLP
from ernie_m.model.checkpoint.foreign.sentence_transformers import StaticFormat
from ernie_m.model.checkpoint.foreign.xlm_roberta import XlmR
from ernie_m.model.checkpoint.format import Checkpoint, Format
from ernie_m.model.checkpoint.model_card import format_model_card
from ernie_m.model.checkpoint.native import NativeFormat
from ernie_m.model.checkpoint.official import OfficialFormat
from ernie_m.model.checkpoint.weights import LANGUAGE_MEANS, Weights, check_finite
from ernie_m.model.pipeline_config import (
    ERNIE_M_RULES,
    MEAN_OF_TOKENS,
    MEAN_WITHOUT_SPECIAL,
    NO_RULES,
    PipelineConfig,
)
from ernie_m.model.tasks import (
    CLASSIFICATION,
    QUESTION_ANSWERING,
    SEARCH,
    SUPERVISED_TASKS,
    TASKS,
    TOKEN_CLASSIFICATION,
    get_stored_name,
)
from ernie_m.reader import write_tokenizer
from ernie_m.utils.checksums import CARD
from ernie_m.utils.errors import UserError, join_items

# Value of --to -> format; static models have another one.
ENCODER_TARGETS = {
    "ernie-m": NativeFormat(),
    "fluid": OfficialFormat(),
    "paddlenlp": PaddleNLP(),
    "huggingface": HuggingFace(),
    "xlm-roberta": XlmR(),
}
TARGETS = {**ENCODER_TARGETS, "sentence-transformers": StaticFormat()}
# `Format.tokenizer_format` -> function that writes the files of a tokenizer, and returns their names.
# Its last two arguments: the maximum length in tokens, and the number of [SEP] between two texts.
WRITERS = {
    "ernie-m": lambda folder, tokenizer, *_: write_tokenizer.write_native(folder, tokenizer),
    "paddlenlp": lambda folder, tokenizer, *_: write_tokenizer.write_ernie_m(folder, tokenizer),
    "xlm-roberta": write_tokenizer.write_xlm_r,
    "static": lambda folder, tokenizer, longest, _: write_tokenizer.write_static_tokenizer(
        folder, tokenizer, longest
    ),
}
CLASSIFIER_TASKS = (*SUPERVISED_TASKS, CHOICE)  # tasks whose head is the classifier
# Embeddings and encoder are in every model. A model has all tensors of one of these parts, or none.
_PARTS = ("pooler.", "classifier.", "lm_head.")  # prefixes of native names
# Text rules -> description.
_RULES_IN_WORDS = {
    ERNIE_M_RULES: "ERNIE-M's official ones",
    NO_RULES: "none besides SentencePiece, as in XLM-R",
    "paddlenlp": "those of PaddleNLP's ErnieMTokenizer",
    "transformers": "those of the ErnieMTokenizer of transformers",
}


def check_tensors(checkpoint: Checkpoint) -> None:
    """Check that a checkpoint has all tensors of its config, in the expected shapes.

    Raises:
        UserError: the config or a tensor is missing, or a shape differs.
    """
    tensors = checkpoint.tensors
    config = checkpoint.required_config
    row_of = {row.canonical: row for row in ENCODER_TARGETS["ernie-m"].list_tensors(config.num_hidden_layers)}
    our_names = [name for name in tensors if name in row_of]
    # The parts of which the checkpoint has any tensor, and needs all.
    parts = [part for part in _PARTS if any(name.startswith(part) for name in our_names)]
    needed_prefixes = ("embeddings.", "encoder.", *parts)
    missing = [name for name in row_of if name.startswith(needed_prefixes) and name not in tensors]
    if missing:
        raise UserError(f"{checkpoint.path}: {len(missing)} tensors missing: {join_items(missing)}")
    sizes = config.to_dict()  # axis -> size; most axes are config keys
    if "classifier.bias" in tensors:
        # Its shape should be [labels]. `math.prod` accepts a corrupt shape with no axis or several, which is
        # rejected below.
        sizes[native_names.LABELS] = math.prod(tensors.shape("classifier.bias"))
    for name in our_names:
        shape = tensors.shape(name)
        axes = row_of[name].axes
        # An axis without a known size, such as the languages, may have any size.
        expected = [sizes.get(axis, size) for axis, size in zip(axes, shape)]
        if len(shape) != len(axes) or expected != list(shape):
            raise UserError(
                f"{checkpoint.path}: {name} has shape {list(shape)} (expected {expected} "
                "from the other tensors)"
            )


def shrink_vocabulary(
    checkpoint: Checkpoint, kept_ids: np.ndarray, pad_token_id: int, added_tokens: Mapping[str, int]
) -> Checkpoint:
    """Return the checkpoint with a smaller vocabulary.

    Args:
        kept_ids: int64 [new vocab_size], the current id of each token that is kept.
        pad_token_id: the new id of [PAD].
        added_tokens: token -> new id, of added tokens.
    """
    tensors = checkpoint.tensors
    # Tensors with a row per token: the embeddings [V, H] and the bias of the masked-LM head [V].
    with_token_rows = {name for name in tensors if native_names.VOCAB in native_names.find_axes(name)}
    shapes = dict(tensors.shapes)
    for name in with_token_rows:
        shapes[name] = (len(kept_ids), *tensors.shape(name)[1:])

    def fetch(name: str) -> np.ndarray:
        return tensors[name][kept_ids] if name in with_token_rows else tensors[name]

    config = replace(checkpoint.required_config, vocab_size=len(kept_ids), pad_token_id=pad_token_id)
    pipeline_config = replace(checkpoint.pipeline_config, added_tokens=added_tokens)
    return replace(
        checkpoint,
        tensors=Weights(tensors.source, shapes, fetch),
        config=config,
        pipeline_config=pipeline_config,
    )


def count_parameters(tensors: Weights) -> int:
    """Return the number of parameters in all tensors."""
    return sum(math.prod(shape) for shape in tensors.shapes.values())


def get_head_task(checkpoint: Checkpoint, head_flag: str | None) -> str | None:
    """Return the task of a checkpoint's head; None without a head.

    Args:
        head_flag: the task of --head, which has precedence over the files, because the official names of
            classifiers and multiple-choice models are the same.

    Raises:
        UserError: the task of the head is unknown, or --head is given for a checkpoint without a head.
    """
    if "classifier.weight" in checkpoint.tensors:
        task = head_flag or checkpoint.task
        if task not in CLASSIFIER_TASKS:
            raise UserError(
                f"{checkpoint.path}: cannot tell the task of its classifier. "
                f"Set --head {'|'.join(CLASSIFIER_TASKS)}"
            )
        return task
    if head_flag:
        raise UserError(
            f"{checkpoint.path}: --head {head_flag}: the checkpoint has no classifier. Remove --head"
        )
    return None


def list_pipeline_differences(
    format: Format, checkpoint: Checkpoint, task: str | None, splits_digit_comma: bool
) -> list[str]:
    """Return a sentence about each difference in preprocessing after a conversion; usually none.

    The tokenizers of PaddleNLP and transformers do not fully implement ERNIE-M's text rules. This is not
    reported here but by `get_tokenizer_note`, because ERNIE-M itself is published for these libraries.

    Args:
        format: the new format.
        task: task of the head, if any.
        splits_digit_comma: whether rule 5 of `ernie_m.reader.tokenization` changes any subword of the
            vocabulary.
    """
    left_out = [f"{error} is dropped" for error in checkpoint.pipeline_errors]
    if format.name == NativeFormat.name:
        return left_out
    pipeline_config = checkpoint.pipeline_config
    rules = pipeline_config.text_rules
    new_rules = format.text_rules or NO_RULES
    is_qa = task == QUESTION_ANSWERING
    labeled = "leading" if pipeline_config.official_compat else pipeline_config.label_pieces
    tagged = "each subword of a word" if labeled == "all" else "its first subword that is not only '▁'"
    # Whether a format cannot represent something -> what its library does.
    sentences = [
        (
            format.text_rules is None and rules == ERNIE_M_RULES and splits_digit_comma,
            "subwords such as '12,' are not split before the comma, as ERNIE-M's rules require",
        ),
        (
            rules not in (ERNIE_M_RULES, new_rules),  # `get_tokenizer_note` covers ERNIE-M's rules
            f"its text rules are {_RULES_IN_WORDS[rules]}; the new ones are {_RULES_IN_WORDS[new_rules]}",
        ),
        (
            pipeline_config.added_tokens and not format.keeps_added_tokens,
            f"its added tokens ({', '.join(pipeline_config.added_tokens)}) are split into subwords",
        ),
        (
            is_qa and format.separators not in (None, pipeline_config.separators),
            f"a context follows {format.separators} [SEP], in training {pipeline_config.separators}",
        ),
        (
            is_qa and pipeline_config.split_han,
            "Han characters of questions and contexts are not separate tokens; in training they were",
        ),
        (
            task == TOKEN_CLASSIFICATION and labeled != "leading",
            f"a pipeline takes the tag of a word's first subword; in training it was {tagged}",
        ),
        (
            format.name == StaticFormat.name and pipeline_config.pooling not in (None, MEAN_WITHOUT_SPECIAL),
            f"an embedding is the mean over the subwords; in training, pooling was {pipeline_config.pooling}",
        ),
    ]
    return left_out + [sentence for is_so, sentence in sentences if is_so]


def get_tokenizer_note(format: Format, pipeline_config: PipelineConfig) -> str | None:
    """Return a note if the library's tokenizer does not fully implement ERNIE-M's text rules, or None."""
    if format.text_rules not in (None, ERNIE_M_RULES) and pipeline_config.text_rules == ERNIE_M_RULES:
        return "the ErnieMTokenizer of these libraries produces other ids for many texts"
    return None


def check_format_support(target: str, checkpoint: Checkpoint, task: str | None) -> None:
    """Check that a format supports a model and its head.

    Args:
        target: value of --to, a key of `TARGETS`.
        task: task of the head, if any.

    Raises:
        UserError: the format cannot represent the model.
    """
    format = TARGETS[target]
    pipeline_config = checkpoint.pipeline_config
    layers = checkpoint.required_config.num_hidden_layers
    errors = [
        (
            target not in ENCODER_TARGETS and (layers or task),
            f"it has {f'{layers} layers' if layers else 'a head'}, but --to {target} requires a static one. "
            "Use --to xlm-roberta, which writes encoders for that library",
        ),
        (
            not layers and not format.has_tables,
            f"it is a static model, but --to {target} requires layers. Use --to sentence-transformers, which "
            "writes static models",
        ),
        (
            pipeline_config.multi_label and format.name == OfficialFormat.name,
            f"a text has several labels or none, which --to {target} cannot represent. Use --to ernie-m, "
            "which keeps it",
        ),
        (
            task == CLASSIFICATION
            and checkpoint.tensors.shapes.get("classifier.bias") == (1,)
            and not pipeline_config.regression
            and format.name == OfficialFormat.name,
            f"its score is the sigmoid of its output, which --to {target} cannot represent. Use --to "
            "ernie-m, which keeps it",
        ),
        (
            task == CLASSIFICATION
            and pipeline_config.pooling == MEAN_OF_TOKENS
            and format.name != NativeFormat.name,
            f"its classifier uses the mean of all tokens, but --to {target} requires the first one. Use --to "
            "ernie-m, which keeps it, or ernie-m fit --finetune, which trains one on the first token",
        ),
    ]
    for is_so, error in errors:
        if is_so:
            raise UserError(f"{checkpoint.path}: {error}")


def write_converted_model(
    format: Format,
    folder: Path,
    checkpoint: Checkpoint,
    task: str | None,
    card_metadata: Mapping[str, Any],
    further_card_facts: Mapping[str, Any],
) -> tuple[ConversionResult, list[str]]:
    """Write a checkpoint in a format: weights in float32, one tensor at a time, config and model card.

    Args:
        folder: an existing folder, from `ernie_m.utils.files.atomic_dir`.
        checkpoint: a checkpoint accepted by `check_tensors` and `check_format_support`.
        task: result of `get_head_task`.
        card_metadata: front matter of the model card, such as "license".
        further_card_facts: facts for the model card, such as preprocessing differences.

    Returns:
        The conversion result, and the names of the files with embedding settings.

    Raises:
        UserError: the format does not support a value of the config, or a weight is not finite.
    """
    tensors = checkpoint.tensors
    sound = Weights(
        tensors.source, tensors.shapes, lambda name: check_finite(name, tensors[name], tensors.source)
    )
    kind = format.select_model_class(task, tensors)
    translated = format.from_native(sound, kind)
    pooling_files = format.write(folder, checkpoint, translated.weights, kind)
    if checkpoint.language_means_path is not None:
        shutil.copyfile(checkpoint.language_means_path, folder / LANGUAGE_MEANS)

    library = "sentence-transformers" if pooling_files else format.library
    pipeline_tag = {"pipeline_tag": TASKS[SEARCH].pipeline_tag} if pooling_files else {}
    facts = {
        "name": "ERNIE-M" if format.name == NativeFormat.name else f"ERNIE-M for {library}",
        "task": task and get_stored_name(task),
        "labels": checkpoint.labels or None,
        "languages": checkpoint.settings.get("languages"),
        "reads_at_most": f"{checkpoint.required_config.max_input_length} tokens",
        "reads": checkpoint.pipeline_config.to_json() or None,
        **further_card_facts,
        "metadata": {"library_name": library, **card_metadata, **pipeline_tag},
    }
    card = format_model_card(
        facts, checkpoint.required_config.to_dict(), count_parameters(translated.weights)
    )
    (folder / CARD).write_text(card, encoding="utf-8")
    return translated, pooling_files
