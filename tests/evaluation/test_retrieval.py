"""Retrieval against a search written out, and the mean over tokens against numpy."""

import numpy as np
import paddle
import pytest

from evaluation import encode as encoding
from evaluation.encode import encode, encode_layer
from evaluation.retrieval import accuracy_by_layer, choose_on_half, hits
from model.ernie_m import ErnieMConfig, ErnieMModel
from tests.helpers.batches import padded_batch


def nearest_by_hand(queries, targets):
    nearest = []
    for query in queries:
        cosines = [query @ target / np.linalg.norm(query) / np.linalg.norm(target) for target in targets]
        nearest.append(int(np.argmax(cosines)))
    return np.array(nearest)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_hits_equal_a_search_written_out(chunk):
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(40, 6))
    queries = targets + rng.normal(scale=0.8, size=targets.shape)
    expected = nearest_by_hand(queries, targets) == np.arange(40)
    assert 0 < expected.sum() < 40
    assert (hits(queries, targets, chunk) == expected).all()


def test_the_layer_is_chosen_on_the_even_pairs_and_reported_on_the_odd():
    rng = np.random.default_rng(2)
    good = rng.normal(size=(60, 8))
    noise = rng.normal(size=(60, 8))
    # Layer 0 is right on the even pairs only, layer 1 on the odd ones only.
    even = np.where(np.arange(60)[:, None] % 2 == 0, good, noise)
    odd = np.where(np.arange(60)[:, None] % 2 == 1, good, noise)
    result = choose_on_half(np.stack([good, good]), np.stack([even, odd]))
    assert result.layer == 0
    assert result.mean < 0.3
    swapped = choose_on_half(np.stack([good, good]), np.stack([odd, even]))
    assert swapped.layer == 1
    certain = choose_on_half(np.stack([good]), np.stack([good]))
    assert (certain.mean, certain.standard_error) == (1.0, 0.0)


def test_both_directions_are_reported():
    src = np.array([[[1.0, 0.0], [0.8, 0.6]]])
    tgt = np.array([[[1.0, 0.1], [1.0, 0.0]]])
    # Worked by hand: src 0 is nearest to tgt 1, src 1 to tgt 0; tgt 0 to src 0, tgt 1 to src 0.
    assert accuracy_by_layer(src, tgt).tolist() == [[0.0, 0.5]]


def tiny_model():
    paddle.seed(3)
    config = ErnieMConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    return ErnieMModel(config)


def test_vectors_are_means_of_the_real_tokens_in_the_order_given():
    model = tiny_model()
    model.train()
    rng = np.random.default_rng(4)
    sentences = [np.array([0, *rng.integers(5, 50, size=n), 2]) for n in (7, 1, 12, 3, 0, 5)]
    vectors = encode(model, sentences, batch_tokens=20)
    assert vectors.shape == (3, 6, 16)
    assert model.training, "the model is left in the mode it was in"
    model.eval()
    for row, sentence in enumerate(sentences):
        states = model.encode(padded_batch(sentence[None]), output_hidden_states=True).hidden_states
        inner = slice(1, len(sentence) - 1) if len(sentence) > 2 else slice(0, 2)
        for layer, state in enumerate(states):
            assert np.abs(vectors[layer, row] - state.numpy()[inner].mean(axis=0)).max() < 1e-5
    with_specials = encode(model, sentences, specials=True)
    alone = model.encode(padded_batch(sentences[0][None])).sequence.numpy().mean(axis=0)
    assert np.abs(with_specials[-1, 0] - alone).max() < 1e-5


def test_vectors_in_bfloat16_are_read_as_numbers(monkeypatch):
    """Autocast returns bfloat16, and without a cast NumPy would read its bits as integers."""
    model = tiny_model()
    sentences = [np.array([0, 7, 8, 2])]
    exact = encode(model, sentences)
    mean = encoding._mean
    monkeypatch.setattr(encoding, "_mean", lambda *arguments: mean(*arguments).astype("bfloat16"))
    assert np.abs(encode(model, sentences) - exact).max() < 0.02
    assert np.abs(encode_layer(model, sentences, 2) - exact[2]).max() < 0.02
