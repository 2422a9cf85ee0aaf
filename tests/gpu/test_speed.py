"""Tokens per second and memory of base, and a step of XNLI, beside what `benchmarks/estimate.py` says."""

import math
import re
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor

from benchmarks import counts
from benchmarks.counts import BASE, CARDS, Card, ModelShape, PlannedRun
from benchmarks.estimate import XNLI_LENGTH, XNLI_ROWS
from pretrain.batch import Batch
from pretrain.config import ObjectiveConfig
from pretrain.loss import DeviceBatch, masked_lm_loss, to_device
from pretrain.masking import Vocabulary
from pretrain.objectives import Objectives, Text
from tests.gpu import toys
from tests.gpu.bounds import REPORT
from tests.gpu.device import Device
from tests.helpers.profiling import seconds_of
from tests.pretrain.examples import FIRST_ORDINARY_ID, LANGUAGES, rngs
from training.engine import Engine
from training.precision import Precision

# `warnings_of` has a warning for what is below or above these.
LOW_SPEED = 0.5  # as a share of what is estimated
LOW_MARGIN = 2.0  # the time of a step, in times of the reader for its batches
MUCH_MEMORY = 1.3  # of what is estimated
# The loss pads its table to a multiple of 64 words, so it should not be faster with such a vocabulary.
LOW_ALIGNED = 0.8  # the time with such a vocabulary, as a share of that with the vocabulary in use
MICRO_BATCHES = 4


def listed_card() -> Card | None:
    """The card in use, if its data sheet is among those of the estimate."""
    name_in_use = paddle.device.cuda.get_device_name()
    for name, card in CARDS.items():
        if re.search(rf"\b{name}\b", name_in_use):  # L4 is not in "L40S"
            return card
    return None


def full_rows(count: int, length: int, words: int, seed: int) -> Batch:
    """Masked rows of one length, whose ids are as frequent as words are (Zipf).

    Args:
        count: of the rows.
        words: the size of the vocabulary.
    """
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=words - 1, size=words)
    objectives = Objectives(ObjectiveConfig(), vocabulary, max_seq_len=512)
    ordinary_words = words - 1 - FIRST_ORDINARY_ID  # the last id is [MASK]
    ranks = rng.zipf(1.2, [count, length - 2])  # without [CLS] and [SEP]
    ids = FIRST_ORDINARY_ID + ranks % ordinary_words
    return objectives.batch("mmlm", [Text(row, language=0) for row in ids], rngs(count, seed, step=1))


class Measurement(NamedTuple):
    """Steps of pre-training with four micro-batches."""

    shape: ModelShape
    rows: int  # of a micro-batch
    length: int  # tokens of a row
    masked: int  # tokens of a step that are predicted
    seconds: float  # of a step
    reading: float  # seconds in which one process makes a step's batches
    memory: float  # the most bytes on the card at one time; 0 on a CPU

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return MICRO_BATCHES * self.rows * self.length

    def planned(self, fused: bool) -> PlannedRun:
        """The steps as `benchmarks.counts` describes a run.

        Args:
            fused: whether attention is computed by FlashMask.
        """
        return PlannedRun(
            batch=MICRO_BATCHES * self.rows,
            length=self.length,
            micro_batch=self.rows * self.length,
            steps=1,
            half_weights=False,
            recompute=False,
            fused=fused,
            stage_1=0.0,  # all sequences are those of MMLM
        )


def test_speed(device, quick, fact):
    """Steps of base: pre-training with four micro-batches, and XNLI. What is slow is no failure."""
    amp = device.amps[0]
    shape = toys.SHAPE if quick else toys.BASE_SHAPE
    engine = toys.engine_for(toys.make_model("float32", dropout=0.1, shape=shape), Precision(amp))
    rows, length = rows_of_a_micro_batch(device, quick)
    measurement = measure(device, engine, rows, length)
    seconds_of_loss = loss_seconds(engine, measurement.masked)
    margin = measurement.seconds / measurement.reading
    tokens_per_second = measurement.tokens / measurement.seconds
    classifier = toys.classifier_engine(quick, amp)
    toys.xnli_step(classifier)  # the first step also makes the moments
    for line in (
        f"{'tiny' if quick else 'base'} size, amp {amp}",
        f"{tokens_per_second:,.0f} tokens/s",
        f"the loss takes {seconds_of_loss / measurement.seconds:.0%}",
        f"the reader is {margin:.1f} times as fast",
        f"XNLI {1e3 * seconds_of(partial(toys.xnli_step, classifier)):.1f} ms a step",
    ):
        fact(line)
    if not device.is_card:
        return
    run = measurement.planned(device.has_flash_mask)
    memory = sum(counts.memory(measurement.shape, run, stage=0, cards=1).values())
    fact(f"{measurement.memory / 1e9:.1f} GB, estimated {memory / 1e9:.1f}")
    if quick:
        return
    aligned = aligned_loss_seconds(engine, measurement.masked) / seconds_of_loss
    fact(f"the loss with a multiple of 64 words takes {aligned:.0%} of its time")
    speed = 1.0  # as a share of what is estimated
    card = listed_card()
    if card:
        seconds = sum(counts.seconds_of(counts.pretraining_parts(measurement.shape, run, 1), card).values())
        host, parts = counts.fine_tuning_step(BASE, XNLI_ROWS * XNLI_LENGTH, XNLI_LENGTH, card)
        xnli = max(host, sum(parts.values()))
        fact(f"estimated {measurement.tokens / seconds:,.0f} tokens/s, XNLI {1e3 * xnli:.0f} ms")
        speed = seconds / measurement.seconds
    for warning in warnings_of(speed, margin, measurement.memory / memory, aligned):
        fact(warning)


def measure(device: Device, engine: Engine, rows: int, length: int) -> Measurement:
    """Make some steps of pre-training, with so many rows of this length in each micro-batch."""
    config = engine.model.ernie_m.config
    began = time.perf_counter()
    batches = [full_rows(rows, length, config.vocab_size, seed) for seed in range(MICRO_BATCHES)]
    reading = time.perf_counter() - began
    masked = sum(len(batch.targets) for batch in batches)

    def loss(batch: DeviceBatch) -> tuple[Tensor, dict]:
        return masked_lm_loss(engine.model, batch).total / masked, {}

    def step() -> None:
        with engine.autocast():
            sent = to_device(batches)
        engine.step(sent, loss)

    if device.is_card:
        paddle.device.cuda.reset_max_memory_allocated()
    step()  # makes the moments
    seconds = seconds_of(step, repeats=3)
    memory = paddle.device.cuda.max_memory_allocated() if device.is_card else 0.0
    shape = ModelShape(
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        languages=len(LANGUAGES),
    )
    return Measurement(shape, rows, length, masked, seconds, reading, memory)


def rows_of_a_micro_batch(device: Device, quick: bool) -> tuple[int, int]:
    """The number of rows, and their length in tokens.

    Cards without FlashMask have fewer rows: attention keeps all scores there, and base needs about 15 GB for
    8,192 tokens (docs/scale.md), which do not fit into cards of 16 GB.
    """
    if quick:
        return 2, 32
    if not device.is_card:
        return 2, 512
    rows = 16 if device.has_flash_mask else 4
    return rows, 512


def warnings_of(speed: float, margin: float, memory: float, aligned: float) -> list[str]:
    """What is unusually slow or large, in words.

    Args:
        speed: as a share of what is estimated.
        margin: the time of a step, in times of the reader for its batches.
        memory: as a share of what is estimated.
        aligned: the time of the loss with a multiple of 64 words, as a share of that with the vocabulary.
    """
    is_true = {
        "slow: look at nvidia-smi for another program, heat, or a power limit": speed < LOW_SPEED,
        "the card will wait for its reader": margin < LOW_MARGIN,
        "more memory than benchmarks/estimate.py computes": memory > MUCH_MEMORY,
        f"the loss is slow although its word table is padded; {REPORT}": aligned < LOW_ALIGNED,
    }
    return [f"warning: {text}" for text, holds in is_true.items() if holds]


def loss_seconds(engine: Engine, masked: int) -> float:
    """The time of the loss alone in a step with so many masked tokens."""
    head = engine.model.lm_head
    config = engine.model.ernie_m.config
    size = math.ceil(masked / MICRO_BATCHES)  # masked tokens of a micro-batch
    labels = paddle.randint(0, config.vocab_size, [size])
    hidden = paddle.randn([size, config.hidden_size])
    hidden.stop_gradient = False

    def work() -> None:
        with engine.autocast():
            total = head.loss(hidden, labels).total
        total.backward()
        for parameter in [*head.parameters(), head.word_embeddings.weight]:
            parameter.grad = None

    work()
    return MICRO_BATCHES * seconds_of(work, repeats=3)


def aligned_loss_seconds(engine: Engine, masked: int) -> float:
    """The time of the loss if the vocabulary is rounded up to a multiple of 64 words."""
    words = math.ceil(engine.model.ernie_m.config.vocab_size / 64) * 64
    shape = {**toys.BASE_SHAPE, "vocab_size": words, "num_hidden_layers": 1}
    model = toys.make_model("float32", shape=shape)
    return loss_seconds(toys.engine_for(model, engine.precision), masked)
