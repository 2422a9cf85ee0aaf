"""Loops of a user's own, without the engine, have the gradients of plain kernels."""

import itertools

import pytest

from ernie_m.model import kernel_selection
from tests.training.custom_loop import LOOPS, OPTIMIZERS, assert_same_gradients, gradients


@pytest.mark.parametrize("uses", LOOPS, ids="-".join)
def test_embedding_gradient_equals_plain_kernels(monkeypatch, uses):
    """With each optimizer, cleared to zeros or to None, in a model and in a copy of one that is trained."""
    cases = list(itertools.product(OPTIMIZERS, (True, False), (False, True)))
    found = {case: gradients(uses, *case) for case in cases}
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    for optimizer, *case in cases:
        assert_same_gradients(found[optimizer, *case], gradients(uses, optimizer, *case))
