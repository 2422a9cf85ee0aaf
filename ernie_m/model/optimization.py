"""The optimizer, AdamW with layer-wise learning-rate decay, and learning-rate schedules.

A schedule is a function of the step, 0 for the first update, that returns the ratio of the learning rate to
its peak. A CPU has its own optimizer of embedding matrices.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.optimizer.lr import LambdaDecay

from ernie_m.model.kernel_selection import get_services
from ernie_m.model.services import TableOptimizer
from ernie_m.model.word_embeddings import WordEmbeddings
from ernie_m.utils.errors import UserError

Schedule = Callable[[int], float]
# A shape of the linear decay: a value of --lr_schedule_style and of optimizer.schedule.
WITH_DROP = "official"
# The state of a parameter, with Paddle's names.
_MOMENTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
_MASTER = "master_weight"  # float32 master weight of a half-precision parameter
_STATE = (*_MOMENTS, _MASTER)
_ANOTHER_MODEL = "the training state is of another model: found"


def is_decayed(name: str) -> bool:
    """Return whether weight decay applies to a parameter, by name: not to layer norms and biases."""
    return re.search(r"(layer_norm|norm1|norm2)\.", name) is None and not name.endswith("bias")


def compute_learning_rate_ratios(
    names: Iterable[str], num_layers: int, layerwise_lr_decay: float
) -> dict[str, float]:
    """Compute the layer-wise learning-rate ratio of each parameter: name -> ratio.

    With d = layerwise_lr_decay and L = num_layers, the ratio is d^(L - i) in layer i = 0 .. L - 1, d^(L + 1)
    for word and position embeddings, and 1 for heads, pooler and the embeddings' layer norm.
    """
    ratios = {}
    for name in names:
        layer = _parse_layer_index(name)
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
    """Make AdamW for a model's trainable parameters, without gradient clipping.

    On a CPU the gradients of embedding matrices are accumulated in place from now on.

    Args:
        peak_lr: peak learning rate.
        schedule: step -> ratio to `peak_lr`; None: constant learning rate. Call
            `optimizer.lr_scheduler.step()` after each update.
        weight_decay: weight decay coefficient. Layer norms and biases are excluded.
        layerwise_lr_decay: factor of the learning rate from a layer to the one below; 1.0: the same learning
            rate in all layers.
        betas, eps: the hyperparameters of Adam.
        embedding_lr_ratio: additional learning-rate ratio of embedding matrices.
    """
    parameters = {
        name: parameter for name, parameter in model.named_parameters() if not parameter.stop_gradient
    }
    layer_numbers = map(_parse_layer_index, parameters)
    num_layers = max((number for number in layer_numbers if number is not None), default=-1) + 1
    ratios = compute_learning_rate_ratios(parameters, num_layers, layerwise_lr_decay)
    sublayers = model.sublayers(include_self=True)
    # The embedding matrices, by Paddle's name of their weight.
    embeddings = {layer.weight.name: layer for layer in sublayers if isinstance(layer, WordEmbeddings)}

    groups = defaultdict(list)  # (learning-rate ratio, decay coefficient) -> parameters
    tables = {}  # Paddle's name of an embedding matrix -> its optimizer
    for name, parameter in parameters.items():
        ratio = ratios[name]
        if parameter.name in embeddings:
            ratio *= embedding_lr_ratio
        # Decay follows the full learning rate; AdamW multiplies the coefficient by the parameter's learning
        # rate.
        decay = weight_decay / ratio if is_decayed(name) else 0.0
        table = None  # the optimizer of an embedding matrix
        if parameter.name in embeddings:
            table = get_services().make_table_optimizer(embeddings[parameter.name], ratio, decay, betas, eps)
        if table is None:
            groups[ratio, decay].append(parameter)
        else:
            tables[parameter.name] = table
    paddle_groups = [
        {"params": members, "learning_rate": ratio, "weight_decay": decay}
        for (ratio, decay), members in groups.items()
    ]
    scheduler = LambdaDecay(peak_lr, schedule or (lambda step: 1.0))
    return AdamW(scheduler, paddle_groups, tables, betas, eps)


def _parse_layer_index(name: str) -> int | None:
    """Return the index of the encoder layer that a parameter name belongs to; None: outside the layers."""
    match = re.search(r"encoder\.layers\.(\d+)\.", name)
    return None if match is None else int(match[1])


class AdamW(paddle.optimizer.AdamW):
    """Paddle's AdamW, with other optimizers for embedding matrices on a CPU.

    Paddle's state dict has generated parameter names, which depend on the models that the process has made.
    `get_state` has those of the model: its keys are "<parameter>/<accumulator>", such as
    "pooler.dense.bias/moment1".

    Args:
        lr_scheduler: the learning-rate schedule. Call its `step()` after each update.
        groups: Paddle's parameter groups, without the matrices in `tables`.
        tables: Paddle's name of an embedding matrix -> its optimizer.
        betas, epsilon: the hyperparameters of Adam.
    """

    def __init__(
        self,
        lr_scheduler: LambdaDecay,
        groups: Sequence[dict[str, Any]],
        tables: Mapping[str, TableOptimizer],
        betas: tuple[float, float],
        epsilon: float,
    ):
        super().__init__(
            lr_scheduler,
            beta1=betas[0],
            beta2=betas[1],
            epsilon=epsilon,
            parameters=list(groups),  # type: ignore[arg-type]  # Paddle's group type is private
        )
        self.lr_scheduler = lr_scheduler
        self.tables = tables

    def step(self) -> None:
        """Update every parameter with a gradient."""
        for table in self.tables.values():
            table.step(self.get_lr())
        if self._parameter_list:  # empty for a static model, which Paddle rejects
            super().step()

    def clear_grad(self, set_to_zero: bool = True) -> None:
        """Clear all gradients, like Paddle's optimizer; those of embedding matrices become None."""
        super().clear_grad(set_to_zero)
        for table in self.tables.values():
            table.weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return Paddle's state dict, with the state of embedding matrices under Paddle's names."""
        state = super().state_dict()
        for name, table in self.tables.items():
            state |= {f"{name}_{kind}_0": tensor for kind, tensor in table.state.items()}
        return state

    def set_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a result of `state_dict`, or of Paddle's AdamW, into a model with the same parameter names."""
        others = dict(state_dict)
        for name, table in self.tables.items():
            if f"{name}_moment1_0" in others:  # the matrix had been updated
                table.init_state()
            for kind, tensor in table.state.items():
                tensor.set_value(others.pop(f"{name}_{kind}_0"))
            table.reset_nonzero_rows()
        super().set_state_dict(others)

    load_state_dict = set_state_dict  # as in Paddle

    def get_state(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the optimizer state of all parameters that this process updates: key -> tensor.

        The tensors are not copied, which would take gigabytes: write them to disk before the next step.

        Args:
            parameters: all parameters of the model, by name.
        """
        tensors = self._get_state_by_name()
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
        """Load the optimizer state.

        Args:
            parameters: all parameters of the model, by name.
            state: the merged results of `get_state` of all processes.
            is_own: whether this process updates a parameter; the state of other parameters is skipped.

        Raises:
            UserError: the state has a parameter that the model lacks, or a shape differs.
        """
        names = {key: key.rpartition("/")[0] for key in state}  # key -> name of the parameter
        unknown = sorted(set(names.values()) - set(parameters))
        if unknown:
            raise UserError(f"{_ANOTHER_MODEL} moments of {', '.join(unknown[:5])}")
        own_parameters = {key: parameters[name] for key, name in names.items() if is_own(parameters[name])}
        # A parameter has several keys; make its state once.
        self._make_state({parameter.name: parameter for parameter in own_parameters.values()})
        tensors = self._get_state_by_name()
        for key, parameter in own_parameters.items():
            tensor = tensors[parameter.name, key.rpartition("/")[2]]
            if list(tensor.shape) != list(state[key].shape):
                raise UserError(f"{_ANOTHER_MODEL} {key} of shape {list(state[key].shape)}")
            tensor.set_value(state[key])
        for table in self.tables.values():
            table.reset_nonzero_rows()

    def _make_state(self, parameters: Mapping[str, Tensor]) -> None:
        """Create the optimizer state of parameters, if missing.

        Args:
            parameters: Paddle's parameter name -> parameter.
        """
        for name in parameters.keys() & self.tables.keys():
            self.tables[name].init_state()
        others = [parameter for name, parameter in parameters.items() if name not in self.tables]
        # Paddle creates a state only in the first update, and `set_state_dict` keeps one for all parameters.
        self._create_accumulators(paddle.static.default_main_program().global_block(), others)

    def _get_state_by_name(self) -> dict[tuple[str, str], Tensor]:
        """Return the optimizer state by Paddle's parameter name and accumulator, such as "moment1"."""
        saved = self.state_dict()
        masters = saved.pop("master_weights", {})  # parameter name -> tensor
        # The state of a parameter with a master weight has the name of the master.
        parameter_of = {master.name: name for name, master in masters.items()}
        tensors = {(name, _MASTER): master for name, master in masters.items()}
        for key, tensor in saved.items():  # such as "linear_0.w_0_moment1_0"
            for kind in _MOMENTS:
                name, found, _ = key.rpartition(f"_{kind}_")
                if found:
                    tensors[parameter_of.get(name, name), kind] = tensor
        return tensors


def squared_norm(gradient: Tensor) -> Tensor:
    """Return the squared L2 norm of a gradient, float64 []."""
    # As Paddle's gradient clipping: one pass, without the squares of all elements.
    return paddle._C_ops.squared_l2_norm(gradient).reshape([]).astype("float64")


# Schedules


def linear_warmup_decay(warmup_steps: int, total_steps: int, shape: str = WITH_DROP) -> Schedule:
    """Return the schedule of linear warm-up over w = warmup_steps, then linear decay to 0 at T = total_steps.

    Args:
        warmup_steps: 0: constant learning rate.
        shape: WITH_DROP, as in the official code: after warm-up the ratio is 1 - t/T at step t, so it drops
            from 1 to 1 - w/T at step w. "paddlenlp", as in PaddleNLP: a straight line from 1 at step w to 0
            at step T.
    """

    def compute_ratio(step: int) -> float:
        if warmup_steps == 0:
            return 1.0
        if step < warmup_steps:
            return step / warmup_steps
        if shape == WITH_DROP:
            return max(0.0, 1.0 - step / total_steps)
        decay_steps = max(1, total_steps - warmup_steps)
        return max(0.0, (total_steps - step) / decay_steps)

    return compute_ratio


def noam_decay(warmup_steps: int) -> Schedule:
    """Return the Noam schedule: linear warm-up to 1 at update w = warmup_steps, then sqrt(w / update).

    Args:
        warmup_steps: 0: constant learning rate.
    """

    def compute_ratio(step: int) -> float:
        if warmup_steps == 0:
            return 1.0
        update = step + 1
        return min((warmup_steps / update) ** 0.5, update / warmup_steps)

    return compute_ratio
