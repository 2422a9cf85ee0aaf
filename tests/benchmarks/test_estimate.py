"""The estimated speed is compared with counts made by hand, and with the kernel calls of the model."""

import pytest

from benchmarks import estimate
from benchmarks.estimate import CARDS, ModelShape, Work
from model import half_weights
from tests.helpers.kernel_calls import xnli_calls

BASE = ModelShape(hidden=768, layers=12, heads=12, vocabulary=250_002)
# Seconds of the host, by hand. It starts 255 kernels in a forward pass, 249 in a backward pass and 163 in an
# update, in 20 microseconds each, and needs 0.7 ms more to cast the weights together.
PASSES = 20e-6 * (255 + 249) + 0.7e-3  # of one micro-batch
UPDATE = 20e-6 * 163


def test_operations_by_hand():
    """Base, in sequences of 512 tokens.

    A layer has 24 H^2 + 4 H T operations for a token, of which the last layer does 18 H^2 for the masked
    tokens alone. The head has 2 H (H + V) for each of these.
    """
    masked = 0.15
    encoder = 12 * (24 * 768**2 + 4 * 768 * 512) - 18 * 768**2 * (1 - masked)
    head = masked * 2 * 768 * (768 + 250_002)
    # BTMLM's first stage runs for a quarter of the sequences, with a seventh of all words.
    stage_1 = (encoder + head / 7) / 4
    operations = estimate.pretraining_operations(BASE, 512)
    assert operations == pytest.approx(3 * encoder + 3 * head + stage_1)
    with_recompute = estimate.pretraining_operations(BASE, 512, recompute=True)
    assert with_recompute == pytest.approx(4 * encoder + 3 * head + stage_1)


def test_a_part_takes_its_operations_and_its_bytes():
    card = estimate.Card(
        tflops=100, bandwidth=1000, memory=80, link=300, product_share=0.5, attention_share=0.25
    )
    assert Work(products=50e12).seconds(card) == pytest.approx(1.0)  # 50 of half of 100 TFLOP/s
    assert Work(attention=50e12).seconds(card) == pytest.approx(2.0)  # 50 of a quarter
    assert Work(moved=400e9).seconds(card) == pytest.approx(0.5)  # 400 of 80 % of 1000 GB/s
    all_twice = Work(products=50e12, attention=50e12, moved=400e9).times(2)
    assert all_twice.seconds(card) == pytest.approx(2 * (1.0 + 2.0 + 0.5))


def test_base_on_an_a100_reaches_40_per_cent():
    speed = estimate.pretraining_speed(BASE, length=512, micro_batch=32768, card=CARDS["A100"])
    assert speed.share_of_peak >= 0.40
    assert sum(speed.shares.values()) == pytest.approx(1.0)
    # Small micro-batches pay for the word table more often.
    small = estimate.pretraining_speed(BASE, length=512, micro_batch=32768 // 4, card=CARDS["A100"])
    assert small.shares["word table"] > 3 * speed.shares["word table"]
    assert small.tokens_per_second < speed.tokens_per_second


def test_a_step_of_xnli():
    """The card would be faster than the host."""
    tokens = estimate.XNLI_ROWS * estimate.XNLI_LENGTH
    length = estimate.XNLI_LENGTH
    seconds = estimate.fine_tuning_seconds(BASE, tokens, length, CARDS["A100"])
    assert seconds == pytest.approx(PASSES + UPDATE)
    assert seconds <= 0.018
    two = estimate.fine_tuning_seconds(BASE, tokens, length, CARDS["A100"], micro_batches=2)
    assert two == pytest.approx(2 * PASSES + UPDATE)
    # In a larger micro-batch autocast casts each weight by itself, with 258 calls more.
    larger = estimate.fine_tuning_seconds(BASE, 2048, length, CARDS["H100"])
    assert larger == pytest.approx(20e-6 * (255 + 249 + 258) + UPDATE)
    # A large batch keeps the card busy for longer than the host.
    large_batch = 20 * tokens
    assert estimate.fine_tuning_seconds(BASE, large_batch, length, CARDS["A100"]) > 2 * seconds


@pytest.mark.parametrize("together", [True, False])
def test_the_calls_are_those_of_the_model(monkeypatch, together):
    """With the weights cast together, and by autocast alone."""
    assert estimate.SMALL_BATCH == half_weights.SMALL_BATCH
    further_calls = 0
    if not together:
        monkeypatch.setattr(half_weights, "SMALL_BATCH", 0)
        further_calls = estimate.FURTHER_CALLS // 2  # one half forward, the other half backward
    counts = {phase: sum(calls.values()) for phase, calls in xnli_calls(monkeypatch).items()}
    assert counts["forward"] == estimate.CALLS["forward"] + further_calls
    assert counts["backward"] == estimate.CALLS["backward"] + further_calls
    assert counts["update"] == estimate.CALLS["update"]


def test_without_flash_mask_scores_are_moved():
    tokens = 1e6
    length = 512
    sizes = {"length": length, "micro_batch": 8192, "tokens": tokens}
    fused = estimate.pretraining_parts(BASE, **sizes, fused=True)
    plain = estimate.pretraining_parts(BASE, **sizes, fused=False)
    assert fused["attention"].moved == 0
    scores = tokens * BASE.layers * BASE.heads * length
    assert plain["attention"].moved == pytest.approx(36 * scores)  # 36 bytes for each
    assert {name for name in fused if fused[name] != plain[name]} == {"attention"}
