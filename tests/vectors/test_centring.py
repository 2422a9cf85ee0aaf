"""Language means by hand: they remove what the sentences of a language share, and tell the language."""

import numpy as np
import pytest

from ernie_m.vectors.centring import LanguageMeans
from ernie_m.vectors.hits import hits
from tests.toys import line_keys


@pytest.fixture
def sentences():
    """Language -> [L + 1, N, H]: both have the same vectors, moved by directions of their own."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(2, 40, 6))  # [L + 1, N, H]
    de_direction = np.array([[9, 0, 0, 0, 0, 0], [-9, 0, 0, 0, 0, 0]])  # [L + 1, H]
    en_direction = np.array([[0, 0, 0, 0, 0, 0], [0, 5, 0, 0, 0, 0]])
    # A direction is [L + 1, 1, H] here, so that it moves all sentences of its layer.
    return {"de": common + de_direction[:, None], "en": common + en_direction[:, None]}


def test_a_direction_of_the_language_is_removed(sentences):
    means = LanguageMeans.of(sentences)
    assert means.vectors.shape == (2, 2, 6) and means.vectors.dtype == np.float32
    de = means.subtract(sentences["de"], "de")
    en = means.subtract(sentences["en"], "en")
    np.testing.assert_allclose(de, en, atol=1e-5)
    for layer in range(2):
        assert hits(de[layer], en[layer], line_keys(40)).all()
    assert not hits(sentences["de"][0], sentences["en"][0], line_keys(40)).all()


def test_means_of_other_sentences_remove_the_direction_too(sentences):
    """The means are those of the first 20 sentences, and the other 20 are centred."""
    means = LanguageMeans.of({language: vectors[:, :20] for language, vectors in sentences.items()})
    de = means.subtract(sentences["de"][:, 20:], "de")
    en = means.subtract(sentences["en"][:, 20:], "en")
    np.testing.assert_allclose(de, en, atol=1e-5)


def test_the_mean_by_hand():
    vectors = np.array([[[1.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [0.0, 4.0]]])  # two layers, two sentences
    means = LanguageMeans.of({"en": vectors, "de": 10 * vectors})
    assert means.languages == ["de", "en"]
    assert means.vectors[1].tolist() == [[2.0, 2.0], [0.0, 3.0]]
    assert means.subtract(vectors, "en").tolist() == [[[-1, -2], [1, 2]], [[0, -1], [0, 1]]]


def test_the_nearest_mean_names_the_language_of_each_layer():
    """The two languages have exchanged means at the two layers. The longer mean is not preferred."""
    x_axis = [9, 0]
    y_axis = [0, 1]
    means = LanguageMeans(["de", "en"], np.array([[x_axis, y_axis], [y_axis, x_axis]], np.float32))
    near_x_near_y = [[3.0, 1.0], [0.1, 0.2]]
    vectors = np.array(near_x_near_y)  # [N, H]
    assert means.at(0).nearest(vectors)[0].tolist() == [0, 1]  # the number of a language
    assert means.at(1).nearest(vectors)[0].tolist() == [1, 0]


def test_the_nearest_mean_says_a_language_if_it_is_clearly_the_nearest():
    """By hand: cosines with the means of 1, 0 and 0; of 0.7, 0.7 and 0; and of 0.8, 0.6 and 0."""
    means = LanguageMeans(["de", "en", "fr"], np.eye(3, dtype=np.float32))
    vectors = np.array([[2, 0, 0], [1, 1, 0], [4, 3, 0]], np.float32)
    # The leads over the second are 1, 0 and 0.2; those over the average 0.67, 0.24 and 0.33.
    assert means.nearest(vectors)[1].tolist() == [True, False, True]
    assert means.nearest(np.array([[4, 3.8, 0]], np.float32))[1].tolist() == [False]
    alone = LanguageMeans(["de"], np.eye(1, 3, dtype=np.float32))
    assert alone.nearest(vectors)[1].tolist() == [True] * 3
