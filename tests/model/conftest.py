"""A fixture for the tests of the network."""

import paddle
import pytest


@pytest.fixture
def float64():
    """New weights and tensors are float64, from the same random numbers in each test."""
    paddle.set_default_dtype("float64")
    paddle.seed(0)
    yield
    paddle.set_default_dtype("float32")
