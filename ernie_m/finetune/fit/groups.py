"""Rows of a table that belong together: a model that was trained on one of them half knows the others."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations

import numpy as np

from ernie_m.reader.files.labels import input_hash
from ernie_m.utils.logging import logger
from ernie_m.vectors.centring import FEWEST_SENTENCES
from ernie_m.vectors.nearest import nearest
from ernie_m.vectors.pooling import unit

# The least cosine of translations. Of 400 sentences in ten languages 98 % of a sentence's rows are then in
# one group. Of 1,000 sentences that are no translations up to 4 % are in groups; at 0 nearly all are in one.
_LEAST_COSINE = 0.5
_LARGEST = 0.1  # the largest share of a table that is one group
# Without languages: in tables of translations 44 to 80 % of the texts have such a neighbour, in news of one
# language up to 24 %, and 37 % of XNLI's hypotheses, three of which have one premise.
_TWIN = 0.6
_MANY_TWINS = 0.25
_SAMPLE = 1000  # so many texts are compared with all others to know this share


def groups_of(
    inputs: Sequence[Sequence[str]],
    labels: Sequence[str],
    vectors: np.ndarray | None,
    languages: Sequence[str] = (),
    ids: Sequence[str] = (),
    say: Callable[[str], None] = logger.info,
) -> np.ndarray:
    """The number of each row's group, int64 [N], from 0 on.

    Rows belong together if their inputs are equal, if they have the same id, or if they are each other's
    nearest in two languages (`translations`), and so do two rows that belong to a third one. A group that
    has more than a tenth of all rows, or all rows of a label, is not joined; only its equal inputs are.

    Args:
        inputs: a text, or a pair of texts, of each row.
        labels: the label of each row.
        vectors: a vector of each row, float32 [N, H]; None: rows are joined by texts and ids alone.
        languages: the language of each row. With fewer than two languages no vectors are joined, and there
            is a warning if many texts say nearly the same.
        ids: the id of each row, "" if it has none; empty: the table has no ids.
        say: is told how many rows are kept together, and why.
    """
    count = len(inputs)
    equal = _pairs_of_equal([input_hash(*texts) for texts in inputs])
    pairs = {"have equal texts": equal}  # why rows belong together -> int64 [P, 2]
    if ids:
        # A row without an id gets its own number instead, so that it is alone.
        pairs["have the same id"] = _pairs_of_equal([id_ or number for number, id_ in enumerate(ids)])
    if vectors is not None and len(set(languages)) > 1:
        pairs["are each other's nearest in two languages"] = translations(vectors, np.array(languages))
    elif vectors is not None:
        _, first_rows = np.unique(_joined([equal], count), return_index=True)
        _warn_of_twins(vectors[first_rows])

    # Groups that are too large, or that have all rows of a label, are joined by equal texts alone.
    groups = _joined(pairs.values(), count)
    sizes = np.bincount(groups)
    is_refused = sizes > _LARGEST * count
    groups_of_label: dict[str, set[int]] = {}
    for label, group in zip(labels, groups.tolist()):
        groups_of_label.setdefault(label, set()).add(group)
    for groups_with_label in groups_of_label.values():
        if len(groups_with_label) == 1:
            is_refused[list(groups_with_label)] = True
    for why, found in pairs.items():
        if found is not equal:
            group_of_pair = groups[found[:, 0]]  # [P]
            pairs[why] = found[~is_refused[group_of_pair]]

    kept = _joined(pairs.values(), count)
    kept_sizes = np.bincount(kept)[kept]  # [N]
    reasons = [f"{len(np.unique(found)):,} {why}" for why, found in pairs.items() if len(found)]
    if reasons:
        together = int((kept_sizes > 1).sum())
        say(f"{together:,} of {count:,} rows are scored together with others: {', '.join(reasons)}")
    apart = int((kept_sizes < sizes[groups]).sum())
    if apart:
        logger.warning(
            "%s rows that seem to belong together are scored apart, because their group would have more than "
            "a tenth of the rows, or all rows of a label; the score may be too high",
            f"{apart:,}",
        )
    return kept


def translations(vectors: np.ndarray, languages: np.ndarray) -> np.ndarray:
    """Pairs of rows that are each other's nearest in two languages, int64 [P, 2].

    From each vector the mean of its language is taken, so a language with fewer than `FEWEST_SENTENCES` rows
    is left out.

    Args:
        vectors: float32 [N, H].
        languages: the name of each row's language, [N].
    """
    parts = []  # of each language: its rows, int64 [n], and their vectors, [n, H]
    for language in np.unique(languages):
        rows = np.flatnonzero(languages == language)
        if len(rows) >= FEWEST_SENTENCES:
            parts.append((rows, unit(vectors[rows] - vectors[rows].mean(axis=0))))
    left_out = len(languages) - sum(len(rows) for rows, _ in parts)
    if left_out:
        logger.warning(
            "%d rows are not compared with other languages; theirs have fewer than %d rows",
            left_out,
            FEWEST_SENTENCES,
        )
    pairs = [np.empty((0, 2), np.int64)]
    for (rows, ours), (other_rows, theirs) in combinations(parts, 2):
        cosines, targets = nearest(ours, theirs, k=1)  # [n, 1] each
        _, sources = nearest(theirs, ours, k=1)
        is_mutual = (sources[targets[:, 0], 0] == np.arange(len(rows))) & (cosines[:, 0] >= _LEAST_COSINE)
        pairs.append(np.stack([rows[is_mutual], other_rows[targets[is_mutual, 0]]], axis=1))
    return np.concatenate(pairs)


def _pairs_of_equal(values: Sequence[Hashable]) -> np.ndarray:
    """Pairs of the numbers of equal values, int64 [P, 2]: the first of its kind and each further one."""
    first_of: dict[Hashable, int] = {}
    pairs = [(first_of.setdefault(value, number), number) for number, value in enumerate(values)]
    further = [(first, number) for first, number in pairs if first != number]
    return np.array(further, np.int64).reshape(-1, 2)  # [0, 2] if there are none


def _joined(pairs: Iterable[np.ndarray], count: int) -> np.ndarray:
    """The number of the group of each of `count` rows, int64, when the rows of each pair are in one group."""
    parents = list(range(count))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]  # so that the next way is shorter
            row = parents[row]
        return row

    for first, second in np.concatenate(list(pairs)).tolist():
        parents[root(first)] = root(second)
    return np.unique([root(row) for row in range(count)], return_inverse=True)[1]


def _warn_of_twins(vectors: np.ndarray) -> None:
    """Warn if many different texts, [N, H], have one that is near."""
    vectors = unit(vectors - vectors.mean(axis=0))
    sample = np.arange(0, len(vectors), math.ceil(len(vectors) / _SAMPLE))
    count = 0
    for rows in np.array_split(sample, math.ceil(len(sample) / 100)):
        cosines = vectors[rows] @ vectors.T  # [at most 100, N]
        cosines[np.arange(len(rows)), rows] = -1  # itself
        count += int((cosines.max(axis=1) >= _TWIN).sum())
    if count > _MANY_TWINS * len(sample):
        logger.warning(
            "%.0f %% of the texts are near another one. If they are translations or copies, the score is too "
            "high: give the language of each text, or an id that they share (columns language and id)",
            100 * count / len(sample),
        )
