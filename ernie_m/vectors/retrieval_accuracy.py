"""Retrieval over aligned sentences: the nearest neighbor should be the translation.

`keys` tell equal texts, [sides, N]: what `is_found` of nearest.py takes.
"""

import logging
from collections.abc import Callable

import numpy as np

from ernie_m.utils.logging import logger
from ernie_m.vectors.nearest import is_found, search_both
from ernie_m.vectors.pooling import unit

_AT_ONCE = 1024  # queries that are scored together
_MOST_FOUND_BY_ANY = 0.2  # the greatest share of pairs without a warning


def nearest(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The number of the target that is nearest to each query by cosine, the first of equal ones: int64 [N].

    Args:
        queries, targets: [N, H] and [M, H].
    """
    queries = unit(queries)
    targets = unit(targets)
    numbers = [
        np.argmax(queries[start : start + _AT_ONCE] @ targets.T, axis=1)  # of the cosines [_AT_ONCE, M]
        for start in range(0, len(queries), _AT_ONCE)
    ]
    return np.concatenate(numbers)


def hits(queries: np.ndarray, targets: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Whether the nearest target of query i, by cosine, is right: bool [N]; see `nearest` and `is_found`."""
    return is_found(nearest(queries, targets), keys)


def say_repeats(name: str, keys: np.ndarray) -> None:
    """Log how many pairs any model may find: with equal sides, or with a text of another pair.

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
            "%s: for this vocabulary, of %d pairs %d have equal sides or a side in common; equal texts count "
            "as found. If they are many, the score says little: are the texts right, and their words known?",
            name,
            len(is_found_by_any),
            count,
        )


def accuracy_by_layer(src: np.ndarray, tgt: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The share of sentences whose nearest neighbor is their translation, at each layer.

    Args:
        src, tgt: [L + 1, N, H] from `PaddleEncoder.vectors`; sentence i of `tgt` translates that of `src`.

    Returns:
        [L + 1, 2]: src searched in tgt, and tgt in src.
    """
    return np.array(
        [
            [hits(src_layer, tgt_layer, keys).mean(), hits(tgt_layer, src_layer, keys).mean()]
            for src_layer, tgt_layer in zip(src, tgt, strict=True)
        ]
    )


def found_by_cosine(src: np.ndarray, tgt: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """In how many directions each pair is found by the largest cosine: 0 to 2, int64 [N].

    Args:
        src, tgt: [N, H]; row i of one translates row i of the other.
    """
    return hits(src, tgt, keys).astype(np.int64) + hits(tgt, src, keys)


def found_by_margin(src: np.ndarray, tgt: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """In how many directions each pair is found by the largest ratio margin; see `found_by_cosine`."""
    matches = search_both(src, tgt, score="margin")
    return is_found(matches.forward, keys).astype(np.int64) + is_found(matches.backward, keys)


def choose_on_half(
    src: np.ndarray,
    tgt: np.ndarray,
    keys: np.ndarray,
    find: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = found_by_cosine,
) -> tuple[int, float]:
    """Choose the layer on the even pairs and score it on the odd pairs.

    Each half is searched within itself, so a random search finds 2 / N of the pairs. Of equal layers the
    lowest is chosen.

    Args:
        src, tgt: [L + 1, N, H]; at least 2 pairs.
        find: counts in how many directions each pair of a layer is found: `found_by_cosine` or
            `found_by_margin`.

    Returns:
        The best layer on the even pairs, and its accuracy on the odd ones, from 0 to 1: the mean of both
        directions.
    """
    # For each layer: how many even pairs are found, both directions together.
    found_counts = [
        find(src_layer, tgt_layer, keys[:, ::2]).sum()  # [N / 2, H] each
        for src_layer, tgt_layer in zip(src[:, ::2], tgt[:, ::2], strict=True)
    ]
    layer = int(np.argmax(found_counts))
    found = find(src[layer, 1::2], tgt[layer, 1::2], keys[:, 1::2])  # 0, 1 or 2 of each odd pair, [N / 2]
    return layer, (found / 2).mean()
