"""Language means by hand: what they remove, and that they tell the language."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from ernie_m.vectors.language_centering import LanguageCentering
from tests.launching import error_of


def test_the_mean_by_hand():
    vectors = np.array([[[1.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [0.0, 4.0]]])  # two layers, two sentences
    means = LanguageCentering.from_embeddings({"en": vectors, "de": 10 * vectors})
    assert means.languages == ["de", "en"]
    assert means.vectors[1].tolist() == [[2.0, 2.0], [0.0, 3.0]]
    assert means.subtract_mean(vectors, "en").tolist() == [[[-1, -2], [1, 2]], [[0, -1], [0, 1]]]


def test_nearest_mean_decides_the_language_per_layer():
    """The two languages have exchanged means at the two layers. The longer mean is not preferred."""
    means = LanguageCentering(["de", "en"], np.array([[[9, 0], [0, 1]], [[0, 1], [9, 0]]], np.float32))
    vectors = np.array([[3.0, 1.0], [0.1, 0.2]])  # near the first axis, and near the second: [N, H]
    numbers = [means.select_layer(layer).detect_languages(vectors)[0].tolist() for layer in range(2)]
    assert numbers == [[0, 1], [1, 0]]  # of languages


def test_the_nearest_mean_says_a_language_if_it_is_clearly_the_nearest():
    """By hand: cosines with the means of 1, 0 and 0; of 0.7, 0.7 and 0; and of 0.8, 0.6 and 0."""
    means = LanguageCentering(["de", "en", "fr"], np.eye(3, dtype=np.float32))
    vectors = np.array([[2, 0, 0], [1, 1, 0], [4, 3, 0], [4, 3.8, 0]], np.float32)
    # The leads over the second are 1, 0, 0.2 and 0.04; those over the average 0.67, 0.24, 0.33 and 0.25.
    assert means.detect_languages(vectors)[1].tolist() == [True, False, True, False]
    alone = LanguageCentering(["de"], np.eye(1, 3, dtype=np.float32))
    assert alone.detect_languages(vectors)[1].tolist() == [True] * 4


@pytest.mark.parametrize("wrong", ["de", "en"])
@pytest.mark.parametrize("mean", [np.ones([3, 5]), np.full([3, 4], np.nan), np.full([3, 4], -np.inf)])
def test_reject_means_that_do_not_match_or_are_not_finite(tmp_path, wrong, mean):
    """Also if it is only one of the languages."""
    path = tmp_path / "language_means.safetensors"
    means = {"de": np.ones([3, 4]), "en": np.ones([3, 4])} | {wrong: mean}
    save_file({language: means[language].astype(np.float32) for language in means}, path)
    assert error_of(LanguageCentering.read, path, (3, 4)).startswith(f"{path}: ")
