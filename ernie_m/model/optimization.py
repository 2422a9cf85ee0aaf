"""The optimizer of a model: AdamW with the official exclusions and layer-wise decay, and its schedules.

A schedule is a function of the step, 0 for the first update, that returns a share of the highest rate.
On a CPU the embedding matrix has an update of its own.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.optimizer.lr import LambdaDecay

from ernie_m.model import kernel_selection
from ernie_m.model.cpu import lazy_adamw
from ernie_m.model.cpu.lazy_adamw import LazyAdamW
from ernie_m.model.word_embeddings import WordEmbeddings
from ernie_m.utils.errors import UserError

Schedule = Callable[[int], float]
# A shape of the linear decay, as a value of --lr_schedule_style and of optimizer.schedule.
WITH_DROP = "official"
# The state of a parameter, as Paddle calls its tensors.
_MOMENTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
_MASTER = "master_weight"  # the float32 copy of a parameter in half precision
_STATE = (*_MOMENTS, _MASTER)
_ANOTHER_MODEL = "the training state belongs to another model: it has"


def is_decayed(name: str) -> bool:
    """Return whether weight decay applies to the parameter with this name: not to layer norms and biases.

    The layer norms of an encoder layer are norm1 and norm2.
    """
    return re.search(r"(layer_norm|norm1|norm2)\.", name) is None and not name.endswith("bias")


def learning_rate_ratios(
    names: Iterable[str], num_layers: int, layerwise_lr_decay: float
) -> dict[str, float]:
    """Return each parameter's share of the learning rate, by name.

    With d = layerwise_lr_decay, L = num_layers and layers 0 to L - 1, the share is d^(L - i) in layer i,
    d^(L + 1) for the word and position tables, and 1 for heads, pooler and the embeddings' layer norm.
    """
    ratios = {}
    for name in names:
        layer = _layer_index(name)
        if layer is not None:
            ratios[name] = layerwise_lr_decay ** (num_layers - layer)
        elif re.search(r"(^|\.)(word|position)_embeddings\.", name):
            ratios[name] = layerwise_lr_decay ** (num_layers + 1)
        else:
            ratios[name] = 1.0
    return ratios


def build_optimizer(
    model: nn.Layer,
    peak_lr: float,
    schedule: Schedule | None = None,
    weight_decay: float = 0.01,
    layerwise_lr_decay: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    embedding_lr_ratio: float = 1.0,
) -> "AdamW":
    """AdamW for the model's trainable parameters. It does not clip; `ernie_m.training.engine.Engine` does.

    On a CPU the gradients of the model's embedding matrices are added in place from now on.

    Args:
        peak_lr: the highest learning rate.
        schedule: returns the share of `peak_lr` for a step; None: constant rate. Call
            `optimizer.lr_scheduler.step()` after each update.
        weight_decay: the coefficient. Layer norms and biases do not decay.
        layerwise_lr_decay: d of `learning_rate_ratios`; 1.0: the same rate in all layers.
        betas, eps: the hyperparameters of Adam.
        embedding_lr_ratio: the share of their rate that embedding matrices learn at.
    """
    parameters = {
        name: parameter for name, parameter in model.named_parameters() if not parameter.stop_gradient
    }
    layer_numbers = map(_layer_index, parameters)
    num_layers = max((number for number in layer_numbers if number is not None), default=-1) + 1
    ratios = learning_rate_ratios(parameters, num_layers, layerwise_lr_decay)
    sublayers = model.sublayers(include_self=True)
    # The embedding matrices, by Paddle's name of their weight.
    embeddings = {layer.weight.name: layer for layer in sublayers if isinstance(layer, WordEmbeddings)}

    groups = defaultdict(list)  # (share of the rate, coefficient of decay) -> parameters
    tables = {}  # Paddle's name of an embedding matrix -> its update
    for name, parameter in parameters.items():
        ratio = ratios[name]
        if parameter.name in embeddings:
            ratio *= embedding_lr_ratio
        # The decay is that of the full rate; AdamW multiplies the coefficient by the parameter's own rate.
        decay = weight_decay / ratio if is_decayed(name) else 0.0
        if parameter.name in embeddings and kernel_selection.on_cpu(parameter) and lazy_adamw.works():
            gradient = embeddings[parameter.name].take_over()
            tables[parameter.name] = LazyAdamW(gradient, ratio, decay, betas, eps)
        else:
            groups[ratio, decay].append(parameter)
    paddle_groups = [
        {"params": members, "learning_rate": ratio, "weight_decay": decay}
        for (ratio, decay), members in groups.items()
    ]
    scheduler = LambdaDecay(peak_lr, schedule or (lambda step: 1.0))
    return AdamW(scheduler, paddle_groups, tables, betas, eps)


def _layer_index(name: str) -> int | None:
    """Return the number of the encoder layer that has the parameter with this name.

    None: it is in no layer.
    """
    match = re.search(r"encoder\.layers\.(\d+)\.", name)
    return None if match is None else int(match[1])


class AdamW(paddle.optimizer.AdamW):
    """Paddle's AdamW for groups of parameters, and `LazyAdamW` for embedding matrices on a CPU.

    Paddle saves the state under names of its own. `get_state` has the model's: its keys are
    "<parameter>/<accumulator>", such as "pooler.dense.bias/moment1".

    Args:
        lr_scheduler: the schedule and its position. Call its `step()` after each update.
        groups: as Paddle's `parameters`, without the tables that `tables` updates.
        tables: the updates of embedding matrices, by the names of their parameters.
        betas, epsilon: the hyperparameters of Adam.
    """

    def __init__(
        self,
        lr_scheduler: LambdaDecay,
        groups: Sequence[dict[str, Any]],
        tables: Mapping[str, LazyAdamW],
        betas: tuple[float, float],
        epsilon: float,
    ):
        super().__init__(
            lr_scheduler,
            beta1=betas[0],
            beta2=betas[1],
            epsilon=epsilon,
            parameters=list(groups),  # type: ignore[arg-type]  # Paddle's type of a group is private
        )
        self.lr_scheduler = lr_scheduler
        self.tables = tables

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for table in self.tables.values():
            table.step(self.get_lr())
        if self._parameter_list:  # a static model has no others, and Paddle wants one
            super().step()

    def clear_grad(self, set_to_zero: bool = True) -> None:
        """Clear the gradients of all parameters, as Paddle's optimizer does; those of tables become None."""
        super().clear_grad(set_to_zero)
        for table in self.tables.values():
            table.weight.grad = None

    def get_state(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state of every parameter that this process has updated: key -> tensor.

        With sharding this is the part of this process; the parts together are the state. The tensors are the
        optimizer's own, because a copy would take gigabytes: write them before the next step.
        """
        tensors = self._state_by_name()
        return {
            f"{name}/{kind}": tensors[parameter.name, kind]
            for kind in _STATE
            for name, parameter in parameters.items()
            if (parameter.name, kind) in tensors
        }

    def load_state(
        self,
        parameters: Mapping[str, Tensor],
        state: Mapping[str, np.ndarray | Tensor],
        is_own: Callable[[Tensor], bool] = lambda parameter: True,
    ) -> None:
        """Load the `get_state` all processes.

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
        others = [parameter for name, parameter in parameters.items() if name not in self.tables]
        # Paddle makes a state in the first update only, and `set_state_dict` keeps one for all parameters.
        self._create_accumulators(paddle.static.default_main_program().global_block(), others)

    def _state_by_name(self) -> dict[tuple[str, str], Tensor]:
        """Return every tensor of the state, by Paddle's name of the parameter and the kind of state."""
        saved = self.state_dict()
        masters = saved.pop("master_weights", {})  # name of a parameter -> tensor
        # The state of a parameter with a master has the master's name.
        parameter_of = {master.name: name for name, master in masters.items()}
        tensors = {(name, _MASTER): master for name, master in masters.items()}
        for key, tensor in saved.items():  # such as "linear_0.w_0_moment1_0"
            for kind in _MOMENTS:
                name, found, _ = key.rpartition(f"_{kind}_")
                if found:
                    tensors[parameter_of.get(name, name), kind] = tensor
        for name, table in self.tables.items():
            tensors |= {(name, kind): tensor for kind, tensor in table.state.items()}
        return tensors


# Schedules


def linear_warmup_decay(warmup_steps: int, total_steps: int, shape: str = WITH_DROP) -> Schedule:
    """Linear warm-up over w = warmup_steps, then linear decay to 0 at T = total_steps. w = 0: constant rate.

    Args:
        shape: WITH_DROP, as the official code: from step w on the rate is 1 - t/T, so it drops from 1 to
            1 - w/T at step w. "paddlenlp", as PaddleNLP: it falls in a straight line from 1 at step w to 0
            at step T.
    """

    def share(step: int) -> float:
        if warmup_steps == 0:
            return 1.0
        if step < warmup_steps:
            return step / warmup_steps
        if shape == WITH_DROP:
            return max(0.0, 1.0 - step / total_steps)
        decay_steps = max(1, total_steps - warmup_steps)
        return max(0.0, (total_steps - step) / decay_steps)

    return share


def noam_decay(warmup_steps: int) -> Schedule:
    """Linear warm-up to 1 at update w = warmup_steps, then sqrt(w / update). w = 0: constant rate."""

    def share(step: int) -> float:
        if warmup_steps == 0:
            return 1.0
        update = step + 1
        return min((warmup_steps / update) ** 0.5, update / warmup_steps)

    return share
