"""benchmarks/layers.py compares layers that compute the same."""

import numpy as np
import paddle
import pytest

from benchmarks import layers

NAMES = list(layers.layers())


@pytest.mark.parametrize("name", [name for name in NAMES if "dropout" not in name])
def test_both_compute_the_same(name):
    theirs, ours, shapes = layers.layers()[name]
    if isinstance(theirs, paddle.nn.Layer):
        ours.set_state_dict(theirs.state_dict())
    inputs = [paddle.randn(shape) for shape in shapes]
    for tensor in inputs:
        tensor.stop_gradient = False
    assert np.abs(theirs(*inputs).numpy() - ours(*inputs).numpy()).max() < 1e-4


def test_milliseconds(monkeypatch):
    monkeypatch.setattr(layers, "REPEATS", 2)
    forward, backward = layers.milliseconds(paddle.nn.Linear(3, 4), [[2, 3]])
    assert 0 < forward < 1e4 and 0 < backward < 1e4
