"""A paddle optimizer's moments under the model's own parameter names, whole or divided among processes.

Paddle keys them by run-time names (linear_3.w_0_moment1_0), which depend on what was made before.
"""

from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from training import distributed
from utils.errors import UserError

Owner = dict[str, int] | None
MASTER = "master_weight"  # float32, of a parameter in half precision


def optimizer_state(
    optimizer: paddle.optimizer.Optimizer,
    parameters: dict[str, Tensor],
) -> dict[str, Tensor]:
    """{"<parameter>/<accumulator>": tensor} of every parameter that this process updated so far.

    Where the moments are divided among processes it is this one's part; the parts together are the state.
    The tensors are the optimizer's own (no copy of gigabytes): write them before the next step.

    Args:
        parameters: name in the model -> parameter.
    """
    held = {
        f"{name}/{kind}": table[_name_in(optimizer, parameter)]
        for kind, table in optimizer._accumulators.items()
        for name, parameter in parameters.items()
        if _name_in(optimizer, parameter) in table
    }
    masters = optimizer._master_weights
    return held | {
        f"{name}/{MASTER}": masters[parameter.name]
        for name, parameter in parameters.items()
        if parameter.name in masters
    }


def load_optimizer_state(
    optimizer: paddle.optimizer.Optimizer,
    parameters: dict[str, Tensor],
    owner: Owner,
    state: dict[str, np.ndarray | Tensor],
) -> None:
    """Put back what `optimizer_state` gave, of all processes; with an owner each takes only its own part.

    Args:
        owner: parameter -> the process that holds its moments; None: every process holds all.

    Raises:
        UserError: the state names a parameter that the model has not, or a shape differs.
    """
    unknown = sorted({key.rsplit("/", 1)[0] for key in state} - set(parameters))
    if unknown:
        raise UserError(
            f"the training state belongs to another model: it has moments of {', '.join(unknown[:5])}"
        )
    mine = {
        name: parameter
        for name, parameter in parameters.items()
        if owner is None or owner.get(name) == distributed.rank()
    }
    kept = {key: value for key, value in state.items() if key.rsplit("/", 1)[0] in mine}
    wanted = {key.rsplit("/", 1)[0] for key in kept}
    block = paddle.static.default_main_program().global_block()
    optimizer._create_accumulators(block, [parameter for name, parameter in mine.items() if name in wanted])
    for key, value in kept.items():
        name, kind = key.rsplit("/", 1)
        tensor = _tensor_of(optimizer, parameters[name], kind)
        if list(tensor.shape) != list(value.shape):
            raise UserError(
                f"the training state belongs to another model: {key} has shape {list(value.shape)}"
            )
        tensor.set_value(value)


def _tensor_of(optimizer: paddle.optimizer.Optimizer, parameter: Tensor, kind: str) -> Any:
    if kind == MASTER:
        return optimizer._master_weights[parameter.name]
    return optimizer._accumulators[kind][_name_in(optimizer, parameter)]


def _name_in(optimizer: paddle.optimizer.Optimizer, parameter: Tensor) -> str:
    """What a parameter's moments are keyed by: where it has a master weight, by the name of that."""
    master = optimizer._master_weights.get(parameter.name)
    return parameter.name if master is None else master.name
