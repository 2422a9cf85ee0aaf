"""AdamW with the official exclusions and layer-wise decay, the learning-rate schedules, the saved moments.

A schedule is a function of the step (0 for the first update) that returns the share of the peak rate. The
official code and PaddleNLP decay rates and weights differently; the styles "official" and "paddlenlp" give
both. The moments are saved under the model's parameter names, not under Paddle's own.

On a CPU, AdamW on the whole word table (192 million numbers at base size) takes a twentieth of a step, and a
fine-tuning batch contains some thousand of 250,002 words. If a row has no gradient and its moments are 0,
AdamW changes it by weight decay only, so such rows are skipped; the result equals AdamW on the whole table.
Above a share of the table, updating all of it is faster.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.optimizer.lr import LambdaDecay

from model.cpu.rows import as_array, over_rows
from model.word_table import TableGradient, WordEmbeddings
from utils.errors import UserError

Schedule = Callable[[int], float]
STYLES = ("official", "paddlenlp")
MASTER = "master_weight"  # the float32 copy of a parameter in half precision
MOST = 0.4  # the share of moving rows above which the whole word table is updated


def linear_warmup_decay(warmup_steps: int, total_steps: int, style: str = "official") -> Schedule:
    """Linear warm-up over w = warmup_steps, then linear decay to 0 at T = total_steps. w = 0: constant rate.

    In style "official" the rate from step w on is 1 - t/T, so it drops from 1 to 1 - w/T at step w.
    In style "paddlenlp" it falls in a straight line from 1 at step w to 0 at step T.
    """

    def factor(step: int) -> float:
        if warmup_steps == 0:
            return 1.0
        if step < warmup_steps:
            return step / warmup_steps
        if style == "official":
            return max(0.0, 1.0 - step / total_steps)
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return factor


def noam_decay(warmup_steps: int) -> Schedule:
    """Linear warm-up to 1 at update w = warmup_steps, then sqrt(w / update). w = 0: constant rate."""

    def factor(step: int) -> float:
        if warmup_steps == 0:
            return 1.0
        update = step + 1
        return min((warmup_steps / update) ** 0.5, update / warmup_steps)

    return factor


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to the parameter with this name: not to layer norms and biases."""
    return not re.search(r"(layer_norm|norm1|norm2)\.|bias$", name)


def learning_rate_ratios(
    names: Iterable[str], num_layers: int, layerwise_lr_decay: float, decay_style: str = "official"
) -> dict[str, float]:
    """Each parameter's share of the learning rate, by name.

    With d = layerwise_lr_decay and L = num_layers, the share is d^(L - i) in layer i, d^(L + 1) for the word
    and position tables, and 1 for heads and pooler. The embeddings' layer norm has 1 in style "official" and
    d^(L + 1) in style "paddlenlp".
    """

    def ratio(name: str) -> float:
        if layer := _layer_of(name):
            return layerwise_lr_decay ** (num_layers - int(layer[1]))
        tables = "embeddings" if decay_style == "paddlenlp" else r"(word|position)_embeddings"
        if re.search(rf"(^|\.){tables}\.", name):
            return layerwise_lr_decay ** (num_layers + 1)
        return 1.0

    return {name: ratio(name) for name in names}


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
            rows = None if table is None else table.touched_rows(gradient)
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
    """The rows of one table [V, H] whose two moments may differ from 0."""

    def __init__(self, weight: Tensor, *moments: Tensor):
        self.tensors = (weight, *moments)
        self.moving = np.logical_or.reduce([as_array(moment).any(1) for moment in moments])  # [V]

    def update(self, gradient: Tensor, rows: np.ndarray, adam: Callable[..., None], decay: float) -> None:
        """Do one step: multiply every weight by `decay`, then update the moving rows.

        `rows`, bool [V], is True where `gradient` may differ from 0. `adam` takes weight, both moments and
        gradient of some rows, and updates them in place, without decay.
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


def build_optimizer(
    model: nn.Layer,
    peak_lr: float,
    schedule: Schedule | None = None,
    weight_decay: float = 0.01,
    layerwise_lr_decay: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    decay_style: str = "official",
) -> AdamW:
    """AdamW for the model's trainable parameters. It does not clip; `training.engine.Engine` does.

    Args:
        peak_lr: the highest learning rate.
        schedule: returns the share of `peak_lr` for a step; None: constant rate. Call
            `optimizer.lr_scheduler.step()` after each update.
        weight_decay: the coefficient. Layer norms and biases do not decay.
        layerwise_lr_decay: d of `learning_rate_ratios`; 1.0: the same rate in all layers.
        betas, eps: of Adam.
        decay_style: "official": weight decay uses the full scheduled rate. "paddlenlp": it also uses the
            ratio of the layer, and the embeddings' layer norm has the ratio of the tables.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    num_layers = 1 + max((int(layer[1]) for layer in map(_layer_of, named) if layer), default=-1)
    ratios = learning_rate_ratios(named, num_layers, layerwise_lr_decay, decay_style)
    for name, parameter in named.items():
        parameter.optimize_attr["learning_rate"] = ratios[name]
    decayed = {parameter.name for name, parameter in named.items() if is_decayed(name)}
    tables = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, WordEmbeddings)]
    return AdamW(
        LambdaDecay(peak_lr, schedule or (lambda step: 1.0)),
        {layer.weight.name: layer.gradient for layer in tables},
        full_rate_decay=decay_style == "official", beta1=betas[0], beta2=betas[1], epsilon=eps,
        parameters=list(named.values()), weight_decay=weight_decay,
        apply_decay_param_fun=lambda name: name in decayed,
    )  # fmt: skip


def _layer_of(name: str) -> re.Match | None:
    return re.search(r"encoder\.layers\.(\d+)\.", name)


def optimizer_state(
    optimizer: paddle.optimizer.Optimizer, parameters: dict[str, Tensor]
) -> dict[str, Tensor]:
    """{"<parameter>/<accumulator>": tensor} of every parameter that this process has updated.

    With sharding this is the part of this process; the parts together are the state. The tensors are the
    optimizer's own, because a copy would take gigabytes: write them before the next step.
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
    state: Mapping[str, np.ndarray | Tensor],
    is_own: Callable[[Tensor], bool] = lambda parameter: True,
) -> None:
    """Load the `optimizer_state` of all processes; of the moments only those of `is_own` parameters.

    UserError: the model has no such parameter, or a shape differs.
    """
    another = "the training state belongs to another model: it has"
    places = {key: key.rsplit("/", 1) for key in state}
    if unknown := sorted({name for name, _ in places.values()} - set(parameters)):
        raise UserError(f"{another} moments of {', '.join(unknown[:5])}")
    own = {key: parameters[name] for key, (name, _) in places.items() if is_own(parameters[name])}
    block = paddle.static.default_main_program().global_block()
    optimizer._create_accumulators(block, list({p.name: p for p in own.values()}.values()))
    for key, parameter in own.items():
        kind, value = places[key][1], state[key]
        if kind == MASTER:
            tensor = optimizer._master_weights[parameter.name]
        else:
            tensor = optimizer._accumulators[kind][_name_in(optimizer, parameter)]
        if list(tensor.shape) != list(value.shape):
            raise UserError(f"{another} {key} of shape {list(value.shape)}")
        tensor.set_value(value)


def _name_in(optimizer: paddle.optimizer.Optimizer, parameter: Tensor) -> str:
    """The name under which Paddle keeps a parameter's moments: that of its master weight, if it has one."""
    master = optimizer._master_weights.get(parameter.name)
    return parameter.name if master is None else master.name
