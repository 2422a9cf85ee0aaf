"""How good mined pairs are beside gold ones, and the threshold of their scores. No Paddle here."""

from typing import NamedTuple

import numpy as np


class Quality(NamedTuple):
    """How good the pairs above a threshold are, in per cent."""

    threshold: float
    precision: float
    recall: float
    f1: float


def choose_threshold(scores: np.ndarray, is_correct: np.ndarray, gold_count: int) -> Quality:
    """The threshold with the best F1, halfway between two scores.

    Args:
        scores: float64 [P], descending.
        is_correct: bool [P], whether a pair is a gold pair.
        gold_count: the number of gold pairs, mined or not.
    """
    # All four are [P]. Row i is about the case that the threshold lies after pair i.
    mined = np.arange(1, len(scores) + 1)
    correct = np.cumsum(is_correct)
    f1 = 2 * correct / (mined + gold_count)
    is_possible = np.append(scores[:-1] > scores[1:], True)  # no threshold is between equal scores
    last = int(np.where(is_possible, f1, -1).argmax())  # the last pair above the best threshold
    next_pair = min(last + 1, len(scores) - 1)
    threshold = float(scores[last] + scores[next_pair]) / 2
    return quality(scores, is_correct, gold_count, threshold)


def quality(scores: np.ndarray, is_correct: np.ndarray, gold_count: int, threshold: float) -> Quality:
    """Precision, recall and F1 of the pairs with a score of at least `threshold`; see `choose_threshold`."""
    is_mined = scores >= threshold
    mined = int(is_mined.sum())
    correct = int((is_mined & is_correct).sum())
    return Quality(
        threshold,
        precision=100.0 * correct / max(mined, 1),
        recall=100.0 * correct / gold_count,
        f1=200.0 * correct / (mined + gold_count),
    )
