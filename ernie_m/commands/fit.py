"""Learn from a table or a file, and score what was learned on rows that were not learned from.

See docs/finetune.md.

ernie-m fit reviews.csv --model intfloat/multilingual-e5-small --output checkpoints/reviews
"""

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ernie_m.model.entity_tags import PLACES
from ernie_m.model.tasks import (
    CLASSIFICATION,
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    TOKEN_CLASSIFICATION,
)
from ernie_m.reader.files.own_files import LabelledFile, find_tables, holds_questions, holds_tags
from ernie_m.reader.files.rows import LabelOptions
from ernie_m.reader.files.tagged_words import read_words
from ernie_m.reader.label_map import write_places
from ernie_m.reader.tags import JOINT, OUTSIDE, is_tag, tag_names, to_iob2
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.errors import UserError, command_name, say
from ernie_m.utils.files import atomic_dir, atomic_file, only_writer_of, remove
from ernie_m.utils.logging import logger, setup_console
from ernie_m.utils.options import option, parse_options

_TASKS = (CLASSIFICATION, MULTI_LABEL, REGRESSION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING)


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
    """What to learn: one label a text, several labels, a number, tags of words, or answers to questions.
    Default: what the file says."""

    multi_label: bool = False
    """The same as --task multi-label: a text may have several labels, or none."""

    test: str | None = option(None, needed=True)
    """Further files with labels, separated by commas, that the model is scored on."""

    finetune: bool = False
    """Whether to train the whole model. Otherwise, of single texts with labels, its vectors stay as they are,
    and a logistic regression on them is trained, which takes seconds."""

    layer: str | None = None
    """The layer of the vectors: a number from 1, middle or top. Default: as in the model's training."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """Half precision: bf16 on a GPU from A100 on, or on a CPU with avx512_bf16 or AMX; fp16 on a GPU."""

    def __post_init__(self) -> None:
        if self.multi_label and self.task not in (None, MULTI_LABEL):
            raise UserError(f"--multi_label is --task {MULTI_LABEL}, and not --task {self.task}")
        if self.multi_label:
            self.task = MULTI_LABEL


def main() -> None:
    flags = parse_options(FitFlags, None, __name__)
    setup_console()
    output = Path(flags.output)
    with only_writer_of(output, "--output"):
        files = find_tables(Path(flags.table), output)
        tests = [file for file in files if file.split != "train"]
        for path in flags.test.split(",") if flags.test else ():
            tests += find_tables(Path(path), output)
        training = [file for file in files if file.split == "train"]
        kind = flags.task
        if kind is None and holds_questions(training[0].path):
            kind = QUESTION_ANSWERING
        elif kind is None and holds_tags(training[0].path):
            kind = TOKEN_CLASSIFICATION
        learn = fit_words if kind in (TOKEN_CLASSIFICATION, QUESTION_ANSWERING) else fit_labels
        learn(flags, kind, training, tests, output)


# Imports are within the functions, so that --help and errors are fast.


def fit_labels(
    flags: FitFlags,
    kind: str | None,
    training: Sequence[LabelledFile],
    tests: Sequence[LabelledFile],
    output: Path,
) -> None:
    """Learn labels, or numbers, of texts. All files are read before the model is loaded.

    Raises:
        UserError: a file cannot be read, or its rows cannot be learned, or scored; names the lines.
    """
    from ernie_m.finetune.own_labels import read_rows, refuse

    rows = read_rows(training, flags, kind)
    parts = {str(file.path): read_rows([file], flags, rows.kind, rows) for file in tests}
    for name, part in ((flags.table, rows), *parts.items()):
        for oddity in part.oddities(None if part is rows else rows):
            logger.warning("%s: %s", name, oddity)
    refuse(
        rows.faults(), "a score needs two: add texts, leave the label out, or name another column: --label"
    )
    say(f"{len(rows.examples):,} rows" + (f", {len(rows.names)} labels" if rows.names else ""))
    from ernie_m.inference.fit_model import fit_model, scored_by
    from ernie_m.inference.load import load

    loaded = load(flags.model, amp=flags.amp)

    with StopSignal(active=flags.finetune or rows.needs_whole_model) as stop:
        fitted = fit_model(loaded, rows, output, flags.finetune, flags.layer, flags.table, stop)
    stop.exit_as_asked()
    if fitted is None:  # after SIGTERM
        return
    learned, scored = fitted
    say(f"\nof rows that it had not learned:\n{scored.text()}")
    for name, part in parts.items():
        say(f"\n{name}:\n{scored_by(learned, part, name).text()}")
    say_next(flags)


def say_next(flags: FitFlags) -> None:
    line = f"{command_name()} predict --input TABLE --model {shlex.quote(flags.output)} --output NEW"
    say(f"\n{flags.output}: a model of all rows; next: {line}")


def fit_words(
    flags: FitFlags, kind: str, training: Sequence[LabelledFile], tests: Sequence[LabelledFile], output: Path
) -> None:
    """Learn tags of words, or answers to questions, as run_sequence_labeling and run_mrc do.

    The last step is the model, so the tests, which are its dev files, choose nothing.

    Raises:
        UserError: there are several training files, or as the programs.
    """
    if len(training) > 1:
        raise UserError(f"{flags.table}: {len(training)} training files of {kind}; join them in one")
    folder = output.with_name(f"{output.name}.training")
    program, dev_set = "run_mrc", [str(file.path) for file in tests]
    options = {"train_set": training[0].path, "max_seq_len": 384}
    if kind == TOKEN_CLASSIFICATION:
        program = "run_sequence_labeling"
        (options["train_set"], *dev_set), of_tags = write_official_tags([*training, *tests], flags, folder)
        options |= of_tags
    from ernie_m.utils.paddle_settings import prepare

    prepare()
    from ernie_m.finetune.open_model import open_model
    from ernie_m.model.checkpoint.open import open_checkpoint

    longest = open_model(open_checkpoint(flags.model)).longest
    options |= {
        "max_seq_len": min(options["max_seq_len"], longest),
        "official_compat": False,
        "init_pretraining_params": flags.model,
        "checkpoints": folder,
        "dev_set": ",".join(dev_set),
        "do_val": bool(tests),
        "do_test": False,
        "rates_of_start": True,
        "select_on": "last",
        "save_steps": 200,
        "keep_checkpoints": 1,
        "amp": flags.amp,
    }
    sys.argv[:] = [program, *(f"--{name}={value}" for name, value in options.items() if value != "")]
    if not import_module(f"ernie_m.commands.{program}").main():  # after SIGTERM
        return
    (model,) = [folder / "best"] if tests else folder.glob("step_*")
    with atomic_dir(output) as new:
        shutil.copytree(model, new, ignore=shutil.ignore_patterns("training_state"), dirs_exist_ok=True)
    remove(folder)
    if not tests:
        say("there is no score without --test")
    say_next(flags)


def write_official_tags(
    files: Sequence[LabelledFile], flags: FitFlags, folder: Path
) -> tuple[list[str], dict[str, Any]]:
    """Write files of tagged words in the official form, with the label map of the first.

    Returns:
        their paths, and the flags of run_sequence_labeling that name and read them.
    """
    paths = []
    for file in files:
        sentences = read_words(file.path, PLACES, options=flags)
        if not paths:
            tags = {*chain.from_iterable(sentence.tags for sentence in sentences)}
            mark_entities = all(is_tag(tag, "IOBES") for tag in tags)
            names = sorted(tags)
            if mark_entities:
                names = tag_names({tag[2:] for tag in tags - {OUTSIDE}})
        paths.append(str(folder / f"data_{len(paths)}.{file.path.name}.tsv"))
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(paths[-1], "w") as new:
            new.write("text_a\tlabel\n")
            for sentence in sentences:
                written = to_iob2(sentence.tags) if mark_entities else sentence.tags
                new.write(f"{JOINT.join(sentence.words)}\t{JOINT.join(written)}\n")
    label_map = folder / "label_map.json"
    write_places(label_map, names)
    options = {"label_map_config": label_map, "num_labels": len(names)}
    return paths, {**options, "chunk_scheme": "IOB" if mark_entities else "NONE", "max_seq_len": 256}
