"""AdamW that updates only the rows of a word table that have moments, and on a GPU many parameters at once.

Its state is saved under the model's parameter names, not Paddle's own. A key of the state is
"<parameter>/<accumulator>", such as "pooler.dense.bias/moment1_0".
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.optimizer.lr import LambdaDecay

from model import device
from model.word_rows import RowGradient
from model.word_table import TableGradient
from training.row_adam import RowsWithMoments, RowsWithMomentsOnGpu
from utils.errors import UserError

MASTER = "master_weight"  # the float32 copy of a parameter in half precision
CHUNK = 1 << 16  # numbers that a block of the kernel for many parameters updates
_ANOTHER_MODEL = "the training state belongs to another model: it has"


class AdamState(NamedTuple):
    """A parameter and its state in AdamW."""

    parameter: Tensor
    moment1: Tensor
    moment2: Tensor
    beta1_power: Tensor  # [1], on the CPU: beta1 ** (updates so far + 1)
    beta2_power: Tensor  # [1], on the CPU: the same of beta2


class AdamGroup(NamedTuple):
    """Parameters that one kernel updates, for a GPU, where starting a kernel takes longest.

    They have the same rate, the same decay and equal powers, because the kernel reads only the powers of the
    first one. Gradients must have the dtype of their parameters, which the kernel does not check
    (paddle/phi/kernels/gpu/fused_adam_kernel.cu).
    """

    states: list[AdamState]
    decay: float  # the coefficient of weight decay

    def update(
        self, gradients: Mapping[str, Tensor], rate: Tensor, beta1: float, beta2: float, epsilon: float
    ) -> None:
        """Update all parameters.

        Args:
            gradients: name of a parameter -> its gradient.
            rate: the learning rate, [1].
            beta1, beta2, epsilon: of Adam.
        """
        paddle._C_ops.fused_adam_(
            [state.parameter for state in self.states],
            [gradients[state.parameter.name] for state in self.states],
            rate,
            [state.moment1 for state in self.states],
            [state.moment2 for state in self.states],
            None,  # the largest second moments, of AMSGrad
            [state.beta1_power for state in self.states],
            [state.beta2_power for state in self.states],
            None,  # the master weights
            None,  # whether a gradient is not finite
            beta1,
            beta2,
            epsilon,
            CHUNK,
            self.decay,
            True,  # decoupled decay
            False,  # multi-precision
            False,  # global powers of the betas
            False,  # AMSGrad
        )


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
        self._rates: dict[float, Tensor] = {}  # in this step: ratio -> ratio x learning rate
        # The parameters that are updated at the end of this step, in groups: name -> (parameter, gradient).
        self._delayed: dict[str, tuple[Tensor, Tensor]] = {}
        self._groups: list[AdamGroup] = []
        self._in_groups: list[str] = []  # the names of the parameters in `_groups`
        # name -> beta1 ** (updates so far + 1), the value of Paddle's tensor, known without reading it
        self._beta1_powers: dict[str, float] = {}

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
        states_of = defaultdict(list)  # (ratio of the rate, power, coefficient of decay) -> states
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
            states_of[ratio, power, decay].append(state)
        return [AdamGroup(states, decay) for (_, _, decay), states in states_of.items()]

    def _decay_coefficient(self, parameter: Tensor) -> float:
        """The coefficient of decay for Paddle's kernel, which multiplies it by the parameter's own rate."""
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

    # The state

    def state_of(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of every parameter that this process has updated: key -> tensor.

        With sharding this is the part of this process; the parts together are the state. The tensors are the
        optimizer's own, because a copy would take gigabytes: write them before the next step.
        """
        state = {}
        for kind, accumulators in self._accumulators.items():
            for name, parameter in parameters.items():
                accumulator = accumulators.get(self._name_in_accumulators(parameter))
                if accumulator is not None:
                    state[f"{name}/{kind}"] = accumulator
        for name, parameter in parameters.items():
            if parameter.name in self._master_weights:
                state[f"{name}/{MASTER}"] = self._master_weights[parameter.name]
        return state

    def load_state(
        self,
        parameters: Mapping[str, Tensor],
        state: Mapping[str, np.ndarray | Tensor],
        is_own: Callable[[Tensor], bool] = lambda parameter: True,
    ) -> None:
        """Load the `state_of` all processes.

        Args:
            parameters: all parameters of the model, by name.
            is_own: whether this process updates a parameter. The states of the others are not loaded.

        Raises:
            UserError: the model has no such parameter, or a shape differs.
        """
        names = {key: key.rpartition("/")[0] for key in state}  # key -> name of the parameter
        unknown = sorted(set(names.values()) - set(parameters))
        if unknown:
            raise UserError(f"{_ANOTHER_MODEL} moments of {', '.join(unknown[:5])}")
        own_parameters = {key: parameters[name] for key, name in names.items() if is_own(parameters[name])}
        # Each parameter has several keys; Paddle must get it once.
        distinct = {parameter.name: parameter for parameter in own_parameters.values()}
        block = paddle.static.default_main_program().global_block()
        self._create_accumulators(block, list(distinct.values()))
        for key, parameter in own_parameters.items():
            kind = key.rpartition("/")[2]
            if kind == MASTER:
                tensor = self._master_weights[parameter.name]
            else:
                tensor = self._accumulators[kind][self._name_in_accumulators(parameter)]
            value = state[key]
            if list(tensor.shape) != list(value.shape):
                raise UserError(f"{_ANOTHER_MODEL} {key} of shape {list(value.shape)}")
            if tensor.place.is_cpu_place():
                # Paddle keeps Adam's powers on the CPU. `set_value` would move them to the device in use,
                # where each takes a kernel of its own in every step.
                tensor.get_tensor().set(np.asarray(value), paddle.CPUPlace())
            else:
                tensor.set_value(value)
        # What was derived from the moments is made again.
        self._rows_with_moments.clear()
        self._rows_with_moments_on_gpu.clear()
        for name, moment1 in self._accumulators[self._moment1_acc_str].items():
            if name in self.row_gradients and self.row_gradients[name].is_in_use():
                moment2 = self._accumulators[self._moment2_acc_str][name]
                self._rows_with_moments_on_gpu[name] = RowsWithMomentsOnGpu(len(moment1), moment1, moment2)
        self._groups = []
        self._in_groups = []
        powers = self._accumulators[self._beta1_pow_acc_str]
        self._beta1_powers = {name: power.item() for name, power in powers.items()}

    def _name_in_accumulators(self, parameter: Tensor) -> str:
        """The name of a parameter's moments in Paddle: that of its master weight, if it has one."""
        master = self._master_weights.get(parameter.name)
        return parameter.name if master is None else master.name
