"""Learn from a table or a file, and score what was learned on rows that were not learned from.

See docs/finetune.md.

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
from ernie_m.reader.files.find_files import NamedFile, find_tables
from ernie_m.reader.files.labelled_tables import holds_questions, holds_tags
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.tag_schemes import PARTS_OF_SPEECH
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.args import Names, option, parse_options
from ernie_m.utils.errors import UserError, command_name, say
from ernie_m.utils.files import only_writer_of
from ernie_m.utils.logging import logger, setup_console
from ernie_m.utils.paddle_settings import prepare

_OF_WORDS = (TOKEN_CLASSIFICATION, PARTS_OF_SPEECH, QUESTION_ANSWERING)
_TASKS = (CLASSIFICATION, MULTI_LABEL, REGRESSION, *_OF_WORDS)


@dataclass
class FitFlags(LabelOptions):
    """What to learn from."""

    table: str = option(positional=True)
    """A table with a text, or a pair of texts, and a label in each row; words with tags; questions with
    answers; or a folder of such files, train.en.csv, test.de.csv, ... docs/data.md lists what is read."""

    model: str
    """A checkpoint of any supported format, or the name of a model on Hugging Face's hub."""

    output: str
    """A new folder for the model that has learned."""

    task: Literal[_TASKS] | None = None
    """What to learn: one label a text, several labels, a number, tags that mark entities, tags of another
    kind, as parts of speech are, or answers to questions. Default: what the file says."""

    test: Names | None = option(None, needed=True)
    """Further files with labels, separated by commas, that the model is scored on."""

    finetune: bool = False
    """Whether to train the whole model. Otherwise, of single texts with labels, its vectors stay as they are,
    and a logistic regression on them is trained, which takes seconds."""

    layer: str | None = None
    """The layer of the vectors: a number from 1, middle or top. Default: as in the model's training."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """Half precision: bf16 on a GPU from A100 on, or on a CPU with avx512_bf16 or AMX; fp16 on a GPU."""


def main() -> None:
    flags = parse_options(FitFlags, None, __name__)
    setup_console()
    output = Path(flags.output)
    with only_writer_of(output, "--output"):
        files = find_tables(Path(flags.table), output)
        training = [file for file in files if file.split == "train"]
        tests = [file for file in files if file.split != "train"]
        for path in flags.test.split(",") if flags.test else ():
            tests += find_tables(Path(path), output)
        kind = flags.task
        if kind is None and holds_questions(training[0].path):
            kind = QUESTION_ANSWERING
        elif kind is None and holds_tags(training[0].path):
            kind = TOKEN_CLASSIFICATION
        # Imports are not at the top, so that --help and errors are fast.
        if kind not in _OF_WORDS:
            is_done = fit_labels(flags, kind, training, tests)
        elif len(training) > 1:
            raise UserError(f"{flags.table}: {len(training)} training files of {kind}; join them in one")
        else:
            prepare()
            from ernie_m.fit.tags_and_answers import fit_words

            is_done = fit_words(
                kind, training[0], tests, flags, output, init_pretraining_params=flags.model, amp=flags.amp
            )
            if is_done and not tests:
                say("there is no score without --test")
    if is_done:
        line = f"{command_name()} predict --input TABLE --model {shlex.quote(flags.output)} --output NEW"
        say(f"\n{flags.output}: a model of all rows; next: {line}")


def fit_labels(
    flags: FitFlags, kind: str | None, training: Sequence[NamedFile], tests: Sequence[NamedFile]
) -> bool:
    """Learn labels, or numbers, of texts. All files are read before the model is loaded.

    Returns:
        False after SIGTERM.

    Raises:
        UserError: a file cannot be read, or its rows cannot be learned, or scored; names the lines.
    """
    from ernie_m.fit.labelled_rows import read_rows, refuse

    rows = read_rows(training, flags, kind)
    parts = {str(file.path): read_rows([file], flags, rows.kind, rows) for file in tests}
    for name, part in ((flags.table, rows), *parts.items()):
        for oddity in part.oddities(None if part is rows else rows):
            logger.warning("%s: %s", name, oddity)
    refuse(
        rows.faults(), "a score needs two: add texts, leave the label out, or name another column: --label"
    )
    say(f"{len(rows.examples):,} rows" + (f", {len(rows.names)} labels" if rows.names else ""))
    from ernie_m.fit.fit_model import fit_model, scored_by
    from ernie_m.inference.load import load

    loaded = load(flags.model, amp=flags.amp)

    with StopSignal(active=flags.finetune or rows.needs_whole_model) as stop:
        fitted = fit_model(loaded, rows, Path(flags.output), flags.finetune, flags.layer, flags.table, stop)
    if fitted is None:
        return False
    learned, scored = fitted
    say(f"\nof rows that it had not learned:\n{scored.text()}")
    for name, part in parts.items():
        say(f"\n{name}:\n{scored_by(learned, part, name).text()}")
    return True
