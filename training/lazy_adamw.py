"""AdamW that leaves alone the rows of the word table that cannot move: the same as AdamW on the whole table.

In fine-tuning a batch has some thousand of 250,002 words. A row without gradient whose moments are 0 has
nothing but its decay before it, and AdamW on the whole table (192 million numbers at base size) is a
twentieth of a step on a CPU. A word stays in motion once it was met, so the rows grow with the vocabulary of
the task; beyond a share of the table the whole of it is cheaper.
"""

from collections.abc import Callable, Mapping

import numpy as np
import paddle
from paddle import Tensor
from paddle.optimizer.lr import LambdaDecay

from model.word_table import TableGradient
from utils.threads import as_array, over_rows

MOST = 0.4  # of the table's rows


class AdamW(paddle.optimizer.AdamW):
    """paddle's AdamW, with weight decay at the full rate if asked, on the rows of a word table that can move.

    Args:
        lr_scheduler: the schedule and its position; call its `step()` after each update.
        tables: a word table's name -> its gradient.
        full_rate_decay: decay each weight by rate x coefficient x weight, whatever its learning-rate ratio.
        options: of paddle's AdamW.
    """

    def __init__(
        self, lr_scheduler: LambdaDecay, tables: Mapping[str, TableGradient], full_rate_decay: bool, **options
    ):
        super().__init__(learning_rate=lr_scheduler, **options)
        self.lr_scheduler, self.tables, self.full_rate_decay = lr_scheduler, tables, full_rate_decay
        self._moving: dict[str, MovingRows] = {}

    def moments_replaced(self) -> None:
        """Call it after other values were put into the moments."""
        self._moving.clear()

    def _append_optimize_op(self, block, param_and_grad):
        parameter, gradient = param_and_grad
        # Paddle's kernel decays by rate x ratio x coefficient, on the value before the update. Its
        # parameter groups could hold a coefficient each, but it clips every group by a norm of its own.
        coefficient = self._weight_decay
        if self.full_rate_decay:
            self._weight_decay = coefficient / parameter.optimize_attr["learning_rate"]
        try:
            table = self.tables.get(parameter.name)
            rows = None if table is None else table.rows_of(gradient)
            if rows is not None:
                return self._move(parameter, gradient, rows)
            self._moving.pop(parameter.name, None)
            return super()._append_optimize_op(block, param_and_grad)
        finally:
            self._weight_decay = coefficient

    def _move(self, parameter: Tensor, gradient: Tensor, rows: np.ndarray) -> None:
        """Update a word table of which only `rows` have a gradient."""
        kinds = self._moment1_acc_str, self._moment2_acc_str, self._beta1_pow_acc_str, self._beta2_pow_acc_str
        *moments, power1, power2 = (self._get_accumulator_master(kind, parameter) for kind in kinds)
        rate = self._create_param_lr((parameter, gradient))
        decay = 1.0
        if self._apply_decay_param_fun(parameter.name):
            decay -= rate.item() * self._weight_decay

        def adam(weight: Tensor, moment1: Tensor, moment2: Tensor, gradient: Tensor) -> None:
            paddle._C_ops.adamw_(  # as paddle.optimizer.AdamW calls it, without decay
                weight, gradient, rate, moment1, moment2, None, power1, power2, None, None, self._beta1,
                self._beta2, self._epsilon, 1.0, 0.0, False, False, 1000, False, False, False,
            )  # fmt: skip

        if parameter.name not in self._moving:
            self._moving[parameter.name] = MovingRows(parameter, *moments)
        self._moving[parameter.name].update(gradient, rows, adam, decay)


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
