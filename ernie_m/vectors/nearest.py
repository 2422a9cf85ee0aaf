"""Nearest neighbors with faiss, by cosine, and pairs of translations chosen among them by margin. No Paddle.

The margin is that of Artetxe and Schwenk (2019); the scores and the choice of pairs are those of LASER's
mine_bitexts.py, for two texts that are not aligned.
"""

from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ernie_m.utils.errors import UserError
from ernie_m.vectors.pooling import unit

if TYPE_CHECKING:
    import faiss


class Neighbors(NamedTuple):
    """The k nearest sentences of the other text for each sentence of one text, the nearest first."""

    cosines: np.ndarray  # float32 [N, k]
    numbers: np.ndarray  # int64 [N, k], of the sentences of the other text


class Margins(NamedTuple):
    """How much nearer the sentences of each pair of neighbors are than their neighbors in general.

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


def margins(forward: Neighbors, backward: Neighbors) -> Margins:
    """The margins of all neighbors: the cosine of a pair, compared with the mean cosine of the k nearest
    neighbors of both sentences.

    It is divided by this mean. Where a mean is not above 0, ratios say nothing, and those of other pairs
    cannot be compared with differences: then this mean is subtracted everywhere.

    Args:
        forward: the targets nearest to each source.
        backward: the sources nearest to each target.
    """
    # How close the neighbors of a sentence are: the mean of its k cosines.
    around_sources = forward.cosines.mean(axis=1, dtype=np.float64)  # [N]
    around_targets = backward.cosines.mean(axis=1, dtype=np.float64)  # [M]
    forward_means = (around_sources[:, None] + around_targets[forward.numbers]) / 2  # [N, k]
    backward_means = (around_targets[:, None] + around_sources[backward.numbers]) / 2  # [M, k]
    are_ratios = min(forward_means.min(), backward_means.min()) > 0
    compare = np.divide if are_ratios else np.subtract  # float32 with float64 is computed in float64
    return Margins(
        are_ratios, compare(forward.cosines, forward_means), compare(backward.cosines, backward_means)
    )


def best(neighbors: Neighbors, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The neighbor with the largest margin of each query, int64 [N], and this margin, float64 [N].

    Args:
        margins: those of all neighbors, [N, k].
    """
    rows = np.arange(len(margins))
    indices = margins.argmax(axis=1)
    return neighbors.numbers[rows, indices], margins[rows, indices]


def mine(forward: Neighbors, backward: Neighbors, scores: Margins) -> MinedPairs:
    """Choose pairs among the nearest neighbors: the best first, each sentence in one pair only.

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


NEIGHBORS = 4  # k of the margin, as in LASER
EXACT_UP_TO = 300_000  # vectors that `build_index` searches exactly
_PROBES = 16  # cells that a query is compared with, of the 4 sqrt(N) cells of a larger index
_SAMPLES_PER_CELL = 50  # the cells are clusters of a sample, which has so many vectors for each cell


class Matches(NamedTuple):
    """What a search of a bitext finds, in both directions."""

    forward: np.ndarray  # int64 [N], the foreign sentence that English sentence i finds: XTREME's direction
    backward: np.ndarray  # int64 [N], the English sentence that foreign sentence i finds

    def accuracies(self, keys: np.ndarray) -> tuple[float, float]:
        """Per cent of the queries that find their translation, forward and backward; see `is_found`."""
        return 100.0 * is_found(self.forward, keys).mean(), 100.0 * is_found(self.backward, keys).mean()


def is_found(numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Whether a query has found its own pair, or one that has a text in common with it. bool [N].

    Args:
        numbers: int64 [N], of the pair that each has found.
        keys: [sides, N]; equal texts of a side have equal keys.
    """
    return (keys[:, numbers] == keys).any(axis=0)


def load_faiss() -> ModuleType:
    """The library of every search. A command that searches after long work calls this before it, too.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss  # here, because only a search needs its libraries
    except ImportError as error:
        raise UserError(f"search requires faiss ({error}): pip install faiss-cpu") from error
    return faiss


def search_both(english: np.ndarray, foreign: np.ndarray, score: str) -> Matches:
    """Search each side of a bitext with the sentences of the other side.

    Args:
        english, foreign: [N, H]; row i of `english` translates row i of `foreign`.
        score: "cosine" takes the nearest target. "margin" takes, out of the k = `NEIGHBORS` nearest, the
            target with the largest ratio of its cosine to the mean cosine of the k nearest neighbors of both
            sentences (Artetxe and Schwenk, 2019), or the largest difference; see `margins`.
    """
    english = unit(english)
    foreign = unit(foreign)
    if score == "cosine":
        _, targets = nearest(english, foreign, k=1)  # [N, 1]
        _, sources = nearest(foreign, english, k=1)
        return Matches(targets[:, 0], sources[:, 0])
    k = min(NEIGHBORS, len(english))
    forward = Neighbors(*nearest(english, foreign, k))
    backward = Neighbors(*nearest(foreign, english, k))
    scores = margins(forward, backward)
    best_targets, _ = best(forward, scores.forward)
    best_sources, _ = best(backward, scores.backward)
    return Matches(best_targets, best_sources)


def nearest(queries: np.ndarray, targets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search unit vectors exactly: cosines [N, k] float32, descending, and target numbers [N, k] int64."""
    faiss = load_faiss()
    return faiss.knn(queries, targets, k, metric=faiss.METRIC_INNER_PRODUCT)


def build_index(vectors: np.ndarray) -> "faiss.Index":
    """An index of unit vectors, float32 [N, H]. Its `search(queries, k)` returns cosines and numbers.

    They are those of `nearest`. But more than EXACT_UP_TO vectors are divided into cells, and a query is
    compared with the vectors of the nearest cells only, so some of its neighbors may be missed.
    """
    faiss = load_faiss()
    count, width = vectors.shape
    if count <= EXACT_UP_TO:
        index = faiss.IndexFlatIP(width)
    else:
        cells = round(4 * count**0.5)
        index = faiss.index_factory(width, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        index.nprobe = _PROBES
        index.train(vectors[:: max(1, count // (cells * _SAMPLES_PER_CELL))])  # makes the cells
    index.add(vectors)
    return index
