"""How often a step makes the host wait for the device: each time a tensor's values are read back."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from model import attention, cpu, ernie_m, word_table
from model import layers as ops
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel, SequenceClassifier
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.loss import masked_lm_loss
from tests.pretrain.objective_examples import LANGUAGES, VOCABULARY, objectives, pairs, rngs, texts
from training.engine import Engine
from training.optimizer import AdamW, build_optimizer
from utils import threads

READING = ("numpy", "item", "tolist", "__array__", "__bool__", "__int__", "__float__", "__index__")
CONFIG = ErnieMConfig(
    vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=70
)


@pytest.fixture
def seen(monkeypatch):
    """What happens, in order: "backward", "norm", "read", "update". All tensors are as on a GPU."""
    found = []

    inside = []

    def recorded(what, original):
        def call(*args, **kwargs):
            if not inside:  # tolist() calls numpy(): one read
                found.append(what)
            inside.append(what)
            try:
                return original(*args, **kwargs)
            finally:
                inside.pop()

        return call

    for name in READING:
        monkeypatch.setattr(paddle.Tensor, name, recorded("read", getattr(paddle.Tensor, name)))
    monkeypatch.setattr(paddle.Tensor, "backward", recorded("backward", paddle.Tensor.backward))
    monkeypatch.setattr(threads._Memory, "__init__", recorded("read", threads._Memory.__init__))
    monkeypatch.setattr(paddle, "add_n", recorded("norm", paddle.add_n))
    monkeypatch.setattr(AdamW, "step", recorded("update", AdamW.step))
    for module in (cpu, ops, attention, ernie_m, word_table):
        monkeypatch.setattr(module, "on_cpu", lambda x: False)
    return found


def make_engine(model, **options) -> Engine:
    return Engine(model, build_optimizer(model, 1e-3), **options)


def test_reading_is_seen(seen):
    x = paddle.ones([2])
    assert seen == []
    float(x.sum())
    assert "read" in seen


@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm"])
def test_pre_training_reads_when_all_is_on_its_way(seen, objective):
    model = PreTrainingModel(CONFIG, LANGUAGES)
    engine = make_engine(model)
    examples = texts([20, 9]) if objective == "mmlm" else pairs([(20, 9), (7, 15)])
    batches = [objectives().batch(objective, examples, rngs(2, step=step)) for step in range(3)]
    for _ in range(2):  # the second step has moments
        seen.clear()
        engine.step(batches, lambda batch: (masked_lm_loss(model, batch).total / len(batch.targets), {}))
        assert seen == ["backward"] * 3 + ["norm", "read", "update"]


@pytest.mark.parametrize("allowed", [None, [np.arange(4, 90)] * 3])
def test_pseudo_tokens_are_read_once(seen, allowed):
    model = PreTrainingModel(CONFIG, LANGUAGES)
    generator = PseudoTokenGenerator(allowed, VOCABULARY.special_ids)
    batch = objectives().batch("btmlm", texts([20, 9]), rngs(2))
    seen.clear()
    generator.fill(model, batch)
    assert seen == ["read"]


def test_fine_tuning_reads_when_all_is_on_its_way(seen):
    model = SequenceClassifier(CONFIG, 3)
    engine = make_engine(model, sums=("correct",))
    ids, labels = np.random.default_rng(0).integers(4, 90, [4, 9]), np.array([0, 1, 2, 0])

    def loss_of(rows):
        logits, right = model(ids[rows]), paddle.to_tensor(labels[rows])
        return F.cross_entropy(logits, right), {"correct": (logits.argmax(-1) == right).sum()}

    seen.clear()
    engine.step([slice(0, 2), slice(2, 4)], loss_of)
    assert seen == ["backward"] * 2 + ["norm", "read", "update"]
