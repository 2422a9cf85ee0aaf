"""Nearest neighbours with faiss, by cosine or by margin."""

from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """The results of searching a bitext both ways, each [N] int64: row i is the target found for query i."""

    forward: np.ndarray  # a sentence for each translation (English): XTREME's direction
    backward: np.ndarray  # a translation for each sentence

    def accuracies(self) -> tuple[float, float]:
        """Per cent of queries that find their translation, forward and backward."""
        rows = np.arange(len(self.forward))
        return 100.0 * (self.forward == rows).mean(), 100.0 * (self.backward == rows).mean()


def search_both(english: np.ndarray, other: np.ndarray, score: str = "cosine", neighbours: int = 4) -> Found:
    """Search each side of a bitext with the other; row i of `english` [N, H] translates row i of `other`.

    Args:
        score: "cosine" takes the nearest target. "margin" takes, out of the k nearest, the target with the
            largest ratio of its cosine to the mean cosine of the k nearest neighbours of both sides (Artetxe
            and Schwenk, 2019). If one of these means is not positive, the ratio is meaningless, and the query
            takes the largest difference (their "distance") instead.
        neighbours: k of the margin.
    """
    english, other = unit(english), unit(other)
    k = 1 if score == "cosine" else min(neighbours, len(english))
    from_english, from_other = nearest(english, other, k), nearest(other, english, k)
    if score == "cosine":
        return Found(from_english[1][:, 0], from_other[1][:, 0])
    of_english, of_other = from_english[0].mean(axis=1), from_other[0].mean(axis=1)  # [N]
    return Found(
        _by_margin(*from_english, of_english, of_other), _by_margin(*from_other, of_other, of_english)
    )


def nearest(queries: np.ndarray, targets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search unit vectors exactly: cosines [N, k] float32, descending, and target numbers [N, k] int64."""
    import faiss  # loads its own libraries

    index = faiss.IndexFlatIP(targets.shape[1])
    index.add(targets)
    return index.search(queries, k)


def unit(vectors: np.ndarray) -> np.ndarray:
    """[N, H] of any float dtype -> float32 of length 1, in C order. A zero vector stays zero."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _by_margin(cosines: np.ndarray, found: np.ndarray, own: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    means = (own[:, None] + theirs[found]) / 2  # [N, k]
    positive = (means > 0).all(axis=1, keepdims=True)  # [N, 1]
    margins = np.where(positive, cosines / np.where(positive, means, 1), cosines - means)
    return np.take_along_axis(found, margins.argmax(axis=1)[:, None], axis=1)[:, 0]
