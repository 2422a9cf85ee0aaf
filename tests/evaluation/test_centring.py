"""Language means by hand: what is the same for a whole language is taken away, and names it."""

import numpy as np
import pytest

from evaluation.centring import LanguageMeans
from evaluation.retrieval import hits


@pytest.fixture
def sentences():
    """The same vectors in two languages, each with a direction of its own at every layer: [L + 1, N, H]."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(2, 40, 6))
    directions = {"de": np.array([[9.0], [-9.0]]), "en": np.array([[0.0], [5.0]])}  # [L + 1, 1]
    return {
        language: common + direction[:, None] * np.eye(6)[number]
        for number, (language, direction) in enumerate(directions.items())
    }


def test_a_direction_of_the_language_is_removed(sentences):
    means = LanguageMeans.of(sentences)
    assert means.vectors.shape == (2, 2, 6) and means.vectors.dtype == np.float32
    de, en = (means.subtract(sentences[language], language) for language in ("de", "en"))
    np.testing.assert_allclose(de, en, atol=1e-5)
    for layer in range(2):
        assert hits(de[layer], en[layer]).all()
    assert not hits(sentences["de"][0], sentences["en"][0]).all()


def test_means_of_other_sentences_remove_the_direction_too(sentences):
    means = LanguageMeans.of({language: vectors[:, :20] for language, vectors in sentences.items()})
    de, en = (means.subtract(sentences[language][:, 20:], language) for language in ("de", "en"))
    np.testing.assert_allclose(de, en, atol=1e-5)


def test_the_mean_by_hand():
    vectors = np.array([[[1.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [0.0, 4.0]]])  # two layers, two sentences
    means = LanguageMeans.of({"en": vectors, "de": 10 * vectors})
    assert means.languages == ["de", "en"]
    assert means.vectors[1].tolist() == [[2.0, 2.0], [0.0, 3.0]]
    assert means.subtract(vectors, "en").tolist() == [[[-1, -2], [1, 2]], [[0, -1], [0, 1]]]


def test_the_nearest_mean_names_the_language_of_each_layer():
    means = LanguageMeans(["de", "en"], np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], np.float32))
    vectors = np.array([[[3.0, 1.0], [0.1, 0.2]], [[3.0, 1.0], [0.1, 0.2]]])
    assert means.nearest(vectors).tolist() == [[0, 1], [1, 0]]
