"""Neighbors are those of a search written out; mined pairs and scores are those of LASER's algorithm."""

import numpy as np
import pytest

from ernie_m.vectors import nearest as search
from ernie_m.vectors.nearest import Neighbors, build_index, compute_margins, find_neighbors, mine_greedily
from ernie_m.vectors.pooling import normalize_vectors
from tests.launching import ROOT
from tests.toys import bitext


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


K = 4


def texts(count):
    """Vectors of two texts: half of the sentences have a noisy copy in the other text, in another order."""
    rng = np.random.default_rng(0)
    source = rng.normal(size=(count, 24)) + 0.4  # cosines of one sign, as of real sentences
    target = rng.normal(size=(count, 24)) + 0.4
    half = count // 2
    copies = source[:half] + rng.normal(scale=0.8, size=(half, 24))
    target[rng.permutation(count)[:half]] = copies
    return normalize_vectors(source), normalize_vectors(target)


def both_ways(source, target, k=K):
    """The targets nearest to each source, and the sources nearest to each target."""
    forward = find_neighbors(source, target, min(k, len(target)))
    backward = find_neighbors(target, source, min(k, len(source)))
    return Neighbors(*forward), Neighbors(*backward)


def mined(source, target):
    """The pairs, and whether their margins are ratios."""
    neighbors = both_ways(source, target)
    scores = compute_margins(*neighbors)
    return mine_greedily(*neighbors, scores), scores.are_ratios


def nearest_numbers(queries, targets):
    """The numbers of the K targets nearest to each query, [N, K], the nearest first."""
    return np.argsort(-(queries @ targets.T), axis=1)[:, :K]


def by_laser(source, target):
    """(source, target) -> score, in the steps of LASER's mine_bitexts.py, in float64 and without faiss."""
    source = source.astype(np.float64)
    target = target.astype(np.float64)
    targets_of = nearest_numbers(source, target).tolist()
    sources_of = nearest_numbers(target, source).tolist()

    def cosine(i, j):
        return float(source[i] @ target[j])

    source_means = [np.mean([cosine(i, j) for j in targets]) for i, targets in enumerate(targets_of)]
    target_means = [np.mean([cosine(i, j) for i in sources]) for j, sources in enumerate(sources_of)]

    def score(i, j):
        return cosine(i, j) / ((source_means[i] + target_means[j]) / 2)

    # Of each source, and of each target: the score of its best pair, and that pair.
    forward = [max((score(i, j), (i, j)) for j in targets) for i, targets in enumerate(targets_of)]
    backward = [max((score(i, j), (i, j)) for i in sources) for j, sources in enumerate(sources_of)]
    # The best pairs of both directions, of which each sentence is in one at most.
    sources_taken = set()
    targets_taken = set()
    pairs = {}
    for value, (i, j) in sorted(forward + backward, reverse=True):
        if i not in sources_taken and j not in targets_taken:
            sources_taken.add(i)
            targets_taken.add(j)
            pairs[i, j] = value
    return pairs


def assert_equal(pairs, expected):
    """The mined pairs are those of `by_laser`, with its scores, none twice, the best first."""
    scores = dict(zip(zip(pairs.sources.tolist(), pairs.targets.tolist()), pairs.scores.tolist()))
    assert len(scores) == len(pairs.scores)
    assert scores == pytest.approx(expected, abs=1e-6, rel=0)
    assert (np.diff(pairs.scores) <= 0).all()


@pytest.mark.parametrize(("source_count", "target_count"), [(700, 700), (300, 90), (300, K - 1)])
def test_pairs_and_scores_are_lasers(source_count, target_count):
    source, _ = texts(source_count)
    _, target = texts(target_count)
    pairs, are_ratios = mined(source, target)
    assert are_ratios
    assert_equal(pairs, by_laser(source, target))


@pytest.mark.parametrize("side", [0, 1])
def test_margin_uses_the_mean_in_each_direction(side):
    """Of source 1, or of target 1, with itself: (0.5 - 0.7) / 2. The other means are above 0."""
    one, other = (
        Neighbors(np.float32([[0.8], [0.5]]), np.array([[0], [0]])),
        Neighbors(np.float32([[0.6], [-0.7]]), np.array([[0], [1]])),
    )
    scores = compute_margins(*((one, other) if side == 0 else (other, one)))
    assert not scores.are_ratios
    values = [scores.forward, scores.backward]
    np.testing.assert_allclose(values[side], [[0.8 - 0.7], [0.5 - 0.55]], atol=1e-6)
    np.testing.assert_allclose(values[1 - side], [[0.6 - 0.7], [-0.7 + 0.1]], atol=1e-6)
