"""A kernel is used if it agrees with Paddle's operations, and a warning says if it is not."""

import pytest

from ernie_m.model.kernel_check import check_agreement


@pytest.mark.parametrize(
    ("error", "is_equal"), [(0.5, True), (1.0, False), (float("nan"), False), (float("inf"), False)]
)
def test_an_error_below_the_tolerance_is_none(error, is_equal):
    assert check_agreement({"1": 0.0, "2": error}.items, 1.0, "not used") is is_equal


@pytest.mark.parametrize(
    "error", [OSError, AttributeError, AssertionError, TypeError, ValueError, RuntimeError]
)
def test_a_kernel_that_raises_is_not_used(caplog, error):
    def measure_errors():
        raise error("first line\nsecond line")

    assert not check_agreement(measure_errors, 1.0, "not used")
    assert caplog.messages == ["not used: second line"]
