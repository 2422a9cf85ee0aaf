"""Models with equal weights in every type, batches of them, and steps of every objective and task."""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

from ernie_m.finetune.classifier import Classification, MultiLabelClassification, Regression
from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.finetune.mrc import QuestionAnswering
from ernie_m.finetune.retrieval.contrastive_training import PairBatch, RetrievalTraining
from ernie_m.finetune.retrieval.pair_batches import PairStep
from ernie_m.finetune.run_setup import SUMS as SUMS_OF_TASKS
from ernie_m.finetune.sequence_label import Tagging
from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.device_transfer import to_array
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.heads import make_model_with_head
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.optimization import build_optimizer
from ernie_m.pretrain.batches import StepBatches
from ernie_m.pretrain.btmlm_pseudo_tokens import PseudoTokenGenerator
from ernie_m.pretrain.loss import list_sum_names
from ernie_m.pretrain.masking import Pair, Text
from ernie_m.pretrain.objectives import OF_THE_PAPER, get_objective_class
from ernie_m.pretrain.packing import MicroBatch
from ernie_m.pretrain.pretraining import compute_objectives_loss, copy_step_to_device
from ernie_m.reader.mrc_reader import WindowConfig
from ernie_m.reader.tagging_featurizer import IGNORED
from ernie_m.reader.text_featurizer import ExampleBatch
from ernie_m.training import distributed
from ernie_m.training.engine import Engine, StepResult
from ernie_m.training.precision import Precision
from tests.pretrain.examples import FIRST_ORDINARY_ID, LANGUAGES, VOCABULARY, objectives, rngs

SEED = 1  # of weights and data
# The gradients of the toys are up to 2 times the loss scale: with the official 102,400 more than the 65,504
# that float16 holds.
SCALING = {"init_loss_scaling": 1024}
OVERFLOW_SCALING = {"init_loss_scaling": 1024, "decr_every_n_nan_or_inf": 1, "decr_ratio": 0.5}
SHAPE = {
    "vocab_size": VOCABULARY.size,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
ROWS = 8  # of a batch of sentences
LONGEST = 24  # tokens of a sentence


class ToyTask(NamedTuple):
    """A task with labeled files."""

    task: FinetuningTask
    labels: Callable[[np.random.Generator, np.ndarray], np.ndarray]  # of a batch of ids


class AnswerBatch(NamedTuple):
    """What question answering reads of its batches."""

    input_ids: np.ndarray
    answers: np.ndarray
    count: int


def _classes(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    return rng.integers(0, 3, len(ids))


def _tags(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    return np.where(ids == VOCABULARY.pad_id, IGNORED, rng.integers(0, 5, ids.shape))


def _numbers(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    return rng.random(len(ids)).astype(np.float32)


def _draw_label_sets(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    return rng.integers(0, 2, [len(ids), 3]).astype(np.float32)


def _answers(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    return np.sort(rng.integers(0, LONGEST // 2, [len(ids), 2]))


def toy_tasks() -> dict[str, ToyTask]:
    """Name -> task. They read no text, so of a tokenizer they need the special ids alone."""
    tokenizer: Any = SimpleNamespace(
        cls_id=VOCABULARY.cls_id, sep_id=VOCABULARY.sep_id, pad_id=VOCABULARY.pad_id, vocab={}
    )
    cut = WindowConfig(LONGEST, max_query_length=8, doc_stride=4)
    return {
        "classification": ToyTask(Classification(tokenizer, "abc", LONGEST), _classes),
        "several labels": ToyTask(MultiLabelClassification(tokenizer, "abc", LONGEST), _draw_label_sets),
        "regression": ToyTask(Regression(tokenizer, LONGEST), _numbers),
        "tagging": ToyTask(Tagging(tokenizer, ["B-A", "I-A", "B-B", "I-B", "O"], LONGEST), _tags),
        "answering": ToyTask(QuestionAnswering(tokenizer, cut, 10, 1), _answers),
    }


SEARCH = ("hardest_negative_bce", "in_batch_softmax")  # --loss of run_retrieval.py
NAMES = (*OF_THE_PAPER, *toy_tasks(), *(f"retrieval by {loss}" for loss in SEARCH))


def train_and_evaluate(
    name: str, dtype: str, precision: Precision, initializer_range: float = 0.02, steps: int = 2
) -> list[float]:
    """Train on one of NAMES, then evaluate.

    Args:
        dtype: of the weights at first.
        initializer_range: their deviation. With the usual one attention does little, and with a large one
            rounding in half precision does much.

    Returns:
        The losses of all steps and a held-out one of the model as it predicts; the norms of the gradients,
        because AdamW hides gradients of a wrong size; the norm of the weights in a checkpoint.
    """
    if name in OF_THE_PAPER:
        engine = engine_for(make_model(dtype, initializer_range=initializer_range), precision)
        compute_loss = make_objectives_loss()
        held_out = partial(send_micro_batches, engine, name)
    elif name in toy_tasks():
        toy = toy_tasks()[name]
        engine = engine_for(make_task_model(toy, dtype, initializer_range), precision)
        compute_loss = toy.task.loss
        held_out = partial(send_task_batches, engine, toy)
    else:
        paddle.seed(SEED)
        model = ErnieMModel(make_config(initializer_range=max(0.1, initializer_range))).to(dtype=dtype)
        engine = engine_for(model, precision)
        retrieval = make_retrieval(name.removeprefix("retrieval by "))
        compute_loss = retrieval.loss
        held_out = partial(send_pairs, engine, retrieval)
    results = losses_and_norms([engine.step(held_out(), compute_loss) for _ in range(steps)])
    weights = np.concatenate([array.ravel() for array in get_weight_arrays(engine.model).values()])
    results.append(float(np.linalg.norm(weights)))
    engine.model.eval()
    with paddle.no_grad(), engine.autocast():
        evaluated = [float(to_array(compute_loss(engine.model, batch)[0])) for batch in held_out()]
    return [*results[:steps], *evaluated, *results[steps:]]


def train_task(name: str, stage: int, steps: int) -> list[float]:
    """Train a model of one of `toy_tasks` in float64; returns losses, then norms.

    Args:
        stage: of sharding.
    """
    toy = toy_tasks()[name]
    engine = engine_for(make_task_model(toy, "float64"), stage=stage)
    return losses_and_norms(
        [engine.step(send_task_batches(engine, toy), toy.task.loss) for _ in range(steps)]
    )


def make_task_model(toy: ToyTask, dtype: str, initializer_range: float = 0.02) -> nn.Layer:
    """A model of a task; its weights are the same in every type."""
    paddle.seed(SEED)
    config = make_config(initializer_range=initializer_range)
    return make_model_with_head(toy.task.name, config, len(toy.task.labels or "")).to(dtype=dtype)


def make_config(dropout: float = 0.0, initializer_range: float = 0.02) -> ErnieMConfig:
    """The configuration of a toy."""
    return ErnieMConfig(
        **SHAPE,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=initializer_range,
    )


def make_model(dtype: str, **options: Any) -> PreTrainingModel:
    """A pre-training model; its weights are the same in every type.

    Args:
        options: for `make_config`.
    """
    paddle.seed(SEED)
    return PreTrainingModel(make_config(**options), LANGUAGES).to(dtype=dtype)


def engine_for(model: nn.Layer, precision: Precision | None = None, stage: int = 0) -> Engine:
    """An engine for this model."""
    return Engine(
        model,
        build_optimizer(model, peak_lr=1e-3),
        seed=1,
        precision=precision,
        sharding_stage=stage,
        sums=(*list_sum_names(), *SUMS_OF_TASKS),
    )


def pseudo_tokens() -> PseudoTokenGenerator:
    """Of BTMLM: any subword may be chosen."""
    return PseudoTokenGenerator([VOCABULARY.ordinary_ids] * len(LANGUAGES))


def make_objectives_loss():
    """The loss of a micro-batch of pre-training, for `Engine.step`."""
    generator = pseudo_tokens()
    return lambda model, batch: compute_objectives_loss(model, generator, batch)


def train(engine: Engine, objective: str, last: int) -> list[float]:
    """Train up to step `last` on one objective, with two micro-batches a step on all processes together.

    Returns:
        The losses of all steps, then the norms of their gradients.
    """
    compute_loss = make_objectives_loss()
    steps = []
    while engine.steps < last:
        steps.append(engine.step(send_micro_batches(engine, objective), compute_loss))
    return losses_and_norms(steps)


def losses_and_norms(steps: Sequence[StepResult]) -> list[float]:
    """The losses of all steps, then the norms of all gradients."""
    return [step.loss for step in steps] + [step.grad_norm for step in steps]


def make_batch(objective: str, step: int, count: int = 4, length_limit: int = 20) -> MicroBatch:
    """Random texts or pairs of a step, masked. Their lengths are below the limit."""
    rng = np.random.default_rng([SEED, OF_THE_PAPER.index(objective), step])

    def text(language: int) -> Text:
        length = rng.integers(length_limit // 2, length_limit)
        return Text(rng.integers(FIRST_ORDINARY_ID, VOCABULARY.mask_id, length), language)

    if get_objective_class(objective).reads is Text:
        examples: list[Text | Pair] = [text(language=0) for _ in range(count)]
    else:
        examples = [Pair(text(language=0), text(language=1)) for _ in range(count)]
    return objectives(max_seq_len=512)[objective].make_batch(examples, rngs(count, step=step))


def send_micro_batches(engine: Engine, objective: str) -> list[MicroBatch]:
    """This process's micro-batches of the engine's next step, on the device; all processes have two."""
    first = 2 * engine.steps  # the number of the step's first micro-batch, counted over all steps
    batches = [make_batch(objective, step=number) for number in (first, first + 1)]
    count = sum(len(batch.targets) for batch in batches)  # masked tokens, over all processes
    # The processes take the micro-batches in turn.
    own_batches = batches[distributed.rank() :: distributed.world_size()]
    with engine.autocast():  # in half precision a batch holds other arrays, for FlashMask
        step = StepBatches(own_batches, share={objective: 1.0}, counts={objective: count}, position={})
        return copy_step_to_device(step)


def padded_ids(rows: int, seed: int) -> np.ndarray:
    """Ids of sentences of different lengths, int64 [rows, LONGEST], padded on the right."""
    rng = np.random.default_rng([SEED, seed])
    ids = rng.integers(FIRST_ORDINARY_ID, VOCABULARY.mask_id, [rows, LONGEST])
    for row in range(1, rows):  # row 0 has the greatest length
        ids[row, rng.integers(LONGEST // 2, LONGEST) :] = VOCABULARY.pad_id
    return ids


def send_task_batches(engine: Engine, toy: ToyTask) -> list[tuple]:
    """This process's part of two micro-batches of the engine's next step, on the device."""
    batches: list[Any] = []
    for number in (2 * engine.steps, 2 * engine.steps + 1):
        ids = padded_ids(ROWS, seed=number)
        labels = toy.labels(np.random.default_rng([SEED, number]), ids)
        if isinstance(toy.task, QuestionAnswering):
            batches.append(AnswerBatch(ids, labels, count=2 * ROWS))
        else:
            batches.append(ExampleBatch(ids, labels, np.arange(ROWS), count=2 * ROWS))
    with engine.autocast():
        own_batches = batches[distributed.rank() :: distributed.world_size()]
        return toy.task.send_batches(engine.model, own_batches)


def make_retrieval(loss: str) -> RetrievalTraining:
    """The task of this loss, without files: a model and its batches come from here."""
    task = RetrievalTraining.__new__(RetrievalTraining)
    task.flags = SimpleNamespace(
        loss=loss, scale=5.0, offset=0.5, symmetric=True, pooling="mean_without_special"
    )
    task.layer = SHAPE["num_hidden_layers"]
    return task


def send_pairs(engine: Engine, task: RetrievalTraining) -> list[PairBatch]:
    """ROWS sentences and their translations of different lengths, on the device."""
    ids = padded_ids(2 * ROWS, seed=engine.steps)
    sentences = [row[row != VOCABULARY.pad_id] for row in ids]
    # Each pair has one negative: which of several is the hardest, rounding may change. The softmax has all.
    is_pair = np.eye(ROWS, dtype=bool)
    is_softmax = task.flags.loss == "in_batch_softmax"
    negative = ~is_pair if is_softmax else np.roll(is_pair, 1, axis=0)
    with engine.autocast():
        return task.copy_to_device(engine.model, PairStep(sentences, negative, {}, ROWS))
