"""A forked process has none of its parent's threads; it computes the same bits all the same."""

import multiprocessing
from functools import cache

import numpy as np
import paddle

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.optimization import build_optimizer
from ernie_m.training.engine import Engine
from ernie_m.vectors.encode import PaddleEncoder
from tests.helpers.batches import compute_classifier_loss

FORK = multiprocessing.get_context("fork")
SECONDS = 300  # after which a process hangs


@cache
def engine() -> Engine:
    """Made before a fork, so that the processes share it."""
    paddle.seed(1)
    shape = ErnieMConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    model = SequenceClassifier(shape, 3)
    return Engine(model, build_optimizer(model, 1e-2))


def work() -> list[float]:
    """The vectors of sentences, and the weights after a further step of training, each in both threads."""
    rng = np.random.default_rng(0)
    batches = [(rng.integers(4, 50, [4, 9]), rng.integers(0, 3, 4)) for _ in range(3)]
    sentences = [[0, *ids.tolist(), 2] for part, _ in batches for ids in part]
    vectors = PaddleEncoder(engine().model.ernie_m, "mean_without_special", 2).encode(
        sentences, batch_tokens=33
    )
    engine().step(batches, compute_classifier_loss)
    weights = [weight.numpy() for weight in engine().model.parameters()]
    return np.concatenate([array.ravel() for array in (vectors, *weights)]).tolist()


def test_a_forked_process_computes_the_same(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    work()  # makes all threads
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: sender.send(work()), daemon=True)
    process.start()
    sender.close()  # then `receiver` ends with the process
    assert receiver.poll(SECONDS)
    assert receiver.recv() == work()
