"""Retrieval accuracy@1 on a bitext: the nearest neighbor of a sentence should be its translation.

`keys`, [2, N], has equal keys for equal texts of a side. A pair with an equal text also counts as a hit.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ernie_m.utils.logging import logger
from ernie_m.vectors.nearest import NEIGHBORS, compute_margins, find_neighbors, select_best_neighbors
from ernie_m.vectors.pooling import normalize_vectors

_AT_ONCE = 1024  # queries per matrix product
_MOST_FOUND_BY_ANY = 0.2  # a larger share of such pairs is a warning


class Matches(NamedTuple):
    """The sentence retrieved for each sentence of a bitext, in both directions."""

    forward: np.ndarray  # int64 [N], the foreign sentence nearest to English sentence i: XTREME's direction
    backward: np.ndarray  # int64 [N], the English sentence nearest to foreign sentence i

    def compute_accuracies(self, keys: np.ndarray) -> tuple[float, float]:
        """Compute the retrieval accuracy@1 in percent, forward and backward.

        Args:
            keys: [2, N]; equal texts of one side have equal keys.
        """
        return 100.0 * mark_hits(self.forward, keys).mean(), 100.0 * mark_hits(self.backward, keys).mean()


def mark_hits(indices: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return whether each query of a bitext retrieved the correct pair: bool [N].

    A pair that shares a text with the query's own pair is also correct.

    Args:
        indices: index of the pair that each query retrieved, int64 [N].
        keys: [2, N]; equal texts of one side have equal keys.
    """
    return (keys[:, indices] == keys).any(axis=0)


def search_both_directions(english: np.ndarray, foreign: np.ndarray, scoring: str) -> Matches:
    """Retrieve a sentence of the other language for each sentence of a bitext.

    Args:
        english, foreign: sentence embeddings, [N, H]; row i of `english` translates row i of `foreign`.
        scoring: "cosine": retrieve the nearest neighbor. "margin": retrieve, of the k = `NEIGHBORS` nearest
            neighbors, the one with the largest margin score (Artetxe and Schwenk, 2019).
    """
    english = normalize_vectors(english)
    foreign = normalize_vectors(foreign)
    if scoring == "cosine":
        _, targets = find_neighbors(english, foreign, k=1)  # [N, 1]
        _, sources = find_neighbors(foreign, english, k=1)
        return Matches(targets[:, 0], sources[:, 0])
    k = min(NEIGHBORS, len(english))
    forward = find_neighbors(english, foreign, k)
    backward = find_neighbors(foreign, english, k)
    scores = compute_margins(forward, backward)
    best_targets, _ = select_best_neighbors(forward, scores.forward)
    best_sources, _ = select_best_neighbors(backward, scores.backward)
    return Matches(best_targets, best_sources)


def find_nearest(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Find the nearest target of each query by cosine, the first of ties: indices, int64 [N].

    Args:
        queries, targets: [N, H] and [M, H].
    """
    queries = normalize_vectors(queries)
    targets = normalize_vectors(targets)
    numbers = [
        np.argmax(queries[start : start + _AT_ONCE] @ targets.T, axis=1)  # over cosines [_AT_ONCE, M]
        for start in range(0, len(queries), _AT_ONCE)
    ]
    return np.concatenate(numbers)


def find_hits(queries: np.ndarray, targets: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return whether the nearest target of each query is its translation: bool [N].

    Args:
        queries, targets: sentence embeddings, [N, H]; row i of `targets` translates row i of `queries`.
        keys: [2, N].
    """
    return mark_hits(find_nearest(queries, targets), keys)


def log_repeated_texts(name: str, keys: np.ndarray) -> None:
    """Log the number of pairs that inflate accuracy: their sides are equal, or another pair shares a text.

    Args:
        name: name of the bitext in the log.
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


def compute_accuracy_by_layer(src: np.ndarray, tgt: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Compute the retrieval accuracy@1 at each layer, from 0 to 1.

    Args:
        src, tgt: sentence embeddings at every layer, [L + 1, N, H]; sentence i of `tgt` translates sentence i
            of `src`.
        keys: [2, N].

    Returns:
        [L + 1, 2]: accuracy from src to tgt, and from tgt to src.
    """
    return np.array(
        [
            [find_hits(src_layer, tgt_layer, keys).mean(), find_hits(tgt_layer, src_layer, keys).mean()]
            for src_layer, tgt_layer in zip(src, tgt, strict=True)
        ]
    )


def count_hits_by_cosine(src: np.ndarray, tgt: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Count the directions, 0 to 2, in which each pair is retrieved by cosine: int64 [N].

    Args:
        src, tgt: sentence embeddings, [N, H]; row i of `tgt` translates row i of `src`.
        keys: [2, N].
    """
    return find_hits(src, tgt, keys).astype(np.int64) + find_hits(tgt, src, keys)


def count_hits_by_margin(src: np.ndarray, tgt: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Count the directions, 0 to 2, in which each pair is retrieved by margin score: int64 [N].

    Args:
        src, tgt: sentence embeddings, [N, H]; row i of `tgt` translates row i of `src`.
        keys: [2, N].
    """
    matches = search_both_directions(src, tgt, scoring="margin")
    return mark_hits(matches.forward, keys).astype(np.int64) + mark_hits(matches.backward, keys)


def select_layer_on_half(
    src: np.ndarray,
    tgt: np.ndarray,
    keys: np.ndarray,
    count_hits: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = count_hits_by_cosine,
) -> tuple[int, float]:
    """Select the layer with the highest accuracy on the even pairs, and evaluate it on the odd pairs.

    Each half is searched within itself, so the chance level is 2 / N. Ties go to the lowest layer.

    Args:
        src, tgt: sentence embeddings at every layer, [L + 1, N, H], N at least 2.
        keys: [2, N].
        count_hits: function that counts in how many directions each pair is retrieved:
            `count_hits_by_cosine` or `count_hits_by_margin`.

    Returns:
        The layer, and its accuracy@1 on the odd pairs, from 0 to 1, the mean of both directions.
    """
    # The hits of the even pairs at each layer, over both directions.
    found_counts = [
        count_hits(src_layer, tgt_layer, keys[:, ::2]).sum()  # [N / 2, H] each
        for src_layer, tgt_layer in zip(src[:, ::2], tgt[:, ::2], strict=True)
    ]
    layer = int(np.argmax(found_counts))
    # [N / 2]: 0, 1 or 2 for each odd pair.
    found = count_hits(src[layer, 1::2], tgt[layer, 1::2], keys[:, 1::2])
    return layer, (found / 2).mean()
