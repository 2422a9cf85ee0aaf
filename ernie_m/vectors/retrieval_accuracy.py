"""Retrieval accuracy on aligned sentences: the nearest neighbor should be the translation.

`keys`, [2, N], identify equal texts; see `is_found` of nearest.py.
"""

import logging
from collections.abc import Callable

import numpy as np

from ernie_m.utils.logging import logger
from ernie_m.vectors.nearest import is_found, search_both
from ernie_m.vectors.pooling import unit

_AT_ONCE = 1024  # queries per matrix product
_MOST_FOUND_BY_ANY = 0.2  # a larger share of such pairs is a warning


def nearest(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the index of the target with the largest cosine for each query, the first of ties: int64 [N].

    Args:
        queries, targets: [N, H] and [M, H].
    """
    queries = unit(queries)
    targets = unit(targets)
    numbers = [
        np.argmax(queries[start : start + _AT_ONCE] @ targets.T, axis=1)  # over cosines [_AT_ONCE, M]
        for start in range(0, len(queries), _AT_ONCE)
    ]
    return np.concatenate(numbers)


def hits(queries: np.ndarray, targets: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return whether the nearest target of each query is correct: bool [N]; see `nearest` and `is_found`."""
    return is_found(nearest(queries, targets), keys)


def log_repeats(name: str, keys: np.ndarray) -> None:
    """Log the number of trivial pairs: with equal sides, or a text that is also in another pair.

    Args:
        keys: [2, N].
    """
    is_found_by_any = keys[0] == keys[1]
    for side in keys:
        _, number, occurrences = np.unique(side, return_inverse=True, return_counts=True)
        is_found_by_any |= occurrences[number] > 1
    count = int(is_found_by_any.sum())
    if count:
        logger.log(
            logging.WARNING if count > _MOST_FOUND_BY_ANY * len(is_found_by_any) else logging.INFO,
            "%s: of %d pairs, %d have equal sides or share a side after tokenization; equal texts count as "
            "hits, which inflates the score. Check the texts and the coverage of the vocabulary",
            name,
            len(is_found_by_any),
            count,
        )


def accuracy_by_layer(src: np.ndarray, tgt: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Compute retrieval accuracy@1 at each layer, from 0 to 1.

    Args:
        src, tgt: [L + 1, N, H] from `PaddleEncoder.vectors`; sentence i of `tgt` translates sentence i of
            `src`.

    Returns:
        [L + 1, 2]: src to tgt, and tgt to src.
    """
    return np.array(
        [
            [hits(src_layer, tgt_layer, keys).mean(), hits(tgt_layer, src_layer, keys).mean()]
            for src_layer, tgt_layer in zip(src, tgt, strict=True)
        ]
    )


def found_by_cosine(src: np.ndarray, tgt: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Count the hits of each pair with cosine scoring, over both directions: 0 to 2, int64 [N].

    Args:
        src, tgt: [N, H]; row i of `tgt` translates row i of `src`.
    """
    return hits(src, tgt, keys).astype(np.int64) + hits(tgt, src, keys)


def found_by_margin(src: np.ndarray, tgt: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Count the hits of each pair with margin scoring; see `found_by_cosine`."""
    matches = search_both(src, tgt, score="margin")
    return is_found(matches.forward, keys).astype(np.int64) + is_found(matches.backward, keys)


def choose_on_half(
    src: np.ndarray,
    tgt: np.ndarray,
    keys: np.ndarray,
    find: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = found_by_cosine,
) -> tuple[int, float]:
    """Select the layer on the even pairs and evaluate it on the odd pairs.

    Each half is searched within itself, so the accuracy at chance is 2 / N. Ties go to the lowest layer.

    Args:
        src, tgt: [L + 1, N, H]; at least 2 pairs.
        find: counts the hits of each pair: `found_by_cosine` or `found_by_margin`.

    Returns:
        The best layer on the even pairs, and its accuracy on the odd ones, from 0 to 1: the mean of both
        directions.
    """
    # The hits of the even pairs at each layer, over both directions.
    found_counts = [
        find(src_layer, tgt_layer, keys[:, ::2]).sum()  # [N / 2, H] each
        for src_layer, tgt_layer in zip(src[:, ::2], tgt[:, ::2], strict=True)
    ]
    layer = int(np.argmax(found_counts))
    found = find(src[layer, 1::2], tgt[layer, 1::2], keys[:, 1::2])  # 0, 1 or 2 for each odd pair, [N / 2]
    return layer, (found / 2).mean()
