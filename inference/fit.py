"""Train a classifier on a table of texts with labels, and score it by cross-validation. See docs/finetune.md.

ernie-m fit reviews.csv --model intfloat/multilingual-e5-small --output checkpoints/reviews
"""

from utils.environment import run

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.metrics import Confusion, accuracy, label_counts, macro_f1
from reader.labels import input_hash
from reader.tables import LabelledTable, read_table, rows_of_table
from utils.command_line import load_config
from utils.errors import UserError
from utils.options import option
from utils.tables import in_columns

FOLDS = 5
_SEED = 1  # of the order in which texts go to the folds
_MOST_LABELS = 1000
_LANGUAGE_COLUMNS = ("language", "lang", "locale")
_LEAST_SURE = 5  # texts that are shown
_WIDTH = 80  # characters of a text that are shown


@dataclass
class FitFlags:
    """What to learn from."""

    table: str = option(positional=True)
    """A table with a text and a label in each row: .tsv or .csv, also .gz."""

    model: str
    """A checkpoint of any supported format, or the name of a model on Hugging Face's hub."""

    output: str
    """A new folder for the classifier."""

    columns: str | None = None
    """The names of the columns of the text and the label, as in "review,stars". Default: they are found."""

    layer: str | None = None
    """The layer of the vectors: a number from 1, middle or top. Default: as in the model's training."""


@dataclass(frozen=True)
class Scored:
    """What classifiers predict that were not trained on the row, by row.

    Attributes:
        labels, predicted: names.
        probabilities: those of the predicted label, [N].
    """

    labels: Sequence[str]
    predicted: Sequence[str]
    probabilities: np.ndarray

    def confusion(self, rows: Sequence[int]) -> Confusion:
        """Label -> predicted label -> number, of these rows."""
        confusion: dict[str, Counter[str]] = {}
        for row in rows:
            confusion.setdefault(self.labels[row], Counter())[self.predicted[row]] += 1
        return confusion


def main() -> None:
    flags = load_config(FitFlags, None, __doc__)
    path = Path(flags.table)
    if Path(flags.output).exists():
        raise UserError(f"--output {flags.output}: it exists already; name a new folder")
    table = read_table(path, flags.columns.split(",") if flags.columns else ())
    check_table(path, table)
    texts = [text for text, _ in table.rows]
    labels = [label for _, label in table.rows]
    # Imported here, so that --help and errors are fast; first `load`, which gives Paddle its settings.
    from inference.loading import load

    loaded = load(flags.model)
    from inference.few_labels import classifier_of, save
    from inference.tasks import TaskOptions, make
    from model.tasks import MEAN_OF_TOKENS
    from reader.coverage import warn_if_unsuited

    if loaded.model is None:
        raise UserError(f"--model {flags.model}: it was exported; fit a classifier to the checkpoint")
    warn_if_unsuited(loaded.tokenizer, texts, path)
    options = TaskOptions(pooling=MEAN_OF_TOKENS, layer=flags.layer, normalize=False, prompt="", centre=False)
    encode = make("encode", loaded, options)
    print(f"{len(texts):,} texts, {len(set(labels))} labels", flush=True)
    vectors = encode.vectors(texts)
    scored = cross_validated(vectors, texts, labels)
    print("", *tables_of_scores(scored, languages_of(path, table)), "", sep="\n")
    print(least_sure(scored, table))
    save(classifier_of(loaded, vectors, labels, encode.layer), flags.output, len(labels))
    print(f"\n{flags.output}: a classifier of all {len(texts):,} texts")
    print(f"next: ernie-m label TABLE --model {flags.output} --output LABELLED")


def check_table(path: Path, table: LabelledTable) -> None:
    """Refuse a table whose classifier could not be scored.

    Raises:
        UserError: it has pairs, fewer than two labels or too many, or a label with a single text.
    """
    if len(table.columns) > 2:
        raise UserError(
            f"{path}: it has pairs of texts; fine-tune on them: python scripts/data/prepare.py own"
        )
    labels = [label for _, label in table.rows]
    texts_of = Counter(label for label, _ in {(label, input_hash(text)) for text, label in table.rows})
    if len(texts_of) < 2:
        raise UserError(
            f"{path}: all {len(labels):,} rows have the label '{labels[0]}'; two are needed at least"
        )
    if len(texts_of) > _MOST_LABELS:
        raise UserError(
            f"{path}: {len(texts_of):,} labels, and {_MOST_LABELS:,} are possible; name the columns of the "
            "text and the label, as in --columns review,stars"
        )
    for (_, label), line in zip(table.rows, table.lines):
        if texts_of[label] < 2:
            raise UserError(
                f"{path}, line {line}: the label '{label}' has one text, and a score needs two; add one, or "
                "remove the line"
            )


def languages_of(path: Path, table: LabelledTable) -> list[str] | None:
    """The language of each row, if a column of the table is named so; None: there is no such column."""
    (_, header), *rows = rows_of_table(path)
    places = [place for place, name in enumerate(header) if name.strip().lower() in _LANGUAGE_COLUMNS]
    if not table.has_header or not places:
        return None
    by_line = {line: cells[places[0]].strip() for line, cells in rows}
    return [by_line[line] for line in table.lines]


def cross_validated(vectors: np.ndarray, texts: Sequence[str], labels: Sequence[str]) -> Scored:
    """Predict each row by a classifier that was trained on the other folds.

    Args:
        vectors: of the texts, [N, H].
        labels: of each text, each of two different texts at least.
    """
    from inference.few_labels import logistic_regression

    names = sorted(set(labels))
    ids = np.array([names.index(label) for label in labels])
    folds = folds_of(texts, labels)
    probabilities = np.zeros((len(labels), len(names)))
    for fold in range(FOLDS):
        held_out = folds == fold
        if not held_out.any():
            continue
        weight, bias = logistic_regression(vectors[~held_out], ids[~held_out])
        logits = vectors[held_out] @ weight + bias
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        # Of a text with two labels the other one may be in no other fold; then the last ids have no column.
        probabilities[held_out, : weight.shape[1]] = exponentials / exponentials.sum(axis=1, keepdims=True)
    predicted = [names[number] for number in probabilities.argmax(axis=1)]
    return Scored(labels, predicted, probabilities.max(axis=1))


def folds_of(texts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """The fold of each row, int64 [N]. Each label is spread over all folds, and equal texts share one."""
    fold_of_text: dict[int, int] = {}
    number_of_label: Counter[str] = Counter()
    hashes = [input_hash(text) for text in texts]
    for row in np.random.default_rng(_SEED).permutation(len(texts)):
        if hashes[row] not in fold_of_text:
            fold_of_text[hashes[row]] = number_of_label[labels[row]] % FOLDS
            number_of_label[labels[row]] += 1
    return np.array([fold_of_text[text] for text in hashes])


def tables_of_scores(scored: Scored, languages: Sequence[str] | None) -> list[str]:
    """The scores in words: of all rows, by label and, if there are several, by language."""
    rows = range(len(scored.labels))
    confusion = scored.confusion(rows)
    share = accuracy(scored.predicted, scored.labels)
    error = (share * (100 - share) / len(scored.labels)) ** 0.5
    parts = [
        f"accuracy {share:.1f} % (standard error {error:.1f}), macro F1 {macro_f1(confusion):.1f} %; each "
        f"text by a classifier of other texts, in {FOLDS} folds",
        "",
        in_columns([["label", "rows", "precision", "recall", "F1"], *lines_of_labels(confusion)]),
    ]
    if languages is not None and len(set(languages)) > 1:
        lines = [["language", "rows", "accuracy", "macro F1"]]
        for language, count in sorted(Counter(languages).items()):
            numbers = [row for row in rows if languages[row] == language]
            right = sum(scored.labels[row] == scored.predicted[row] for row in numbers)
            f1 = macro_f1(scored.confusion(numbers))
            lines.append([language or "(none)", f"{count:,}", f"{100 * right / count:.1f}", f"{f1:.1f}"])
        parts += ["", in_columns(lines)]
    return parts


def lines_of_labels(confusion: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """The cells of each label."""
    lines = []
    for label, counts in sorted(label_counts(confusion).items()):
        scores = (counts.precision, counts.recall, counts.f1)
        lines.append([label, f"{counts.gold:,}", *(f"{score:.1f}" for score in scores)])
    return lines


def least_sure(scored: Scored, table: LabelledTable) -> str:
    """The texts whose predicted label has the lowest probability."""
    lines = ["the texts that it is least sure of:"]
    for row in scored.probabilities.argsort(kind="stable")[:_LEAST_SURE]:
        text = table.rows[row][0]
        shown = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
        lines.append(
            f"  line {table.lines[row]}, {scored.labels[row]}: {scored.predicted[row]} with "
            f"{scored.probabilities[row]:.2f}: {shown}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
