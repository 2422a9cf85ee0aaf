"""Comparisons of named arrays: weights, gradients, states of optimizers."""

from collections.abc import Mapping

import numpy as np


def assert_equal_arrays(arrays: Mapping, expected: Mapping, tolerance: float = 0.0) -> None:
    """The arrays have the same names, and numbers that differ by at most the tolerance."""
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(arrays[name], value, rtol=0, atol=tolerance, err_msg=name)
