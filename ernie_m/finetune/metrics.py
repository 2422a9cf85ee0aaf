"""Metrics: accuracy, correlations, entity F1, and the chunk F1 of XTREME for part-of-speech tags.

A metric is in percent, or None if the gold values have no denominator for it: no entity, no answer, or only
equal numbers. Public test files without their labels are like that, and 0 would be read as a score.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ernie_m.reader.tag_schemes import find_entities


class MatchCounts(NamedTuple):
    """The numbers of gold items, predicted items, and correct items (true positives)."""

    gold: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float | None:
        """Precision in percent; 0 without predicted items, None without gold items."""
        if not self.gold:
            return None
        return 100 * self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float | None:
        """Recall in percent; None without gold items."""
        return 100 * self.correct / self.gold if self.gold else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, in percent; 0 if both are 0, None without gold items."""
        if self.precision is None or self.recall is None:
            return None
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def count_entity_matches(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> MatchCounts:
    """Count gold, predicted and matching entities, as conlleval of CoNLL-2002 and 2003 does.

    An entity is correct if its first word, last word and type are correct. For part-of-speech tags, the
    counts are those of XTREME.

    Args:
        gold, predicted: the tags of each sentence.
    """
    gold_entities = find_entities(_concatenate_tags(gold))
    predicted_entities = find_entities(_concatenate_tags(predicted))
    return MatchCounts(len(gold_entities), len(predicted_entities), len(gold_entities & predicted_entities))


def _concatenate_tags(sentences: Sequence[Sequence[str]]) -> list[str]:
    """Concatenate the tags of all sentences, with an O after each sentence, which ends its last entity."""
    return list(chain.from_iterable([*tags, "O"] for tags in sentences))


def accuracy(predicted: Sequence, labels: Sequence) -> float:
    """Compute the accuracy in percent of two non-empty sequences of equal length."""
    correct = sum(int(prediction == label) for prediction, label in zip(predicted, labels, strict=True))
    return correct / len(labels) * 100  # in XTREME's order, which the last digit depends on


def pearson(predicted: ArrayLike, labels: ArrayLike) -> float | None:
    """Compute Pearson's correlation in percent; 0 for constant predictions, None for constant labels."""
    if np.ptp(np.asarray(labels)) == 0:
        return None
    x = np.subtract(predicted, np.mean(np.asarray(predicted)))
    y = np.subtract(labels, np.mean(np.asarray(labels)))
    product_of_norms = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / product_of_norms) * 100 if product_of_norms else 0.0


def spearman(predicted: ArrayLike, labels: ArrayLike) -> float | None:
    """Compute Spearman's rank correlation in percent; ties have their mean rank."""
    return pearson(_compute_ranks(predicted), _compute_ranks(labels))


def format_score(score: float | None) -> str:
    """Format a metric with one decimal, as "87.5", or as "no score"."""
    return "no score" if score is None else f"{score:.1f}"


def _compute_ranks(values: ArrayLike) -> np.ndarray:
    """Return the rank of each number, from 1, float64 [n]; ties have their mean rank."""
    # `distinct_indices`: the index of each number among the distinct ones in ascending order.
    _, distinct_indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_ranks = np.cumsum(counts)  # the highest rank of each distinct number
    return (last_ranks - (counts - 1) / 2)[distinct_indices]  # the mean of the ranks of ties
