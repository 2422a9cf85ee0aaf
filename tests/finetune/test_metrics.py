"""The metrics of fine-tuning, down to the last digit of XTREME's evaluate.py."""

from ernie_m.finetune.metrics import accuracy


def test_accuracy_equals_xtreme_to_the_last_digit():
    """XTREME multiplies last: 1 / 3 * 100 is 33.33333333333333, but 100 * 1 / 3 is 33.333333333333336."""
    as_in_xtreme = 1 / 3 * 100
    assert as_in_xtreme != 100 * 1 / 3
    assert accuracy([1, 0, 0], [1, 1, 1]) == as_in_xtreme
