"""AdamW that updates only the rows of a word table that have moments, and on a GPU many parameters at once.

On a CPU, AdamW on the whole word table (192 million numbers at base size) takes a twentieth of a step, and a
fine-tuning batch contains some thousand of 250,002 words. If a row has no gradient and its moments are 0,
AdamW changes it by weight decay only. Such rows are only decayed here. The others are updated: they have
moments from this step or an earlier one. The result equals AdamW on the whole table. If more than a share of
the rows has moments, updating all of them is faster.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import paddle
from paddle import Tensor
from paddle.optimizer.lr import LambdaDecay

from model import device
from model.cpu.rows import as_array, as_tensor, over_rows
from model.word_rows import RowGradient
from model.word_table import TableGradient
from training.grouped_adam import AdamGroup, AdamState, grouped
from training.row_adam import RowsWithMomentsOnGpu

MOST_ROWS = 0.4  # the share of rows with moments above which the whole word table is updated


class AdamW(paddle.optimizer.AdamW):
    """Paddle's AdamW, with optional weight decay at the full rate, that updates a word table by rows.

    Args:
        lr_scheduler: the schedule and its position. Call its `step()` after each update.
        table_gradients: the gradient of each word table on a CPU, by the name of its parameter.
        row_gradients: the same on a GPU.
        full_rate_decay: True: decay each weight by rate x coefficient x weight, without its learning-rate
            ratio.
        options: the other options of Paddle's AdamW.
    """

    def __init__(
        self,
        lr_scheduler: LambdaDecay,
        table_gradients: Mapping[str, TableGradient],
        row_gradients: Mapping[str, RowGradient],
        full_rate_decay: bool,
        **options,
    ):
        super().__init__(learning_rate=lr_scheduler, **options)
        self.lr_scheduler = lr_scheduler
        self.table_gradients = table_gradients
        self.row_gradients = row_gradients
        self.full_rate_decay = full_rate_decay
        # Of each word table, by the name of its parameter.
        self._rows_with_moments: dict[str, RowsWithMoments] = {}
        self._rows_with_moments_on_gpu: dict[str, RowsWithMomentsOnGpu] = {}
        self._rates: dict[float, Tensor] = {}  # of this step, by ratio
        # Those that are updated at the end of this step, in groups: name -> (parameter, gradient).
        self._delayed: dict[str, tuple[Tensor, Tensor]] = {}
        self._groups: list[AdamGroup] = []
        self._in_groups: list[str] = []  # the names of the parameters in `_groups`
        # name -> beta1 ** (updates so far + 1), the value of Paddle's tensor, known without reading it
        self._beta1_powers: dict[str, float] = {}

    def moments_replaced(self) -> None:
        """Call it after you have changed the moments."""
        self._rows_with_moments.clear()
        self._rows_with_moments_on_gpu.clear()
        for name, moment1 in self._accumulators[self._moment1_acc_str].items():
            if name in self.row_gradients and self.row_gradients[name].is_in_use():
                moment2 = self._accumulators[self._moment2_acc_str][name]
                self._rows_with_moments_on_gpu[name] = RowsWithMomentsOnGpu(len(moment1), moment1, moment2)
        # The next step makes the groups again.
        self._groups = []
        self._in_groups = []
        powers = self._accumulators[self._beta1_pow_acc_str]
        self._beta1_powers = {name: power.item() for name, power in powers.items()}

    def _create_optimization_pass(self, parameters_and_grads, param_group_idx=0):
        # Paddle calls this in each step, and the three methods below within it.
        self._rates.clear()
        self._delayed.clear()
        return super()._create_optimization_pass(parameters_and_grads, param_group_idx)

    def _create_param_lr(self, param_and_grad):
        # Paddle would multiply rate and ratio for each parameter; here equal ratios share the product.
        parameter, _ = param_and_grad
        ratio = parameter.optimize_attr["learning_rate"]
        if ratio not in self._rates:
            self._rates[ratio] = super()._create_param_lr(param_and_grad)
        return self._rates[ratio]

    def _append_optimize_op(self, block, param_and_grad):
        # Paddle calls this for each parameter with a gradient.
        parameter, gradient = param_and_grad
        row_gradient = self.row_gradients.get(parameter.name)
        if row_gradient is not None and row_gradient.is_in_use():
            with self._decay_of(parameter):
                self._update_rows_on_gpu(parameter, gradient, row_gradient.words)
            return None
        # The kernel for many parameters needs gradients with the dtype of their parameters. In O2 weights are
        # in half precision, and gradients in float32.
        if device.uses_gpu_kernels() and gradient.dtype == parameter.dtype:
            self._delayed[parameter.name] = (parameter, gradient)
            return None
        table_gradient = self.table_gradients.get(parameter.name)
        touched = None  # bool [V], the rows that have a gradient; None: any row may have one
        if table_gradient is not None:
            touched = table_gradient.touched_rows(gradient)
        with self._decay_of(parameter):
            if touched is not None:
                self._update_rows(parameter, gradient, touched)
                return None
            # Any row may get moments now, so the next update by rows must look for them.
            self._rows_with_moments.pop(parameter.name, None)
            return super()._append_optimize_op(block, param_and_grad)

    def _finish_update(self, block, parameters_and_grads):
        # Paddle calls this when it has called the method above for all parameters.
        if list(self._delayed) != self._in_groups:  # not the parameters of the last step
            self._in_groups = list(self._delayed)
            self._groups = self._make_groups()
        gradients = {name: gradient for name, (_, gradient) in self._delayed.items()}
        for group in self._groups:
            first = group.states[0].parameter  # all of a group have its rate
            rate = self._create_param_lr((first, gradients[first.name]))
            group.update(gradients, rate, self._beta1, self._beta2, self._epsilon)
        for name in self._in_groups:
            self._beta1_powers[name] = self._beta1_powers.get(name, self._beta1) * self._beta1

    def _make_groups(self) -> list[AdamGroup]:
        """The groups of the delayed parameters: those with equal rates, equal decay and equal powers."""
        states = []  # (key, coefficient of decay, state) of each parameter
        for name, (parameter, _) in self._delayed.items():
            state = AdamState(
                parameter,
                moment1=self._get_accumulator_master(self._moment1_acc_str, parameter),
                moment2=self._get_accumulator_master(self._moment2_acc_str, parameter),
                beta1_power=self._get_accumulator_master(self._beta1_pow_acc_str, parameter),
                beta2_power=self._get_accumulator_master(self._beta2_pow_acc_str, parameter),
            )
            ratio = parameter.optimize_attr["learning_rate"]
            # If the powers of beta1 are equal, so are the numbers of updates, and the powers of beta2.
            power = self._beta1_powers.get(name, self._beta1)
            decay = self._decay_coefficient(parameter) if self._apply_decay_param_fun(name) else 0.0
            key = (ratio, power)
            states.append((key, decay, state))
        return grouped(states)

    def _decay_coefficient(self, parameter: Tensor) -> float:
        """The coefficient of decay for Paddle's kernel, which multiplies it by the rate times its ratio."""
        if self.full_rate_decay:
            return self._weight_decay / parameter.optimize_attr["learning_rate"]
        return self._weight_decay

    @contextmanager
    def _decay_of(self, parameter: Tensor) -> Iterator[None]:
        """Within this context, `_weight_decay`, which Paddle reads, is the coefficient of this parameter."""
        coefficient = self._weight_decay
        self._weight_decay = self._decay_coefficient(parameter)
        try:
            yield
        finally:
            self._weight_decay = coefficient

    def _update_rows(self, parameter: Tensor, gradient: Tensor, touched: np.ndarray) -> None:
        """Update a word table [V, H]; only the rows `touched`, bool [V], have a gradient.

        Call it within `_decay_of(parameter)`.
        """
        moment1 = self._get_accumulator_master(self._moment1_acc_str, parameter)
        moment2 = self._get_accumulator_master(self._moment2_acc_str, parameter)
        rate = self._create_param_lr((parameter, gradient))
        decay_factor = 1.0
        if self._apply_decay_param_fun(parameter.name):
            decay_factor = 1.0 - rate.item() * self._weight_decay
        if parameter.name not in self._rows_with_moments:
            self._rows_with_moments[parameter.name] = RowsWithMoments(parameter, moment1, moment2)
        adam = self._adam_without_decay(parameter, rate)
        self._rows_with_moments[parameter.name].update(gradient, touched, adam, decay_factor)

    def _update_rows_on_gpu(self, parameter: Tensor, gradient: Tensor, words: np.ndarray) -> None:
        """Update a word table [V, H] with the gradients [n, H] of some `words`, int64 [n].

        Call it within `_decay_of(parameter)`.
        """
        moment1 = self._get_accumulator_master(self._moment1_acc_str, parameter)
        moment2 = self._get_accumulator_master(self._moment2_acc_str, parameter)
        rate = self._create_param_lr((parameter, gradient))
        if self._apply_decay_param_fun(parameter.name):
            # The host knows the rate; reading the tensor would wait for the device.
            ratio = parameter.optimize_attr["learning_rate"]
            coefficient = float(np.float32(self._weight_decay))  # as Paddle's kernels hold it
            parameter.scale_(1.0 - self.get_lr() * ratio * coefficient)
        if parameter.name not in self._rows_with_moments_on_gpu:  # the first update: all moments are 0
            self._rows_with_moments_on_gpu[parameter.name] = RowsWithMomentsOnGpu(len(parameter))
        adam = self._adam_without_decay(parameter, rate)
        tables = (parameter, moment1, moment2)
        self._rows_with_moments_on_gpu[parameter.name].update(tables, gradient, words, adam)

    def _adam_without_decay(self, parameter: Tensor, rate: Tensor) -> Callable[..., None]:
        """Return a function that updates some rows of a table in place.

        It takes their weight, both moments and gradient, [R, H] each.
        """
        beta1_power = self._get_accumulator_master(self._beta1_pow_acc_str, parameter)
        beta2_power = self._get_accumulator_master(self._beta2_pow_acc_str, parameter)

        def adam(weight: Tensor, moment1: Tensor, moment2: Tensor, gradient: Tensor) -> None:
            paddle._C_ops.adamw_(  # as paddle.optimizer.AdamW calls it, without decay
                weight,
                gradient,
                rate,
                moment1,
                moment2,
                None,  # the largest second moment, of AMSGrad
                beta1_power,
                beta2_power,
                None,  # the master weight
                None,  # whether a gradient is not finite
                self._beta1,
                self._beta2,
                self._epsilon,
                1.0,  # the ratio of the rate, which `rate` already has
                0.0,  # the coefficient of decay
                False,  # with decay
                False,  # lazy mode
                1000,  # rows for each thread in lazy mode
                False,  # multi-precision
                False,  # global powers of the betas
                False,  # AMSGrad
            )

        return adam


class RowsWithMoments:
    """The rows of one word table [V, H] on a CPU whose two moments may differ from 0."""

    def __init__(self, weight: Tensor, moment1: Tensor, moment2: Tensor):
        self.tensors = (weight, moment1, moment2)  # [V, H] each
        self.has_moments = as_array(moment1).any(1) | as_array(moment2).any(1)  # bool [V]

    def update(
        self, gradient: Tensor, touched: np.ndarray, adam: Callable[..., None], decay_factor: float
    ) -> None:
        """Do one step: multiply every weight by `decay_factor`, then update the rows that have moments.

        Args:
            gradient: [V, H].
            touched: bool [V], True where `gradient` may differ from 0.
            adam: takes weight, both moments and gradient of some rows, [R, H] each, and updates them in
                place, without decay.
        """
        self.has_moments |= touched
        tables = [as_array(tensor) for tensor in self.tensors]
        if decay_factor != 1.0:
            # One loop over all rows, so that bits do not depend on `has_moments`: a resumed run finds it by
            # the moments, which are still 0 in a row that was touched by gradients of 0.
            weight = tables[0]
            over_rows(partial(_scale, weight, decay_factor), *weight.shape)
        rows = np.flatnonzero(self.has_moments)  # int64 [R]
        if len(rows) > MOST_ROWS * len(self.has_moments):
            adam(*self.tensors, gradient)
            return
        parts = [_gather(table, rows) for table in (*tables, as_array(gradient))]  # [R, H] each
        adam(*map(as_tensor, parts))
        for table, part in zip(tables, parts):  # not the last part, the gradient
            over_rows(partial(_put, part, table, rows), *part.shape)


def _gather(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """table[rows], on all threads."""
    part = np.empty([len(rows), table.shape[1]], table.dtype)
    over_rows(partial(_take, part, table, rows), *part.shape)
    return part


def _scale(table: np.ndarray, factor: float, places: slice) -> None:
    """The work on one slice: multiply some rows of a table by `factor`."""
    table[places] *= factor


def _take(part: np.ndarray, table: np.ndarray, rows: np.ndarray, places: slice) -> None:
    """The work on one slice: copy some of the `rows` of a table to their places in `part`."""
    part[places] = table[rows[places]]


def _put(part: np.ndarray, table: np.ndarray, rows: np.ndarray, places: slice) -> None:
    """The work on one slice: copy some rows of `part` back to the table."""
    table[rows[places]] = part[places]
