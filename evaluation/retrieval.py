"""Retrieval over aligned sentences: the nearest neighbour by cosine should be the translation."""

from typing import NamedTuple

import numpy as np

from evaluation.search import unit

_BOOTSTRAP_SAMPLES = 1000


def hits(queries: np.ndarray, targets: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Whether the nearest target of query i, by cosine, is target i.

    Args:
        queries: [N, H].
        targets: [N, H]; row i translates query i.
        chunk: number of queries that are scored at once.

    Returns:
        [N] bool. The first of equal targets counts as the nearest.
    """
    queries = unit(queries)
    targets = unit(targets)
    nearest = []
    for start in range(0, len(queries), chunk):
        cosines = queries[start : start + chunk] @ targets.T  # [chunk, N]
        nearest.append(np.argmax(cosines, axis=1))
    return np.concatenate(nearest) == np.arange(len(queries))


def accuracy_by_layer(src: np.ndarray, tgt: np.ndarray) -> np.ndarray:
    """[L + 1, N, H] from `evaluation.encode.encode` -> accuracy src -> tgt and tgt -> src, [L + 1, 2]."""
    return np.array([[hits(a, b).mean(), hits(b, a).mean()] for a, b in zip(src, tgt, strict=True)])


class SplitResult(NamedTuple):
    """The layer that the even pairs choose, its accuracy on the odd pairs (mean of both directions), and the
    standard error of that, from a bootstrap over the pairs."""

    layer: int
    mean: float
    standard_error: float


def choose_on_half(src: np.ndarray, tgt: np.ndarray) -> SplitResult:
    """Choose the layer on the even pairs and score it on the odd pairs.

    Each half is searched within itself, so chance is 2 / N. Of equal layers the lowest is chosen.

    Args:
        src, tgt: [L + 1, N, H]; at least 2 pairs.
    """
    layer = int(accuracy_by_layer(src[:, ::2], tgt[:, ::2]).mean(axis=1).argmax())
    odd_src = src[layer, 1::2]
    odd_tgt = tgt[layer, 1::2]
    scores = (hits(odd_src, odd_tgt).astype(float) + hits(odd_tgt, odd_src)) / 2  # [N / 2]
    rows = np.random.default_rng(0).integers(len(scores), size=(_BOOTSTRAP_SAMPLES, len(scores)))
    return SplitResult(layer, scores.mean(), scores[rows].mean(axis=1).std())
