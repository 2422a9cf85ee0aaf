"""The metrics of fine-tuning, down to the last digit of XTREME's evaluate.py."""

import pytest

from ernie_m.finetune.classifier import Classification, Regression
from ernie_m.finetune.metrics import MatchCounts, accuracy


def test_accuracy_equals_xtreme_to_the_last_digit():
    """XTREME multiplies last: 1 / 3 * 100 is 33.33333333333333, but 100 * 1 / 3 is 33.333333333333336."""
    as_in_xtreme = 1 / 3 * 100
    assert as_in_xtreme != 100 * 1 / 3
    assert accuracy([1, 0, 0], [1, 1, 1]) == as_in_xtreme
    with pytest.raises(ValueError, match="zip"):
        accuracy([1], [1, 1])


@pytest.mark.parametrize(
    ("correct", "count", "steps", "accuracy", "error"),
    [(3, 4, 2, "0.750000", "2.000000"), (0, 0, 2, "0.000000", "2.000000"), (0, 0, 0, "nan", "nan")],
)
def test_training_metrics_in_the_log(correct, count, steps, accuracy, error):
    """If all steps were skipped there are none. The loss of a regression is its mean squared error."""
    sums = {"correct": correct, "count": count, "steps": steps, "loss": 4.0 * steps}
    lines = [
        task.format_training_metric(sums) for task in (Classification(None, "ab", 9), Regression(None, 9))
    ]
    assert lines == [f"ave acc: {accuracy}", f"root mean squared error: {error}"]


@pytest.mark.parametrize(
    ("counts", "rates"),
    [((4, 2, 1), (50, 25, 100 / 3)), ((0, 2, 0), (0, 0, 0)), ((2, 0, 0), (0, 0, 0)), ((0, 0, 0), (0, 0, 0))],
)
def test_rates_without_items_are_zero(counts, rates):
    found = MatchCounts(*counts)
    assert (found.precision, found.recall, found.f1) == pytest.approx(rates)
