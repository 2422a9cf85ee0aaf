"""An optimizer's moments and master weights, saved under the model's parameter names, not Paddle's own.

A key of the state is "<parameter>/<accumulator>", such as "pooler.dense.bias/moment1_0".
"""

from collections.abc import Callable, Mapping

import numpy as np
import paddle
from paddle import Tensor

from utils.errors import UserError

_ANOTHER_MODEL = "the training state belongs to another model: it has"
MASTER = "master_weight"  # the float32 copy of a parameter in half precision


def optimizer_state(
    optimizer: paddle.optimizer.Optimizer, parameters: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The state of every parameter that this process has updated: key -> tensor.

    With sharding this is the part of this process; the parts together are the state. The tensors are the
    optimizer's own, because a copy would take gigabytes: write them before the next step.
    """
    state = {}
    for kind, accumulators in optimizer._accumulators.items():
        for name, parameter in parameters.items():
            accumulator = accumulators.get(_name_in_accumulators(optimizer, parameter))
            if accumulator is not None:
                state[f"{name}/{kind}"] = accumulator
    for name, parameter in parameters.items():
        if parameter.name in optimizer._master_weights:
            state[f"{name}/{MASTER}"] = optimizer._master_weights[parameter.name]
    return state


def load_optimizer_state(
    optimizer: paddle.optimizer.Optimizer,
    parameters: dict[str, Tensor],
    state: Mapping[str, np.ndarray | Tensor],
    is_own: Callable[[Tensor], bool] = lambda parameter: True,
) -> None:
    """Load the `optimizer_state` of all processes.

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
    optimizer._create_accumulators(block, list(distinct.values()))
    for key, parameter in own_parameters.items():
        kind = key.rpartition("/")[2]
        if kind == MASTER:
            tensor = optimizer._master_weights[parameter.name]
        else:
            tensor = optimizer._accumulators[kind][_name_in_accumulators(optimizer, parameter)]
        value = state[key]
        if list(tensor.shape) != list(value.shape):
            raise UserError(f"{_ANOTHER_MODEL} {key} of shape {list(value.shape)}")
        if tensor.place.is_cpu_place():
            # Paddle keeps Adam's powers on the CPU. `set_value` would move them to the device in use, where
            # each takes a kernel of its own in every step.
            tensor.get_tensor().set(np.asarray(value), paddle.CPUPlace())
        else:
            tensor.set_value(value)


def _name_in_accumulators(optimizer: paddle.optimizer.Optimizer, parameter: Tensor) -> str:
    """The name under which Paddle keeps a parameter's moments: that of its master weight, if it has one."""
    master = optimizer._master_weights.get(parameter.name)
    return parameter.name if master is None else master.name
