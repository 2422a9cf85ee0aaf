"""faiss against searches written out in numpy, by cosine and by margin."""

import numpy as np
import pytest

from evaluation.retrieval import hits
from evaluation.search import search_both, unit


def bitext(count=150, width=24, noise=1.2, seed=0):
    rng = np.random.default_rng(seed)
    english = rng.normal(size=(count, width)).astype(np.float32)
    return english, english + rng.normal(scale=noise, size=english.shape).astype(np.float32)


def margin_by_hand(queries, targets, k):
    """The target of the best ratio among its k nearest, or difference where a mean is not above 0."""
    cosines = unit(queries).astype(np.float64) @ unit(targets).astype(np.float64).T
    chosen = []
    for row in cosines:
        around = np.sort(row)[-k:].mean()
        candidates = np.argsort(-row)[:k]
        means = np.array([(around + np.sort(cosines[:, j])[-k:].mean()) / 2 for j in candidates])
        margins = row[candidates] / means if (means > 0).all() else row[candidates] - means
        chosen.append(candidates[int(np.argmax(margins))])
    return np.array(chosen)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_cosine_is_the_exact_search(dtype):
    english, foreign = (side.astype(dtype) for side in bitext())
    cosines = unit(english).astype(np.float64) @ unit(foreign).astype(np.float64).T
    matches = search_both(english, foreign)
    np.testing.assert_array_equal(matches.forward, cosines.argmax(axis=1))
    np.testing.assert_array_equal(matches.backward, cosines.argmax(axis=0))
    assert 0 < matches.accuracies()[0] < 100
    expected = (100 * hits(english, foreign).mean(), 100 * hits(foreign, english).mean())
    assert matches.accuracies() == expected


@pytest.mark.parametrize("k", [1, 4, 1000])
def test_margin_is_the_ratio_among_the_nearest(k):
    english, foreign = bitext(seed=1)
    matches = search_both(english, foreign, "margin", k)
    k = min(k, len(english))
    np.testing.assert_array_equal(matches.forward, margin_by_hand(english, foreign, k))
    np.testing.assert_array_equal(matches.backward, margin_by_hand(foreign, english, k))
    changed = (matches.forward != search_both(english, foreign).forward).any()
    assert changed == (k > 1)  # otherwise the margin would be idle in this test


def test_a_negative_mean_does_not_turn_the_margin_over():
    # By hand, k = 2. Query 0: -0.10 / ((-0.30 - 0.55) / 2) = 0.24 for target 0, and for target 1, which is
    # farther away, -0.50 / ((-0.30 - 0.68) / 2) = 1.02; the differences are 0.32 and -0.01.
    english = np.array([[1.0, 0.0], [0.0, 1.0]])
    foreign = np.array([[-0.1, -0.99499], [-0.5, -0.86603]])
    assert search_both(english, foreign, "margin", 2).forward.tolist() == [0, 1]


def test_a_zero_vector_is_no_fault():
    english, foreign = bitext(10)
    foreign[3] = 0
    assert np.isfinite(unit(foreign)).all()
    assert search_both(english, foreign).forward[3] != 3
