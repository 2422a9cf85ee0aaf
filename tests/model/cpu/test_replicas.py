"""Micro-batches in workers, each with a copy of the model: the same bits as one after the other."""

import math
from collections.abc import Callable

import numpy as np
import paddle
import pytest

from ernie_m.model.cpu.numpy_views import get_usable_thread_count
from ernie_m.model.cpu.workers import make_paddle_workers
from ernie_m.model.heads import SequenceClassifier
from ernie_m.pretrain.objectives import OF_THE_PAPER
from ernie_m.training.engine import Engine
from ernie_m.training.precision import Precision, is_bf16_on_cpu
from tests.gpu import toys
from tests.helpers.batches import compute_classifier_loss
from tests.helpers.kernels import needs_mkl

pytestmark = needs_mkl
STEPS = 3
DROPOUT = 0.2


@pytest.fixture
def threads(monkeypatch):
    """threads(n): from now on a step has so many."""
    return lambda count: monkeypatch.setenv("OMP_NUM_THREADS", str(count))


def read_bits(engine: Engine) -> dict[str, bytes]:
    """Those of weights and moments."""
    tensors = engine.parameters | engine.state_dict()["optimizer"]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def classifier(precision: Precision | None = None) -> Engine:
    paddle.seed(1)
    return toys.engine_for(SequenceClassifier(toys.make_config(dropout=DROPOUT), 3), precision)


def micro_batches(step: int, count: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ids and labels of the micro-batches of a step."""
    return [
        (
            toys.padded_ids(toys.ROWS, seed=count * step + number),
            np.random.default_rng([step, number]).integers(0, 3, toys.ROWS),
        )
        for number in range(count)
    ]


def with_all_words(model, batch):
    """The loss; in some micro-batches with a term whose gradient is of the whole embedding matrix."""
    loss, values = compute_classifier_loss(model, batch)
    words = model.ernie_m.embeddings.word_embeddings
    return (loss + words.weight.square().sum() if batch[1][0] == 1 else loss), values


def fine_tuned(
    recompute: bool = False,
    precision: Precision | None = None,
    compute_loss: Callable = compute_classifier_loss,
) -> tuple[list[tuple], dict]:
    """The losses and norms of a classifier with dropout, and its bits. A layer is frozen in step 0."""
    engine = classifier(precision)
    engine.model.ernie_m.set_recompute(recompute)
    steps = []
    for number in range(STEPS):
        for parameter in engine.model.ernie_m.encoder.layers[0].parameters():
            parameter.stop_gradient = number == 0
        steps.append(engine.step(micro_batches(number), compute_loss))
    return [(step.loss, step.grad_norm) for step in steps], read_bits(engine)


@pytest.mark.parametrize(("recompute", "amp"), [(False, "none"), (True, "none"), (False, "bf16")])
def test_fine_tuning(threads, recompute, amp):
    if amp == "bf16" and not is_bf16_on_cpu(amp):
        pytest.skip("no bfloat16 on this CPU")
    threads(1)
    alone = fine_tuned(recompute, Precision(amp))
    for count in (2, 3):
        threads(count)
        assert fine_tuned(recompute, Precision(amp)) == alone


def test_dense_embedding_gradient(threads):
    threads(1)
    alone, _ = fine_tuned(compute_loss=with_all_words)
    threads(2)
    assert np.allclose(fine_tuned(compute_loss=with_all_words)[0], alone, rtol=1e-5)


def test_an_only_micro_batch_has_all_cores(threads):
    threads(2)
    engine = classifier()

    def derive(model, item: int) -> tuple[bool, int]:
        return model is engine.model, get_usable_thread_count()

    derived = [list(engine.replicas.map_gradients(derive, items)) for items in ([0], [0, 1], [])]
    assert derived == [[(True, 2)], [(False, 1)] * 2, []]


def test_copies_follow_their_model(threads):
    """Weights may lie elsewhere after loading."""

    def trained(count: int) -> tuple[float, dict]:
        threads(count)
        engine = classifier()
        engine.step(micro_batches(0), compute_classifier_loss)
        weight = engine.model.classifier.weight
        paddle.full_like(weight, 0.1)._share_buffer_to(weight)
        loss = engine.step(micro_batches(1), compute_classifier_loss).loss
        assert (count > 1) <= len(engine.replicas._idle) <= count  # each copy is used again
        return loss, read_bits(engine)

    assert trained(3) == trained(1)


@pytest.mark.parametrize("objective", OF_THE_PAPER)
def test_pre_training(threads, objective):
    """The masked-LM loss has a gradient of the whole embedding matrix; BTMLM predicts its tokens first."""

    def trained() -> tuple[list[float], dict]:
        engine = toys.engine_for(toys.make_model("float32", dropout=DROPOUT))
        return toys.train(engine, objective, STEPS), read_bits(engine)

    threads(1)
    alone = trained()
    threads(2)
    assert trained() == alone


def test_each_micro_batch_has_its_own_dropout(threads):
    """That of a step depends on nothing but its number."""
    threads(2)
    (batch,) = micro_batches(0, count=1)
    seen = []

    def loss(model, micro_batch):
        total, sums = compute_classifier_loss(model, micro_batch)
        seen.append(total.item())
        return total, sums

    classifier().step([batch] * 4, loss)
    first = sorted(seen)
    assert len(set(first)) == 4
    seen.clear()
    again = classifier()
    paddle.randint(0, 9, [3])  # Paddle's own generator has no part in it
    again.step([batch] * 4, loss)
    assert sorted(seen) == first


def test_raises_the_error_of_a_worker_and_keeps_no_gradient(threads):
    """It comes from the step, and the copies have nothing left of it, though the item had gradients."""
    threads(2)
    engine = classifier()
    batches = micro_batches(0)

    def fails_at_the_third(model, numbered):
        number, batch = numbered
        loss, _ = compute_classifier_loss(model, batch)
        loss.backward()
        if number == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(engine.replicas.map_gradients(fails_at_the_third, enumerate(batches)))
    engine._clear_gradients()
    straight = classifier()
    assert engine.step(batches, compute_classifier_loss) == straight.step(batches, compute_classifier_loss)
    assert read_bits(engine) == read_bits(straight)


def test_after_workers_that_nobody_waited_for(threads):
    """As those of an evaluation that was broken off: they stop, and a step does not."""
    threads(2)
    results = make_paddle_workers().map(lambda number: number, range(50))
    next(results)
    results.close()
    assert math.isfinite(classifier().step(micro_batches(0), compute_classifier_loss).loss)
