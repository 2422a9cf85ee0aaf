"""Faults of operations, attention and the loss are found."""

import itertools
from functools import partial
from types import SimpleNamespace

import paddle
import pytest
from paddle.nn import functional

from model import attention, device, layout, masked_loss
from scripts.gpu import kernels
from scripts.gpu.report import BOUNDS
from tests.gpu_check.flash import flashmask


def test_a_wrong_scale(check, monkeypatch):
    """Queries that are 1 % too large."""
    apply = attention.AttentionOnCpu.apply
    monkeypatch.setattr(attention.AttentionOnCpu, "apply", lambda query, *rest: apply(query * 1.01, *rest))
    code, message = check("attention")
    assert code == 1 and "full in float64 is off by" in message and "; train in float32" in message


def test_a_mask_that_leaks(check, monkeypatch):
    """A group without a mask: its sequences see their pads, too."""
    monkeypatch.setattr(layout.Group, "masked", None)
    code, message = check("attention")
    assert code == 1 and "packed in float64 is off by" in message


@pytest.mark.parametrize("outputs", [3, 7])
def test_a_head_with_short_rows(check, monkeypatch, outputs):
    """As if the product in float32 had lost its last column."""
    linear = functional.linear

    def faulty(x, weight, bias):
        if weight.shape[1] == outputs and x.dtype == paddle.float32:
            last_is_zero = paddle.to_tensor([1.0] * (outputs - 1) + [0.0])
            weight = weight * last_is_zero
        return linear(x, weight, bias)

    monkeypatch.setattr(functional, "linear", faulty)
    code, message = check("operations")
    assert code == 1 and f"head of {outputs} in float32 is off by" in message


def test_a_loss_over_padded_words(check, monkeypatch):
    """1002 words are padded to 1024, and the logits of the pads are 0 instead of far below the others."""
    cross_entropy = masked_loss.cross_entropy

    def with_pads(x, table, bias, labels):
        weight = functional.pad(table.weight, [0, 22, 0, 0])
        padded = SimpleNamespace(weight=weight, gradient=table.gradient, in_bfloat16=False)
        return cross_entropy(x, padded, functional.pad(bias, [0, 22]), labels)

    assert check("loss")[0] == 0
    monkeypatch.setattr(device, "on_cpu", lambda x: False)  # a GPU's code: gradients through autograd
    assert check("loss")[0] == 0
    monkeypatch.setattr(masked_loss, "cross_entropy", with_pads)
    code, message = check("loss")
    assert code == 1 and "loss of 48 x 1002 in float64 is off by" in message
    monkeypatch.setattr(kernels, "bound_of", lambda dtype: BOUNDS["bfloat16"])
    assert check("loss")[0] == 1  # it is seen in half precision, too


def test_a_right_flash_mask(gpu, check, monkeypatch):
    monkeypatch.setattr(functional, "flashmask_attention", flashmask())
    code, message = check("flash mask", partial(kernels.check_flash_mask, dtype="float32"))
    assert code == 0 and "its dropout is right" in message


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"rows_too_far": 1}, "FlashMask with 2 heads and 256 tokens is off by"),
        ({"swapped": True}, "FlashMask with 2 heads and 256 tokens is off by"),
        ({"drops": False}, "FlashMask drops nothing at a rate of 0.1"),
        ({"drops_anew": True}, "FlashMask's backward pass drops other weights"),
    ],
)
def test_a_faulty_flash_mask(gpu, check, monkeypatch, fault, reason):
    monkeypatch.setattr(functional, "flashmask_attention", flashmask(**fault))
    code, message = check("flash mask", partial(kernels.check_flash_mask, dtype="float32"))
    assert code == 1 and reason in message


def test_dropout_that_does_not_follow_the_seed(gpu, check, monkeypatch):
    """Each call draws from a seed of its own."""
    right_attention = flashmask()
    seeds = itertools.count(1)

    def unseeded(*arguments, **options):
        paddle.seed(next(seeds))
        return right_attention(*arguments, **options)

    monkeypatch.setattr(functional, "flashmask_attention", unseeded)
    code, message = check("flash mask", partial(kernels.check_flash_mask, dtype="float32"))
    assert code == 1 and "drops other weights with the same seed" in message
