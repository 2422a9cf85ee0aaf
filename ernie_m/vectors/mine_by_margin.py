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
        are_ratios: otherwise they are differences; see `margins`.
        forward: of each source and its targets, float64 [N, k].
        backward: of each target and its sources, float64 [M, k].
    """

    are_ratios: bool
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


def margins(forward: Neighbours, backward: Neighbours) -> Margins:
    """The margins of all neighbours: the cosine of a pair, compared with the mean cosine of the k nearest
    neighbours of both sentences.

    It is divided by this mean. Where a mean is not above 0, ratios say nothing, and those of other pairs
    cannot be compared with differences: then this mean is subtracted everywhere.

    Args:
        forward: the targets nearest to each source.
        backward: the sources nearest to each target.
    """
    # How close the neighbours of a sentence are: the mean of its k cosines.
    around_sources = forward.cosines.mean(axis=1, dtype=np.float64)  # [N]
    around_targets = backward.cosines.mean(axis=1, dtype=np.float64)  # [M]
    forward_means = (around_sources[:, None] + around_targets[forward.numbers]) / 2  # [N, k]
    backward_means = (around_targets[:, None] + around_sources[backward.numbers]) / 2  # [M, k]
    are_ratios = min(forward_means.min(), backward_means.min()) > 0
    compare = np.divide if are_ratios else np.subtract  # float32 with float64 is computed in float64
    return Margins(
        are_ratios, compare(forward.cosines, forward_means), compare(backward.cosines, backward_means)
    )


def best(neighbours: Neighbours, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The neighbour with the largest margin of each query, int64 [N], and this margin, float64 [N].

    Args:
        margins: those of all neighbours, [N, k].
    """
    rows = np.arange(len(margins))
    places = margins.argmax(axis=1)
    return neighbours.numbers[rows, places], margins[rows, places]


def mine(forward: Neighbours, backward: Neighbours, scores: Margins) -> MinedPairs:
    """Choose pairs among the nearest neighbours: the best first, each sentence in one pair only.

    Args:
        forward: the targets nearest to each source.
        backward: the sources nearest to each target.
        scores: the margins of both.
    """
    best_targets, forward_scores = best(forward, scores.forward)
    best_sources, backward_scores = best(backward, scores.backward)
    sources = np.arange(len(best_targets))
    targets = np.arange(len(best_sources))
    all_scores = np.concatenate([forward_scores, backward_scores])
    order = np.argsort(-all_scores, kind="stable")  # pairs of equal scores stay in their order
    candidates = MinedPairs(
        np.concatenate([sources, best_sources])[order],
        np.concatenate([best_targets, targets])[order],
        all_scores[order],
    )
    sources_in_pairs, targets_in_pairs = set(), set()
    taken = []  # numbers of candidates
    for row, (source, target) in enumerate(zip(candidates.sources.tolist(), candidates.targets.tolist())):
        if source not in sources_in_pairs and target not in targets_in_pairs:
            sources_in_pairs.add(source)
            targets_in_pairs.add(target)
            taken.append(row)
    return MinedPairs(*(of_candidates[taken] for of_candidates in candidates))
