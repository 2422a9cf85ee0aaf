"""The estimated speed is compared with counts made by hand, and with the kernel calls of the model."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.autograd import PyLayer

from benchmarks import estimate
from benchmarks.estimate import CARDS, ModelShape, Work
from model import attention, device
from model.attention import FlashMask
from model.batch import TokenBatch
from model.config import ErnieMConfig
from model.device import upload
from model.heads import SequenceClassifier
from model.layers import Linear
from scripts.gpu.step import profiled

BASE = ModelShape(768, 12, 12, 250_002)


def test_operations_by_hand():
    """Base, in sequences of 512 tokens: 24 H^2 + 4 H T in a layer, and H (H + V) for each masked token."""
    masked = 0.15
    encoder = 12 * (24 * 768**2 + 4 * 768 * 512) - 18 * 768**2 * (1 - masked)
    head = 2 * masked * 768 * (768 + 250_002)
    stage_1 = (encoder + head / 7) / 4
    assert estimate.operations(BASE, 512) == pytest.approx(3 * encoder + 3 * head + stage_1)
    assert estimate.operations(BASE, 512, recompute=True) == pytest.approx(4 * encoder + 3 * head + stage_1)


def test_a_part_takes_its_operations_and_its_bytes():
    card = estimate.Card(100, 1000, 80, 300, products=0.5, attention=0.25)
    assert Work(products=50e12).seconds(card) == pytest.approx(1.0)
    assert Work(attention=50e12).seconds(card) == pytest.approx(2.0)
    assert Work(moved=400e9).seconds(card) == pytest.approx(0.5)
    assert Work(50e12, 50e12, 400e9).times(2).seconds(card) == pytest.approx(7.0)


def test_base_on_an_a100_reaches_40_per_cent():
    speed = estimate.pretraining_speed(BASE, 512, 32768, CARDS["A100"])
    assert speed.share_of_peak >= 0.40
    assert sum(speed.shares.values()) == pytest.approx(1.0)
    # Small micro-batches pay for the word table more often.
    small = estimate.pretraining_speed(BASE, 512, 8192, CARDS["A100"])  # a quarter of 32768
    assert small.shares["word table"] > 3 * speed.shares["word table"]
    assert small.tokens_per_second < speed.tokens_per_second


def test_a_step_of_xnli():
    """The host takes 20 microseconds for each kernel call; the card would be faster."""
    tokens = estimate.XNLI_ROWS * estimate.XNLI_LENGTH
    seconds = estimate.fine_tuning_seconds(BASE, tokens, estimate.XNLI_LENGTH, CARDS["A100"])
    forward = 308 + 74  # the counted calls, and one more for each linear layer
    backward = 302 + 74
    update = 240
    assert seconds == pytest.approx(20e-6 * (forward + backward + update))
    # Without autocast's four casts for each linear layer a step would take at most 18 ms.
    casts = 4 * 74
    assert seconds - 20e-6 * casts <= 0.018
    # A large batch keeps the card busy for longer than the host.
    large_batch = 20 * tokens
    assert estimate.fine_tuning_seconds(BASE, large_batch, 37, CARDS["A100"]) > 2 * seconds


def test_the_calls_are_those_of_the_model(monkeypatch):
    """The kernel calls that Paddle's profiler counts in a model of 12 layers, on the operations of a GPU.

    FlashMask counts as one call. The types are float32: on a CPU autocast has no effect.
    """
    monkeypatch.setattr(device, "on_cpu", lambda x: False)
    monkeypatch.setattr(device, "uses_gpu_kernels", lambda: True)
    monkeypatch.setattr(attention, "mask_class", lambda: FlashMask)
    monkeypatch.setattr(F, "flashmask_attention", OneCall.apply)
    paddle.seed(1)
    config = ErnieMConfig(vocab_size=100, hidden_size=32, num_hidden_layers=12, num_attention_heads=4)
    model = SequenceClassifier(config, 3)
    batch = upload(TokenBatch.from_padded(np.full([32, 50], 7), pad_token_id=1))
    labels = paddle.zeros([32], "int64")
    losses = []

    def forward() -> None:
        losses.append(F.cross_entropy(model(batch), labels))

    forward()  # the first one also makes the arrays of the mask, which are then reused
    calls = {"forward": kernel_calls(forward), "backward": kernel_calls(losses[-1].backward)}
    assert calls == estimate.COUNTED_CALLS
    linear_layers = [layer for layer in model.sublayers() if isinstance(layer, Linear)]
    assert len(linear_layers) == estimate.LINEAR_LAYERS


class OneCall(PyLayer):
    """In place of FlashMask: one call forward, and one backward, for three gradients."""

    @staticmethod
    def forward(ctx, query, key, value, startend_row_indices, dropout):
        return paddle.multiply(query, value)

    @staticmethod
    def backward(ctx, gradient):
        gradient = paddle.scale(gradient, 1.0)
        return gradient, gradient, gradient, None


def kernel_calls(work) -> int:
    """How many kernels Paddle starts while `work` runs."""
    return sum(kind == "DygraphKernelLaunch" for kind, _ in profiled(work))


def test_without_flash_mask_scores_are_moved():
    tokens = 1e6
    length = 512
    fused = estimate.pretraining_parts(BASE, length, 8192, tokens, fused=True)
    plain = estimate.pretraining_parts(BASE, length, 8192, tokens, fused=False)
    assert fused["attention"].moved == 0
    scores = tokens * BASE.layers * BASE.heads * length
    assert plain["attention"].moved == pytest.approx(36 * scores)  # 36 bytes for each
    assert {name for name in fused if fused[name] != plain[name]} == {"attention"}
