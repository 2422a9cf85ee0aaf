"""AdamW on the rows of a table that can move: the same as on the whole table.

In fine-tuning a batch has some thousand of 250,002 words. A row without gradient whose moments are 0 has
nothing but its decay before it, and AdamW on the whole table (192 million numbers at base size) is a
twentieth of a step on a CPU. A word stays in motion once it was met, so the rows grow with the vocabulary of
the task; beyond a share of the table the whole of it is cheaper.
"""

from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor

from utils.arrays import as_array
from utils.threads import over_rows

MOST = 0.4  # of the table's rows


class MovingRows:
    """Which rows of one table have moments that may differ from 0.

    Args:
        weight: the table [V, H].
        moments: both, [V, H] each, as they are now.
    """

    def __init__(self, weight: Tensor, *moments: Tensor):
        self.tensors = (weight, *moments)
        self.moving = np.logical_or.reduce([as_array(moment).any(1) for moment in moments])  # [V]

    def update(self, gradient: Tensor, rows: np.ndarray, adam: Callable[..., None], decay: float) -> None:
        """One step.

        Args:
            gradient: [V, H].
            rows: bool [V], where it may differ from 0.
            adam: (weight, moment1, moment2, gradient) -> None, of some rows, in place, without decay.
            decay: what every weight is multiplied with first.
        """
        self.moving |= rows
        if decay != 1.0:
            # Of all rows in one way, whether they move or not: a resumed run finds fewer rows that may.
            _scale(as_array(self.tensors[0]), decay)
        numbers = np.flatnonzero(self.moving)
        if len(numbers) > MOST * len(self.moving):
            adam(*self.tensors, gradient)
            return
        *tables, own = [as_array(tensor) for tensor in (*self.tensors, gradient)]
        parts = [_taken(table, numbers) for table in (*tables, own)]
        adam(*map(paddle.from_dlpack, parts))
        for table, part in zip(tables, parts):
            _put(table, numbers, part)


def _scale(table: np.ndarray, factor: float) -> None:
    def work(rows: slice) -> None:
        table[rows] *= factor

    over_rows(work, *table.shape)


def _taken(table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    part = np.empty([len(numbers), table.shape[1]], table.dtype)

    def work(rows: slice) -> None:
        part[rows] = table[numbers[rows]]

    over_rows(work, *part.shape)
    return part


def _put(table: np.ndarray, numbers: np.ndarray, part: np.ndarray) -> None:
    def work(rows: slice) -> None:
        table[numbers[rows]] = part[rows]

    over_rows(work, *part.shape)
