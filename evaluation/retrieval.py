"""Sentence retrieval over aligned sentences: the nearest neighbour by cosine should be the translation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evaluation.search import unit


def hits(queries: np.ndarray, targets: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Whether the nearest target of query i, by cosine, is target i.

    Args:
        queries: [N, H].
        targets: [N, H]; row i translates query i.
        chunk: queries scored at once.

    Returns:
        [N] bool. The first of equal targets counts as the nearest.
    """
    queries, targets = unit(queries), unit(targets)
    nearest = np.concatenate(
        [
            np.argmax(queries[start : start + chunk] @ targets.T, axis=1)
            for start in range(0, len(queries), chunk)
        ]
    )
    return nearest == np.arange(len(queries))


def accuracy_by_layer(src: np.ndarray, tgt: np.ndarray) -> np.ndarray:
    """Accuracy of every layer in both directions.

    Args:
        src: [L + 1, N, H], as `evaluation.encode.encode` returns.
        tgt: [L + 1, N, H].

    Returns:
        [L + 1, 2] float64: src -> tgt, tgt -> src.
    """
    return np.array([[hits(a, b).mean(), hits(b, a).mean()] for a, b in zip(src, tgt, strict=True)])


@dataclass(frozen=True)
class SplitResult:
    """Accuracy on pairs that had no say in the choice of the layer.

    Args:
        layer: chosen on the even pairs.
        forward: accuracy src -> tgt on the odd pairs.
        backward: accuracy tgt -> src on the odd pairs.
        mean: of the two.
        standard_error: of `mean`, by bootstrap over the pairs.
    """

    layer: int
    forward: float
    backward: float
    mean: float
    standard_error: float


def by_cosine(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`hits` of a -> b and of b -> a."""
    return hits(a, b), hits(b, a)


def choose_on_half(
    src: np.ndarray,
    tgt: np.ndarray,
    seed: int = 0,
    draws: int = 1000,
    search: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] = by_cosine,
) -> SplitResult:
    """Choose the layer on the even pairs, report it on the odd ones.

    Each half is searched within itself, so chance is 2 / N. A tie takes the lowest layer.

    Args:
        src: [L + 1, N, H]; at least 2 pairs.
        tgt: [L + 1, N, H].
        seed: of the bootstrap.
        draws: bootstrap samples.
        search: (a, b), each [N, H] -> which rows find their own number, a -> b and b -> a, each [N] bool.
    """
    found = [search(a, b) for a, b in zip(src[:, ::2], tgt[:, ::2], strict=True)]
    layer = int(np.argmax([np.mean([forward.mean(), backward.mean()]) for forward, backward in found]))
    forward, backward = search(src[layer, 1::2], tgt[layer, 1::2])
    both = (forward.astype(float) + backward) / 2  # [N / 2]
    rows = np.random.default_rng(seed).integers(len(both), size=(draws, len(both)))
    return SplitResult(layer, forward.mean(), backward.mean(), both.mean(), both[rows].mean(axis=1).std())
