"""The scores of a classifier on rows that it was not trained on: its folds, and its tables for people."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ernie_m.finetune.metrics import Confusion, accuracy, label_counts, macro_f1
from ernie_m.reader.files.labels import input_hash
from ernie_m.utils.text_tables import in_columns

FOLDS = 5
_SEED = 1  # for the order in which rows go to the folds
_LEAST_SURE = 5  # how many of the texts that a classifier is least sure of are shown
_WIDTH = 80  # how many characters of such a text are shown


@dataclass(frozen=True)
class Scored:
    """What classifiers predict of rows that they were not trained on.

    Attributes:
        numbers: the number of each row in its table, int64 [N].
        labels, predicted: the name of the label and of the predicted label of each row.
        probabilities: the probabilities of the predicted labels, float [N].
        groups: the number of each row's group, int64 [N]; see `ernie_m.finetune.fit.groups.groups_of`.
        folds: how many classifiers there were.
    """

    numbers: np.ndarray
    labels: Sequence[str]
    predicted: Sequence[str]
    probabilities: np.ndarray
    groups: np.ndarray
    folds: int

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        labels: Sequence[str],
        groups: np.ndarray,
        names: Sequence[str],
        folds: int,
    ) -> Self:
        """Take the rows that were predicted.

        Args:
            probabilities: float [rows, C], one for each class; NaN in the rows that were not predicted.
            labels: the label of each row.
            groups: the group of each row.
            names: the C labels.
        """
        numbers = np.flatnonzero(~np.isnan(probabilities).all(axis=1))
        probabilities = probabilities[numbers]  # [N, C]
        predicted = [names[id_] for id_ in probabilities.argmax(axis=1)]
        labels = [labels[number] for number in numbers]
        return cls(numbers, labels, predicted, probabilities.max(axis=1), groups[numbers], folds)

    def confusion(self, places: Sequence[int] | None = None) -> Confusion:
        """Label -> predicted label -> number, of the rows at these places, or of all."""
        confusion: dict[str, Counter[str]] = {}
        for place in range(len(self.labels)) if places is None else places:
            confusion.setdefault(self.labels[place], Counter())[self.predicted[place]] += 1
        return confusion

    def summary(self) -> dict[str, Any]:
        """Accuracy, its standard error and macro F1 in per cent, and the same of each label.

        The rows of a group are right or wrong together, so the standard error is that of groups.
        """
        confusion = self.confusion()
        percent = accuracy(self.predicted, self.labels)
        right = np.array([100.0 * (a == b) for a, b in zip(self.labels, self.predicted)])
        deviations = np.bincount(self.groups, right - percent)  # of a group, the sum of its rows
        by_label = {
            label: {
                "rows": counts.gold,
                "precision": counts.precision,
                "recall": counts.recall,
                "f1": counts.f1,
            }
            for label, counts in sorted(label_counts(confusion).items())
        }
        return {
            "accuracy": percent,
            "standard_error": float(np.sqrt((deviations**2).sum()) / len(self.labels)),
            "macro_f1": macro_f1(confusion),
            "rows": len(self.labels),
            "folds": self.folds,
            "by_label": by_label,
        }


def single_text(inputs: Sequence[Sequence[str]], labels: Sequence[str]) -> int | None:
    """The number of a row whose label no other text has, so that it cannot be scored; None: there is none.

    Args:
        inputs: a text, or a pair of texts, for each row.
        labels: the label of each row.
    """
    hashes_of: dict[str, set[int]] = {}  # label -> its different inputs
    for texts, label in zip(inputs, labels):
        hashes_of.setdefault(label, set()).add(input_hash(*texts))
    for row, label in enumerate(labels):
        if len(hashes_of[label]) < 2:
            return row
    return None


def folds_of(groups: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The fold of each row, int64 [N]. Each label is spread over all folds, and a group is in one fold.

    Args:
        groups: the number of each row's group, int64 [N]; see `ernie_m.finetune.fit.groups.groups_of`.
        labels: the label of each row.
    """
    fold_of_group: dict[int, int] = {}
    groups_so_far: Counter[str] = Counter()  # label -> its groups that have a fold
    for row in np.random.default_rng(_SEED).permutation(len(groups)):
        if groups[row] not in fold_of_group:
            # The groups of a label go to the folds in turn: 0, 1, ..., FOLDS - 1, 0, ...
            fold_of_group[groups[row]] = groups_so_far[labels[row]] % FOLDS
            groups_so_far[labels[row]] += 1
    if not any(fold_of_group.values()):  # each group began with another label, so each was the first one
        fold_of_group = {group: place % FOLDS for place, group in enumerate(fold_of_group)}
    return np.array([fold_of_group[group] for group in groups])


def tables_of_scores(scored: Scored, languages: Sequence[str]) -> Iterator[str]:
    """The scores in words: of all rows, by label and, if there are several, by language.

    Args:
        languages: the language of each row of the table; none: the languages are unknown.
    """
    scores = scored.summary()
    yield (
        f"accuracy {scores['accuracy']:.1f} % (standard error {scores['standard_error']:.1f}), macro F1 "
        f"{scores['macro_f1']:.1f} %; {_origin_of_predictions(scored)}"
    )
    lines = [["label", "rows", "precision", "recall", "F1"]]
    for label, values in scores["by_label"].items():
        shares = (f"{values[name]:.1f}" for name in ("precision", "recall", "f1"))
        lines.append([label, f"{values['rows']:,}", *shares])
    yield in_columns(lines)
    if len(set(languages)) > 1:
        languages_of_scored = [languages[number] for number in scored.numbers]
        yield in_columns(list(_lines_of_languages(scored, languages_of_scored)))


def _origin_of_predictions(scored: Scored) -> str:
    """Which models made the predictions, so that a reader sees that no model predicted its training texts."""
    if scored.folds == 1:  # only one of the folds was held out
        return f"of {len(scored.labels):,} texts that a model of the others predicted"
    return f"each text was predicted by a model of other texts, in {scored.folds} folds"


def _lines_of_languages(scored: Scored, languages: Sequence[str]) -> Iterator[list[str]]:
    """The cells of the table by language.

    Args:
        languages: the language of each scored row.
    """
    yield ["language", "rows", "accuracy", "macro F1"]
    for language, count in sorted(Counter(languages).items()):
        places = [place for place, name in enumerate(languages) if name == language]
        right = sum(scored.labels[place] == scored.predicted[place] for place in places)
        f1 = macro_f1(scored.confusion(places))
        yield [language or "(none)", f"{count:,}", f"{100 * right / count:.1f}", f"{f1:.1f}"]


def least_sure(scored: Scored, texts: Sequence[str], lines: Sequence[int]) -> str:
    """The rows whose predicted label has the lowest probability.

    Args:
        texts: the texts of all rows of the table.
        lines: the line number of each row.
    """
    shown = ["the texts that it is least sure of:"]
    for place in scored.probabilities.argsort(kind="stable")[:_LEAST_SURE]:
        number = scored.numbers[place]
        text = texts[number]
        text = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
        shown.append(
            f"  line {lines[number]}, {scored.labels[place]}: {scored.predicted[place]} with "
            f"{scored.probabilities[place]:.2f}: {text}"
        )
    return "\n".join(shown)
