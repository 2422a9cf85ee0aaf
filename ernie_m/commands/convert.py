"""Convert a model between the formats of ERNIE-M and XLM-R, or trim its vocabulary. See docs/models.md.

ernie-m convert configs/base ernie-m-base --to huggingface
ernie-m convert checkpoints/best for-transformers --to xlm-roberta
ernie-m convert sentences/best for-sentences --to sentence-transformers
ernie-m convert xlmr.base/model.pt xlm-r --to ernie-m
ernie-m convert sentencepiece.bpe.model vocabulary --to fluid
ernie-m convert configs/base for-en-de --trim_vocab_to en.txt,de.txt
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ernie_m.data.trim_vocabulary import trim_vocabulary
from ernie_m.finetune.finetune_args import VocabularyFlags
from ernie_m.model.checkpoint import write_foreign
from ernie_m.model.checkpoint.convert_names import ConversionResult
from ernie_m.model.checkpoint.model_card import read_card
from ernie_m.model.checkpoint.native import NativeFormat
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.checkpoint.write_foreign import CLASSIFIER_TASKS, TARGETS, WRITERS
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS, PIPELINE, PipelineConfig
from ernie_m.model.tasks import QUESTION_ANSWERING, SEARCH
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.checksums import MANIFEST, write_manifest
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import atomic_dir, lock_for_writing
from ernie_m.utils.logging import format_columns, logger
from ernie_m.utils.value_types import Names, PositiveInt

LONGEST_INPUT = 512  # tokens, of the released models; a vocabulary alone does not define a limit


@dataclass(kw_only=True)
class ConvertFlags(VocabularyFlags):
    """Command-line options of `ernie-m convert`."""

    source: str = option(positional=True)
    """Model directory, weights file, or SentencePiece model (.model) to convert."""

    target: str = option(positional=True)
    """New output directory."""

    to: Literal[tuple(TARGETS)] = option("ernie-m", needed=True)
    """Output format (ernie-m: this project's)."""

    trim_vocab_to: Names | None = None
    """Text files whose subwords are kept when trimming the vocabulary."""

    min_count: PositiveInt = 1
    """Minimum number of occurrences in the files of --trim_vocab_to for a subword to be kept."""

    head: Literal[CLASSIFIER_TASKS] | None = None
    """Task of the classifier, if the files do not specify it."""

    license: str | None = None
    """License of the model for its README.md, such as apache-2.0."""

    base_model: str | None = None
    """Hub ID of the base model, for the model card (README.md)."""

    drop_unknown: bool = False
    """Whether to drop unknown tensors and ignore an unknown problem_type instead of stopping."""

    allow_lossy: bool = False
    """Whether to convert even if the target library preprocesses text differently, and list the differences
    in README.md."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ernie-m convert`.

    Args:
        arguments: the command line; None: the command line of this process.
    """
    flags = parse_options(ConvertFlags, arguments, __name__)
    with lock_for_writing(flags.target, "--target"):
        convert(flags)


def convert(flags: ConvertFlags) -> None:
    """Convert the model in the flags, or trim its vocabulary; requires the lock of the output directory.

    Raises:
        UserError: the model cannot be converted, or a flag is invalid.
    """
    if flags.min_count > 1 and not flags.trim_vocab_to:
        raise UserError(
            f"--min_count {flags.min_count} requires --trim_vocab_to. Set it to the text "
            "files, or remove --min_count"
        )
    if Path(flags.source).suffix == ".model":
        if flags.trim_vocab_to:
            raise UserError(
                f"{flags.source}: --trim_vocab_to requires a model directory with weights, not "
                "a SentencePiece model"
            )
        convert_vocabulary(flags)
        return

    checkpoint = open_checkpoint(flags.source, flags.drop_unknown)
    write_foreign.check_tensors(checkpoint)
    task = write_foreign.get_head_task(checkpoint, flags.head)
    tokenizer = open_tokenizer(checkpoint, flags)
    if not flags.trim_vocab_to:
        write_model(flags, checkpoint, task, tokenizer)
        return
    with tempfile.TemporaryDirectory() as folder:
        texts = [Path(name) for name in flags.trim_vocab_to.split(",")]
        trimmed, old_ids = trim_vocabulary(tokenizer, texts, Path(folder), flags.min_count)
        smaller = write_foreign.shrink_vocabulary(checkpoint, old_ids, trimmed.pad_id, trimmed.added_tokens)
        names = ", ".join(path.name for path in texts)
        sizes = [f"{model.required_config.vocab_size:,}" for model in (smaller, checkpoint)]
        kept = f"{sizes[0]} of {sizes[1]} tokens were kept, those in {names}"
        if flags.min_count > 1:
            kept += f" with at least {flags.min_count} occurrences"
        write_model(flags, smaller, task, trimmed, kept)
    rows = [["", "tokens", "parameters", "MB (float32)"]]
    for name, model in (("before", checkpoint), ("after", smaller)):
        parameters = write_foreign.count_parameters(model.tensors)
        rows.append(
            [name, f"{model.required_config.vocab_size:,}", f"{parameters:,}", f"{4 * parameters / 1e6:,.1f}"]
        )
    say(format_columns(rows))


def convert_vocabulary(flags: ConvertFlags) -> None:
    """Convert a SentencePiece model to the tokenizer files of a format, without weights."""
    format = TARGETS[flags.to]
    tokenizer = Tokenizer(flags.vocab_path, flags.source)
    with atomic_dir(flags.target) as folder:
        files = WRITERS[format.tokenizer_format](folder, tokenizer, LONGEST_INPUT, 2)
    print_tokenizer_files(files, write_foreign.get_tokenizer_note(format, PipelineConfig()), flags)


def open_tokenizer(checkpoint: Checkpoint, flags: ConvertFlags) -> Tokenizer:
    """Load the tokenizer of a checkpoint, by default from its files, and check that it matches the model.

    Raises:
        UserError: a file is missing or corrupt, or the tokenizer does not match the model.
    """
    tokenizer = checkpoint.load_tokenizer(flags.vocab_path or checkpoint.vocab_path, flags.piece_model_path)
    config = checkpoint.required_config
    tokenizer.check_model(config.vocab_size, config.pad_token_id, flags.source)
    if config.vocab_size > tokenizer.vocab_size:
        unused = config.vocab_size - tokenizer.vocab_size
        logger.warning("%s: %d unused embedding rows beyond the vocabulary", flags.source, unused)
    return tokenizer


def write_model(
    flags: ConvertFlags,
    checkpoint: Checkpoint,
    task: str | None,
    tokenizer: Tokenizer,
    trimmed_note: str | None = None,
) -> None:
    """Write a model in the output format, and print what was written.

    Args:
        task: the task of the model's head; None: the model has no head.
        trimmed_note: how the vocabulary was trimmed, for the model card; None: it was not trimmed.

    Raises:
        UserError: the format cannot represent the model, or its library preprocesses texts differently and
            --allow_lossy is not set.
    """
    metadata, scores = read_card(checkpoint.folder.path)  # carried over to the new model card
    given = {"license": flags.license, "base_model": flags.base_model}
    metadata |= {key: value for key, value in given.items() if value}
    format = TARGETS[flags.to]
    pipeline_config = checkpoint.pipeline_config
    write_foreign.check_format_support(flags.to, checkpoint, task)
    differing = write_foreign.list_pipeline_differences(format, checkpoint, task, bool(tokenizer.digit_comma))
    if differing and not flags.allow_lossy:
        raise UserError(
            f"{flags.source}: --to {flags.to}: {'; '.join(differing)}. To convert anyway, set "
            "--allow_lossy; the new README.md lists the differences"
        )
    note = write_foreign.get_tokenizer_note(format, pipeline_config)
    facts = {"reads_otherwise": [*differing, note] if note else differing or None, "trimmed": trimmed_note}
    if not flags.trim_vocab_to:  # the scores were measured with the full vocabulary
        facts["scores"] = scores
    # The max_seq_len of a model with a head is the length in its training.
    longest = (None if task else pipeline_config.max_seq_len) or checkpoint.required_config.max_input_length
    separators = pipeline_config.separators if task == QUESTION_ANSWERING else 2
    with atomic_dir(flags.target) as folder:
        written, pooling_files = write_foreign.write_converted_model(
            format, folder, checkpoint, task, metadata, facts
        )
        files = WRITERS[format.tokenizer_format](folder, tokenizer, longest, separators)
        if format.name == NativeFormat.name:
            write_manifest(folder / MANIFEST)
    say(*format_report(written, checkpoint, flags))
    if pooling_files:
        names = ", ".join(pooling_files)
        say(f"for sentence-transformers: {names}; pooling: {pipeline_config.pooling or MEAN_OF_TOKENS}")
    elif flags.to == "xlm-roberta" and checkpoint.task == SEARCH:
        say(
            f"note: the model was trained for embeddings of layer {pipeline_config.layer} with --pooling "
            f"{pipeline_config.pooling}, which sentence-transformers does not support"
        )
    print_tokenizer_files(files, note, flags)
    for difference in differing:
        say(f"preprocessed differently: {difference}")
    if "license" not in metadata:
        say(
            f"note: {flags.target}/README.md has no license. To publish it, set --license, such as apache-2.0"
        )


def format_report(written: ConversionResult, checkpoint: Checkpoint, flags: ConvertFlags) -> list[str]:
    """Return the lines to print about a conversion: one per skipped tensor, and the number of tensors."""
    settings = {"labels": checkpoint.labels, PIPELINE: checkpoint.pipeline_config.to_json()}
    lost = [f"{key} of config.json" for key, value in settings.items() if value and flags.to == "fluid"]
    note = f"libraries that load {flags.to} initialize it randomly"
    return [
        *(f"skipped: {name} ({reason})" for name, reason in checkpoint.dropped.items()),
        *(f"skipped: {name} (unknown)" for name in checkpoint.unknown),
        *(f"not representable in {flags.to}: {name}" for name in (*written.unknown, *lost)),
        *(f"not in {flags.source}: {name} ({note})" for name in written.absent),
        f"{flags.source} ({checkpoint.format}) -> {flags.target} ({flags.to}): "
        f"{len(written.weights.shapes)} tensors",
    ]


def print_tokenizer_files(files: list[str], note: str | None, flags: ConvertFlags) -> None:
    """Print the names of the tokenizer files that were written, and a note about their library, if any."""
    say(f"tokenizer: {', '.join(files)} in {flags.target}")
    if note:
        say(f"note: {note}")
