"""The matrices that are drawn in the docstrings are the matrices that are made."""

import re

import numpy as np
import pytest

from ernie_m.pretrain.objectives import btmlm, camlm, mmlm, tlm
from tests.pretrain.examples import attention_mask, compact

SIDE = np.array([0, 0, 0, 1, 1, 1, 1])  # x1 M2 x3 | y4 M5 M6 y7
MASKED = np.array([0, 1, 0, 0, 1, 1, 0], dtype=bool)
UNMASKED_CONTEXT = ("x1 M2 x3 y4 M5 M6 y7", attention_mask(SIDE, MASKED))
ROWS = np.repeat(np.arange(7), 1 + MASKED)  # m2, a [MASK] symbol of the context, stands before M2
CONTEXT_WITH_MASKS = (
    "x1 m2 M2 x3 y4 m5 M5 m6 M6 y7",
    attention_mask(SIDE[ROWS], np.append(ROWS[1:] != ROWS[:-1], True) & MASKED[ROWS]),
)


def drawn(text: str) -> dict[str, np.ndarray]:
    """Every matrix that is drawn in a text, bool [T, T], by its row labels ("x1 M2 x3").

    A matrix is consecutive lines of a label and cells, which are 1 or a dot; a bar may stand between cells.
    """
    matrices = {}
    labels: list[str] = []
    rows: list[list[bool]] = []
    for line in [*text.splitlines(), ""]:  # the empty line ends a matrix on the last line
        match = re.fullmatch(r"\s*(\w+)\s+([1.](?:[ |]+[1.])*)\s*", line)
        if match:
            labels.append(match[1])
            rows.append([cell == "1" for cell in match[2] if cell in "1."])
        elif rows:
            matrices[" ".join(labels)] = np.array(rows)
            labels = []
            rows = []
    return matrices


@pytest.mark.parametrize(
    "file, labels, matrix",
    [
        (mmlm, "x1 M2 x3", np.ones([3, 3], bool)),
        (tlm, "x1 M2 x3 y4 M5 M6 y7", np.ones([7, 7], bool)),
        (camlm, *UNMASKED_CONTEXT),
        (camlm, *CONTEXT_WITH_MASKS),
        (camlm, "x1 x3 M5 M6", compact(2, 2)),
        (camlm, "y4 y7 M2", compact(2, 1)),
        (btmlm, "x1 x2 x3 x4 M5 M6 M7", compact(4, 3)),
    ],
)
def test_each_file_draws_its_matrices(file, labels, matrix):
    assert np.array_equal(drawn(file.__doc__)[labels], matrix)
