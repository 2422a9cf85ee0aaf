"""AdamW whose word tables have an update of their own on a CPU, and whose state has the model's names.

Paddle saves the state under names of its own. Here a key is "<parameter>/<accumulator>", such as
"pooler.dense.bias/moment1".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.optimizer.lr import LambdaDecay

from training.row_adam import RowAdam
from utils.errors import UserError

MOMENTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")  # as Paddle calls them
MASTER = "master_weight"  # the float32 copy of a parameter in half precision
KINDS = (*MOMENTS, MASTER)
_ANOTHER_MODEL = "the training state belongs to another model: it has"


class AdamW(paddle.optimizer.AdamW):
    """Paddle's AdamW for groups of parameters, and `RowAdam` for word tables on a CPU.

    Args:
        lr_scheduler: the schedule and its position. Call its `step()` after each update.
        groups: as Paddle's `parameters`, without the tables that `tables` updates.
        tables: the updates of word tables, by the names of their parameters.
        betas, epsilon: the hyperparameters of Adam.
    """

    def __init__(
        self,
        lr_scheduler: LambdaDecay,
        groups: Sequence[dict[str, Any]],
        tables: Mapping[str, RowAdam],
        betas: tuple[float, float],
        epsilon: float,
    ):
        super().__init__(
            lr_scheduler, beta1=betas[0], beta2=betas[1], epsilon=epsilon, parameters=list(groups)
        )
        self.lr_scheduler = lr_scheduler
        self.tables = tables

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for table in self.tables.values():
            table.step(self.get_lr())
        super().step()

    def state_of(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of every parameter that this process has updated: key -> tensor.

        With sharding this is the part of this process; the parts together are the state. The tensors are the
        optimizer's own, because a copy would take gigabytes: write them before the next step.
        """
        tensors = self._state_by_name()
        state = {}
        for kind in KINDS:
            for name, parameter in parameters.items():
                if (parameter.name, kind) in tensors:
                    state[f"{name}/{kind}"] = tensors[parameter.name, kind]
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
        # Each parameter has several keys; its state is made once.
        self._make_state({parameter.name: parameter for parameter in own_parameters.values()})
        tensors = self._state_by_name()
        for key, parameter in own_parameters.items():
            tensor = tensors[parameter.name, key.rpartition("/")[2]]
            if list(tensor.shape) != list(state[key].shape):
                raise UserError(f"{_ANOTHER_MODEL} {key} of shape {list(state[key].shape)}")
            tensor.set_value(state[key])
        for table in self.tables.values():
            table.forget_rows()

    def _make_state(self, parameters: Mapping[str, Tensor]) -> None:
        """Make the state of these parameters, which are given by Paddle's names, unless it exists."""
        for name in parameters.keys() & self.tables.keys():
            self.tables[name].begin()
        of_paddle = [parameter for name, parameter in parameters.items() if name not in self.tables]
        # Paddle makes a state in the first update only, and `set_state_dict` keeps one for all parameters.
        self._create_accumulators(paddle.static.default_main_program().global_block(), of_paddle)

    def _state_by_name(self) -> dict[tuple[str, str], Tensor]:
        """Every tensor of the state, by Paddle's name of the parameter and the kind of state."""
        saved = self.state_dict()
        masters = saved.pop("master_weights", {})  # name of a parameter -> tensor
        # The state of a parameter with a master has the master's name.
        parameter_of = {master.name: name for name, master in masters.items()}
        tensors = {(name, MASTER): master for name, master in masters.items()}
        for key, tensor in saved.items():  # such as "linear_0.w_0_moment1_0"
            for kind in MOMENTS:
                name, found, _ = key.rpartition(f"_{kind}_")
                if found:
                    tensors[parameter_of.get(name, name), kind] = tensor
        for name, table in self.tables.items():
            tensors |= {(name, kind): tensor for kind, tensor in table.state.items()}
        return tensors
