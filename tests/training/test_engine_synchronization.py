"""How often a step makes the host wait for the device: uploads of arrays, and values that are read back."""

import math
from collections import Counter

import numpy as np
import paddle
import pytest

from ernie_m.finetune.classifier import Classification
from ernie_m.model import kernel_selection
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.optimization import AdamW, build_optimizer
from ernie_m.pretrain.batches import StepBatches
from ernie_m.pretrain.btmlm_pseudo_tokens import PseudoTokenGenerator
from ernie_m.pretrain.loss import list_sum_names
from ernie_m.pretrain.pretraining import compute_objectives_loss, copy_step_to_device
from ernie_m.reader.text_featurizer import ExampleBatch
from ernie_m.training import distributed
from ernie_m.training.engine import Engine, StepResult
from ernie_m.training.precision import Precision
from tests.pretrain.examples import LANGUAGES, make_batch_with_all, masked_counts, objectives

# The methods with which the host reads a tensor.
READING = ("numpy", "item", "tolist", "__array__", "__bool__", "__int__", "__float__", "__index__")
CONFIG = ErnieMConfig(
    vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=70
)
ALLOWED = [np.arange(4, 90)] * 3  # the pseudo-tokens that each of three languages may have


class Events(list):
    """What happens, in order: "upload", "backward", "norm", "sum", "read", "update"."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.monkeypatch = monkeypatch

    def begin(self) -> None:
        """From now on the project takes the tensors, which are on a CPU, for those of a GPU in float32."""
        self.monkeypatch.setattr(kernel_selection, "is_on_gpu", lambda: True)
        self.clear()


@pytest.fixture
def events(monkeypatch) -> Events:
    """The events from the call of `begin` on."""
    events = Events(monkeypatch)
    running: list[str] = []  # the events that have begun and not ended

    def record(owner, name: str, event: str) -> None:
        """From now on each call of this function of a class or module is an event."""
        original = getattr(owner, name)

        def call(*args, **options):
            if "read" not in running and "upload" not in running:  # tolist() calls numpy(): one read
                events.append(event)
            running.append(event)
            try:
                return original(*args, **options)
            finally:
                running.pop()

        monkeypatch.setattr(owner, name, call)

    for name in READING:
        record(paddle.Tensor, name, "read")
    record(paddle, "to_tensor", "upload")
    record(paddle.Tensor, "set_value", "upload")
    record(paddle.Tensor, "backward", "backward")
    record(Engine, "_squared_norm", "norm")
    record(AdamW, "step", "update")
    monkeypatch.setattr(kernel_selection, "_load_cpu", lambda: kernel_selection._PLAIN)
    return events


def choose_engine(model, **options) -> Engine:
    return Engine(model, build_optimizer(model, 1e-3), **options)


def train_step(engine: Engine, pseudo_tokens: PseudoTokenGenerator, step_batches: StepBatches) -> StepResult:
    """Do a pre-training step as `ernie_m.training.trainer.Trainer` does."""
    return engine.step(
        copy_step_to_device(step_batches),
        lambda model, batch: compute_objectives_loss(model, pseudo_tokens, batch),
    )


def two_micro_batches() -> StepBatches:
    """A step with two micro-batches of all objectives."""
    batches = [make_batch_with_all(objectives(), seed) for seed in (1, 2)]
    counts: Counter = Counter()  # of each objective in the step
    for batch in batches:
        counts.update(masked_counts(batch))
    return StepBatches(batches, dict.fromkeys(counts, 0.25), counts, position={})


@pytest.mark.parametrize(("processes", "stage"), [(1, 0), (2, 0), (2, 1)])
def test_pre_training_uploads_once_and_reads_once(events, monkeypatch, processes, stage):
    """Of several processes the stop request, the counts, the norm and the sums travel together."""
    model = PreTrainingModel(CONFIG, LANGUAGES)
    engine = choose_engine(model, sums=list_sum_names())
    if stage:  # process 0 owns every parameter
        monkeypatch.setattr(engine, "is_sharded", True)
        monkeypatch.setattr(engine, "_owners", {parameter.name: 0 for parameter in model.parameters()})
    monkeypatch.setattr(
        distributed, "reduce_gradients", lambda parameters, owners: events.append("gradients")
    )
    monkeypatch.setattr(distributed, "broadcast_weights", lambda parameters, owners: None)
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    monkeypatch.setattr(distributed, "sum_gradients", lambda parameters: events.append("gradients"))
    monkeypatch.setattr(paddle.distributed, "all_reduce", lambda tensor: events.append("sum"))
    float(paddle.ones([2]).sum())  # a read
    assert events[-1] == "read", "the fixture should record a read"
    after_backward = ["norm", "read"] if processes == 1 else ["gradients", "norm", "sum", "read"]
    expected = ["upload", "backward", "backward", *after_backward, "update"]
    pseudo_tokens = PseudoTokenGenerator(ALLOWED, 0.7)
    step_batches = two_micro_batches()
    for _ in range(2):  # the second step has moments
        events.begin()
        step = train_step(engine, pseudo_tokens, step_batches)
        assert events == expected
    assert step.sums["btmlm.count"] == step_batches.counts["btmlm"]
    assert step.sums["btmlm.loss"] > 0
    assert model.ernie_m.pooler.dense.weight.grad is None  # no process used it


@pytest.mark.parametrize(("rank", "stage"), [(0, 0), (1, 0), (1, 1)])
def test_float16_is_unscaled_and_skipped_on_every_process(monkeypatch, fp16, rank, stage):
    """The gradient is 1 for each of 3 x 2 weights. In stage 1 process 0 owns them all.

    The sum over the processes is a stand-in that returns the same squared norm to both: that of a scaled
    gradient of norm 1, which is clipped to 0.001, then one that overflowed on one of them.
    """
    model = paddle.nn.Linear(3, 2)
    scaling = {"init_loss_scaling": 1024.0}
    engine = choose_engine(model, precision=Precision("fp16", loss_scaling=scaling), clip_norm=1e-3)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "is_main", lambda: rank == 0)
    monkeypatch.setattr(distributed, "sum_gradients", lambda parameters: None)
    if stage:
        monkeypatch.setattr(engine, "is_sharded", True)
        monkeypatch.setattr(distributed, "reduce_gradients", lambda parameters, owners: None)
        monkeypatch.setattr(distributed, "broadcast_weights", lambda parameters, owners: None)
    squared_norms = iter([1024.0**2, math.inf])

    def all_reduce(totals):
        totals[1] = next(squared_norms)  # after the loss

    norms = []  # of the gradient with which AdamW is called, if there is one
    update = AdamW.step

    def step(optimizer):
        if model.weight.grad is not None:
            norms.append(paddle.linalg.norm(model.weight.grad).item())
        update(optimizer)

    monkeypatch.setattr(paddle.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(AdamW, "step", step)
    done = engine.step([paddle.ones([1, 3])], lambda model, x: (model(x).sum(), {}))
    assert done.grad_norm == 1.0 and not done.skipped
    assert norms == ([] if stage else [pytest.approx(6**0.5 * 1e-3)])
    before = model.weight.numpy()
    assert engine.step([paddle.ones([1, 3])], lambda model, x: (model(x).sum(), {})).skipped
    assert (model.weight.numpy() == before).all()
    assert engine.scaler.state_dict()["decr_count"] == 1


def test_fine_tuning_reads_when_all_is_on_its_way(events):
    model = SequenceClassifier(CONFIG, 3)
    engine = choose_engine(model, sums=("correct", "count"))
    task = Classification(None, ["a", "b", "c"], 9)  # no tokenizer, three labels, at most 9 tokens
    micro_batches = np.random.default_rng(0).integers(4, 90, [2, 2, 9])  # two of [B, T]
    labels = np.array([0, 2])
    numbers = np.arange(2)
    events.begin()
    batches = [ExampleBatch(ids, labels, numbers, count=4) for ids in micro_batches]
    engine.step(task.send_batches(model, batches), task.loss)
    assert events == ["upload", "backward", "backward", "norm", "read", "update"]
