"""Updating some rows of the embedding matrix equals Paddle's AdamW on the whole table."""

import gc
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.cpu import embedding_gradient, lazy_adamw
from ernie_m.model.cpu.numpy_views import as_array
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.optimization import build_optimizer
from ernie_m.training import distributed
from ernie_m.training.engine import Engine
from tests.helpers.batches import compute_classifier_loss
from tests.helpers.caches import nothing_cached
from tests.training.toy_training import get_state

WORDS = 60
STEPS = 6
CONFIG = ErnieMConfig(vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)


class ToyRun:
    """A fine-tuning of a toy model. Each step has other words, some of them new."""

    def __init__(self):
        paddle.seed(0)
        self.model = SequenceClassifier(CONFIG, 3)
        optimizer = build_optimizer(self.model, 1e-2, weight_decay=0.1, layerwise_lr_decay=0.5)
        self.engine = Engine(self.model, optimizer, clip_norm=0.1)
        self.table = self.model.ernie_m.embeddings.word_embeddings.weight

    def train(self, first: int, last: int) -> None:
        for number in range(first, last):
            rng = np.random.default_rng(number)
            ids = rng.integers(4, WORDS, [2, 4])
            ids[1, 2:] = 1  # pads: this row is read, but has no gradient
            self.engine.step([(ids, rng.integers(0, 3, 2))], compute_classifier_loss)

    def state(self) -> dict[str, np.ndarray]:
        tensors = self.model.state_dict() | self.engine.state_dict()["optimizer"]
        return {name: tensor.numpy() for name, tensor in tensors.items()}


def assert_same_bits(state: dict, expected: dict):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].tobytes() == value.tobytes(), name


def test_updating_the_whole_table_gives_the_same_bits(monkeypatch):
    """The whole table is updated if a larger share of its rows than LARGEST_SHARE has moments.

    A share is never above 2, and always above -1.
    """
    states = []
    for share in (-1.0, lazy_adamw.LARGEST_SHARE, 2.0):
        monkeypatch.setattr(lazy_adamw, "LARGEST_SHARE", share)
        toy_run = ToyRun()
        toy_run.train(0, STEPS)
        states.append(toy_run.state())
    always, by_default, never = states
    assert_same_bits(by_default, always)
    assert_same_bits(never, always)


def test_rows_that_got_moments_in_a_whole_update_are_updated_later(float64, monkeypatch):
    """In step 2 any row may have a gradient, so the whole table is updated."""
    by_rows = ToyRun()
    by_rows.train(0, STEPS)
    mixed = ToyRun()
    mixed.train(0, 2)
    with monkeypatch.context() as patched:
        patched.setattr(embedding_gradient.EmbeddingGradient, "find_nonzero_rows", lambda *args: None)
        mixed.train(2, 3)
    mixed.train(3, STEPS)
    for name, value in by_rows.state().items():
        assert np.abs(value - mixed.state()[name]).max() < 1e-9, name


def test_resume_from_a_saved_state():
    straight = ToyRun()
    straight.train(0, STEPS)
    first = ToyRun()
    first.train(0, 3)
    after_other_words = ToyRun()
    after_other_words.train(10, 11)  # other rows have moments, until the state is loaded
    for resumed in (ToyRun(), after_other_words):
        resumed.model.set_state_dict(first.model.state_dict())
        resumed.engine.load_state_dict(get_state(first.engine))
        resumed.train(3, STEPS)
        assert_same_bits(straight.state(), resumed.state())


def test_words_that_another_process_has_looked_up_are_updated(monkeypatch):
    """After the sum over the processes any row may have a gradient, as if the table were updated whole."""
    states = []
    for as_whole in (False, True):
        with monkeypatch.context() as patch:
            if as_whole:
                patch.setattr(embedding_gradient.EmbeddingGradient, "find_nonzero_rows", lambda *args: None)
            toy_run = ToyRun()

            def add_theirs(trained, toy_run=toy_run):
                as_array(toy_run.table.grad)[WORDS - 1] += 1  # a word that this process did not look up

            processes = iter([2])  # in `step`; the totals are of one
            patch.setattr(distributed, "world_size", lambda processes=processes: next(processes, 1))
            patch.setattr(embedding_gradient.dist, "get_world_size", lambda: 2)
            patch.setattr(distributed, "sum_gradients", add_theirs)
            toy_run.engine.step([(np.full([2, 4], 4), np.array([0, 1]))], compute_classifier_loss)
            states.append(toy_run.state())
    assert_same_bits(*states)


@pytest.mark.parametrize(
    ("change", "location"),
    [("is gone", "adamw_"), ("another order", "moment1"), ("smaller moments", "moment2 of 2 rows")],
)
def test_a_private_function_that_has_changed_is_not_called(float64, monkeypatch, caplog, change, location):
    """Paddle's AdamW, which knows it, updates the whole table to the same numbers; one line says so."""
    caplog.set_level("WARNING")
    honest = paddle._C_ops.adamw_

    def changed(table, gradient, lr, moment1, moment2, *others):
        if change == "another order":
            honest(table, gradient, lr, moment2, moment1, *others)
        else:
            honest(table, gradient, lr, moment1, moment2, *others)
            moment2.scale_(0.5)

    by_rows = ToyRun()
    by_rows.train(0, STEPS)
    monkeypatch.setattr(sys.modules["paddle.optimizer.adamw"], "_C_ops", SimpleNamespace(adamw_=honest))
    monkeypatch.setattr(paddle._C_ops, "adamw_", changed)
    if change == "is gone":
        monkeypatch.delattr(paddle._C_ops, "adamw_")
    with nothing_cached(lazy_adamw.is_supported):
        whole, _ = ToyRun(), ToyRun()
    whole.train(0, STEPS)
    for name, value in by_rows.state().items():
        np.testing.assert_allclose(whole.state()[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    (line,) = [record.message for record in caplog.records]
    assert "by Paddle's AdamW" in line and location in line


def test_a_training_that_has_ended_keeps_nothing():
    """A process trains a model for each seed or fold; no layers and parameters of an earlier one stay."""
    ended = ToyRun()
    ended.train(0, 2)
    parts = [
        weakref.ref(part)
        for part in (*ended.model.sublayers(include_self=True), *ended.model.parameters(), ended.engine)
    ]
    del ended
    gc.collect()
    assert [part() for part in parts if part() is not None] == []
