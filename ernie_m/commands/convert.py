"""Convert a model between the formats of ERNIE-M and XLM-R, or trim its vocabulary to some languages.

Needs neither Paddle nor torch; see docs/convert.md.

ernie-m convert configs/base ernie-m-base --to huggingface
ernie-m convert checkpoints/best for-transformers --to xlm-roberta
ernie-m convert sentences/best for-sentences --to sentence-transformers
ernie-m convert xlmr.base/model.pt xlm-r --to ernie-m
ernie-m convert sentencepiece.bpe.model vocabulary --to fluid
ernie-m convert configs/base for-en-de --keep_pieces_of en.txt,de.txt
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ernie_m.model.checkpoint import convert as conversion
from ernie_m.model.checkpoint.card import read_card
from ernie_m.model.checkpoint.convert import CLASSIFIER_TASKS, TARGETS, Report
from ernie_m.model.checkpoint.lost_conventions import differences, note
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.conventions import Reading
from ernie_m.model.tasks import QUESTION_ANSWERING, SEARCH
from ernie_m.reader import trim_vocabulary
from ernie_m.reader.trim_vocabulary import Fallback
from ernie_m.tokenizer import tokenizer_files
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.tokenizer.tokenizer_json import no_piece_model
from ernie_m.utils.checksums import MANIFEST, write_manifest
from ernie_m.utils.errors import UserError, pipe_may_close, say
from ernie_m.utils.files import atomic_dir, only_writer_of
from ernie_m.utils.options import PositiveInt, option, parse_options
from ernie_m.utils.text_tables import in_columns

LONGEST_INPUT = 512  # tokens, of the released models; a vocabulary alone has no limit of its own


@dataclass
class ConvertFlags:
    """What to convert, and how."""

    source: str = option(positional=True)
    """A folder, a file of weights, or a piece model (.model) alone."""

    target: str = option(positional=True)
    """A new folder."""

    to: Literal[tuple(TARGETS)] = option("ernie-m", needed=True)
    """The format of the new folder (ernie-m: this project's)."""

    keep_pieces_of: str | None = None
    """Keep only the part of the vocabulary that these text files need, as in en.txt,de.txt."""

    min_count: PositiveInt = 1
    """Keep only pieces that are in the text at least this often."""

    fallback_of: str | None = None
    """With --keep_pieces_of: say how much of this text changes."""

    head: Literal[CLASSIFIER_TASKS] | None = None
    """What its classifier is for, if the files do not say."""

    vocab_path: str | None = None
    """vocab.txt, if it is not beside the weights."""

    piece_model_path: str | None = None
    """The piece model, if it is not beside the weights."""

    license: str | None = None
    """The licence of the model, for its README.md, as in apache-2.0."""

    base_model: str | None = None
    """For README.md: the name on a model hub of the model that the training began with."""

    drop_unknown: bool = option(False, bare=True)
    """Go on without tensors and without a problem_type that are not understood."""

    allow_differences: bool = option(False, bare=True)
    """Write the new folder also if its library will read text otherwise; its README.md then says how."""

    def __post_init__(self) -> None:
        if self.fallback_of and not self.keep_pieces_of:
            raise UserError("--fallback_of says what --keep_pieces_of changes; give both")


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert or trim what the command line names.

    Args:
        arguments: the command line; None: that of this process.
    """
    flags = parse_options(ConvertFlags, arguments, __name__)
    with only_writer_of(flags.target, "--target"):
        convert(flags)


def convert(flags: ConvertFlags) -> None:
    """Convert or trim what the flags name, while no other command writes the new folder."""
    if Path(flags.source).suffix == ".model":
        if flags.keep_pieces_of:
            raise UserError(f"{flags.source}: --keep_pieces_of trims a model; give the folder of its weights")
        convert_vocabulary(flags)
        return

    checkpoint = open_checkpoint(flags.source, flags.drop_unknown)
    config = conversion.checked_config(checkpoint)
    task = conversion.task_to_convert(checkpoint, flags.head)
    tokenizer = tokenizer_of(checkpoint, config, flags)
    if not flags.keep_pieces_of:
        write(flags, checkpoint, config, task, tokenizer)
        return
    with tempfile.TemporaryDirectory() as folder:
        texts = [Path(name) for name in flags.keep_pieces_of.split(",")]
        trimmed = trim_vocabulary.trim(tokenizer, texts, Path(folder), flags.min_count)
        # Before anything is written, because the file may be missing.
        fallback = trimmed.fallback(tokenizer, Path(flags.fallback_of)) if flags.fallback_of else None
        smaller = conversion.with_tokens(
            checkpoint, trimmed.old_ids, trimmed.tokenizer.pad_id, trimmed.tokenizer.added_tokens
        )
        names = ", ".join(path.name for path in texts)
        kept = f"{smaller.config.vocab_size:,} of {config.vocab_size:,} tokens are left, those of {names}"
        if flags.min_count > 1:
            kept += f" that are in it {flags.min_count} times or more"
        write(flags, smaller, smaller.config, task, trimmed.tokenizer, kept)
        with pipe_may_close():
            print_sizes(checkpoint, smaller)
            if fallback:
                print_fallback(fallback, flags.fallback_of)


def write(
    flags: ConvertFlags,
    checkpoint: Checkpoint,
    config: ErnieMConfig,
    task: str | None,
    tokenizer: Tokenizer,
    trimmed: str | None = None,
) -> None:
    """Write the new folder, and print what is in it.

    Args:
        task: what the model's head is for; None: it has no head.
        trimmed: what was left out of the vocabulary, for the model card; None: nothing.

    Raises:
        UserError: the library of the new form reads otherwise, and --allow_differences is not given.
    """
    metadata, scores = read_card(checkpoint.folder)  # the new model card will have them
    given = {"license": flags.license, "base_model": flags.base_model}
    metadata |= {key: value for key, value in given.items() if value}
    format_name = conversion.TARGETS[flags.to]
    cuts_digit_comma = bool(tokenizer.digit_comma)
    reading = checkpoint.reading
    differing = differences(format_name, reading, checkpoint.reading_faults, task, cuts_digit_comma)
    if differing and not flags.allow_differences:
        raise UserError(
            f"{flags.source}: --to {flags.to}: {'; '.join(differing)}. --allow_differences writes it all the "
            "same, and the new README.md says so"
        )
    remark = note(format_name, reading)
    remarks = [*differing, remark] if remark else differing
    facts: dict[str, Any] = {"reads_otherwise": remarks or None, "trimmed": trimmed}
    if not flags.keep_pieces_of:  # the scores are of the whole vocabulary
        facts["scores"] = scores
    with atomic_dir(flags.target) as folder:
        report = conversion.write(flags.to, folder, checkpoint, config, task, metadata, facts)
        separators = reading.separators if task == QUESTION_ANSWERING else 2
        # The max_seq_len of a model with a head is the length of the windows that it was trained on.
        longest = reading.max_seq_len if task is None and reading.max_seq_len else config.longest_input
        files = write_tokenizer(flags.to, folder, tokenizer, longest, separators)
        if format_name == conversion.OURS:
            write_manifest(folder / MANIFEST)
    with pipe_may_close():
        print_report(report, checkpoint, flags)
        print_tokenizer_files(files, flags)
        if remark:
            say(f"note: {remark}")
        for difference in differing:
            say(f"read otherwise: {difference}")
        if "license" not in metadata:
            say(f"{flags.target}/README.md has no license; to publish it, add --license, as in apache-2.0")


def convert_vocabulary(flags: ConvertFlags) -> None:
    """Write the tokenizer's files for a piece model alone."""
    tokenizer = Tokenizer(flags.vocab_path, flags.source)
    with atomic_dir(flags.target) as folder:
        files = write_tokenizer(flags.to, folder, tokenizer, LONGEST_INPUT)
    with pipe_may_close():
        print_tokenizer_files(files, flags)
        remark = note(conversion.TARGETS[flags.to], Reading())
        if remark:
            say(f"note: {remark}")


def tokenizer_of(checkpoint: Checkpoint, config: ErnieMConfig, flags: ConvertFlags) -> Tokenizer:
    """The tokenizer: of each file the one that the flags name, or else that of the checkpoint.

    Raises:
        UserError: there is none, a file cannot be read, or the tokenizer is not that of the model.
    """
    piece_model_path = flags.piece_model_path or checkpoint.piece_model_path
    if piece_model_path is None:
        raise no_piece_model(flags.source)
    reading = checkpoint.reading
    vocab_path = flags.vocab_path or checkpoint.vocab_path
    tokenizer = Tokenizer(vocab_path, piece_model_path, reading.text_rules, reading.added_tokens)
    tokenizer.check_model(config.vocab_size, config.pad_token_id, flags.source)
    return tokenizer


def write_tokenizer(
    target: str, folder: Path, tokenizer: Tokenizer, max_length: int, separators: int = 2
) -> list[str]:
    """Write the tokenizer's files in the form of a format's library; return their names.

    Args:
        target: the format, a value of --to.
        max_length: the longest input in tokens.
        separators: the number of [SEP] between two texts.
    """
    if target == "xlm-roberta":
        return tokenizer_files.write_xlm_r(folder, tokenizer, max_length, separators)
    if target == "sentence-transformers":
        return tokenizer_files.write_static(folder, tokenizer, max_length)
    if target in ("paddlenlp", "huggingface"):
        return tokenizer_files.write_ernie_m(folder, tokenizer)
    return tokenizer_files.write_ours(folder, tokenizer)


def print_report(report: Report, checkpoint: Checkpoint, flags: ConvertFlags) -> None:
    """Print every tensor that was written, and every one that was not."""
    width = max(len(tensor.name) for tensor in report.written)
    for tensor in report.written:
        shape = str(list(tensor.shape))
        line = f"{tensor.name:{width}}  {shape:16}  <- {' + '.join(tensor.sources)}"
        if tensor.transposed:
            line += "  (transposed)"
        say(line)
    for name, reason in checkpoint.dropped.items():
        say(f"not taken: {name} ({reason})")
    for name in checkpoint.unknown:
        say(f"not taken: {name} (not understood)")
    for name in report.left_out:
        say(f"no place for it in {flags.to}: {name}")
    for name in report.absent:
        say(f"not in {flags.source}: {name} (the library that loads {flags.to} starts it afresh)")
    count = len(report.written)
    say(f"{flags.source} ({checkpoint.format}) -> {flags.target} ({flags.to}): {count} tensors")
    if report.pooling_files:
        files = ", ".join(report.pooling_files)
        say(f"for sentence-transformers: {files}; pooling: {checkpoint.reading.pooling or 'specials'}")
    elif flags.to == "xlm-roberta" and checkpoint.task == SEARCH:
        reading = checkpoint.reading
        say(
            f"note: the model was trained for vectors of layer {reading.layer} with --pooling "
            f"{reading.pooling}, which sentence-transformers does not make"
        )


def print_sizes(before: Checkpoint, after: Checkpoint) -> None:
    """Print the size of a model before and after trimming."""
    rows = [["", "tokens", "parameters", "MB (float32)"]]
    for name, checkpoint in (("before", before), ("after", after)):
        parameters = conversion.count_parameters(checkpoint.tensors)
        megabytes = 4 * parameters / 1e6  # 4 bytes each
        rows.append([name, f"{checkpoint.config.vocab_size:,}", f"{parameters:,}", f"{megabytes:,.1f}"])
    say(in_columns(rows))


def print_fallback(fallback: Fallback, path: str) -> None:
    """Print how many lines of another text have other tokens after trimming."""
    lines, changed, before, after = fallback
    say(
        f"{path}: {changed:,} of {lines:,} lines ({100 * changed / lines:.1f} %) have other tokens now",
        f"{path}: {before.tokens:,} tokens before, {after.tokens:,} after",
        f"{path}: {before.unknown:,} unknown tokens before, {after.unknown:,} after",
    )


def print_tokenizer_files(files: list[str], flags: ConvertFlags) -> None:
    """Print which files of the tokenizer were written."""
    say(f"tokenizer: {', '.join(files)} in {flags.target}")
