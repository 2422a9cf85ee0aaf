"""Mined pairs and scores are those of LASER's algorithm; the threshold is the best of all."""

import numpy as np
import pytest

from ernie_m.vectors.mine_by_margin import Neighbours, margins, mine
from ernie_m.vectors.mined_quality import choose_threshold, quality
from ernie_m.vectors.nearest import nearest
from ernie_m.vectors.pooling import unit

K = 4


def texts(count):
    """Vectors of two texts: half of the sentences have a noisy copy in the other text, in another order."""
    rng = np.random.default_rng(0)
    source = rng.normal(size=(count, 24)) + 0.4  # cosines of one sign, as of real sentences
    target = rng.normal(size=(count, 24)) + 0.4
    half = count // 2
    copies = source[:half] + rng.normal(scale=0.8, size=(half, 24))
    places = rng.permutation(count)[:half]
    target[places] = copies
    return unit(source), unit(target)


def both_ways(source, target, k=K):
    """The targets nearest to each source, and the sources nearest to each target."""
    return Neighbours(*nearest(source, target, k)), Neighbours(*nearest(target, source, k))


def mined(source, target, margin="ratio", retrieval="max", k=K):
    """The pairs, and the kind of their margins."""
    neighbours = both_ways(source, target, k)
    scores = margins(*neighbours, margin)
    return mine(*neighbours, scores, retrieval), scores.kind


def nearest_numbers(queries, targets):
    """The numbers of the K targets nearest to each query, [N, K], the nearest first."""
    return np.argsort(-(queries @ targets.T), axis=1)[:, :K]


def by_laser(source, target, margin, retrieval):
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
        mean = (source_means[i] + target_means[j]) / 2
        if margin == "ratio":
            return cosine(i, j) / mean
        if margin == "distance":
            return cosine(i, j) - mean
        return cosine(i, j)

    # Of each source, and of each target: the score of its best pair, and that pair.
    forward = [max((score(i, j), (i, j)) for j in targets) for i, targets in enumerate(targets_of)]
    backward = [max((score(i, j), (i, j)) for i in sources) for j, sources in enumerate(sources_of)]
    if retrieval == "forward":
        return {pair: value for value, pair in forward}
    if retrieval == "backward":
        return {pair: value for value, pair in backward}
    if retrieval == "intersect":
        backward_pairs = {pair for _, pair in backward}
        return {pair: value for value, pair in forward if pair in backward_pairs}
    # "max": the best pairs of both directions, of which each sentence is in one at most.
    sources_taken = set()
    targets_taken = set()
    pairs = {}
    for value, (i, j) in sorted(forward + backward, reverse=True):
        if i not in sources_taken and j not in targets_taken:
            sources_taken.add(i)
            targets_taken.add(j)
            pairs[i, j] = value
    return pairs


def as_dict(pairs):
    """(source, target) -> score, as `by_laser` returns."""
    scores = {}
    for source, target, score in zip(pairs.sources.tolist(), pairs.targets.tolist(), pairs.scores.tolist()):
        scores[source, target] = score
    return scores


def assert_equal(pairs, expected):
    """The mined pairs are those of `by_laser`, with its scores, none twice, the best first."""
    scores = as_dict(pairs)
    assert scores.keys() == expected.keys()
    assert len(scores) == len(pairs.scores)
    np.testing.assert_allclose(
        [scores[pair] for pair in expected], list(expected.values()), atol=1e-6, rtol=0
    )
    assert (np.diff(pairs.scores) <= 0).all()


@pytest.mark.parametrize("retrieval", ["max", "intersect", "forward", "backward"])
@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_pairs_and_scores_are_lasers(margin, retrieval):
    source, target = texts(700)
    pairs, kind = mined(source, target, margin, retrieval)
    assert kind == margin
    assert_equal(pairs, by_laser(source, target, margin, retrieval))


def test_where_a_mean_is_not_above_0_all_margins_are_distances():
    """If all lines are neighbours, those of centred vectors have a mean cosine of about 0."""
    source, target = (vectors - vectors.mean(axis=0) for vectors in texts(20))
    neighbours = both_ways(source, target, k=20)
    as_asked = margins(*neighbours, "distance")
    scores = margins(*neighbours)
    assert scores.kind == "distance"
    np.testing.assert_array_equal(scores.forward, as_asked.forward)
    np.testing.assert_array_equal(scores.backward, as_asked.backward)


@pytest.mark.parametrize("side", [0, 1])
def test_one_mean_of_one_direction_decides(side):
    """Of source 1, or of target 1, with itself: (0.5 - 0.7) / 2. The other means are above 0."""
    one, other = (
        Neighbours(np.float32([[0.8], [0.5]]), np.array([[0], [0]])),
        Neighbours(np.float32([[0.6], [-0.7]]), np.array([[0], [1]])),
    )
    scores = margins(*((one, other) if side == 0 else (other, one)))
    assert scores.kind == "distance"
    values = [scores.forward, scores.backward]
    np.testing.assert_allclose(values[side], [[0.8 - 0.7], [0.5 - 0.55]], atol=1e-6)
    np.testing.assert_allclose(values[1 - side], [[0.6 - 0.7], [-0.7 + 0.1]], atol=1e-6)


def test_texts_of_different_lengths():
    source, _ = texts(300)
    _, target = texts(90)
    assert_equal(mined(source, target)[0], by_laser(source, target, "ratio", "max"))
    two_targets = target[:2]  # fewer than K
    pairs, _ = mined(source, two_targets, retrieval="forward", k=2)
    assert len(pairs.scores) == 300 and set(pairs.targets) == {0, 1}


def test_the_threshold_is_the_best_of_all_cuts():
    """It lies in the middle between two scores, or at the lowest score if all pairs are taken."""
    rng = np.random.default_rng(0)
    for count in (1, 2, 9, 40):
        scores = np.sort(rng.integers(0, 12, count) / 4.0)[::-1]  # some are equal
        is_correct = rng.random(count) < 0.5
        gold_count = int(is_correct.sum()) + 3  # 3 gold pairs were not mined
        best = max(quality(scores, is_correct, gold_count, cut).f1 for cut in set(scores))
        chosen = choose_threshold(scores, is_correct, gold_count)
        assert chosen.f1 == pytest.approx(best)
        assert chosen == quality(scores, is_correct, gold_count, chosen.threshold)
        lowest_above = scores[scores >= chosen.threshold].min()
        below = scores[scores < chosen.threshold]
        if len(below):
            assert chosen.threshold == (lowest_above + below.max()) / 2
        else:
            assert chosen.threshold == lowest_above


def test_precision_recall_and_f1_by_hand():
    """Of the 3 pairs above 0.5, 2 are among the 4 gold pairs: P = 2 / 3, R = 2 / 4, F1 = 2 P R / (P + R)."""
    scores = np.array([0.9, 0.8, 0.6, 0.4])
    is_correct = np.array([True, False, True, True])
    result = quality(scores, is_correct, gold_count=4, threshold=0.5)
    assert result.precision == pytest.approx(100 * 2 / 3)
    assert result.recall == 50.0
    assert result.f1 == pytest.approx(100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert result.threshold == 0.5


def test_pairs_of_at_least_a_score():
    source, target = texts(100)
    pairs, _ = mined(source, target)
    threshold = pairs.scores[30]
    assert as_dict(pairs.at_least(threshold)) == {
        pair: score for pair, score in as_dict(pairs).items() if score >= threshold
    }
