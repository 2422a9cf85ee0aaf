"""What the tests of conversion share: a comparison of tensors."""

from collections.abc import Mapping

import numpy as np


def assert_same_bits(tensors: Mapping[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The tensors of a checkpoint have the names, shapes and bits of `expected`, in float32."""
    assert set(tensors) == set(expected)
    for name, expected_array in expected.items():
        array = tensors[name]
        assert (array.dtype, array.shape, tensors.shape(name)) == (np.float32, *[expected_array.shape] * 2)
        assert array.tobytes() == expected_array.tobytes(), name
