"""Nearest neighbor search with faiss, and bitext mining with margin scoring. Does not import Paddle.

The margin follows Artetxe and Schwenk (2019). Scores and pairs match LASER's mine_bitexts.py for two texts
that are not aligned.
"""

from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ernie_m.utils.errors import UserError

if TYPE_CHECKING:
    import faiss


class Neighbors(NamedTuple):
    """The k nearest neighbors of each sentence among the sentences of another text, nearest first."""

    cosines: np.ndarray  # float32 [N, k]
    indices: np.ndarray  # int64 [N, k], indices of sentences of the other text


class Margins(NamedTuple):
    """Margin scores of each sentence and its nearest neighbors.

    Attributes:
        are_ratios: whether the scores are ratio margins; otherwise they are difference margins.
        forward: scores of each source sentence and its targets, float64 [N, k].
        backward: scores of each target sentence and its sources, float64 [M, k].
    """

    are_ratios: bool
    forward: np.ndarray
    backward: np.ndarray


class MinedPairs(NamedTuple):
    """Mined sentence pairs, best first."""

    sources: np.ndarray  # int64 [P], indices of sentences
    targets: np.ndarray  # int64 [P]
    scores: np.ndarray  # float64 [P]

    def filter_by_score(self, threshold: float) -> "MinedPairs":
        """Keep the pairs with a score of at least `threshold`."""
        count = int((self.scores >= threshold).sum())  # sorted by score
        return MinedPairs(self.sources[:count], self.targets[:count], self.scores[:count])


def compute_margins(forward: Neighbors, backward: Neighbors) -> Margins:
    """Compute margin scores: the cosine of a pair, relative to the mean cosine of both sentences' neighbors.

    The ratio margin divides by this mean. If any mean is not positive, ratios are undefined, so the
    difference margin is used for all pairs.

    Args:
        forward: nearest target sentences of each source sentence.
        backward: nearest source sentences of each target sentence.
    """
    # The mean cosine of the k nearest neighbors of each sentence.
    around_sources = forward.cosines.mean(axis=1, dtype=np.float64)  # [N]
    around_targets = backward.cosines.mean(axis=1, dtype=np.float64)  # [M]
    forward_means = (around_sources[:, None] + around_targets[forward.indices]) / 2  # [N, k]
    backward_means = (around_targets[:, None] + around_sources[backward.indices]) / 2  # [M, k]
    are_ratios = min(forward_means.min(), backward_means.min()) > 0
    compare = np.divide if are_ratios else np.subtract  # float32 and float64 give float64
    return Margins(
        are_ratios, compare(forward.cosines, forward_means), compare(backward.cosines, backward_means)
    )


def select_best_neighbors(neighbors: Neighbors, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Select the neighbor with the largest margin for each of N sentences.

    Args:
        margins: margin scores of the neighbors, [N, k].

    Returns:
        Indices of the neighbors, int64 [N], and their margin scores, float64 [N].
    """
    rows = np.arange(len(margins))
    indices = margins.argmax(axis=1)
    return neighbors.indices[rows, indices], margins[rows, indices]


def mine_greedily(forward: Neighbors, backward: Neighbors, scores: Margins) -> MinedPairs:
    """Mine sentence pairs greedily by margin score; each sentence is in at most one pair.

    Args:
        forward: nearest target sentences of each source sentence.
        backward: nearest source sentences of each target sentence.
        scores: the margin scores of these neighbors.
    """
    best_targets, forward_scores = select_best_neighbors(forward, scores.forward)
    best_sources, backward_scores = select_best_neighbors(backward, scores.backward)
    sources = np.arange(len(best_targets))
    targets = np.arange(len(best_sources))
    all_scores = np.concatenate([forward_scores, backward_scores])
    order = np.argsort(-all_scores, kind="stable")  # stable for equal scores
    candidates = MinedPairs(
        np.concatenate([sources, best_sources])[order],
        np.concatenate([best_targets, targets])[order],
        all_scores[order],
    )
    sources_in_pairs, targets_in_pairs = set(), set()
    taken = []  # indices of candidates
    for row, (source, target) in enumerate(zip(candidates.sources.tolist(), candidates.targets.tolist())):
        if source not in sources_in_pairs and target not in targets_in_pairs:
            sources_in_pairs.add(source)
            targets_in_pairs.add(target)
            taken.append(row)
    return MinedPairs(*(of_candidates[taken] for of_candidates in candidates))


NEIGHBORS = 4  # k of the margin, as in LASER
EXACT_UP_TO = 300_000  # maximum number of embeddings for exact search
_PROBES = 16  # cells searched per query, of the 4 sqrt(N) cells of a larger index
_SAMPLES_PER_CELL = 50  # training embeddings per cell


def load_faiss() -> ModuleType:
    """Import faiss. Commands that use faiss after long work also call this at the beginning, to fail early.

    Raises:
        UserError: faiss is not installed.
    """
    try:
        import faiss  # imported here, because only search requires it
    except ImportError as error:
        raise UserError(f"search requires faiss ({error}): pip install faiss-cpu") from error
    return faiss


def find_neighbors(queries: np.ndarray, targets: np.ndarray, k: int) -> Neighbors:
    """Find the k nearest targets of each query by exact search.

    Args:
        queries, targets: unit vectors, float32 [N, H] and [M, H].
    """
    faiss = load_faiss()
    return Neighbors(*faiss.knn(queries, targets, k, metric=faiss.METRIC_INNER_PRODUCT))


def build_index(vectors: np.ndarray) -> "faiss.Index":
    """Build a faiss index of unit vectors, float32 [N, H].

    Search is exact up to EXACT_UP_TO vectors. A larger index is an inverted file (IVF), which searches only
    the cells nearest to a query, so some neighbors may be missed.
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
