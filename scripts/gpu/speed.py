"""Tokens per second, share of the peak and memory of base, beside what `benchmarks/plan.py` plans."""

import re
import time
from functools import partial

import numpy as np
import paddle
from paddle import Tensor

from benchmarks import plan
from benchmarks.estimate import CARDS, ModelShape
from model import device
from pretrain.batch import Batch
from pretrain.config import ObjectiveConfig
from pretrain.loss import DeviceBatch, masked_lm_loss, to_device
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, SecondLanguage, Text
from scripts.gpu import toys
from scripts.gpu.step import classifier_engine, seconds_of, xnli_step
from scripts.gpu.training import amps
from training.engine import Engine
from training.precision import Precision

LOW_SHARE = 0.2  # of the card's peak
LOW_MARGIN = 2.0  # of the reader over the card
MUCH_MEMORY = 1.3  # of what is planned
MICRO_BATCHES = 4


def peak_of_the_device() -> tuple[float, str]:
    """The FLOP/s of the device in use, and their source.

    This is the card's data sheet (dense products in half precision), or else the speed of a large product.
    """
    if device.on_gpu():
        card_in_use = paddle.device.cuda.get_device_name()
        for name, card in CARDS.items():
            if re.search(rf"\b{name}\b", card_in_use):  # L4 is not in "L40S"
                return card.tflops * 1e12, f"the {name}'s {card.tflops} TFLOP/s"
    size = 8192 if device.on_gpu() else 768
    x = paddle.ones([size, size], "float16" if device.on_gpu() else "float32")
    seconds = seconds_of(lambda: float(paddle.matmul(x, x)[0, 0]))
    return 2 * size**3 / seconds, "the speed of a large product"


def full_rows(count: int, length: int, words: int, seed: int) -> Batch:
    """Masked rows of one length, whose ids are as frequent as words are (Zipf)."""
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=words - 1, size=words)
    second = SecondLanguage(toys.LANGUAGES, {(0, 1): 1})
    objectives = Objectives(ObjectiveConfig(), vocabulary, 512, "masks", second)
    ids = 4 + rng.zipf(1.2, [count, length - 2]) % (words - 5)
    generators = [generator(seed, 1, row) for row in range(count)]
    return objectives.batch("mmlm", [Text(row, 0) for row in ids], generators)


def check_speed(quick: bool) -> str:
    """Steps of base: pre-training with four micro-batches, and XNLI."""
    amp = amps()[0]
    facts = [f"{'tiny' if quick else 'base'} size, amp {amp}"]
    facts += pretraining_speed(quick, amp)
    engine = classifier_engine(quick, amp)
    xnli_step(engine)
    facts.append(f"XNLI {1e3 * seconds_of(partial(xnli_step, engine)):.1f} ms a step")
    return "; ".join(facts)


def pretraining_speed(quick: bool, amp: str) -> list[str]:
    """Tokens per second, share of the peak, of the loss, memory and the reader, each in words."""
    shape = toys.SHAPE if quick else toys.BASE_SHAPE
    words = shape["vocab_size"]
    rows, length = rows_of_a_micro_batch(quick)
    began = time.perf_counter()
    batches = [full_rows(rows, length, words, seed) for seed in range(MICRO_BATCHES)]
    reading = time.perf_counter() - began
    masked = sum(len(batch.targets) for batch in batches)
    model = toys.make_model("float32", 0.1, shape)
    engine = toys.engine_for(model, Precision(amp))

    def loss(batch: DeviceBatch) -> tuple[Tensor, dict]:
        return masked_lm_loss(model, batch).total / masked, {}

    def step() -> None:
        with engine.autocast():
            sent = to_device(batches)
        engine.step(sent, loss)

    if device.on_gpu():
        paddle.device.cuda.reset_max_memory_allocated()
    step()
    seconds = seconds_of(step, repeats=3)
    tokens = MICRO_BATCHES * rows * length
    planned_shape = ModelShape(
        shape["hidden_size"], shape["num_hidden_layers"], shape["num_attention_heads"], words, 3
    )
    peak, source = peak_of_the_device()
    flops = 6 * (planned_shape.matrices * tokens + planned_shape.table * masked)
    share = flops / seconds / peak
    facts = [f"{tokens / seconds:,.0f} tokens/s", f"{share:.0%} of {source}"]
    warnings = []
    if device.on_gpu():
        used = paddle.device.cuda.max_memory_allocated() / 1e9
        run = plan.PlannedRun(rows, length, rows * length, 1, "O1", False, device.flash_in(half=True))
        planned = sum(plan.memory(planned_shape, run, 0, 1).values()) / 1e9
        facts.append(f"{used:.1f} GB, planned {planned:.1f}")
        warnings = warnings_of(share, seconds / reading, used / planned)
    of_loss = loss_seconds(engine, masked)
    facts.append(f"the loss takes {of_loss / seconds:.0%}")
    facts.append(f"the reader is {seconds / reading:.1f} times as fast")
    if device.on_gpu() and not quick:
        facts.append(
            f"the loss with a multiple of 64 words {aligned_loss_seconds(engine, masked) / of_loss:.0%}"
        )
    return facts if quick else facts + warnings


def rows_of_a_micro_batch(quick: bool) -> tuple[int, int]:
    """Rows and their length. Without FlashMask a V100 has no room for more than 2,048 tokens."""
    if quick or not device.on_gpu():
        return 2, 32 if quick else 512
    return (16, 512) if device.flash_in(half=True) else (4, 512)


def warnings_of(share: float, margin: float, memory: float) -> list[str]:
    """What is unusually slow or large, in words."""
    texts = {
        "low: look at nvidia-smi for another program, heat, or a power limit": share < LOW_SHARE,
        "the card will wait for its reader": margin < LOW_MARGIN,
        "more memory than benchmarks/plan.py computes": memory > MUCH_MEMORY,
    }
    return [f"warning: {text}" for text, holds in texts.items() if holds]


def loss_seconds(engine: Engine, masked: int) -> float:
    """The time of the loss alone in a step with so many masked tokens."""
    head = engine.model.lm_head
    config = engine.model.ernie_m.config
    size = -(-masked // MICRO_BATCHES)  # of a micro-batch
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
    words = engine.model.ernie_m.config.vocab_size
    shape = {**toys.BASE_SHAPE, "vocab_size": -(-words // 64) * 64, "num_hidden_layers": 1}
    model = toys.make_model("float32", shape=shape)
    return loss_seconds(toys.engine_for(model, engine.precision), masked)
