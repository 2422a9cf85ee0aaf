"""One optimizer step, the same for pre-training and for every fine-tuning task, on one or several processes.

    micro-batch 1 .. n -> loss / GLOBAL count -> backward     on every process; gradients add up in place
    gradients                                                 summed over the processes, never averaged
    loss, named sums, norm, stop requests                     one sum, and the only read of the device
    clip -> AdamW -> schedule                                 skipped if a value is not finite

Each loss is divided by the count over all processes and micro-batches. The sum of the gradients is therefore
the gradient of the whole batch, however it is divided. The engine sums the gradients after the last backward
pass, not in hooks, because processes that train different objectives have different graphs.

Sharding stage 1 (ZeRO) is fleet's `DygraphShardingOptimizer`. Each parameter has an owner, which holds its
moments, receives its gradient, updates it and sends the new value to the others. Fleet averages the gradients
there, so the engine multiplies the loss by the number of processes.
"""

import contextlib
import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from training import distributed
from training.optimizer import AdamW, load_optimizer_state, optimizer_state
from training.precision import HALF, Precision
from utils.errors import UserError
from utils.logging import logger

LossOf = Callable[[Any], tuple[Tensor, dict[str, Tensor | float]]]


@dataclass(frozen=True)
class Step:
    """The result of one optimizer step."""

    loss: float  # of the whole batch, over all processes
    sums: dict[str, float]  # the named values of `loss_of`, summed over micro-batches and processes
    grad_norm: float  # the global norm of the gradient before clipping
    lr: float
    skipped: bool  # the loss or a gradient was not finite; the weights did not change


class Engine:
    """Trains `model` with `optimizer`, one step at a time.

    All processes get the parameters of process 0.

    Args:
        optimizer: from `training.optimizer.build_optimizer`. The engine steps its schedule.
        seed: the dropout of step s on process r is a function of (seed, s, r), so no random state is saved.
        clip_norm: the largest global norm of the gradient; None: no clipping.
        precision: float32 by default.
        sharding_stage: 0, or 1 to divide the optimizer's state among the processes; then call
            `distributed.init(sharding_stage=1)` first.
        max_bad_steps: the run stops after this number of consecutive steps whose loss or gradient is not
            finite.
        sums: the names of the values that `loss_of` may return.

    Attributes:
        steps: optimizer steps, skipped ones included: the position in the data and in the schedule.
        skipped: the number of skipped steps.
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
        self.precision.prepare(model)
        self.max_bad_steps, self.sums = max_bad_steps, tuple(sums)
        self.steps = self.skipped = self.bad_in_a_row = 0
        self.parameters = dict(model.named_parameters())
        self._is_decorated = False
        several = sharding_stage and distributed.world_size() > 1
        self._sharded = distributed.sharded(optimizer) if several else None
        self.scaler = self.precision.scaler
        distributed.broadcast_(model.state_dict().values())

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds only a part of the moments."""
        return self._sharded is not None

    def masters(self) -> dict[str, Tensor]:
        """O2: the float32 master weights by `parameter.name`. Call it on every process.

        In stage 1 a process has those of its own parameters; process 0 gets the others, too, on the CPU.
        """
        found = dict(self.optimizer._master_weights)
        if self.is_sharded:
            for parameter in self.parameters.values():
                if parameter.dtype in HALF:
                    master = found.get(parameter.name)
                    master = paddle.empty(parameter.shape, "float32") if master is None else master
                    distributed.broadcast_([master], self._sharded._param2rank[parameter.name])
                    if distributed.is_main():
                        found[parameter.name] = master.cpu()
        return found

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context for forward passes, in training and in evaluation."""
        return self.precision.autocast()

    def step(
        self, micro_batches: Iterable[Any], loss_of: LossOf, stop: object = None, divisible: bool = True
    ) -> Step | None:
        """Do one optimizer step.

        Args:
            micro_batches: those of this process; there may be none.
            loss_of: returns, for a micro-batch, the scalar loss divided by the count over ALL processes and
                micro-batches of the step, and the values to sum, under names of `sums`.
            stop: becomes true when the run is asked to stop.
            divisible: whether to look at `stop` between micro-batches, too, and not only after them.

        Returns:
            The result; None if any process was asked to stop. Then nothing changed.

        Raises:
            UserError: the loss or the gradient of `max_bad_steps` consecutive steps was not finite.
        """
        self._decorate()
        self.model.train()
        paddle.seed(step_seed(self.seed, self.steps, distributed.rank()))
        several = distributed.world_size() > 1
        times = distributed.world_size() if self.is_sharded else 1  # stage 1 averages
        seen: list[tuple[Tensor, dict[str, Tensor | float]]] = []
        for micro_batch in micro_batches:
            if stop and divisible:
                break
            with self.autocast():
                loss, values = loss_of(micro_batch)
            self.scaler.scale(loss if times == 1 else loss * times).backward()
            seen.append((loss.detach(), values))
        if stop and not several:
            return self._drop_gradients()
        found = self._totals(seen, bool(stop))
        if found is None:
            return self._drop_gradients()
        loss, sums, norm = found
        # With float16 the scaler skips the update by the gradients alone.
        finite = math.isfinite(norm) and (math.isfinite(loss) or self.scaler.is_enable())
        lr = float(self.optimizer.get_lr())
        self._update(norm, finite)
        self._drop_gradients()
        self.optimizer.lr_scheduler.step()
        self.steps += 1
        self._count_bad(finite, loss, norm)
        return Step(loss, sums, norm, lr, skipped=not finite)

    def _decorate(self) -> None:
        """Decorate once: after the weights are loaded and before the moments exist."""
        if not self._is_decorated:
            self.precision.decorate(self.model, self.optimizer, self._is_own)
            self._is_decorated = True

    def _drop_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None  # clear_grad() would leave zeros

    @paddle.no_grad()
    def _totals(self, seen: list, asked: bool) -> tuple[float, dict[str, float], float] | None:
        """The loss, the sums and the norm of the gradient, over all processes; None: one was asked to stop.

        The processes are added up, and the device is read, only here. Afterwards a parameter has a gradient
        only if some process used it: AdamW would update the others, too.
        """
        users = [float(parameter.grad is not None) for parameter in self.parameters.values()]
        if distributed.world_size() > 1:
            self._sum_gradients()
        zero, square = paddle.zeros([], "float64"), self._square()
        on_device, on_host = [], []
        rows = [[loss, *(values.get(name, 0.0) for name in self.sums)] for loss, values in seen]
        for column in zip(*rows) if rows else [()] * (1 + len(self.sums)):
            scalars = [x.detach().astype("float64").reshape([]) for x in column if isinstance(x, Tensor)]
            on_device.append(functools.reduce(operator.add, scalars, zero))
            on_host.append(sum(float(x) for x in column if not isinstance(x, Tensor)))
        # In stage 0 each process has the whole norm; one of them adds it.
        on_device.append(square if self.is_sharded or distributed.is_main() else zero)
        found = distributed.sum_and_read(paddle.stack(on_device), [*on_host, float(asked), *users])
        here, (norm_squared, *there) = found[: len(on_host)], found[len(on_host) :]
        loss, *sums = (x + y for x, y in zip(here, there))
        asked, *users = there[len(on_host) :]
        for parameter, count in zip(self.parameters.values(), users):
            if not count:
                parameter.grad = None
        return None if asked else (loss, dict(zip(self.sums, sums)), math.sqrt(norm_squared))

    def _sum_gradients(self) -> None:
        """Sum gradients over the processes, in the same order on each; a missing one counts as zeros."""
        trained = [parameter for parameter in self.parameters.values() if not parameter.stop_gradient]
        for parameter in trained:
            if parameter.grad is None:
                dtype = "float32" if parameter.dtype in HALF else parameter.dtype  # O2: as the others'
                parameter.grad_ = paddle.zeros(parameter.shape, dtype)
        if self.is_sharded:
            self._sharded.reduce_gradients(trained, self._sharded._hcg)
        else:
            distributed.sum_gradients(trained)
        for table in self.optimizer.tables.values():
            table.forget_rows()

    def _square(self) -> Tensor:
        """The squared norm of the gradients, float64 []; in stage 1 of this process's own parameters."""
        self.scaler.unscale_(self._sharded or self.optimizer)
        tables = self.optimizer.tables
        squares = [
            tables[parameter.name].squared_norm()
            if parameter.name in tables
            else paddle._C_ops.squared_l2_norm(parameter.grad).astype("float64")
            for parameter in self._own_with_gradient()
        ]
        return paddle.add_n(squares).reshape([]) if squares else paddle.zeros([], "float64")

    def _own_with_gradient(self) -> list[Tensor]:
        return [p for p in self.parameters.values() if p.grad is not None and self._is_own(p)]

    def _is_own(self, parameter: Tensor) -> bool:
        """Whether this process updates the parameter."""
        return not self.is_sharded or self._sharded._param2rank[parameter.name] == distributed.rank()

    @paddle.no_grad()
    def _update(self, norm: float, finite: bool) -> None:
        """Clip and update. After an overflow the scaler itself leaves the weights unchanged."""
        if finite and self.clip_norm is not None and norm > self.clip_norm:
            for parameter in self._own_with_gradient():
                table = self.optimizer.tables.get(parameter.name)
                (parameter.grad if table is None else table).scale_(self.clip_norm / norm)
        if self.scaler.is_enable():
            # unscale_() saw only the gradients of this process; in stage 1 another one may have overflowed.
            self.scaler._found_inf = paddle.to_tensor([not finite])
        if finite or self.scaler.is_enable():
            self.scaler.step(self._sharded or self.optimizer)
            self.scaler.update()

    def _count_bad(self, finite: bool, loss: float, norm: float) -> None:
        if finite:
            self.bad_in_a_row = 0
            return
        self.skipped += 1
        if math.isfinite(loss) and self.precision.can_shrink():
            return  # an overflow, which is expected until the loss scale is small enough
        self.bad_in_a_row += 1
        logger.warning(
            "step %d skipped: loss %s, gradient norm %s (%d in a row)",
            self.steps, loss, norm, self.bad_in_a_row,
        )  # fmt: skip
        if self.bad_in_a_row >= self.max_bad_steps:
            raise UserError(
                f"step {self.steps}: the loss or its gradient was not a finite number for "
                f"{self.bad_in_a_row} steps in a row; lower the learning rate, or look at the data"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs besides the weights: a nested dict of tensors and numbers.

        The tensors are the optimizer's own: write them before the next step. With sharding each process has
        its own part of the moments.
        """
        return {
            "steps": self.steps, "skipped": self.skipped, "bad_in_a_row": self.bad_in_a_row,
            "loss_scale": self.scaler.state_dict(),
            "optimizer": optimizer_state(self.optimizer, self.parameters),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the `state_dict()` of a run on any number of processes, with or without sharding."""
        self._decorate()
        self.steps, self.skipped = int(state["steps"]), int(state["skipped"])
        self.bad_in_a_row = int(state["bad_in_a_row"])
        if state.get("loss_scale"):
            self.scaler.load_state_dict(state["loss_scale"])
        load_optimizer_state(self.optimizer, self.parameters, state["optimizer"], self._is_own)
        self.optimizer.moments_replaced()
        self.optimizer.lr_scheduler.step(self.steps)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The random seed of one step on one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
