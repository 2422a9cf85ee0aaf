"""The losses of sentence pairs are those worked out with loops; which sentences are not negatives."""

from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie_m.finetune.retrieval import contrastive_training as retrieval
from ernie_m.finetune.retrieval.contrastive_training import (
    RetrievalTraining,
    hardest_negative_bce,
    in_batch_softmax_loss,
)
from ernie_m.finetune.retrieval.pair_batches import make_negative_mask

SCALE = 5.0
OFFSET = 0.3


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def by_hand(sources, candidates, negative):
    """-2 log m(pair) - log(1 - m(hardest other translation)) - log(1 - m(hardest other source)), summed.

    Args:
        candidates: the translations of the n sources, then possibly given negatives, which have no source.
        negative: [n, candidates] bool: whether source i and candidate j are a negative.

    Returns:
        The loss, and the number of pairs that beat all their negatives.
    """

    def match(a, b):
        return 1 / (1 + np.exp(-SCALE * (cosine(a, b) - OFFSET)))

    loss = 0.0
    beating = 0
    count = len(sources)
    for i in range(count):
        of_pair = match(sources[i], candidates[i])
        negatives = [j for j in range(len(candidates)) if negative[i, j]]
        hardest_candidate = max(match(sources[i], candidates[j]) for j in negatives)
        hardest_source = max(match(sources[j], candidates[i]) for j in range(count) if negative[j, i])
        loss -= 2 * np.log(of_pair) + np.log(1 - hardest_candidate) + np.log(1 - hardest_source)
        beating += of_pair > max(hardest_candidate, hardest_source)
    return loss, beating


def vectors(count, seed=0):
    """Sources [count, 6], and translations that are near them."""
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(count, 6))
    return sources, sources + rng.normal(scale=0.7, size=sources.shape)


def total(loss, sources, candidates, negative, symmetric=False):
    """The loss of a training with these flags, and the number of pairs that beat all their negatives."""
    flags = SimpleNamespace(loss=loss, scale=SCALE, offset=OFFSET, symmetric=symmetric)
    sources, candidates, negative = map(paddle.to_tensor, (sources, candidates, negative))
    batch = SimpleNamespace(negative=negative.astype("int64"))  # as `upload` sends it
    return RetrievalTraining._compute_total_loss(SimpleNamespace(flags=flags), sources, candidates, batch)


def test_pairs_with_a_common_sentence_are_no_negatives():
    """Pairs 0 and 2 have a source in common, which is the translation of 3; 1 and 2 have a translation."""
    sources = [np.array(ids) for ids in ([0, 7, 2], [0, 8, 2], [0, 7, 2], [0, 7, 8, 2])]
    translations = [np.array(ids) for ids in ([0, 4, 2], [0, 5, 2], [0, 5, 2], [0, 7, 2])]
    # So 0 and 1 are negatives of each other, and 1 and 3.
    expected = np.array([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
    np.testing.assert_array_equal(make_negative_mask(sources, translations), expected)


def with_given_negatives(count=6, negative_count=3):
    """Sources [count, 6], candidates [count + negative_count, 6], and which of them are negatives (bool).

    The candidates are the translations of the sources, then the given negatives.
    """
    sources, translations = vectors(count)
    candidates = np.concatenate([translations, np.random.default_rng(5).normal(size=(negative_count, 6))])
    negative = ~np.eye(count, count + negative_count, dtype=bool)
    for pair in ((0, 1), (1, 0)):  # as if these two pairs had a sentence in common
        negative[pair] = False
    return sources, candidates, negative


@pytest.mark.parametrize("negative_count", [0, 3])
def test_the_hardest_negative_loss_is_the_one_by_hand(negative_count):
    """The last candidate is equal to source 2: a given negative, or another translation."""
    sources, candidates, negative = with_given_negatives(negative_count=negative_count)
    candidates[-1] = sources[2]
    expected, expected_beating = by_hand(sources, candidates, negative)
    loss, beating = total("hardest_negative_bce", sources, candidates, negative)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert beating.item() == expected_beating > 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_softmax_over_all_negatives(symmetric):
    """Backwards only the sources are candidates, because a given negative has no source."""
    sources, candidates, negative = with_given_negatives()
    expected = 0.0
    expected_beating = 0
    for i in range(6):
        scores = [SCALE * cosine(sources[i], candidate) for candidate in candidates]
        forward_scores = [score for j, score in enumerate(scores) if negative[i, j] or i == j]
        backward_scores = [
            SCALE * cosine(sources[j], candidates[i]) for j in range(6) if negative[j, i] or i == j
        ]
        forward_loss = np.log(np.exp(forward_scores).sum()) - scores[i]
        backward_loss = np.log(np.exp(backward_scores).sum()) - scores[i]
        expected += (forward_loss + backward_loss) / 2 if symmetric else forward_loss
        expected_beating += scores[i] == max(forward_scores) == max(backward_scores)
    loss, beating = total("in_batch_softmax", sources, candidates, negative, symmetric)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert beating.item() == expected_beating > 0


@pytest.mark.parametrize("calls", [1, 2])
def test_a_stopped_evaluation_is_none(calls):
    """A stop before the first or the second of two language pairs; also if every pair has a score by then."""
    stop = SimpleNamespace(is_set_on_any_process=mock.Mock(side_effect=[False] * (calls - 1) + [True]))
    training = SimpleNamespace(
        held_out={("de", "en"): [], ("en", "fr"): []}, _compute_accuracy=lambda *_: 50.0, _progress=""
    )
    engine = SimpleNamespace(model=mock.Mock(), autocast=nullcontext, steps=3)
    assert RetrievalTraining.evaluate(training, engine, stop) is None


def test_normalize_gradient():
    sources, factors = vectors(4)
    gradients = []
    for normalize in (retrieval._L2Normalize.apply, F.normalize):
        rows = paddle.to_tensor(3 * sources, stop_gradient=False)
        (normalize(rows) * paddle.to_tensor(factors)).sum().backward()
        gradients.append(rows.grad.numpy())
    np.testing.assert_allclose(*gradients, rtol=1e-9)


@pytest.mark.parametrize("loss", [hardest_negative_bce, in_batch_softmax_loss])
def test_cosines_are_not_computed_in_half_precision(loss, monkeypatch):
    """Of embeddings in bfloat16 they are those of float32, and `auto_cast`, which works on GPUs, is off."""
    sources, candidates, negative = with_given_negatives()
    options = (SCALE, OFFSET if loss is hardest_negative_bce else True)
    embeddings = [paddle.to_tensor(side, "float32").astype("bfloat16") for side in (sources, candidates)]
    in_float32 = [side.astype("float32") for side in embeddings]
    negative = paddle.to_tensor(negative)
    expected, _ = loss(*in_float32, negative, *options)
    in_half, _ = loss(*embeddings, negative, *options)
    assert in_half.item() == pytest.approx(expected.item(), rel=1e-6)

    calls = mock.MagicMock(product=mock.Mock(side_effect=paddle.matmul))
    monkeypatch.setattr(paddle.amp, "auto_cast", calls)
    monkeypatch.setattr(paddle, "matmul", calls.product)
    loss(*in_float32, negative, *options)
    assert [name for name, *_ in calls.mock_calls] == ["", "().__enter__", "product", "().__exit__"]
    assert calls.call_args == mock.call(enable=False)


def test_the_engine_sums_what_the_processes_compute(monkeypatch):
    """Of two processes with two pairs each, the first has half the loss and counts, and its own gradient."""
    sources, translations = vectors(4)
    negative = paddle.to_tensor(~np.eye(4, dtype=bool))
    task = SimpleNamespace(layer=1)
    task.flags = SimpleNamespace(loss="in_batch_softmax", scale=SCALE, symmetric=True)
    task._compute_total_loss = lambda *arguments: retrieval.RetrievalTraining._compute_total_loss(
        task, *arguments
    )

    def gradient_and_loss(pairs: slice, of_others: list[np.ndarray]):
        """Of one process with these pairs."""
        own = np.concatenate([sources[pairs], translations[pairs]])
        parameter = paddle.to_tensor(own, stop_gradient=False)
        monkeypatch.setattr(retrieval, "compute_sentence_embeddings", lambda *_: parameter)
        monkeypatch.setattr(retrieval.distributed, "world_size", lambda: 1 + len(of_others))
        others = [(paddle.to_tensor(array), 2) for array in of_others]
        monkeypatch.setattr(retrieval.distributed, "all_gather_rows", lambda *part: [part, *others])
        batch = retrieval.PairBatch([None], paddle.arange(len(own)), negative, len(own) // 2)
        loss, sums = retrieval.RetrievalTraining.loss(task, None, batch)
        loss.backward()
        return parameter.grad.numpy(), np.array([loss, sums["correct"], sums["count"]], float)

    expected, whole = gradient_and_loss(slice(0, 4), [])  # sources 0 to 3, then translations 0 to 3
    gradient, half = gradient_and_loss(slice(0, 2), [np.concatenate([sources[2:], translations[2:]])])
    np.testing.assert_allclose(half, whole / 2, rtol=1e-9)
    assert whole[1:].tolist() == [300, 4]  # three of the four pairs win
    np.testing.assert_allclose(gradient, expected[[0, 1, 4, 5]], rtol=1e-9)


def test_validation_texts_are_as_long_as_those_of_training(tokenizer):
    flags = SimpleNamespace(validation_pairs=2, max_seq_len=4)
    task = SimpleNamespace(flags=flags, tokenizer=tokenizer)
    sides, keys = RetrievalTraining._prepare_validation_inputs(task, [([5, 6, 7, 8], [9])] * 3)
    assert ([[*map(len, side)] for side in sides], keys.shape) == ([[4, 4], [3, 3]], (2, 2))


def test_the_validation_accuracy_is_the_mean_over_all_processes(monkeypatch):
    """The second of two processes evaluates the second of two pairs."""
    task = SimpleNamespace(
        held_out={("de", "en"): 100.0, ("en", "fr"): 50.0},
        _compute_accuracy=lambda model, accuracy: accuracy,
        _progress="",
    )
    engine = SimpleNamespace(autocast=nullcontext, model=None, steps=3)
    of_this = {}

    def gather(items):
        of_this.update(items)
        return [("de-en", 100.0), *of_this.items()]

    monkeypatch.setattr(retrieval.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(retrieval.distributed, "rank", lambda: 1)
    monkeypatch.setattr(retrieval.distributed, "gather_items", gather)
    stop = SimpleNamespace(is_set_on_any_process=lambda: False)
    evaluation = retrieval.RetrievalTraining.evaluate(task, engine, stop)
    scores = {"held-out pairs": {"de-en": {"accuracy": 100.0}, "en-fr": {"accuracy": 50.0}}}
    assert of_this == {"en-fr": 50.0}
    assert (evaluation.step, evaluation.selected_by, evaluation.scores) == (3, 75.0, scores)
