"""Train a classifier on a table of texts with labels, and score it on texts that it was not trained on.

See docs/finetune.md.

ernie-m fit reviews.csv --model intfloat/multilingual-e5-small --output checkpoints/reviews
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ernie_m.finetune.fit.folds import Scored, least_sure, single_text, tables_of_scores
from ernie_m.reader.files.labels import input_hash
from ernie_m.reader.files.rows import TableOptions, tables
from ernie_m.reader.files.table.check_labels import check_labels
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.command_line import command_name
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import only_writer_of
from ernie_m.utils.load_config import load_config
from ernie_m.utils.logging import setup_console
from ernie_m.utils.options import option
from ernie_m.vectors.nearest import load_faiss

if TYPE_CHECKING:
    from ernie_m.reader.files.rows import LabelledTable

_MOST_LABELS = 1000


@dataclass
class FitFlags(TableOptions):
    """What to learn from."""

    table: str = option(positional=True)
    """A table with a text, or a pair of texts, and a label in each row: .tsv, .csv, JSON lines, .xlsx, ...;
    docs/data.md lists what is read."""

    model: str
    """A checkpoint of any supported format, or the name of a model on Hugging Face's hub."""

    output: str
    """A new folder for the classifier."""

    finetune: bool = option(False, bare=True)
    """Whether to train the whole model. Otherwise its vectors stay as they are, and a logistic regression on
    them is trained, which takes seconds."""

    layer: str | None = None
    """The layer of the vectors: a number from 1, middle or top. Default: as in the model's training."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """Half precision: bf16 on a GPU from A100 on, or on a CPU with avx512_bf16 or AMX; fp16 on a GPU."""

    def __post_init__(self) -> None:
        if self.finetune and self.layer:
            raise UserError(f"--layer {self.layer}: --finetune trains all layers; leave it out")


def main() -> None:
    flags = load_config(FitFlags, None, __doc__)
    if Path(flags.output).exists():
        raise UserError(f"--output {flags.output}: it exists already; name a new folder")
    with only_writer_of(flags.output), StopSignal(active=flags.finetune) as stop:
        fit(flags, stop)
    stop.exit_as_asked()


def fit(flags: FitFlags, stop: StopSignal) -> None:
    """Run the command."""
    path = Path(flags.table)
    table = tables().read_table(path, flags).meant_for("train", print, path)
    check_table(path, table, flags.finetune)
    inputs = (input_hash(*cells[:-1]) for cells in table.rows)
    for fault in check_labels(inputs, table.labels(), table.lines):
        print(f"warning: {path}: {fault}")
    if len(set(table.languages)) > 1:
        print(f"{path}: there are scores by language, too")
        load_faiss()  # which compares the languages, after all texts are encoded
    count = len(table.rows)
    print(f"{count:,} texts, {len({cells[-1] for cells in table.rows})} labels", flush=True)
    learn = fine_tune if flags.finetune else fit_head
    scored = learn(flags, path, table, stop)
    if scored is None:  # asked to stop
        return
    print()
    print(*tables_of_scores(scored, table.languages), sep="\n\n")
    print("", least_sure(scored, [cells[0] for cells in table.rows], table.lines), sep="\n")
    print(f"\n{flags.output}: a classifier of all {count:,} texts")
    print(f"next: {command_name()} label TABLE --model {shlex.quote(flags.output)} --output LABELLED")


# Imports are within the functions, so that --help and errors are fast.


def fine_tune(flags: FitFlags, path: Path, table: "LabelledTable", stop: StopSignal) -> Scored | None:
    """Train the whole model; see `ernie_m.finetune.fit.whole_model.train_and_score`."""
    from ernie_m.utils.paddle_settings import prepare

    prepare()
    from ernie_m.finetune.fit.whole_model import train_and_score

    setup_console()
    return train_and_score(
        [cells[:-1] for cells in table.rows],
        [cells[-1] for cells in table.rows],
        flags.model,
        flags.output,
        name=path.name.partition(".")[0],
        amp=flags.amp,
        stop=stop,
        languages=table.languages,
        ids=table.ids,
    )


def fit_head(flags: FitFlags, path: Path, table: "LabelledTable", stop: StopSignal) -> Scored:
    """Train a logistic regression on the vectors of the texts; its scores are cross-validated."""
    from ernie_m.inference.load import load

    loaded = load(flags.model, amp=flags.amp)  # first, because it gives Paddle its settings
    from ernie_m.finetune.fit.groups import groups_of
    from ernie_m.inference.fit_head import classifier_of, cross_validated, save
    from ernie_m.inference.tasks import TaskOptions, make_answerer
    from ernie_m.model.tasks import MEAN_OF_TOKENS
    from ernie_m.reader.batching import EncodePairs, Example
    from ernie_m.reader.coverage import warn_if_cut, warn_if_unsuited

    if loaded.model is None:
        raise UserError(f"--model {flags.model}: it was exported; fit a classifier to the checkpoint")
    texts, labels = zip(*table.rows)
    warn_if_unsuited(loaded.tokenizer, texts, path)
    warn_if_cut(EncodePairs(loaded.tokenizer, loaded.longest), (Example(text, None) for text in texts), path)
    options = TaskOptions(pooling=MEAN_OF_TOKENS, layer=flags.layer, normalize=False, centre=False)
    encode = make_answerer("encode", loaded, options)
    vectors = encode.vectors(texts)
    inputs = [[text] for text in texts]
    groups = groups_of(inputs, labels, vectors, table.languages, table.ids, say=print)
    scored = cross_validated(vectors, groups, labels)
    save(classifier_of(loaded, vectors, labels, encode.layer), flags.output, len(labels))
    return scored


def check_table(path: Path, table: "LabelledTable", finetune: bool) -> None:
    """Refuse a table whose classifier could not be scored.

    Raises:
        UserError: it has fewer than two labels or too many, a label with a single text, or pairs of texts
            without `finetune`.
    """
    if len(table.columns) > 2 and not finetune:
        raise UserError(f"{path}: it has pairs of texts, which need --finetune")
    labels = [cells[-1] for cells in table.rows]
    count = len(set(labels))
    if count < 2:
        raise UserError(
            f"{path}: all {len(labels):,} rows have the label '{labels[0]}'; two are needed at least"
        )
    if count > _MOST_LABELS:
        raise UserError(
            f"{path}: {count:,} labels in {len(labels):,} rows, and {_MOST_LABELS:,} are possible; if "
            "another column has the labels, say so, as in --columns review,stars"
        )
    row = single_text([cells[:-1] for cells in table.rows], labels)
    if row is not None:
        raise UserError(
            f"{path}, line {table.lines[row]}: the label '{labels[row]}' has one text, and a score needs "
            "two; add one, or remove the line"
        )
