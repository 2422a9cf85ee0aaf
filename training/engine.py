"""One optimiser step, the same for pre-training and every fine-tuning task, on one device or many.

    micro-batch 1 .. n -> loss / GLOBAL count -> backward     on every process, gradients add up in place
    gradients, loss, counters -> summed over the processes    never averaged
    global norm -> clip -> AdamW -> schedule                  or the step is skipped: something is not finite

A loss that is already divided by the count over all devices and micro-batches makes the sum of the gradients
the gradient of the whole batch, whatever way it was cut up. Paddle's DataParallel averages and wants its own
hooks on every parameter; here the gradients are summed after the last backward pass, in flat buckets.

Sharding stage 1 (ZeRO): a parameter's gradient goes to its owner alone; the owner holds its moments, updates
it and hands the new value to the others. Memory for moments falls to 1/processes, the numbers stay the same.
Stage 2: gradients go there after each backward pass, and between passes a process holds its own alone (on a
CPU the word table's memory stays on all, see model/word_table.py).

Owners of whole parameters, the largest first, are what fleet's DygraphShardingOptimizer has too; it averages
the gradients. fleet's stage 2 sends them from hooks, in the order in which they come into being: that is the
order of the graph, and processes that work on different objectives have different graphs.
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
from training.gradient_rows import scale_gradient, square_of_gradient
from training.loss_scale import LossScale
from training.optimizer_state import load_optimizer_state, optimizer_state
from training.precision import Precision
from utils.errors import UserError
from utils.logging import logger

LossOf = Callable[[Any], tuple[Tensor, dict[str, Tensor | float]]]


@dataclass(frozen=True)
class Step:
    """What one optimiser step did.

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
        model: its trainable parameters are made equal on all processes (rank 0's values).
        optimizer: `training.optimizer.build_optimizer(..., clip_norm=None)`; its schedule is stepped here.
        seed: dropout of step s on process r is a function of (seed, s, r), so nothing random needs saving.
        clip_norm: largest global norm of the gradient; None: no clipping.
        amp: "none", "bf16" or "fp16" (`training.precision`). On a CPU: "none", with a line.
        loss_scale: fp16 only.
        amp_level: "O1" or "O2", which a CPU refuses.
        sharding_stage: 0; 1: the optimizer's state is divided among the processes; 2: gradients too.
        max_bad_steps: stop after so many steps in a row with a loss or gradient that is not finite.
        sums: the names that `loss_of` may return.

    Attributes:
        steps: optimiser steps done, skipped ones included: the position in the data and in the schedule.
        skipped: how many of them were skipped.
        last_checkpoint: named in the error that stops a run.
    """

    def __init__(
        self,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        seed: int = 0,
        clip_norm: float | None = 1.0,
        amp: str = "none",
        loss_scale: LossScale | None = None,
        amp_level: str = "O1",
        sharding_stage: int = 0,
        max_bad_steps: int = 10,
        sums: Sequence[str] = (),
    ):
        self.model, self.optimizer, self.seed, self.clip_norm = (
            model,
            optimizer,
            seed,
            clip_norm,
        )
        self.precision = Precision(amp, amp_level)
        self.loss_scale = (loss_scale or LossScale()) if self.precision.amp == "fp16" else None
        self.max_bad_steps, self.sums = max_bad_steps, tuple(sums)
        self.steps = self.skipped = self.bad_in_a_row = 0
        self.last_checkpoint: str | None = None
        self.parameters = dict(model.named_parameters())
        self.owner: dict[str, int] | None = None  # parameter -> the process with its moments; None: all have
        self._held: dict[str, Tensor] | None = None  # stage 2: gradients of this process's own parameters
        if sharding_stage and distributed.world_size() > 1:
            self.owner = owners(
                {name: p.size for name, p in self.parameters.items()},
                distributed.world_size(),
            )
            self._held = {} if sharding_stage == 2 else None
        distributed.broadcast_(model.state_dict().values())
        self.precision.decorate(model, optimizer)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the moments only."""
        return self.owner is not None

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of forward passes; use it around evaluation too."""
        return self.precision.autocast()

    def step(self, micro_batches: Iterable[Any], loss_of: LossOf) -> Step:
        """One optimiser step over this process's `micro_batches` (there may be none).

        Args:
            loss_of: micro-batch -> (scalar loss divided by the count over ALL processes and micro-batches of
                the step, values to sum under names of `self.sums`).

        Raises:
            UserError: `max_bad_steps` steps in a row were not finite.
        """
        self.model.train()
        paddle.seed(step_seed(self.seed, self.steps, distributed.rank()))
        scale = self.loss_scale.scale if self.loss_scale else 1.0
        seen: list[tuple[Tensor, dict[str, Tensor | float]]] = []
        for micro_batch in micro_batches:
            with self.autocast():
                loss, values = loss_of(micro_batch)
            (loss * scale if scale != 1.0 else loss).backward()
            seen.append((loss.detach(), values))
            self.precision.take_gradients(self.parameters.values())
            if self._held is not None:
                self._hand_over(more=True)
        if self._held is not None:
            while self._hand_over(more=False):  # until the others have no more, either
                pass
            self._give_held()
        self.precision.give_gradients(self.parameters.values())
        _, used = self._used()
        if self._held is None:
            self._sum_gradients(used)
        mine = self._owned(used)
        loss, sums, norm = self._add_up(seen, self._square(mine))
        norm /= scale
        finite = math.isfinite(loss) and math.isfinite(norm)
        lr = float(self.optimizer.get_lr())
        if finite:
            self._update(mine, norm, scale, used)
        self._drop_gradients()
        self.optimizer.lr_scheduler.step()
        self.steps += 1
        self._count_bad(finite, loss, norm)
        return Step(loss, sums, norm, lr, skipped=not finite)

    @paddle.no_grad()
    def _hand_over(self, more: bool) -> bool:
        """Stage 2, after a backward pass: all gradients to their owners, which add them to what they hold.

        Args:
            more: this process has done a pass since the last time; False: it only takes part.

        Returns:
            Whether any process had done one.
        """
        self.precision.give_gradients(self.parameters.values())
        working, used = self._used(more)
        self._sum_gradients(used)
        for parameter in self._owned(used):
            if parameter.name in self._held:
                self._held[parameter.name].add_(parameter.grad)
            else:
                # A copy: the word table's gradient on a CPU is always in the same memory.
                self._held[parameter.name] = parameter.grad.clone()
            parameter.grad = None
        return working

    def _give_held(self) -> None:
        """Stage 2, after the last backward pass: what is held becomes the gradients."""
        for parameter in self.parameters.values():
            if parameter.name in self._held:
                parameter.grad_ = self._held.pop(parameter.name)

    def _drop_gradients(self) -> None:
        for parameter in self.parameters.values():
            # clear_grad() would leave zeros, and a parameter without use would still be moved
            parameter.grad = None

    def _used(self, more: bool = False) -> tuple[bool, list[str]]:
        """Over all processes: whether any says `more`; the parameters that anyone's micro-batches used."""
        gradients = [float(parameter.grad is not None) for parameter in self.parameters.values()]
        working, *counts = distributed.all_sum([float(more), *gradients])
        return working > 0, [name for name, count in zip(self.parameters, counts, strict=True) if count]

    def _add_up(self, seen: list, square: Tensor) -> tuple[float, dict[str, float], float]:
        """The loss, the named sums, the gradient's norm, over all processes.

        Here a single process waits for its device, and nowhere else in a step (several do in `_used`, too).
        """
        local = [sum(_number(loss) for loss, _ in seen)]
        local += [sum(_number(values.get(name, 0.0)) for _, values in seen) for name in self.sums]
        local.append(square.item() if self.owner or distributed.is_main() else 0.0)  # whole ones count once
        loss, *sums, square_of_all = distributed.all_sum(local)
        return loss, dict(zip(self.sums, sums, strict=True)), math.sqrt(square_of_all)

    def _sum_gradients(self, used: list[str]) -> None:
        """Sum the gradients over processes: at the owner alone where there is one, and nothing elsewhere."""
        with paddle.no_grad():
            for name in used:
                parameter = self.parameters[name]
                if parameter.grad is None:  # other processes used it, this one's micro-batches did not
                    parameter.grad_ = self.precision.no_gradient(parameter)
            if self.owner is None:
                distributed.sum_([self.parameters[name].grad for name in used])
                return
            for rank in range(distributed.world_size()):
                mine = [self.parameters[name].grad for name in used if self.owner[name] == rank]
                distributed.sum_(mine, to=rank)
            for name in used:
                if self.owner[name] != distributed.rank():
                    self.parameters[name].grad = None

    def _owned(self, names: list[str]) -> list[Tensor]:
        """The parameters that this process is to update."""
        mine = (name for name in names if self.owner is None or self.owner[name] == distributed.rank())
        return [self.parameters[name] for name in mine]

    @paddle.no_grad()
    def _square(self, parameters: list[Tensor]) -> Tensor:
        """The sum of the squares of their gradients, in float64: there are hundreds of millions."""
        squares = [square_of_gradient(parameter) for parameter in parameters]
        return paddle.add_n(squares) if squares else paddle.zeros([], "float64")

    def _update(self, parameters: list[Tensor], norm: float, scale: float, used: list[str]) -> None:
        factor = 1.0 / scale
        if self.clip_norm is not None and norm > self.clip_norm:
            factor *= self.clip_norm / norm
        with paddle.no_grad():
            if factor != 1.0:
                for parameter in parameters:
                    scale_gradient(parameter, factor)
            self.optimizer.step()
            if self.owner:
                for name in used:
                    distributed.broadcast_([self.parameters[name]], source=self.owner[name])

    def _count_bad(self, finite: bool, loss: float, norm: float) -> None:
        overflow = (
            not finite and math.isfinite(loss) and self.loss_scale is not None and self.loss_scale.can_shrink
        )
        if self.loss_scale:
            self.loss_scale.update(finite)
        if finite:
            self.bad_in_a_row = 0
            return
        self.skipped += 1
        if overflow:  # expected while the loss scale finds its size
            return
        self.bad_in_a_row += 1
        logger.warning(
            "step %d skipped: loss %s, gradient norm %s (%d in a row)",
            self.steps,
            loss,
            norm,
            self.bad_in_a_row,
        )
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

        The tensors are live: write or copy them before the next step. With sharding each process has its own
        part of the moments; the rest is the same on all.
        """
        state: dict[str, Any] = {
            "steps": self.steps,
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
        }
        if self.loss_scale:
            state["loss_scale"] = self.loss_scale.state_dict()
        state["optimizer"] = optimizer_state(self.optimizer, self.parameters)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()` of a run on any number of processes, with or without sharding."""
        self.steps, self.skipped = int(state["steps"]), int(state["skipped"])
        self.bad_in_a_row = int(state["bad_in_a_row"])
        if self.loss_scale and "loss_scale" in state:
            self.loss_scale.load_state_dict(state["loss_scale"])
        load_optimizer_state(self.optimizer, self.parameters, self.owner, state["optimizer"])
        self.optimizer.moments_replaced()
        self.optimizer.lr_scheduler.step(self.steps)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of the device's generator for one step on one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def owners(sizes: dict[str, int], processes: int) -> dict[str, int]:
    """Name -> the process that updates it: the largest first, each to the process that holds least so far."""
    held = [0] * processes
    owner = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner[name] = held.index(min(held))
        held[owner[name]] += sizes[name]
    return owner


def _number(value: Tensor | float) -> float:
    return float(value.item() if isinstance(value, Tensor) else value)
