"""AdamW that skips the rows of the word table that cannot change. The result equals AdamW on the whole table.

A fine-tuning batch contains some thousand of 250,002 words. If a row has no gradient and its moments are 0,
AdamW changes it by weight decay only. On a CPU, AdamW on the whole table (192 million numbers at base size)
takes a twentieth of a step. Once a row had a gradient, its moments are not 0, so the number of rows to update
grows with the vocabulary of the task. Above a share of the table, updating the whole table is faster.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import paddle
from paddle import Tensor
from paddle.optimizer.lr import LambdaDecay

from model.cpu import as_array, over_rows
from model.word_table import TableGradient

MOST = 0.4  # the share of rows above which the whole table is updated


class AdamW(paddle.optimizer.AdamW):
    """Paddle's AdamW, with optional weight decay at the full rate, that updates a word table by rows.

    Args:
        lr_scheduler: the schedule and its position. Call its `step()` after each update.
        tables: the gradient of each word table, by the name of its parameter.
        full_rate_decay: True: decay each weight by rate x coefficient x weight, without its learning-rate
            ratio.
        options: the other options of Paddle's AdamW.
    """

    def __init__(
        self, lr_scheduler: LambdaDecay, tables: Mapping[str, TableGradient], full_rate_decay: bool, **options
    ):
        super().__init__(learning_rate=lr_scheduler, **options)
        self.lr_scheduler, self.tables, self.full_rate_decay = lr_scheduler, tables, full_rate_decay
        self._moving: dict[str, MovingRows] = {}

    def moments_replaced(self) -> None:
        """Call it after you have changed the moments."""
        self._moving.clear()

    def _append_optimize_op(self, block, param_and_grad):
        parameter, gradient = param_and_grad
        # Paddle's kernel decays the value before the update by rate x ratio x coefficient. Its parameter
        # groups could have their own coefficients, but it clips each group by the norm of that group.
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
        """Update a word table; only `rows` have a gradient."""
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
    """The rows of one table whose moments may differ from 0.

    Args:
        weight: the table [V, H].
        moments: the first and the second moment, [V, H] each.
    """

    def __init__(self, weight: Tensor, *moments: Tensor):
        self.tensors = (weight, *moments)
        self.moving = np.logical_or.reduce([as_array(moment).any(1) for moment in moments])  # [V]

    def update(self, gradient: Tensor, rows: np.ndarray, adam: Callable[..., None], decay: float) -> None:
        """Do one step.

        Args:
            gradient: [V, H].
            rows: bool [V]; True where the gradient may differ from 0.
            adam: (weight, moment1, moment2, gradient) -> None; updates some rows in place, without decay.
            decay: the factor that every weight is multiplied by first.
        """
        self.moving |= rows
        *tables, own = [as_array(tensor) for tensor in (*self.tensors, gradient)]
        if decay != 1.0:
            # The same code for all rows: a resumed run may find fewer moving rows, and must get equal bits.
            over_rows(partial(_scale, tables[0], decay), *own.shape)
        numbers = np.flatnonzero(self.moving)
        if len(numbers) > MOST * len(self.moving):
            adam(*self.tensors, gradient)
            return
        parts = [np.empty([len(numbers), own.shape[1]], table.dtype) for table in (*tables, own)]
        for part, table in zip(parts, (*tables, own)):
            over_rows(partial(_take, part, table, numbers), *part.shape)
        adam(*map(paddle.from_dlpack, parts))
        for part, table in zip(parts, tables):
            over_rows(partial(_put, part, table, numbers), *part.shape)


def _scale(table: np.ndarray, factor: float, rows: slice) -> None:
    table[rows] *= factor


def _take(part: np.ndarray, table: np.ndarray, numbers: np.ndarray, rows: slice) -> None:
    part[rows] = table[numbers[rows]]


def _put(part: np.ndarray, table: np.ndarray, numbers: np.ndarray, rows: slice) -> None:
    table[numbers[rows]] = part[rows]
