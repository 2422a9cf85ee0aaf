"""Retrieval over aligned sentences: the nearest neighbour by cosine should be the translation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evaluation.search import unit


def hits(queries: np.ndarray, targets: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Whether the nearest target of query i, by cosine, is target i.

    Args:
        queries: [N, H].
        targets: [N, H]; row i translates query i.
        chunk: number of queries that are scored at once.

    Returns:
        [N] bool. The first of equal targets counts as the nearest.
    """
    queries, targets = unit(queries), unit(targets)
    starts = range(0, len(queries), chunk)
    nearest = [np.argmax(queries[start : start + chunk] @ targets.T, axis=1) for start in starts]
    return np.concatenate(nearest) == np.arange(len(queries))


def accuracy_by_layer(src: np.ndarray, tgt: np.ndarray) -> np.ndarray:
    """Accuracy of every layer: [L + 1, 2] float64, src -> tgt and tgt -> src.

    Args:
        src, tgt: [L + 1, N, H], from `evaluation.encode.encode`.
    """
    return np.array([[hits(a, b).mean(), hits(b, a).mean()] for a, b in zip(src, tgt, strict=True)])


@dataclass(frozen=True)
class SplitResult:
    """Accuracy on pairs that were not used to choose the layer.

    Args:
        layer: the layer that was chosen on the even pairs.
        forward, backward: accuracy on the odd pairs, src -> tgt and tgt -> src.
        mean: mean of the two.
        standard_error: standard error of `mean`, from a bootstrap over the pairs.
    """

    layer: int
    forward: float
    backward: float
    mean: float
    standard_error: float


def choose_on_half(
    src: np.ndarray, tgt: np.ndarray, seed: int = 0, draws: int = 1000,
    search: Callable = lambda a, b: (hits(a, b), hits(b, a)),
) -> SplitResult:  # fmt: skip
    """Choose the layer on the even pairs and score it on the odd pairs.

    Each half is searched within itself, so chance is 2 / N. Of equal layers the lowest is chosen.

    Args:
        src, tgt: [L + 1, N, H]; at least 2 pairs.
        seed, draws: seed and number of samples of the bootstrap.
        search: (a, b), each [N, H] -> whether row i finds row i, a -> b and b -> a, each [N] bool.
    """
    found = [search(a, b) for a, b in zip(src[:, ::2], tgt[:, ::2], strict=True)]
    layer = int(np.argmax([np.mean([forward.mean(), backward.mean()]) for forward, backward in found]))
    forward, backward = search(src[layer, 1::2], tgt[layer, 1::2])
    both = (forward.astype(float) + backward) / 2  # [N / 2]
    rows = np.random.default_rng(seed).integers(len(both), size=(draws, len(both)))
    return SplitResult(layer, forward.mean(), backward.mean(), both.mean(), both[rows].mean(axis=1).std())
