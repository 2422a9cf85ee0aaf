"""Accuracy and the F1 of labels, and correlations of numbers, in per cent."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MACRO_F1 = "macro f1"  # the name of `macro_f1` in reports
# Label of a row -> predicted label -> number of rows.
Confusion = Mapping[str, Mapping[str, int]]


def accuracy(predicted: Sequence, labels: Sequence) -> float:
    """Per cent of `predicted` that equal `labels`; as many of both, at least one."""
    correct = sum(int(prediction == label) for prediction, label in zip(predicted, labels, strict=True))
    return correct / len(labels) * 100  # in this order, as XTREME's evaluate.py: the last digit depends on it


def label_counts(confusion: Confusion) -> dict[str, "MatchCounts"]:
    """The counts of each label that the confusion names, as gold or as predicted."""
    predicted: Counter[str] = Counter()
    for counts in confusion.values():
        predicted.update(counts)
    matches = {}
    for label in {**confusion, **predicted}:
        row = confusion.get(label, {})
        gold = sum(row.values())
        matches[label] = MatchCounts(gold=gold, predicted=predicted[label], correct=row.get(label, 0))
    return matches


def macro_f1(confusion: Confusion) -> float:
    """The mean of the F1 of all `label_counts`, in per cent."""
    matches = label_counts(confusion).values()
    return sum(counts.f1 for counts in matches) / len(matches)


def share_of_most_frequent(confusion: Confusion) -> float:
    """Per cent of the rows that have the most frequent label."""
    sizes = [sum(counts.values()) for counts in confusion.values()]
    return 100 * max(sizes) / sum(sizes)


class MatchCounts(NamedTuple):
    """Numbers of gold items, of predicted items, and of items that are both: of entities, or of a label."""

    gold: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """Per cent of the predicted items that are correct; 0 if none is predicted."""
        return 100 * self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Per cent of the gold items that are predicted; 0 if there are none."""
        return 100 * self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 if both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def pearson(predicted: Sequence[float], labels: Sequence[float]) -> float:
    """Pearson's correlation, in per cent; 0 if all numbers of one side are equal."""
    x = np.subtract(predicted, np.mean(predicted))
    y = np.subtract(labels, np.mean(labels))
    product_of_norms = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / product_of_norms) * 100 if product_of_norms else 0.0


def spearman(predicted: Sequence[float], labels: Sequence[float]) -> float:
    """Spearman's correlation, in per cent: that of the ranks, where equal numbers share their mean rank."""
    return pearson(_ranks(predicted), _ranks(labels))


def _ranks(values: Sequence[float]) -> np.ndarray:
    """The rank of each number, from 1, float64 [n]. Equal numbers share the mean of their ranks."""
    # `distinct_places`: of each number, its place among the distinct ones in ascending order.
    _, distinct_places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_ranks = np.cumsum(counts)  # the greatest rank of each distinct number
    return (last_ranks - (counts - 1) / 2)[distinct_places]  # the last rank less half of the others
