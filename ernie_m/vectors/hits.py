"""Retrieval over aligned sentences: the nearest neighbour should be the translation."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ernie_m.vectors.nearest import search_both
from ernie_m.vectors.pooling import unit


def nearest(queries: np.ndarray, targets: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """The number of the target that is nearest to each query by cosine, the first of equal ones: int64 [N].

    Args:
        queries, targets: [N, H] and [M, H].
        chunk: number of queries that are scored at once.
    """
    queries = unit(queries)
    targets = unit(targets)
    numbers = [
        np.argmax(queries[start : start + chunk] @ targets.T, axis=1)  # of the cosines [chunk, M]
        for start in range(0, len(queries), chunk)
    ]
    return np.concatenate(numbers)


def hits(queries: np.ndarray, targets: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Whether the nearest target of query i, by cosine, is target i: bool [N]; see `nearest`."""
    return nearest(queries, targets, chunk) == np.arange(len(queries))


def accuracy_by_layer(src: np.ndarray, tgt: np.ndarray) -> np.ndarray:
    """The share of sentences whose nearest neighbour is their translation, at each layer.

    Args:
        src, tgt: [L + 1, N, H] from `PaddleEncoder.vectors`; sentence i of `tgt` translates that of `src`.

    Returns:
        [L + 1, 2]: src searched in tgt, and tgt in src.
    """
    accuracies = [
        [hits(src_layer, tgt_layer).mean(), hits(tgt_layer, src_layer).mean()]
        for src_layer, tgt_layer in zip(src, tgt, strict=True)
    ]
    return np.array(accuracies)


def found_by_cosine(src: np.ndarray, tgt: np.ndarray) -> np.ndarray:
    """In how many directions each pair is found by the largest cosine: 0 to 2, int64 [N].

    Args:
        src, tgt: [N, H]; row i of one translates row i of the other.
    """
    return hits(src, tgt).astype(np.int64) + hits(tgt, src)


def found_by_margin(src: np.ndarray, tgt: np.ndarray) -> np.ndarray:
    """In how many directions each pair is found by the largest ratio margin; see `found_by_cosine`."""
    matches = search_both(src, tgt, score="margin")
    rows = np.arange(len(src))
    return (matches.forward == rows).astype(np.int64) + (matches.backward == rows)


class SplitResult(NamedTuple):
    """A layer and its accuracy, from `choose_on_half`."""

    layer: int  # the best one on the even pairs
    accuracy: float  # from 0 to 1: on the odd pairs, the mean of both directions


def choose_on_half(
    src: np.ndarray,
    tgt: np.ndarray,
    find: Callable[[np.ndarray, np.ndarray], np.ndarray] = found_by_cosine,
) -> SplitResult:
    """Choose the layer on the even pairs and score it on the odd pairs.

    Each half is searched within itself, so a random search finds 2 / N of the pairs. Of equal layers the
    lowest is chosen.

    Args:
        src, tgt: [L + 1, N, H]; at least 2 pairs.
        find: counts in how many directions each pair of a layer is found: `found_by_cosine` or
            `found_by_margin`.
    """
    # For each layer: how many even pairs are found, both directions together.
    found_counts = [
        find(src_layer, tgt_layer).sum()  # [N / 2, H] each
        for src_layer, tgt_layer in zip(src[:, ::2], tgt[:, ::2], strict=True)
    ]
    layer = int(np.argmax(found_counts))
    scores = find(src[layer, 1::2], tgt[layer, 1::2]) / 2  # 0, 0.5 or 1 of each odd pair, [N / 2]
    return SplitResult(layer, accuracy=scores.mean())
