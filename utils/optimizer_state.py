"""A paddle optimizer's moments under the model's own parameter names, whole or divided among processes.

Paddle keys them by run-time names (linear_3.w_0_moment1_0), which depend on what was made before.
"""

from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from utils import distributed
from utils.errors import UserError

Owner = dict[str, int] | None


def optimizer_state(
    optimizer: paddle.optimizer.Optimizer,
    parameters: dict[str, Tensor],
    owner: Owner = None,
) -> dict[str, Tensor]:
    """{"<parameter>/<accumulator>": tensor} of every parameter that was updated so far.

    The tensors are the optimizer's own (no copy of gigabytes): write them before the next step.

    Args:
        parameters: name in the model -> parameter.
        owner: parameter -> the process that holds its moments; None: every process holds all. With an owner
            the result is complete on rank 0 and empty elsewhere; all processes must call.
    """
    held = {
        f"{name}/{kind}": table[parameter.name]
        for kind, table in optimizer._accumulators.items()
        for name, parameter in parameters.items()
        if parameter.name in table
    }
    if owner is None:
        return held
    shapes = [{key: (list(t.shape), str(t.dtype).removeprefix("paddle.")) for key, t in held.items()}]
    state = {}
    for source, listed in enumerate(distributed.gather(shapes[0])):
        for key, (shape, dtype) in listed.items():
            tensor = held[key] if source == distributed.rank() else paddle.zeros(shape, dtype)
            tensor = tensor.cuda() if paddle.device.get_device().startswith("gpu") else tensor
            distributed.broadcast_([tensor], source)
            if distributed.is_main():
                state[key] = tensor
    return state


def load_optimizer_state(
    optimizer: paddle.optimizer.Optimizer,
    parameters: dict[str, Tensor],
    owner: Owner,
    state: dict[str, np.ndarray | Tensor],
) -> None:
    """Put back what `optimizer_state` gave; with an owner each process takes only its own part.

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
        if owner is None or owner[name] == distributed.rank()
    }
    kept = {key: value for key, value in state.items() if key.rsplit("/", 1)[0] in mine}
    wanted = {key.rsplit("/", 1)[0] for key in kept}
    block = paddle.static.default_main_program().global_block()
    optimizer._create_accumulators(block, [parameter for name, parameter in mine.items() if name in wanted])
    for key, value in kept.items():
        name, kind = key.rsplit("/", 1)
        tensor: Any = optimizer._accumulators[kind][parameters[name].name]
        if list(tensor.shape) != list(value.shape):
            raise UserError(
                f"the training state belongs to another model: {key} has shape {list(value.shape)}"
            )
        tensor.set_value(value)
