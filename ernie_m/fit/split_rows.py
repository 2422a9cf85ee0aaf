"""Cross-validation folds that avoid leakage: duplicates, groups and translations are kept in one fold.

A head on embeddings is evaluated on all five folds, full fine-tuning on the first fold.
"""

import math
import warnings
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain, combinations

import numpy as np

from ernie_m.model.tasks import MULTI_LABEL, REGRESSION
from ernie_m.utils.logging import logger
from ernie_m.vectors.language_centering import FEWEST_SENTENCES
from ernie_m.vectors.pooling import normalize_vectors

_PARTS = 5
# Centered by language, translations have at least this cosine; of 1,000 unrelated sentences up to 4 % reach
# it. If most rows of two languages reach it, the remaining rows are also taken as translations: this groups
# 99 % of 400 sentences in eight languages correctly, instead of 87 %.
_SURE_COSINE = 0.5
# In tables of translations 44 to 80 % of the texts have a near-duplicate, in news of one language up to 24 %.
_NEAR_DUPLICATE, MANY_NEAR_DUPLICATES = 0.6, 0.25
_SAMPLE = 1000  # rows that are compared with all others to estimate this share


def split_rows(kind: str, targets: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """Split rows into stratified folds by group, and return the row indices of each fold.

    Args:
        kind: one of `ernie_m.fit.labeled_rows.KINDS`.
        targets: see `LabeledDataset.targets`.
        groups: int64 [N], from `group_rows`.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # here, because it takes a second

    strata = np.zeros(len(targets), int) if kind == REGRESSION else targets
    if kind == MULTI_LABEL:  # the rarest label of each row
        strata = np.where(targets == 1, (targets == 1).sum(axis=0), np.inf).argmin(axis=1)
    most = np.bincount(strata).max()
    if most < 2:
        strata, most = np.zeros_like(strata), len(strata)
    splitter = StratifiedGroupKFold(min(_PARTS, len(np.unique(groups)), most), shuffle=True, random_state=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label has fewer rows than folds
        return [part for _, part in splitter.split(strata, strata, groups) if len(part)]


def group_rows(
    keys: Iterable[tuple[int, Hashable]], pairs: Iterable[tuple[int, int]], count: int
) -> np.ndarray:
    """Return the group of each of `count` rows, the connected components of two relations: int64 [count].

    Args:
        keys: (row, key) tuples; rows with equal keys are in one group.
        pairs: (row, row) tuples; both rows are in one group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number_of: dict[Hashable, int] = {}
    edges = [(row, count + number_of.setdefault(key, len(number_of))) for row, key in keys]
    ends = np.array([*edges, *pairs]).T
    size = count + len(number_of)
    return connected_components(coo_array((np.ones(ends.shape[1]), ends), (size, size)), False)[1][:count]


def group_translations(groups: np.ndarray, languages: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the group of each row after merging the groups of translations, int64 [N].

    Args:
        groups: the group of each row, int64 [N].
        languages: the language of each row, str [N].
        vectors: the embedding of each row, float32 [N, H].
    """
    return group_rows(enumerate(groups.tolist()), _find_translations(vectors, languages), len(groups))


def estimate_near_duplicate_share(groups: np.ndarray, vectors: np.ndarray) -> float:
    """Estimate the fraction of texts that have a near-duplicate, from a sample.

    Args:
        groups: the group of each row, int64 [N]; one row of each group is used.
        vectors: the embedding of each row, float32 [N, H].
    """
    _, rows = np.unique(groups, return_index=True)  # one of equal texts
    near = normalize_vectors(vectors[rows] - vectors[rows].mean(axis=0))
    sample = near[:: math.ceil(len(near) / _SAMPLE)]
    # The first neighbor is the row itself.
    counts = [
        ((part @ near.T >= _NEAR_DUPLICATE).sum(axis=1) > 1).sum() for part in _split_into_chunks(sample)
    ]
    return sum(counts) / len(sample)


def _split_into_chunks(vectors: np.ndarray) -> list[np.ndarray]:
    """Split embeddings [N, H] into parts of at most 500 rows, to bound the memory of similarity matrices."""
    return np.array_split(vectors, math.ceil(len(vectors) / 500))


def _find_nearest(vectors: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest neighbor of each embedding among `others`, all of unit length.

    Returns:
        The cosine similarity, float32 [N], and the index in `others`, int64 [N].
    """
    numbers = np.concatenate([(part @ others.T).argmax(axis=1) for part in _split_into_chunks(vectors)])
    return (vectors * others[numbers]).sum(axis=1), numbers


def _find_translations(vectors: np.ndarray, languages: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows that are probably translations: mutual nearest neighbors in two languages.

    If few rows of two languages are translated, pairs with a cosine below `_SURE_COSINE` are excluded. If
    most are translated, a row without a mutual nearest neighbor is paired with its nearest neighbor.
    Embeddings are centered by language, so languages with few rows are skipped.
    """
    parts = []  # for each language: its rows, int64 [n], and their embeddings, [n, H]
    for language in np.unique(languages):
        rows = np.flatnonzero(languages == language)
        if len(rows) >= FEWEST_SENTENCES:
            parts.append((rows, normalize_vectors(vectors[rows] - vectors[rows].mean(axis=0))))
    if left_out := len(languages) - sum(len(rows) for rows, _ in parts):
        logger.warning("%d rows: too few rows in their languages to detect translations", left_out)
    nearest: dict[int, tuple[float, int]] = {}  # row -> cosine and index of the nearest
    paired: set[int] = set()
    for (rows, ours), (other_rows, theirs) in combinations(parts, 2):
        cosines, best = _find_nearest(ours, theirs)
        back_cosines, back = _find_nearest(theirs, ours)
        is_mutual = back[best] == np.arange(len(rows))
        is_sure = is_mutual & (cosines >= _SURE_COSINE)
        if 2 * is_sure.sum() > min(len(rows), len(other_rows)):
            is_sure = is_mutual
            for near in ((rows, cosines, other_rows[best]), (other_rows, back_cosines, rows[back])):
                for row, cosine, other in zip(*map(np.ndarray.tolist, near)):
                    nearest[row] = max(nearest.get(row, (-1.0, row)), (cosine, other))
        pairs = list(zip(rows[is_sure].tolist(), other_rows[best[is_sure]].tolist()))
        paired.update(chain(*pairs))
        yield from pairs
    yield from ((row, other) for row, (_, other) in nearest.items() if row not in paired)
