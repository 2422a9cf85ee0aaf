"""The metrics of fine-tuning, down to the last digit of XTREME's evaluate.py."""

from finetune.metrics import accuracy


def test_the_last_digit_is_that_of_xtreme():
    """1 / 3 * 100 is 33.33333333333333, and 100 * 1 / 3 ends in 36."""
    assert accuracy([1, 0, 0], [1, 1, 1]) == 1 / 3 * 100 != 100 * 1 / 3
