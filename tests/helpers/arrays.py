"""Comparisons of named arrays: weights, gradients, states of optimizers."""

from collections.abc import Mapping

import numpy as np


def assert_equal_arrays(arrays: Mapping, expected: Mapping, tolerance: float = 0.0) -> None:
    """The arrays have the same names, and numbers that differ by at most the tolerance."""
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(arrays[name], value, rtol=0, atol=tolerance, err_msg=name)


def assert_same_bits(tensors: Mapping[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The tensors of a checkpoint have the names, shapes and bits of `expected`, in float32."""
    assert set(tensors) == set(expected)
    for name, expected_array in expected.items():
        array = tensors[name]
        assert (array.dtype, array.shape, tensors.shape(name)) == (np.float32, *[expected_array.shape] * 2)
        assert array.tobytes() == expected_array.tobytes(), name
