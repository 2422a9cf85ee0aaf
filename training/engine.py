"""One optimizer step, the same for pre-training and every fine-tuning task, on one device or many.

    micro-batch 1 .. n -> loss / GLOBAL count -> backward     on every process; gradients add up in place
    loss, counters, who used what, who was asked to stop      one sum over the processes
    gradients                                                 summed by fleet, never averaged
    global norm -> clip -> AdamW -> schedule                  or the step is skipped: something is not finite

A loss that is already divided by the count over all devices and micro-batches makes the sum of the gradients
the gradient of the whole batch, whatever way it was cut up. Gradients are summed after the last backward pass
and not from hooks, because processes that work on different objectives have different graphs.

Sharding stage 1 (ZeRO) is fleet's `DygraphShardingOptimizer`: a parameter's gradient goes to its owner alone,
which holds its moments, updates it and hands the new value to the others. It averages the gradients, so the
loss is multiplied by the number of processes. Mixed precision is `paddle.amp`.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from training import distributed
from training.lazy_adamw import AdamW
from training.optimizer import load_optimizer_state, optimizer_state
from training.precision import Precision
from utils.errors import UserError
from utils.logging import logger

LossOf = Callable[[Any], tuple[Tensor, dict[str, Tensor | float]]]


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    Attributes:
        loss: of the whole batch, over all processes.
        sums: the named values that `loss_of` returned, summed over micro-batches and processes.
        grad_norm: global norm before clipping.
        lr: the learning rate that was used.
        skipped: something was not finite: the weights are what they were.
    """

    loss: float
    sums: dict[str, float]
    grad_norm: float
    lr: float
    skipped: bool


class Engine:
    """Drives `model` and `optimizer` one step at a time.

    Args:
        model: its parameters are made equal on all processes (rank 0's values).
        optimizer: of `training.optimizer.build_optimizer`; its schedule is stepped here.
        seed: dropout of step s on process r is a function of (seed, s, r), so nothing random needs saving.
        clip_norm: largest global norm of the gradient; None: no clipping.
        precision: default float32.
        sharding_stage: 0; 1: the optimizer's state is divided among the processes, which
            `distributed.init(sharding_stage=1)` has joined.
        max_bad_steps: stop after so many steps in a row with a loss or gradient that is not finite.
        sums: the names that `loss_of` may return.

    Attributes:
        steps: optimizer steps done, skipped ones included: the position in the data and in the schedule.
        skipped: how many of them were skipped.
        last_checkpoint: named in the error that stops a run.
    """

    def __init__(
        self,
        model: nn.Layer,
        optimizer: AdamW,
        seed: int = 0,
        clip_norm: float | None = 1.0,
        precision: Precision | None = None,
        sharding_stage: int = 0,
        max_bad_steps: int = 10,
        sums: Sequence[str] = (),
    ):
        self.model, self.optimizer, self.seed, self.clip_norm = model, optimizer, seed, clip_norm
        self.precision = precision or Precision()
        self.max_bad_steps, self.sums = max_bad_steps, tuple(sums)
        self.steps = self.skipped = self.bad_in_a_row = 0
        self.last_checkpoint: str | None = None
        self.parameters = dict(model.named_parameters())
        self._is_decorated = False
        self._sharded = None
        if sharding_stage and distributed.world_size() > 1:
            self._sharded = distributed.sharded(optimizer)
        self.scaler = distributed.shared(self.precision.scaler)
        distributed.broadcast_(model.state_dict().values())

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the moments only."""
        return self._sharded is not None

    @property
    def owner(self) -> dict[str, int] | None:
        """Parameter -> the process that holds its moments; None: every process holds all."""
        if self._sharded is None:
            return None
        return {name: self._sharded._param2rank[p.name] for name, p in self.parameters.items()}

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of forward passes; use it around evaluation too."""
        return self.precision.autocast()

    def step(self, micro_batches: Iterable[Any], loss_of: LossOf, stop: object = None) -> Step | None:
        """One optimizer step over this process's `micro_batches` (there may be none).

        Args:
            loss_of: micro-batch -> (scalar loss divided by the count over ALL processes and micro-batches of
                the step, values to sum under names of `self.sums`).
            stop: true once the run is asked to end, at any moment; it is looked at between micro-batches.

        Returns:
            None where any process was asked to end: the step was given up, and nothing has changed.

        Raises:
            UserError: `max_bad_steps` steps in a row were not finite.
        """
        self._decorate()
        self.model.train()
        paddle.seed(step_seed(self.seed, self.steps, distributed.rank()))
        times = 1 if self._sharded is None else distributed.world_size()  # stage 1 averages
        seen: list[tuple[Tensor, dict[str, Tensor | float]]] = []
        for micro_batch in micro_batches:
            if stop:
                break
            with self.autocast():
                loss, values = loss_of(micro_batch)
            self.scaler.scale(loss if times == 1 else loss * times).backward()
            seen.append((loss.detach(), values))
        alone, asked = distributed.world_size() == 1, bool(stop)
        used = [parameter for parameter in self.parameters.values() if parameter.grad is not None]
        if alone and not asked:
            square = self._square(used)  # before anything is read: a read waits for the device
        stopped, users, loss, sums = self._add_up(seen, asked)
        if stopped:
            self._drop_gradients()
            return None
        if not alone:
            used = [parameter for parameter, count in zip(self.parameters.values(), users) if count]
            self._sum_gradients(used)
            square = self._square(used)
        norm = math.sqrt(distributed.all_sum([square.item()])[0] if self.is_sharded else square.item())
        # With float16 the scaler decides, by the gradients alone, whether the weights stay as they are.
        finite = math.isfinite(norm) and (math.isfinite(loss) or self.scaler.is_enable())
        lr = float(self.optimizer.get_lr())
        self._update(used, norm, finite)
        self._drop_gradients()
        self.optimizer.lr_scheduler.step()
        self.steps += 1
        self._count_bad(finite, loss, norm)
        return Step(loss, sums, norm, lr, skipped=not finite)

    def _decorate(self) -> None:
        """Once, when the weights are loaded and before there are moments."""
        if not self._is_decorated:
            self.precision.decorate(self.model, self.optimizer)
            self._is_decorated = True

    def _drop_gradients(self) -> None:
        for parameter in self.parameters.values():
            # clear_grad() would leave zeros, and a parameter that is not used would still be moved
            parameter.grad = None

    def _add_up(self, seen: list, stop: bool) -> tuple[bool, list[float], float, dict[str, float]]:
        """Over all processes: is any to stop, how many used each parameter, the loss, the named sums."""
        local = [float(stop), sum(_number(loss) for loss, _ in seen)]
        local += [sum(_number(values.get(name, 0.0)) for _, values in seen) for name in self.sums]
        local += [float(parameter.grad is not None) for parameter in self.parameters.values()]
        stopped, loss, *rest = distributed.all_sum(local)
        count = len(self.sums)
        return stopped > 0, rest[count:], loss, dict(zip(self.sums, rest[:count]))

    @paddle.no_grad()
    def _sum_gradients(self, used: list[Tensor]) -> None:
        """Over processes. A parameter that none of them used keeps none, so that it does not decay."""
        for parameter in used:
            if parameter.grad is None:  # only other processes used it
                parameter.grad_ = paddle.zeros_like(parameter)
        if self._sharded is None:
            distributed.sum_gradients(used)
        else:
            self._sharded.reduce_gradients(used, self._sharded._hcg)
        for table in self.optimizer.tables.values():
            table.any_row()

    @paddle.no_grad()
    def _square(self, used: list[Tensor]) -> Tensor:
        """The sum of the squares of the gradients, float64 []; in stage 1 of those that this process owns."""
        self.scaler.unscale_(self._sharded or self.optimizer)
        squares = [self._square_of(parameter) for parameter in self._owned(used)]
        return paddle.add_n(squares) if squares else paddle.zeros([], "float64")

    def _square_of(self, parameter: Tensor) -> Tensor:
        table = self.optimizer.tables.get(parameter.name)
        if table is not None:
            return table.square()
        return paddle._C_ops.squared_l2_norm(parameter.grad).astype("float64")  # of millions of numbers

    def _owned(self, used: list[Tensor]) -> list[Tensor]:
        """The parameters that this process is to update."""
        if self._sharded is None:
            return used
        return [p for p in used if self._sharded._param2rank[p.name] == distributed.rank()]

    @paddle.no_grad()
    def _update(self, used: list[Tensor], norm: float, finite: bool) -> None:
        """Clip and update. A scaler wants to see an overflow, and then leaves the weights alone itself."""
        if finite and self.clip_norm is not None and norm > self.clip_norm:
            for parameter in self._owned(used):
                table = self.optimizer.tables.get(parameter.name)
                (parameter.grad if table is None else table).scale_(self.clip_norm / norm)
        if finite or self.scaler.is_enable():
            self.scaler.step(self._sharded or self.optimizer)
            self.scaler.update()

    def _count_bad(self, finite: bool, loss: float, norm: float) -> None:
        if finite:
            self.bad_in_a_row = 0
            return
        self.skipped += 1
        if math.isfinite(loss) and self.precision.can_shrink():
            return  # an overflow, which is expected while the loss scale finds its size
        self.bad_in_a_row += 1
        logger.warning(
            "step %d skipped: loss %s, gradient norm %s (%d in a row)",
            self.steps, loss, norm, self.bad_in_a_row,
        )  # fmt: skip
        if self.bad_in_a_row >= self.max_bad_steps:
            where = (
                f"the last good checkpoint is {self.last_checkpoint}"
                if self.last_checkpoint
                else "nothing was saved"
            )
            raise UserError(
                f"step {self.steps}: the loss or its gradient was not a finite number for "
                f"{self.bad_in_a_row} steps in a row; {where}. Lower the learning rate, or look at the data"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs beside the weights: nested dict of tensors and numbers.

        The tensors are live: write them before the next step. With sharding each process has its own part of
        the moments; the rest is the same on all.
        """
        return {
            "steps": self.steps,
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
            "loss_scale": self.scaler.state_dict(),
            "optimizer": optimizer_state(self.optimizer, self.parameters),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()` of a run on any number of processes, with or without sharding."""
        self._decorate()
        self.steps, self.skipped = int(state["steps"]), int(state["skipped"])
        self.bad_in_a_row = int(state["bad_in_a_row"])
        if state.get("loss_scale"):
            self.scaler.load_state_dict(state["loss_scale"])
        load_optimizer_state(self.optimizer, self.parameters, self.owner, state["optimizer"])
        self.optimizer.moments_replaced()
        self.optimizer.lr_scheduler.step(self.steps)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of the device's generator for one step on one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def _number(value: Tensor | float) -> float:
    return float(value.item() if isinstance(value, Tensor) else value)
