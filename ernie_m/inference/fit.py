"""Learn from a table or a file, and score what was learned on rows that were not learned from.

See docs/finetune.md.

ernie-m fit reviews.csv --model intfloat/multilingual-e5-small --output checkpoints/reviews
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ernie_m.finetune.fit.read_units import read_units
from ernie_m.finetune.fit.scored import Scored, least_sure, tables_of_scores, words_of_warning
from ernie_m.finetune.fit.units import ANSWERS, CLASSES, LABELS, SCORE, TAGS, TASKS, Units
from ernie_m.reader.files.own_files import find_tables
from ernie_m.reader.files.rows import LabelOptions
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.errors import UserError, command_name, say
from ernie_m.utils.files import only_writer_of
from ernie_m.utils.logging import setup_console
from ernie_m.utils.options import option, parse_options
from ernie_m.vectors.nearest import load_faiss

# What a model of each kind is called.
_MODELS = {
    CLASSES: "a classifier",
    LABELS: "a classifier",
    TAGS: "a tagger",
    ANSWERS: "a model that answers questions",
    SCORE: "a model that gives scores",
}


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

    task: Literal[TASKS] | None = None
    """What to learn: one label a text, several labels, tags of words, answers to questions, or a number.
    Default: what the file says."""

    multi_label: bool = option(False, bare=True)
    """The same as --task multi-label: a text may have several labels, or none."""

    test: str | None = None
    """Further files with labels, separated by commas, that the model is scored on."""

    finetune: bool = option(False, bare=True)
    """Whether to train the whole model. Otherwise, of single texts with labels, its vectors stay as they are,
    and a logistic regression on them is trained, which takes seconds."""

    layer: str | None = None
    """The layer of the vectors: a number from 1, middle or top. Default: as in the model's training."""

    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """Half precision: bf16 on a GPU from A100 on, or on a CPU with avx512_bf16 or AMX; fp16 on a GPU. auto:
    with --finetune bf16 on a CPU where it is clearly faster, which is measured."""

    def __post_init__(self) -> None:
        if self.multi_label and self.task not in (None, LABELS):
            raise UserError(f"--multi_label is --task {LABELS}, and not --task {self.task}")
        if self.multi_label:
            self.task = LABELS


def main() -> None:
    flags = parse_options(FitFlags, None, __name__)
    with only_writer_of(flags.output, "--output"):
        fit(flags)


def fit(flags: FitFlags) -> None:
    """Run the command."""
    # Read everything before a model is loaded.
    files = find_tables(Path(flags.table), Path(flags.output))
    training = [file for file in files if file.split == "train"]
    units = read_units(training, flags, flags.task)
    of_tests = [file for file in files if file.split != "train"]
    for path in flags.test.split(",") if flags.test else ():
        of_tests += find_tables(Path(path), Path(flags.output))
    tests = [(str(file.path), read_units([file], flags, like=units)) for file in of_tests]

    # Say what is learned, and how.
    inputs = units.inputs()
    is_whole = flags.finetune or units.kind not in (CLASSES, LABELS) or len(inputs[0]) == 2
    if is_whole and flags.layer:
        raise UserError("--layer: the whole model is trained, all layers; leave it out")
    say(f"{len(units):,} {units.noun}{units.about_labels()}")
    for name, part in tests:
        part.warn_of_learned(name, units)
    if len(set(units.languages)) > 1:
        say("there are scores by language, too")
        load_faiss()  # which compares the languages, after all texts are encoded

    if is_whole:
        with StopSignal() as stop:
            scores_of_tests = fine_tune(flags, units, tests, stop)
        stop.exit_as_asked()
        if scores_of_tests is None:  # after SIGTERM
            return
    else:
        scores_of_tests = fit_head(flags, units, tests)
    say(f"\n{flags.output}: {_MODELS[units.kind]} of all {len(units):,} {units.noun}")
    for (name, _), scored in zip(tests, scores_of_tests):
        say("", *tables_of_scores(scored, f"{name}: "))
    words = f"predict --input TABLE --model {shlex.quote(flags.output)} --output NEW"
    say(f"\nnext: {command_name()} {words}")


def say_scores(scored: Scored) -> None:
    """Print the scores, what they do not say, and what a classifier is least sure of."""
    say()
    say(*tables_of_scores(scored), *words_of_warning(scored), sep="\n\n")
    if scored.units.kind in (CLASSES, LABELS):
        say("", least_sure(scored))
    say()


# Imports are within the functions, so that --help and errors are fast.


def fine_tune(
    flags: FitFlags, units: Units, tests: list[tuple[str, Units]], stop: StopSignal
) -> list[Scored] | None:
    """Train the whole model; see `ernie_m.finetune.fit.whole_model.train_and_score`."""
    from ernie_m.utils.paddle_settings import prepare

    prepare()
    from ernie_m.finetune.fit.whole_model import train_and_score

    setup_console()
    trained = train_and_score(
        units,
        flags.model,
        flags.output,
        name=flags.table,
        amp=flags.amp,
        stop=stop,
        say=say_scores,
        tests=tests,
    )
    return None if trained is None else trained[1]


def fit_head(flags: FitFlags, units: Units, tests: list[tuple[str, Units]]) -> list[Scored]:
    """Train a logistic regression on the vectors of the texts; its scores are cross-validated."""
    from ernie_m.inference.load import load

    amp = "none" if flags.amp == "auto" else flags.amp
    loaded = load(flags.model, amp=amp)  # first, because it gives Paddle its settings
    from ernie_m.inference.fit_head import learn, predicted_by

    if loaded.model is None:
        raise UserError(f"--model {flags.model}: it was exported; fit a classifier to the checkpoint")
    classifier, scored = learn(loaded, units, flags.table, flags.layer, flags.output, say=say)
    say_scores(scored)
    return [predicted_by(classifier, part, name) for name, part in tests]
