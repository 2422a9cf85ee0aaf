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
            self.tensors[0].scale_(decay)
        numbers = np.flatnonzero(self.moving)
        if len(numbers) > MOST * len(self.moving):
            adam(*self.tensors, gradient)
            return
        *tables, own = [as_array(tensor) for tensor in (*self.tensors, gradient)]
        parts = [paddle.from_dlpack(table[numbers]) for table in (*tables, own)]
        adam(*parts)
        for table, part in zip(tables, parts):
            table[numbers] = as_array(part)
