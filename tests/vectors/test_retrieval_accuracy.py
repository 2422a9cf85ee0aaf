"""Retrieval is that of a search written out, and vectors are means over tokens."""

import logging

import numpy as np
import paddle
import pytest

from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.vectors import retrieval_accuracy
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.pooling import normalize_vectors, parse_layer
from ernie_m.vectors.retrieval_accuracy import (
    compute_accuracy_by_layer,
    count_hits_by_cosine,
    count_hits_by_margin,
    find_hits,
    log_repeated_texts,
    search_both_directions,
    select_layer_on_half,
)
from tests.helpers.batches import padded_batch
from tests.launching import error_of
from tests.toys import bitext, line_keys


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_hits_equal_a_search_written_out(monkeypatch, chunk):
    monkeypatch.setattr(retrieval_accuracy, "_AT_ONCE", chunk)
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(40, 6))
    queries = targets + rng.normal(scale=0.8, size=targets.shape)
    expected = (normalize_vectors(queries) @ normalize_vectors(targets).T).argmax(axis=1) == np.arange(40)
    assert 0 < expected.sum() < 40, "some queries should find their target, and some should not"
    assert (find_hits(queries, targets, line_keys(40)) == expected).all()


@pytest.mark.parametrize(
    ("score", "count_hits"), [("cosine", count_hits_by_cosine), ("margin", count_hits_by_margin)]
)
def test_the_layer_is_chosen_on_the_even_pairs_and_reported_on_the_odd(score, count_hits):
    """Of two equal layers the lower one. With this seed another layer is best by the other score."""
    rng = np.random.default_rng(5)
    src = np.tile(rng.normal(size=(3, 60, 6)), (2, 1, 1))  # [L + 1, N, H]
    tgt = src + np.tile(rng.normal(size=(3, 60, 6)), (2, 1, 1))

    def accuracies(pairs):
        matches = [search_both_directions(*sides, score) for sides in zip(src[:, pairs], tgt[:, pairs])]
        return [np.mean(match.compute_accuracies(line_keys(30))) / 100 for match in matches]

    even, odd = (accuracies(slice(first, None, 2)) for first in (0, 1))
    layer = {"cosine": 0, "margin": 1}[score]
    assert even.index(max(even)) == layer and even[layer] != odd[layer]
    assert select_layer_on_half(src, tgt, line_keys(60), count_hits) == (layer, pytest.approx(odd[layer]))


def test_repeats_are_counted(caplog, info_log):
    """Equal sides, and a text of either side that is in two pairs; a warning if they are many."""
    keys = np.array([[0, 1, 2, 2, 4, 5], [0, 7, 8, 9, 10, 10]])  # all but the second pair
    unlike = np.arange(100, 140)
    for more in (unlike[:0], unlike[:20], unlike):
        log_repeated_texts("x", np.concatenate([keys, [more, more + 100]], axis=1))
    lines = [(record.levelno, record.args[1:3]) for record in caplog.records]
    assert lines == [(logging.WARNING, (6, 5)), (logging.INFO, (26, 5)), (logging.INFO, (46, 5))]


@pytest.mark.parametrize(("name", "number"), [("middle", 1), ("last", 3), (0, 0), ("3", 3)])
def test_parse_layer_names(name, number):
    assert parse_layer(name, num_layers=3) == number
    assert "layer 4 " in error_of(parse_layer, 4, 3)


def test_both_directions_are_reported():
    """By hand: src 0 is nearest to tgt 1, src 1 to tgt 0; tgt 0 to src 0, tgt 1 to src 0."""
    src = np.array([[[1.0, 0.0], [0.8, 0.6]]])  # [1 layer, 2 sentences, H]
    tgt = np.array([[[1.0, 0.1], [1.0, 0.0]]])
    assert compute_accuracy_by_layer(src, tgt, line_keys(2)).tolist() == [[0.0, 0.5]]


def tiny_model():
    """A model of two layers with random weights."""
    paddle.seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return ErnieMModel(ErnieMConfig(vocab_size=50, **sizes, pad_token_id=3))


def test_embeddings_are_token_means_in_input_order(monkeypatch):
    """Sentences of different lengths share batches, and are compared with each sentence alone."""
    model = tiny_model()
    model.train()
    rng = np.random.default_rng(4)
    # [CLS] = 0, some words, [SEP] = 2; the fifth sentence has no words.
    sentences = [np.array([0, *rng.integers(5, 50, size=words), 2]) for words in (7, 1, 12, 3, 0, 5)]
    sizes = []  # of each batch, in tokens
    compute = PaddleEncoder.encode_batch
    counted = lambda self, ids: sizes.append(ids.size) or compute(self, ids)  # noqa: E731
    monkeypatch.setattr(PaddleEncoder, "encode_batch", counted)
    vectors = PaddleEncoder(model).encode(sentences, batch_tokens=20)  # [L + 1, N, H]
    assert len(sizes) > 2 and max(sizes) <= 20
    assert vectors.shape == (3, 6, 16)
    assert model.training, "the model is left in the mode it was in"
    model.eval()
    for row, sentence in enumerate(sentences):
        hidden_states = model.encode(padded_batch(sentence[None]), output_hidden_states=True).hidden_states
        has_words = len(sentence) > 2
        counted = slice(1, len(sentence) - 1) if has_words else slice(0, 2)  # without words [CLS] and [SEP]
        for layer, states in enumerate(hidden_states):
            assert np.abs(vectors[layer, row] - states.numpy()[counted].mean(axis=0)).max() < 1e-5
    for layer in range(3):
        of_layer = PaddleEncoder(model, layer=layer).encode(sentences, batch_tokens=20)
        np.testing.assert_allclose(of_layer, vectors[layer], atol=1e-5)
    of_all_tokens = PaddleEncoder(model, "mean").encode(sentences)
    first_states = model.encode(padded_batch(sentences[0][None])).sequence.numpy()  # [T, H]
    assert np.abs(of_all_tokens[-1, 0] - first_states.mean(axis=0)).max() < 1e-5
    assert not model.training


def test_read_bfloat16_embeddings(monkeypatch):
    """Autocast returns bfloat16, and without a cast NumPy would read its bits as integers."""
    model = tiny_model()
    sentences = [np.array([0, 7, 8, 2])]
    exact = PaddleEncoder(model).encode(sentences)
    sums = PackedBatch.sum_sequences
    monkeypatch.setattr(PackedBatch, "sum_sequences", lambda *arguments: sums(*arguments).astype("bfloat16"))
    assert np.abs(PaddleEncoder(model).encode(sentences) - exact).max() < 0.02
    assert np.abs(PaddleEncoder(model, layer=2).encode(sentences) - exact[2]).max() < 0.02


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_cosine_is_the_exact_search(dtype):
    english, foreign = (side.astype(dtype) for side in bitext())
    cosines = normalize_vectors(english).astype(np.float64) @ normalize_vectors(foreign).astype(np.float64).T
    matches = search_both_directions(english, foreign, "cosine")
    np.testing.assert_array_equal(matches.forward, cosines.argmax(axis=1))
    np.testing.assert_array_equal(matches.backward, cosines.argmax(axis=0))
    keys = line_keys(len(english))
    hits = (find_hits(english, foreign, keys), find_hits(foreign, english, keys))
    assert 0 < hits[0].mean() < 1
    assert matches.compute_accuracies(keys) == tuple(100 * hit.mean() for hit in hits)


def test_a_negative_mean_does_not_turn_the_margin_over():
    """By hand, k = 2. For query 0 the ratio of target 0 is -0.10 / ((-0.30 - 0.55) / 2) = 0.24. Target 1 is
    farther away, but its ratio is -0.50 / ((-0.30 - 0.68) / 2) = 1.02. The differences, 0.32 and -0.01, put
    target 0 first.
    """
    english = np.array([[1.0, 0.0], [0.0, 1.0]])
    foreign = np.array([[-0.1, -0.99499], [-0.5, -0.86603]])
    assert search_both_directions(english, foreign, "margin").forward.tolist() == [0, 1]


def test_zero_vector_is_not_an_error():
    english, foreign = bitext(10)
    foreign[3] = 0
    assert np.isfinite(normalize_vectors(foreign)).all()
    assert search_both_directions(english, foreign, "cosine").forward[3] != 3
