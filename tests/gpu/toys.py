"""Models with equal weights in every type, batches of them, and a training that the checks repeat."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from evaluation.encode import SentenceBatch, sentence_vectors
from finetune.pair_losses import hardest_negative_bce, in_batch_softmax
from model.batch import TokenBatch
from model.config import ErnieMConfig
from model.device import upload
from model.ernie_m import ErnieMModel
from model.heads import PreTrainingModel, SequenceClassifier, SpanClassifier, TokenClassifier
from model.word_rows import words_of_step
from pretrain.batch import Batch
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.config import OBJECTIVES
from pretrain.loss import DeviceBatch
from pretrain.objectives import Pair, Text
from pretrain.reader import StepBatches
from pretrain.report import SUMS
from pretrain.shares import MONOLINGUAL
from pretrain.task import objectives_loss, send_step
from tests.pretrain.examples import FIRST_ORDINARY_ID, LANGUAGES, VOCABULARY, objectives, rngs
from training import distributed
from training.engine import Engine, Step
from training.optimizer import build_optimizer, linear_warmup_decay
from training.precision import LossScaling, Precision

STEPS = 20  # of a training
FEW_STEPS = 6  # the same with tiny shapes
SEED = 1  # of weights and data
XNLI_ROWS = 32
XNLI_LENGTH = 50  # rows of 25 to 50 tokens, 37 in the mean
FEW_XNLI_ROWS = 6  # the same with tiny shapes
LARGE = 0.3  # the standard deviation of weights, instead of 0.02
LARGE_WEIGHTS = "classifier with large weights"
SHAPE = {
    "vocab_size": VOCABULARY.size,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
BASE_SHAPE = {
    "vocab_size": 250_002,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def config_of(
    shape: dict[str, int] = SHAPE, dropout: float = 0.0, initializer_range: float = 0.02
) -> ErnieMConfig:
    """The configuration of a model of this shape."""
    return ErnieMConfig(
        **shape,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=initializer_range,
    )


def make_model(dtype: str, **options: Any) -> PreTrainingModel:
    """A pre-training model; its weights are the same in every type.

    Args:
        options: for `config_of`.
    """
    paddle.seed(SEED)
    return PreTrainingModel(config_of(**options), LANGUAGES).to(dtype=dtype)


def task_models(dtype: str) -> dict[str, nn.Layer]:
    """A model of each fine-tuning task, with the outputs of XNLI, PAWS-X, CoNLL, PAN-X and MLQA.

    One has large weights, because with small ones the layers do little.
    """
    makers: dict[str, Callable[[], nn.Layer]] = {
        "classifier of 3": lambda: SequenceClassifier(config_of(), num_labels=3),
        "classifier of 2": lambda: SequenceClassifier(config_of(), num_labels=2),
        "tagger of 9": lambda: TokenClassifier(config_of(), num_labels=9),
        "tagger of 7": lambda: TokenClassifier(config_of(), num_labels=7),
        "spans": lambda: SpanClassifier(config_of()),
        LARGE_WEIGHTS: lambda: SequenceClassifier(config_of(initializer_range=LARGE), num_labels=3),
    }
    models = {}
    for name, make in makers.items():
        paddle.seed(SEED)
        models[name] = make().to(dtype=dtype)
    return models


def batch_of(objective: str, step: int, count: int = 8, length_limit: int = 20) -> Batch:
    """Random texts or pairs of a step, masked. Their lengths are below the limit."""
    rng = np.random.default_rng([SEED, OBJECTIVES.index(objective), step])

    def text(language: int) -> Text:
        length = rng.integers(length_limit // 2, length_limit)
        return Text(rng.integers(FIRST_ORDINARY_ID, VOCABULARY.mask_id, length), language)

    if objective in MONOLINGUAL:
        examples: list[Text | Pair] = [text(language=0) for _ in range(count)]
    else:
        examples = [Pair(text(language=0), text(language=1)) for _ in range(count)]
    return objectives(max_seq_len=512).batch(objective, examples, rngs(count, step=step))


def padded_ids(rows: int, longest: int, words: int, seed: int) -> np.ndarray:
    """Ids of sentences of different lengths, int64 [rows, longest], padded on the right.

    Args:
        words: the ids are below it.
    """
    rng = np.random.default_rng([SEED, seed])
    ids = rng.integers(FIRST_ORDINARY_ID, words, [rows, longest])
    for row in range(1, rows):  # row 0 has the greatest length
        length = rng.integers(longest // 2, longest)
        ids[row, length:] = VOCABULARY.pad_id
    return ids


def engine_of(dtype: str, precision: Precision | None = None, stage: int = 0, **options: Any) -> Engine:
    """An engine for a model of `make_model`.

    Args:
        options: for `config_of`.
    """
    return engine_for(make_model(dtype, **options), precision, stage)


def engine_for(model: nn.Layer, precision: Precision | None = None, stage: int = 0) -> Engine:
    """An engine for this model."""
    # After STEPS steps the rate is still far from 0.
    schedule = linear_warmup_decay(warmup_steps=4, total_steps=2 * STEPS)
    optimizer = build_optimizer(model, peak_lr=1e-3, schedule=schedule)
    return Engine(model, optimizer, seed=1, precision=precision, sharding_stage=stage, sums=SUMS)


def train(engine: Engine, objective: str, last: int = STEPS, micro_batches: int = 2) -> list[float]:
    """Train up to step `last` on one objective.

    Args:
        micro_batches: of each step, on all processes together.

    Returns:
        The losses of all steps, then the norms of their gradients, because AdamW hides gradients of a wrong
        size.
    """
    steps = []
    pseudo_tokens = PseudoTokenGenerator(allowed=None, special_ids=VOCABULARY.special_ids)
    while engine.steps < last:
        batches = send_micro_batches(engine, objective, micro_batches)
        steps.append(engine.step(batches, partial(objectives_loss, engine.model, pseudo_tokens)))
    return losses_and_norms(steps)


def send_micro_batches(engine: Engine, objective: str, count: int = 2) -> list[DeviceBatch]:
    """This process's micro-batches of the engine's next step, on the device.

    Args:
        count: of the step's micro-batches, which the processes share.
    """
    first = count * engine.steps  # the number of the step's first micro-batch, counted over all steps
    batches = []
    for number in range(first, first + count):
        batches.append(batch_of(objective, step=number, count=4))  # each is drawn as if it were a step
    # The masked tokens of each objective, over all processes.
    masked_counts = sum(batch.masked_counts for batch in batches).tolist()
    # The processes take the micro-batches in turn.
    batches_of_this_process = batches[distributed.rank() :: distributed.world_size()]
    with engine.autocast():
        step_batches = StepBatches(
            batches_of_this_process, share={objective: 1.0}, masked_counts=masked_counts, position={}
        )
        return send_step(step_batches)


def train_task(model: nn.Layer, amp: str) -> list[float]:
    """Train a fine-tuning model for three steps in this mixed precision; returns what `train` does."""
    # The gradients of the heads' biases are up to 2 times the scale: with the official 102,400 more than the
    # 65,504 that float16 holds.
    engine = engine_for(model, Precision(amp, loss_scaling=LossScaling(init_loss_scaling=1024)))
    steps = []
    for _ in range(3):
        batch = send_sentences(engine, rows=8, longest=24, words=VOCABULARY.mask_id)
        steps.append(engine.step([batch], partial(distance_from_ones, engine.model)))
    return losses_and_norms(steps)


def train_retrieval(dtype: str, amp: str, loss_name: str) -> list[float]:
    """Train sentence vectors for three steps on eight pairs; returns what `train` does.

    Args:
        loss_name: "softmax" or "bce", as the flag of run_retrieval.py.
    """
    paddle.seed(SEED)
    model = ErnieMModel(config_of(initializer_range=0.1)).to(dtype=dtype)
    engine = engine_for(model, Precision(amp, loss_scaling=LossScaling(init_loss_scaling=1024)))
    is_translation = paddle.eye(8).astype("bool")
    # Each pair has one negative for the loss of the hardest: which of several is that, rounding may change.
    one_negative = is_translation.roll(1, axis=0)

    def loss(batch: SentenceBatch) -> tuple[Tensor, dict]:
        vectors = sentence_vectors(model, batch, layer=SHAPE["num_hidden_layers"])  # [16, H]
        if loss_name == "softmax":
            total, _ = in_batch_softmax(
                vectors[:8], vectors[8:], ~is_translation, scale=20.0, both_directions=True
            )
        else:
            total, _ = hardest_negative_bce(vectors[:8], vectors[8:], one_negative, scale=5.0, offset=0.5)
        return total / 8, {}

    steps = []
    for number in range(3):
        ids = padded_ids(rows=16, longest=24, words=VOCABULARY.mask_id, seed=number)
        with engine.autocast():
            batch = upload(SentenceBatch.of(ids, VOCABULARY.pad_id, "mean", words_of_step([ids])))
        steps.append(engine.step([batch], loss))
    return losses_and_norms(steps)


def send_sentences(engine: Engine, rows: int, longest: int, words: int) -> TokenBatch:
    """Sentences of `padded_ids` on the device; each step of the engine has others."""
    with engine.autocast():  # in half precision a batch holds other arrays, for FlashMask
        ids = padded_ids(rows, longest, words, seed=engine.steps)
        return upload(TokenBatch.from_padded(ids, VOCABULARY.pad_id, words_of_step([ids])))


def send_shared_sentences(engine: Engine) -> list[TokenBatch]:
    """This process's part of two micro-batches of sentences, on the device."""
    step = 2 * engine.steps
    all_ids = [padded_ids(8, 24, VOCABULARY.mask_id, seed=number) for number in (step, step + 1)]
    ids_of_this_process = all_ids[distributed.rank() :: distributed.world_size()]
    words = words_of_step(ids_of_this_process)
    return [upload(TokenBatch.from_padded(ids, VOCABULARY.pad_id, words)) for ids in ids_of_this_process]


def losses_and_norms(steps: Sequence[Step]) -> list[float]:
    """The losses of all steps, then the norms of all gradients."""
    return [step.loss for step in steps] + [step.grad_norm for step in steps]


def distance_from_ones(model: nn.Layer, batch: TokenBatch) -> tuple[Tensor, dict]:
    """A loss that reads every output of any head: the mean square of its distance from 1."""
    outputs = model(batch)
    if isinstance(outputs, Tensor):
        outputs = [outputs]
    # A mean in half precision would be too coarse.
    precise = "float64" if model.classifier.weight.dtype == paddle.float64 else "float32"
    squares = [(output.astype(precise) - 1.0).square().mean() for output in outputs]
    return paddle.add_n(squares), {}  # no sums to log


def classifier_engine(quick: bool, amp: str) -> Engine:
    """An engine for XNLI."""
    paddle.seed(SEED)
    shape = SHAPE if quick else BASE_SHAPE
    model = SequenceClassifier(config_of(shape, dropout=0.1), num_labels=3)
    return engine_for(model, Precision(amp))


def send_xnli(engine: Engine) -> TokenBatch:
    """A batch as XNLI has it, on the device; a small one for a tiny model."""
    words = engine.model.ernie_m.config.vocab_size
    rows = FEW_XNLI_ROWS if words == SHAPE["vocab_size"] else XNLI_ROWS
    return send_sentences(engine, rows=rows, longest=XNLI_LENGTH, words=words)


def xnli_loss(engine: Engine, batch: TokenBatch) -> tuple[Tensor, dict]:
    """The loss of a batch with labels 0, 1, 2, 0, 1, ..., and no sums to log."""
    logits = engine.model(batch)
    labels = paddle.arange(len(logits)) % 3
    return F.cross_entropy(logits.astype("float32"), labels), {}


def xnli_step(engine: Engine) -> None:
    """A step of XNLI, with its upload."""
    engine.step([send_xnli(engine)], partial(xnli_loss, engine))
