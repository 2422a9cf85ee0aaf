"""The folds of a table: each is predicted by a model of the others."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ernie_m.reader.files.labels import input_hash

FOLDS = 5
_SEED = 1  # for the order in which rows go to the folds


def single_text(inputs: Sequence[Sequence[str]], labels: Sequence[str]) -> int | None:
    """The number of a row whose label no other text has, so that it cannot be scored; None: there is none.

    Args:
        inputs: a text, or a pair of texts, for each row.
        labels: the label of each row.
    """
    hashes_of: dict[str, set[int]] = {}  # label -> its different inputs
    for texts, label in zip(inputs, labels):
        hashes_of.setdefault(label, set()).add(input_hash(*texts))
    for row, label in enumerate(labels):
        if len(hashes_of[label]) < 2:
            return row
    return None


def folds_of(groups: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The fold of each row, int64 [N]. Each label is spread over all folds, and a group is in one fold.

    Args:
        groups: the number of each row's group, int64 [N]; see `ernie_m.finetune.fit.groups.groups_of`.
        labels: the label of each row.
    """
    fold_of_group: dict[int, int] = {}
    groups_so_far: Counter[str] = Counter()  # label -> its groups that have a fold
    for row in np.random.default_rng(_SEED).permutation(len(groups)):
        if groups[row] not in fold_of_group:
            # The groups of a label go to the folds in turn: 0, 1, ..., FOLDS - 1, 0, ...
            fold_of_group[groups[row]] = groups_so_far[labels[row]] % FOLDS
            groups_so_far[labels[row]] += 1
    if not any(fold_of_group.values()):  # each group began with another label, so each was the first one
        fold_of_group = {group: place % FOLDS for place, group in enumerate(fold_of_group)}
    return np.array([fold_of_group[group] for group in groups])
