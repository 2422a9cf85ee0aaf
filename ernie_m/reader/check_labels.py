"""What is odd about rows with labels, in words: one function for every way in."""

from collections.abc import Callable

import numpy as np


def check_labels(
    inputs: np.ndarray,
    targets: np.ndarray,
    place: Callable[[int], str],
    trained_inputs: np.ndarray | None = None,
    noun: str = "rows",
) -> list[str]:
    """Which equal texts have two labels, and how many texts are trained on.

    Args:
        inputs: `input_hash` of each row, int64 [N].
        targets: a number for the label, or the labels, of each row, int64 [N]; [0]: there are none.
        place: the number of a row -> where it stands, in words.
        trained_inputs: if rows are evaluated on, `input_hash` of each that is trained on, int64 [M].
        noun: what the rows are called.
    """
    found = []
    if len(targets):
        order = np.lexsort((targets, inputs))  # rows of one input stand together, by their labels
        # Of each row and the next in this order: whether the input is the same, and the label another.
        is_same_input = np.diff(inputs[order]) == 0
        is_other_label = np.diff(targets[order]) != 0
        conflicts = np.flatnonzero(is_same_input & is_other_label)
        if len(conflicts):
            count = len(np.unique(inputs[order][conflicts]))
            first, second = sorted(order[conflicts[0] : conflicts[0] + 2].tolist())
            texts = "1 text has" if count == 1 else f"{count:,} texts have"
            found.append(
                f"{texts} two labels, as in {place(first)} and {place(second)}; no model can learn both"
            )
    known = 0 if trained_inputs is None else int(np.isin(inputs, trained_inputs).sum())
    if known:
        count = f"{known:,} of {len(inputs):,} {noun}"
        found.append(f"{count} have a text that is trained on, so scores on them are too good")
    return found
