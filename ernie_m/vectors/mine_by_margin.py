"""Mine translations from two texts that are not aligned, by margin (Artetxe and Schwenk, 2019).

The scores and the choice of pairs are those of LASER's mine_bitexts.py. No Paddle here.
"""

from typing import NamedTuple

import numpy as np


class Neighbours(NamedTuple):
    """The k nearest sentences of the other text for each sentence of one text, the nearest first."""

    cosines: np.ndarray  # float32 [N, k]
    numbers: np.ndarray  # int64 [N, k], of the sentences of the other text


class Margins(NamedTuple):
    """How much nearer the sentences of each pair of neighbours are than their neighbours in general.

    Attributes:
        kind: "ratio", "distance" or "absolute"; see `margins`.
        forward: of each source and its targets, float64 [N, k].
        backward: of each target and its sources, float64 [M, k].
    """

    kind: str
    forward: np.ndarray
    backward: np.ndarray


class MinedPairs(NamedTuple):
    """Pairs of sentences, the best first."""

    sources: np.ndarray  # int64 [P], numbers of sentences
    targets: np.ndarray  # int64 [P]
    scores: np.ndarray  # float64 [P]

    def at_least(self, threshold: float) -> "MinedPairs":
        """The pairs with a score of at least `threshold`."""
        count = int((self.scores >= threshold).sum())  # they come first
        return MinedPairs(self.sources[:count], self.targets[:count], self.scores[:count])


def margins(forward: Neighbours, backward: Neighbours, kind: str = "ratio") -> Margins:
    """The margins of all neighbours.

    Args:
        forward: the targets nearest to each source.
        backward: the sources nearest to each target.
        kind: how the cosine of a pair is compared with the mean cosine of the k nearest neighbours of both
            sentences: "ratio" is the cosine divided by this mean, "distance" the cosine minus this mean,
            "absolute" the cosine alone. Where a mean is not above 0, ratios say nothing, and those of other
            pairs cannot be compared with distances: then all margins are distances.
    """
    # How close the neighbours of a sentence are: the mean of its k cosines.
    around_sources = forward.cosines.mean(axis=1, dtype=np.float64)  # [N]
    around_targets = backward.cosines.mean(axis=1, dtype=np.float64)  # [M]
    forward_means = (around_sources[:, None] + around_targets[forward.numbers]) / 2  # [N, k]
    backward_means = (around_targets[:, None] + around_sources[backward.numbers]) / 2  # [M, k]
    if kind == "ratio" and min(forward_means.min(), backward_means.min()) <= 0:
        kind = "distance"
    forward_cosines = forward.cosines.astype(np.float64)
    backward_cosines = backward.cosines.astype(np.float64)
    if kind == "ratio":
        return Margins(kind, forward_cosines / forward_means, backward_cosines / backward_means)
    if kind == "distance":
        return Margins(kind, forward_cosines - forward_means, backward_cosines - backward_means)
    return Margins(kind, forward_cosines, backward_cosines)


def best(neighbours: Neighbours, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The neighbour with the largest margin of each query, int64 [N], and this margin, float64 [N].

    Args:
        margins: those of all neighbours, [N, k].
    """
    rows = np.arange(len(margins))
    places = margins.argmax(axis=1)
    return neighbours.numbers[rows, places], margins[rows, places]


def mine(forward: Neighbours, backward: Neighbours, scores: Margins, retrieval: str = "max") -> MinedPairs:
    """Choose pairs among the nearest neighbours.

    Args:
        forward: the targets nearest to each source.
        backward: the sources nearest to each target.
        scores: the margins of both.
        retrieval: "forward" takes the best target of each source, "backward" the best source of each target,
            "intersect" the pairs that both of these take. "max" goes through the pairs of both, the best
            first, and uses each sentence in one pair only.
    """
    best_targets, forward_scores = best(forward, scores.forward)
    best_sources, backward_scores = best(backward, scores.backward)
    sources = np.arange(len(best_targets))
    targets = np.arange(len(best_sources))
    if retrieval == "forward":
        return _sorted(sources, best_targets, forward_scores)
    if retrieval == "backward":
        return _sorted(best_sources, targets, backward_scores)
    if retrieval == "intersect":
        # Is the best source of a source's best target this source itself?
        is_mutual = best_sources[best_targets] == sources  # [N]
        return _sorted(sources[is_mutual], best_targets[is_mutual], forward_scores[is_mutual])
    candidates = _sorted(
        np.concatenate([sources, best_sources]),
        np.concatenate([best_targets, targets]),
        np.concatenate([forward_scores, backward_scores]),
    )
    return _one_to_one(candidates, len(sources), len(targets))


def _sorted(sources: np.ndarray, targets: np.ndarray, scores: np.ndarray) -> MinedPairs:
    """The pairs with the best score first. Pairs of equal scores stay in their order."""
    order = np.argsort(-scores, kind="stable")
    return MinedPairs(sources[order], targets[order], scores[order])


def _one_to_one(candidates: MinedPairs, source_count: int, target_count: int) -> MinedPairs:
    """Take the candidates in order, unless one of their sentences is in an earlier pair."""
    source_is_free = [True] * source_count
    target_is_free = [True] * target_count
    taken = []  # numbers of candidates
    sources = candidates.sources.tolist()
    targets = candidates.targets.tolist()
    for row, (source, target) in enumerate(zip(sources, targets)):
        if source_is_free[source] and target_is_free[target]:
            source_is_free[source] = False
            target_is_free[target] = False
            taken.append(row)
    return MinedPairs(candidates.sources[taken], candidates.targets[taken], candidates.scores[taken])
