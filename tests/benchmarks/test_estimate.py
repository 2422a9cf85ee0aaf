"""The estimated speed is compared with counts made by hand, and with the kernel calls of the model."""

import pytest

from benchmarks import estimate
from benchmarks.estimate import CARDS, ModelShape, Work
from model import half_weights
from tests.helpers.kernel_calls import xnli_calls

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
    assert seconds == pytest.approx(20e-6 * (255 + 249 + 163) + 0.7e-3)
    assert seconds <= 0.018
    two = estimate.fine_tuning_seconds(BASE, tokens, estimate.XNLI_LENGTH, CARDS["A100"], micro_batches=2)
    assert two - seconds == pytest.approx(20e-6 * (255 + 249) + 0.7e-3)
    # In a larger micro-batch autocast casts each weight by itself.
    larger = estimate.fine_tuning_seconds(BASE, 2048, 37, CARDS["H100"])
    assert larger == pytest.approx(20e-6 * (255 + 249 + 163 + 258))
    # A large batch keeps the card busy for longer than the host.
    large_batch = 20 * tokens
    assert estimate.fine_tuning_seconds(BASE, large_batch, 37, CARDS["A100"]) > 2 * seconds


@pytest.mark.parametrize("together", [True, False])
def test_the_calls_are_those_of_the_model(monkeypatch, together):
    """With the weights cast together, and by autocast alone."""
    assert estimate.SMALL_BATCH == half_weights.SMALL_BATCH
    further_calls = 0
    if not together:
        monkeypatch.setattr(half_weights, "SMALL_BATCH", 0)
        further_calls = estimate.FURTHER_CALLS // 2
    counts = {phase: sum(calls.values()) for phase, calls in xnli_calls(monkeypatch).items()}
    assert counts["forward"] == estimate.CALLS["forward"] + further_calls
    assert counts["backward"] == estimate.CALLS["backward"] + further_calls
    assert counts["update"] == estimate.CALLS["update"]


def test_without_flash_mask_scores_are_moved():
    tokens = 1e6
    length = 512
    fused = estimate.pretraining_parts(BASE, length, 8192, tokens, fused=True)
    plain = estimate.pretraining_parts(BASE, length, 8192, tokens, fused=False)
    assert fused["attention"].moved == 0
    scores = tokens * BASE.layers * BASE.heads * length
    assert plain["attention"].moved == pytest.approx(36 * scores)  # 36 bytes for each
    assert {name for name in fused if fused[name] != plain[name]} == {"attention"}
