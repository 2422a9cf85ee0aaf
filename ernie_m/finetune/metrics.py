"""Accuracy, the F1 of entities, and correlations of numbers, in per cent."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def accuracy(predicted: Sequence, labels: Sequence) -> float:
    """Per cent of `predicted` that equal `labels`; as many of both, at least one."""
    correct = sum(int(prediction == label) for prediction, label in zip(predicted, labels, strict=True))
    return correct / len(labels) * 100  # in this order, as XTREME's evaluate.py: the last digit depends on it


class MatchCounts(NamedTuple):
    """Numbers of gold items, of predicted items, and of items that are both."""

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
