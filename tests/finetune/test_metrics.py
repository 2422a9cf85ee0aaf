"""Scores worked out by hand."""

import pytest

from finetune.metrics import accuracy
from finetune.report import average, mean_and_deviation, transfer_gap


def test_accuracy():
    assert accuracy([0, 1, 2, 1], [0, 1, 1, 1]) == 75.0
    with pytest.raises(ValueError, match="2 predictions for 3 labels"):
        accuracy([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="0 labels"):
        accuracy([], [])


def test_transfer_gap_of_the_paper():
    """Table 7 says 8.8 for XNLI: from ERNIE-M base's English 85.5 and its other languages."""
    others = [80.1, 81.2, 79.2, 79.1, 80.4, 78.1, 76.8, 76.3, 78.3, 75.8, 77.4, 72.9, 69.5, 68.8]
    scores = {"en": 85.5, **{f"l{i}": score for i, score in enumerate(others)}}
    assert round(transfer_gap(scores)["gap"], 1) == 8.8
    assert round(average(scores), 1) == 77.3


def test_transfer_gap_needs_english_and_another():
    assert transfer_gap({"de": 70.0, "fr": 72.0}) == {}
    assert transfer_gap({"en": 80.0}) == {}


def test_mean_and_deviation_over_seeds():
    mean, deviation = mean_and_deviation([70.0, 72.0, 74.0])
    assert (mean, deviation) == (72.0, 2.0)
    assert mean_and_deviation([71.5]) == (71.5, 0.0)
