"""Train a model on labeled data and evaluate it by cross-validation. See docs/finetune.md.

ernie-m fit reviews.csv --model intfloat/multilingual-e5-small --output checkpoints/reviews
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ernie_m.model.tasks import (
    CLASSIFICATION,
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    TOKEN_CLASSIFICATION,
)
from ernie_m.reader.files.find_files import NamedFile, find_labeled_files
from ernie_m.reader.files.labeled_tables import is_question_file, is_tagged_file
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.tag_schemes import PARTS_OF_SPEECH
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.training_flags import PrecisionFlags
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, get_command_name, say
from ernie_m.utils.files import lock_for_writing
from ernie_m.utils.logging import logger, setup_console
from ernie_m.utils.paddle_settings import prepare
from ernie_m.utils.value_types import Names

_OF_WORDS = (TOKEN_CLASSIFICATION, PARTS_OF_SPEECH, QUESTION_ANSWERING)
_TASKS = (CLASSIFICATION, MULTI_LABEL, REGRESSION, *_OF_WORDS)


@dataclass
class FitFlags(LabelOptions, PrecisionFlags):
    """Command-line options of `ernie-m fit`."""

    table: str = option(positional=True)
    """Training data: a table of labeled texts or text pairs, a file of tagged words or of questions, or a
    directory of such files (train.en.csv, test.de.csv, ...)."""

    model: str
    """Base model: a checkpoint in any supported format, or a model name on the Hugging Face Hub."""

    output: str
    """New output directory for the trained model."""

    task: Literal[_TASKS] | None = None
    """Task to train (default: inferred from the file)."""

    test: Names | None = option(None, needed=True)
    """Labeled files to evaluate on."""

    finetune: bool = False
    """Whether to fine-tune all weights; otherwise, single texts are classified by logistic regression on
    frozen embeddings."""

    layer: str | None = None
    """Encoder layer of the embeddings for logistic regression: a number from 1, middle or last (default: the
    model's settings, otherwise last)."""


def main() -> None:
    """Run `ernie-m fit`."""
    flags = parse_options(FitFlags, None, __name__)
    setup_console()
    output = Path(flags.output)
    with lock_for_writing(output, "--output"):
        files = find_labeled_files(Path(flags.table), output)
        training = [file for file in files if file.split == "train"]
        tests = [file for file in files if file.split != "train"]
        for path in flags.test.split(",") if flags.test else ():
            tests += find_labeled_files(Path(path), output)
        kind = flags.task
        if kind is None and is_question_file(training[0].path):
            kind = QUESTION_ANSWERING
        elif kind is None and is_tagged_file(training[0].path):
            kind = TOKEN_CLASSIFICATION
        # Imported here, so that --help and errors are fast.
        if kind not in _OF_WORDS:
            is_done = fit_labels(flags, kind, training, tests)
        elif len(training) > 1:
            raise UserError(f"{flags.table}: {len(training)} training files of {kind}. Merge them into one")
        else:
            prepare()
            from ernie_m.fit.tags_and_answers import fit_tags_or_answers

            is_done = fit_tags_or_answers(
                kind, training[0], tests, flags, output, init_pretraining_params=flags.model, amp=flags.amp
            )
            if is_done and not tests:
                say("no scores: pass --test FILE")
    if is_done:
        line = f"{get_command_name()} predict --input TABLE --model {shlex.quote(flags.output)} --output NEW"
        say(f"\nSaved {flags.output} (trained on all rows of {flags.table}).", f"Next: {line}")


def fit_labels(
    flags: FitFlags, kind: str | None, training: Sequence[NamedFile], tests: Sequence[NamedFile]
) -> bool:
    """Train a classifier or regression model on tables of labeled texts, evaluate it, and print the scores.

    All files are read before the model is loaded.

    Args:
        kind: the task; None: inferred from the files.

    Returns:
        Whether training finished; False after a stop request (SIGTERM).

    Raises:
        UserError: a file or a row is invalid, or the rows cannot be evaluated. The message names the line.
    """
    from ernie_m.fit.labeled_rows import load_dataset, raise_errors

    rows = load_dataset(training, flags, kind)
    parts = {str(file.path): load_dataset([file], flags, rows.kind, rows) for file in tests}
    for name, part in ((flags.table, rows), *parts.items()):
        for issue in part.find_issues(None if part is rows else rows):
            logger.warning("%s: %s", name, issue)
    raise_errors(
        rows.find_split_errors(),
        "Scores require two. Add texts, remove the label, or set --label to another column",
    )
    from ernie_m.fit.fit_model import evaluate_labels, fit_model
    from ernie_m.inference.load import load

    loaded = load(flags.model, amp=flags.amp)

    with ShutdownHandler(is_active=flags.finetune or rows.needs_finetuning) as stop:
        fitted = fit_model(loaded, rows, Path(flags.output), flags.finetune, flags.layer, flags.table, stop)
    if fitted is None:
        return False
    trained, scored = fitted
    say(f"\n{scored.format_tables(flags.table)}")
    for name, part in parts.items():
        say(f"\n{evaluate_labels(trained, part, name).format_tables(name)}")
    return True
