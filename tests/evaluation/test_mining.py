"""Mined pairs and scores against LASER's algorithm, thresholds against all cuts, large indexes."""

import numpy as np
import pytest

from evaluation import search
from evaluation.mining import MARGINS, RETRIEVALS, Neighbours, choose_threshold, mine, quality
from evaluation.search import index_of, nearest, unit

K = 4


def texts(count, width=24, noise=0.8, seed=0):
    """Vectors of two texts: half of the sentences have a noisy copy in the other text, in another order."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(count, width)) + 0.4  # cosines of one sign, as of real sentences
    target = rng.normal(size=(count, width)) + 0.4
    half = count // 2
    target[rng.permutation(count)[:half]] = source[:half] + rng.normal(scale=noise, size=(half, width))
    return unit(source), unit(target)


def both_ways(source, target, k=K):
    return Neighbours(*nearest(source, target, k)), Neighbours(*nearest(target, source, k))


def largest(scores, k):
    """The columns of the k largest scores of each row, the largest first."""
    columns = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.take_along_axis(scores, columns, 1).argsort(axis=1)[:, ::-1]
    return np.take_along_axis(columns, order, 1)


def by_laser(source, target, margin, retrieval):
    """(source, target) -> score, in the steps of LASER's mine_bitexts.py, in float64 and without faiss."""
    source = source.astype(np.float64)
    target = target.astype(np.float64)
    near = {"forward": [], "backward": []}
    for name, queries, others in (("forward", source, target), ("backward", target, source)):
        for block in np.array_split(queries, 1 + len(queries) // 2000):
            near[name].append(largest(block @ others.T, K))
    forward, backward = (np.concatenate(near[name]) for name in ("forward", "backward"))

    def cosine(i, j):
        return float(source[i] @ target[j])

    forward_mean = [np.mean([cosine(i, j) for j in row]) for i, row in enumerate(forward)]
    backward_mean = [np.mean([cosine(i, j) for i in row]) for j, row in enumerate(backward)]

    def score(i, j):
        around = (forward_mean[i] + backward_mean[j]) / 2
        return {"ratio": cosine(i, j) / around, "distance": cosine(i, j) - around, "absolute": cosine(i, j)}[
            margin
        ]

    from_source = [max((score(i, j), (i, int(j))) for j in row) for i, row in enumerate(forward)]
    from_target = [max((score(i, j), (int(i), j)) for i in row) for j, row in enumerate(backward)]
    if retrieval == "forward":
        return {pair: value for value, pair in from_source}
    if retrieval == "backward":
        return {pair: value for value, pair in from_target}
    if retrieval == "intersect":
        backward_pairs = {pair for _, pair in from_target}
        return {pair: value for value, pair in from_source if pair in backward_pairs}
    sources_taken = set()
    targets_taken = set()
    pairs = {}
    for value, (i, j) in sorted(from_source + from_target, reverse=True):
        if i not in sources_taken and j not in targets_taken:
            sources_taken.add(i)
            targets_taken.add(j)
            pairs[i, j] = value
    return pairs


def as_dict(pairs):
    return dict(zip(zip(pairs.sources.tolist(), pairs.targets.tolist()), pairs.scores.tolist()))


def assert_equal(pairs, expected):
    scores = as_dict(pairs)
    assert scores.keys() == expected.keys()
    assert len(scores) == len(pairs.scores)
    np.testing.assert_allclose(
        [scores[pair] for pair in expected], list(expected.values()), atol=1e-6, rtol=0
    )
    assert (np.diff(pairs.scores) <= 0).all()


@pytest.mark.parametrize("retrieval", RETRIEVALS)
@pytest.mark.parametrize("margin", MARGINS)
def test_pairs_and_scores_are_lasers(margin, retrieval):
    source, target = texts(700)
    pairs = mine(*both_ways(source, target), margin, retrieval)
    assert_equal(pairs, by_laser(source, target, margin, retrieval))


def test_twenty_thousand_lines():
    source, target = texts(10_000, seed=1)
    assert_equal(mine(*both_ways(source, target)), by_laser(source, target, "ratio", "max"))


def test_texts_of_different_lengths():
    source, _ = texts(300)
    _, target = texts(90)
    assert_equal(mine(*both_ways(source, target)), by_laser(source, target, "ratio", "max"))
    few = mine(*both_ways(source, target[:2], k=2), retrieval="forward")
    assert len(few.scores) == 300 and set(few.targets) == {0, 1}


def test_the_threshold_is_the_best_of_all_cuts():
    rng = np.random.default_rng(0)
    for count in (1, 2, 9, 40):
        scores = np.sort(rng.integers(0, 12, count) / 4.0)[::-1]  # some are equal
        is_correct = rng.random(count) < 0.5
        gold_count = int(is_correct.sum()) + 3
        best = max(quality(scores, is_correct, gold_count, cut).f1 for cut in set(scores))
        chosen = choose_threshold(scores, is_correct, gold_count)
        assert chosen.f1 == pytest.approx(best)
        assert chosen == quality(scores, is_correct, gold_count, chosen.threshold)
        others = scores[scores < chosen.threshold]
        lowest = scores[scores >= chosen.threshold].min()
        assert chosen.threshold == (lowest if not len(others) else (lowest + others.max()) / 2)


def test_precision_recall_and_f1_by_hand():
    """Of the 3 pairs above 0.5, 2 are among the 4 gold pairs."""
    result = quality(np.array([0.9, 0.8, 0.6, 0.4]), np.array([True, False, True, True]), 4, 0.5)
    assert result == (0.5, pytest.approx(200 / 3), 50.0, pytest.approx(400 / 7))


def test_pairs_of_at_least_a_score():
    source, target = texts(100)
    pairs = mine(*both_ways(source, target))
    threshold = pairs.scores[30]
    assert as_dict(pairs.at_least(threshold)) == {
        pair: score for pair, score in as_dict(pairs).items() if score >= threshold
    }


def test_a_large_index_finds_most_neighbours(monkeypatch):
    source, target = texts(2000, noise=0.3)
    blocks = np.array_split(target, 3)
    exact = nearest(source, target, K)
    for neighbours, expected in zip(index_of(blocks, len(target)).search(source, K), exact):
        np.testing.assert_array_equal(neighbours, expected)
    monkeypatch.setattr(search, "EXACT_UP_TO", 1999)
    cosines, numbers = index_of(blocks, len(target)).search(source, K)
    recall = np.mean([len(set(row) & set(other)) for row, other in zip(numbers, exact[1])]) / K
    assert 0.8 < recall < 1  # 32 of 179 cells
    np.testing.assert_allclose(cosines[:, 0], (source * target[numbers[:, 0]]).sum(axis=1), atol=1e-6)
