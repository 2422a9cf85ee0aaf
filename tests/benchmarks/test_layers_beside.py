"""benchmarks/layers.py compares layers that compute the same."""

import numpy as np
import paddle
import pytest

from benchmarks import layers

LINEAR = ("linear 768 -> 768", "linear 768 -> 3072", "linear 3072 -> 768")
ALIKE = (*LINEAR, "layer norm", "gelu of [16, 128, 3072]", "softmax of [16, 12, 128, 128] + mask")


@pytest.fixture(scope="module")
def rows():
    return layers.layers()


@pytest.mark.parametrize("name", ALIKE)
def test_both_compute_the_same(rows, name):
    theirs, ours, shapes = rows[name]
    if isinstance(theirs, paddle.nn.Layer):
        ours.set_state_dict(theirs.state_dict())
    found = []
    inputs = [paddle.randn(shape) for shape in shapes]
    weight = paddle.randn(ours(*inputs).shape)
    for function in (theirs, ours):
        for tensor in inputs:
            tensor.stop_gradient, tensor.grad = False, None
        result = function(*inputs)
        (result * weight).sum().backward()
        found.append([result.numpy(), *(tensor.grad.numpy() for tensor in inputs)])
    for a, b in zip(*found, strict=True):
        assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()


def test_every_layer_is_timed(rows, monkeypatch):
    assert {name for name in rows if "dropout" not in name} == set(ALIKE)
    monkeypatch.setattr(layers, "REPEATS", 2)
    forward, backward = layers.milliseconds(paddle.nn.Linear(3, 4), [[2, 3]])
    assert 0 < forward < 1e4 and 0 < backward < 1e4
