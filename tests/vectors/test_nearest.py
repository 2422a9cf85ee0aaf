"""A search by cosine or by margin finds what one that is written out in numpy finds."""

import numpy as np
import pytest

from ernie_m.vectors import nearest as search
from ernie_m.vectors.nearest import build_index, find_neighbors, search_both_directions
from ernie_m.vectors.pooling import normalize_vectors
from ernie_m.vectors.retrieval_accuracy import find_hits
from tests.launching import ROOT
from tests.toys import line_keys


def bitext(count=150, width=24, noise=1.2, seed=0):
    """Random vectors, [N, H], and noisy copies of them: some copies are nearer to another vector."""
    rng = np.random.default_rng(seed)
    english = rng.normal(size=(count, width)).astype(np.float32)
    return english, english + rng.normal(scale=noise, size=english.shape).astype(np.float32)


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


def test_a_large_index_finds_nearly_all_neighbors(monkeypatch):
    """More vectors than EXACT_UP_TO, as the manual has it, are divided into cells, of which 16 are searched.

    2000 vectors have 179 cells, which is 4 times the root of 2000. The nearest cell alone has four in ten of
    the neighbors.
    """
    manual = (ROOT / "docs/retrieval.md").read_text(encoding="utf-8")
    assert f"Above {search.EXACT_UP_TO:,} lines, the search is approximate." in manual
    targets, queries = map(normalize_vectors, bitext(2000, width=8, noise=0.3))
    expected_cosines, expected = find_neighbors(queries, targets, k=10)
    cosines, found = build_index(targets).search(queries, 10)
    np.testing.assert_array_equal(cosines, expected_cosines)
    np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(search, "EXACT_UP_TO", 1999)
    cosines, found = build_index(targets).search(queries, 10)
    shares = [len(set(row) & set(expected_row)) / 10 for row, expected_row in zip(found, expected)]
    assert 0.9 < np.mean(shares) < 1
    # The cosines themselves are exact.
    np.testing.assert_allclose(cosines[:, 0], (queries * targets[found[:, 0]]).sum(axis=1), atol=1e-6)


def test_zero_vector_is_not_an_error():
    english, foreign = bitext(10)
    foreign[3] = 0
    assert np.isfinite(normalize_vectors(foreign)).all()
    assert search_both_directions(english, foreign, "cosine").forward[3] != 3
