"""Nearest neighbours with faiss, by cosine or by margin."""

from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ernie_m.utils.errors import UserError
from ernie_m.vectors.mine_by_margin import Neighbours, best, margins
from ernie_m.vectors.pooling import unit

if TYPE_CHECKING:
    import faiss

NEIGHBOURS = 4  # k of the margin, as in LASER
EXACT_UP_TO = 300_000  # vectors that `index_of` searches exactly
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
        raise UserError(f"a search needs faiss ({error}): pip install faiss-cpu") from error
    return faiss


def search_both(
    english: np.ndarray, foreign: np.ndarray, score: str = "cosine", neighbours: int = NEIGHBOURS
) -> Matches:
    """Search each side of a bitext with the sentences of the other side.

    Args:
        english, foreign: [N, H]; row i of `english` translates row i of `foreign`.
        score: "cosine" takes the nearest target. "margin" takes, out of the k nearest, the target with the
            largest ratio of its cosine to the mean cosine of the k nearest neighbours of both sentences
            (Artetxe and Schwenk, 2019), or the largest difference; see `margins` of mine_by_margin.py.
        neighbours: k of the margin.
    """
    english = unit(english)
    foreign = unit(foreign)
    if score == "cosine":
        _, forward = nearest(english, foreign, k=1)  # [N, 1]
        _, backward = nearest(foreign, english, k=1)
        return Matches(forward[:, 0], backward[:, 0])
    k = min(neighbours, len(english))
    forward = Neighbours(*nearest(english, foreign, k))
    backward = Neighbours(*nearest(foreign, english, k))
    scores = margins(forward, backward)
    best_targets, _ = best(forward, scores.forward)
    best_sources, _ = best(backward, scores.backward)
    return Matches(best_targets, best_sources)


def nearest(queries: np.ndarray, targets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search unit vectors exactly: cosines [N, k] float32, descending, and target numbers [N, k] int64."""
    faiss = load_faiss()
    return faiss.knn(queries, targets, k, metric=faiss.METRIC_INNER_PRODUCT)


def index_of(vectors: np.ndarray) -> "faiss.Index":
    """An index of unit vectors, float32 [N, H]. Its `search(queries, k)` returns cosines and numbers.

    They are those of `nearest`. But more than EXACT_UP_TO vectors are divided into cells, and a query is
    compared with the vectors of the nearest cells only, so some of its neighbours may be missed.
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
