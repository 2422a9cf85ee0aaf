"""Scores of fine-tuning: accuracy, averages over languages and seeds, the transfer gap. All in per cent."""

import math
from collections.abc import Mapping, Sequence

SOURCE = "en"  # the language that cross-lingual transfer starts from
AVERAGE, GAP = "avg", "gap"  # columns of a table, beside the languages


def accuracy(predicted: Sequence[int], labels: Sequence[int]) -> float:
    """Per cent of `predicted` that equal `labels`.

    Raises:
        ValueError: nothing to compare, or unequal numbers.
    """
    if not len(labels) or len(predicted) != len(labels):
        raise ValueError(f"{len(predicted)} predictions for {len(labels)} labels")
    return 100.0 * sum(int(a == b) for a, b in zip(predicted, labels)) / len(labels)


def average(scores: Mapping[str, float]) -> float:
    """The plain mean over languages, as in the paper's tables."""
    return sum(scores.values()) / len(scores)


def transfer_gap(scores: Mapping[str, float], source: str = SOURCE) -> float | None:
    """The source language's score minus the mean of the others (paper, Table 7); smaller is better transfer.

    None where the source or any other language is absent.
    """
    others = [score for language, score in scores.items() if language != source]
    if source not in scores or not others:
        return None
    return scores[source] - sum(others) / len(others)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and the standard deviation of a sample (divisor n - 1); 0 for one seed."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
