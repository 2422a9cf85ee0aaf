"""Loops of a user's own, without the engine, have the gradients of plain kernels."""

import itertools

import numpy as np
import paddle
import pytest

from ernie_m.model import kernel_selection
from ernie_m.model.optimization import build_optimizer
from tests.helpers.arrays import assert_equal_arrays
from tests.training.custom_loop import LOOPS, OPTIMIZERS, Loss, assert_same_gradients, gradients


@pytest.mark.parametrize("uses", LOOPS, ids="-".join)
def test_embedding_gradient_equals_plain_kernels(monkeypatch, uses):
    """With each optimizer, cleared to zeros or to None, in a model and in a copy of one that is trained."""
    cases = list(itertools.product(OPTIMIZERS, (True, False), (False, True)))
    found = {case: gradients(uses, *case) for case in cases}
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    for optimizer, *case in cases:
        assert_same_gradients(found[optimizer, *case], gradients(uses, optimizer, *case))


def test_continue_from_a_state_dict(tmp_path):
    """The word embeddings go on with their moments, of our optimizer's state and of Paddle's."""
    batches = np.random.default_rng(0).integers(4, 60, [4, 2, 6])
    paddle.seed(0)
    layer = Loss()
    layer.eval()  # without dropout
    optimizer = build_optimizer(layer, 1e-2)

    def train(optimizer, batches):
        for ids in batches:
            layer(ids, "loss").backward()
            optimizer.step()
            optimizer.clear_grad()
        return {name: parameter.numpy() for name, parameter in layer.named_parameters()}

    train(optimizer, batches[:2])
    paddle.save([layer.state_dict(), optimizer.state_dict()], str(tmp_path / "saved"))
    expected = train(optimizer, batches[2:])
    weights, state = paddle.load(str(tmp_path / "saved"))
    (table,) = optimizer.tables
    assert {f"{table}_moment1_0", f"{table}_beta1_pow_acc_0"} < state.keys()
    for load in (optimizer.set_state_dict, optimizer.load_state_dict):
        layer.set_state_dict(weights)
        load(state)
        assert_equal_arrays(train(optimizer, batches[2:]), expected, 0)
