"""The optimizer step of pre-training and all fine-tuning tasks, on one or several processes.

    micro-batch 1 .. n -> loss / GLOBAL count -> backward     on every process; gradients are accumulated
    gradients                                                 all-reduce: summed, never averaged
    loss, named sums, norm, shutdown requests                 one all-reduce, the only read from the device
    clip -> AdamW -> schedule                                 skipped if loss or gradient is not finite

Each loss is divided by the count over all processes and micro-batches; in pre-training, the loss of each
objective by its own count. So the sum of the gradients is the gradient of the whole batch, however it is
divided. Gradients are summed after the last backward pass, not in hooks, because processes that train
different objectives have different graphs.

In sharding stage 1 (ZeRO) each parameter has an owner, which keeps its moments, receives its gradient,
updates it and sends the new value to the others. (Paddle's `DygraphShardingOptimizer` averages gradients,
does not support parameter groups, and makes moments for parameters without a gradient.)
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Generic, TypeVar

import numpy as np
import paddle
from paddle import Tensor, nn

from ernie_m.model.dropout_stream import DropoutStream
from ernie_m.model.kernel_selection import get_services
from ernie_m.model.optimization import AdamW, squared_norm
from ernie_m.training import distributed
from ernie_m.training.precision import HALF, Precision
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

Model = TypeVar("Model", bound=nn.Layer)
# Model and micro-batch -> loss, values to sum.
LossOf = Callable[[Model, Any], tuple[Tensor, dict[str, Tensor | float]]]
# Keys in the totals of a step, in addition to the names of `Engine.sums`.
LOSS = "loss"
SQUARED_NORM = "squared norm"
ASKED_TO_STOP = "asked to stop"  # number of processes that received a request


@dataclass(frozen=True)
class StepResult:
    """The result of an optimizer step."""

    loss: float  # of the whole batch, over all processes
    sums: dict[str, float]  # named values of `compute_loss`, summed over micro-batches and processes
    grad_norm: float  # global gradient norm before clipping
    lr: float
    skipped: bool  # loss or gradient was not finite; the weights are unchanged


class Engine(Generic[Model]):
    """Engine of optimizer steps on a model: forward and backward passes, gradient sum, clipping, update.

    The constructor broadcasts the parameters of process 0. Weights that are loaded later must be loaded on
    every process.

    Args:
        optimizer: from `ernie_m.model.optimization.build_optimizer`; the engine also steps its schedule.
        seed: dropout in micro-batch m of step s on process r depends only on (seed, s, r, m), so no random
            state is saved.
        clip_norm: maximum global gradient norm; None: no clipping.
        precision: mixed precision; None: float32.
        sharding_stage: 0, or 1 to shard the optimizer state across processes (ZeRO).
        max_bad_steps: number of consecutive steps with a non-finite loss or gradient after which training
            stops.
        sums: names of the values to sum that `compute_loss` may return.

    Attributes:
        steps: number of optimizer steps so far, including skipped ones.
        bad_in_a_row: number of most recent consecutive steps with a non-finite loss or gradient.
        is_sharded: whether the optimizer state is sharded.
    """

    def __init__(
        self,
        model: Model,
        optimizer: AdamW,
        seed: int = 0,
        clip_norm: float | None = 1.0,
        precision: Precision | None = None,
        sharding_stage: int = 0,
        max_bad_steps: int = 10,
        sums: Sequence[str] = (),
    ):
        self.model = model
        self.optimizer = optimizer
        self.seed = seed
        self.clip_norm = clip_norm
        self.precision = precision or Precision()
        self.precision.prepare(model)
        self.replicas = get_services().make_replicas(model)
        self.max_bad_steps = max_bad_steps
        self.sums = tuple(sums)
        self.steps = 0
        self.bad_in_a_row = 0
        self.parameters = dict(model.named_parameters())
        self.scaler = self.precision.scaler
        self._is_decorated = False
        self.is_sharded = sharding_stage == 1 and distributed.world_size() > 1
        self._owners = distributed.assign_owners(self.parameters.values())  # for stage 1
        distributed.broadcast_(model.state_dict().values())

    def master_weights(self) -> dict[str, Tensor]:
        """Return the float32 master weights of level O2 by `parameter.name`. Call this on every process.

        With sharding, process 0 gets all master weights, on the CPU, and other processes only their own.
        """
        master_weights = dict(self.optimizer.state_dict().get("master_weights", {}))
        if not self.is_sharded:
            return master_weights
        for parameter in self.parameters.values():
            if parameter.dtype not in HALF:
                continue
            master = master_weights.get(parameter.name)
            if master is None:  # another process owns the parameter and sends the master
                master = paddle.empty(parameter.shape, "float32")
            distributed.broadcast_([master], source=self._owners[parameter.name])
            if distributed.is_main():
                master_weights[parameter.name] = master.cpu()
        return master_weights

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context manager of forward passes, in training and evaluation."""
        return self.precision.autocast()

    def step(
        self,
        micro_batches: Iterable[Any],
        compute_loss: LossOf[Model],
        stop: object = None,
        divisible: bool = True,
    ) -> StepResult | None:
        """Perform an optimizer step. Call this on every process.

        Args:
            micro_batches: the micro-batches of this process; may be empty.
            compute_loss: model and micro-batch -> the scalar loss, divided by the count over ALL processes
                and micro-batches of the step; and the values to sum by name. On a CPU several workers call it
                concurrently, each with a replica of the model.
            stop: true after a shutdown request; None: no requests.
            divisible: whether to check `stop` before each micro-batch, not only after the last.

        Returns:
            The result; None, without any change, if any process has received a shutdown request.

        Raises:
            UserError: loss or gradient was not finite in `max_bad_steps` consecutive steps.
        """
        self._decorate()
        self.model.train()
        # A seed of this step alone: a resumed run draws what the uninterrupted one drew, without a stored
        # state of the generator. The dropout of each micro-batch is seeded in `_compute_gradients`.
        seeds = [self.seed, self.steps, distributed.rank()]
        paddle.seed(np.random.SeedSequence(seeds).generate_state(1).item())
        totals = distributed.Totals([LOSS, SQUARED_NORM, ASKED_TO_STOP, *self.sums])

        # Forward and backward passes of this process; the gradients add up in place, so that memory does not
        # grow with the number of micro-batches. With `divisible` no micro-batch starts after a request to
        # stop, because a step may take longer than a shutdown waits. The weights stay the same until the
        # update, so a device may round them once.
        wanted = takewhile(lambda _: not (stop and divisible), enumerate(micro_batches))
        with get_services().cache_rounded_weights():
            for values in self.replicas.map_gradients(partial(self._compute_gradients, compute_loss), wanted):
                for name, value in values.items():
                    totals.add(name, value)
                self._widen_gradients()
        if stop and distributed.world_size() == 1:  # several processes agree by the sum below
            self._clear_gradients()
            return None

        # Gradients and totals of all processes. This is the only read from the device.
        has_gradient = [float(parameter.grad is not None) for parameter in self.parameters.values()]
        if distributed.world_size() > 1:
            self._exchange_gradients()
        totals.add(SQUARED_NORM, self._squared_norm())
        totals.add(ASKED_TO_STOP, float(bool(stop)))
        sums, processes_with_gradient = totals.all_reduce(has_gradient)
        if sums.pop(ASKED_TO_STOP) > 0:
            self._clear_gradients()
            return None

        # A parameter without a gradient on any process got zeros. AdamW would apply weight decay to it.
        for parameter, processes in zip(self.parameters.values(), processes_with_gradient):
            if processes == 0:
                parameter.grad = None

        # Clip and update, unless a value is not finite; the schedule advances in both cases.
        loss = sums.pop(LOSS)
        norm = math.sqrt(sums.pop(SQUARED_NORM)) / self.precision.loss_scale()
        # With float16 the scaler only checks the gradients.
        finite = math.isfinite(norm) and (self.scaler.is_enable() or math.isfinite(loss))
        lr = float(self.optimizer.get_lr())
        self._update(norm, finite)
        self._clear_gradients()
        self.optimizer.lr_scheduler.step()
        self.steps += 1
        self._count_bad_step(finite, loss, norm)
        return StepResult(loss, sums, norm, lr, skipped=not finite)

    def _decorate(self) -> None:
        """Apply `Precision.decorate` once, after the weights are loaded and before the moments exist."""
        if not self._is_decorated:
            self.precision.decorate(self.model, self.optimizer, self._is_own)
            self._is_decorated = True

    def _clear_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None  # clear_grad() would leave zeros

    def _compute_gradients(
        self, compute_loss: LossOf[Model], model: Model, indexed_micro_batch: tuple[int, Any]
    ) -> dict[str, Tensor | float]:
        """Run the forward and backward pass of a micro-batch, and return the values to sum.

        Args:
            indexed_micro_batch: number of the micro-batch in the step, and the micro-batch.
        """
        number, micro_batch = indexed_micro_batch
        with DropoutStream((self.seed, self.steps, distributed.rank(), number)):
            with self.autocast():
                loss, values = compute_loss(model, micro_batch)
            self.scaler.scale(loss).backward()
        return {LOSS: loss.detach(), **values}

    def _widen_gradients(self) -> None:
        """Convert gradients of level O2 to float32.

        Paddle does this at the end of a backward pass. But with activation recomputation it does so after the
        lowest layer, so that the gradients of the embeddings stay in half precision.
        """
        if self.precision.level == "O2":
            for parameter in self.parameters.values():
                if parameter.grad is not None and parameter.grad.dtype in HALF:
                    parameter.grad_ = parameter.grad.astype("float32")

    @paddle.no_grad()
    def _exchange_gradients(self) -> None:
        """Sum the gradients over the processes (all-reduce), or with sharding on each owner (reduce).

        A parameter without a gradient contributes zeros.
        """
        trained = [parameter for parameter in self.parameters.values() if not parameter.stop_gradient]
        for parameter in trained:
            if parameter.grad is None:
                # The dtype of the gradients on the other processes, float32 in O2.
                dtype = paddle.float32 if parameter.dtype in HALF else parameter.dtype
                parameter.grad_ = paddle.zeros(parameter.shape, dtype)  # `grad` would copy it
        if self.is_sharded:
            distributed.reduce_gradients(trained, self._owners)
        else:
            distributed.sum_gradients(trained)

    @paddle.no_grad()
    def _squared_norm(self) -> Tensor:
        """Return this process's part of the squared global gradient norm, float64 []."""
        # In stage 0 every process has the whole norm, so only one adds it.
        adds_norm = self.is_sharded or distributed.is_main()
        parameters = self._list_own_parameters_with_gradient() if adds_norm else []
        tables = self.optimizer.tables  # of which only some rows may have gradients
        squares = [
            squared_norm(
                tables[parameter.name].gradient.get_nonzero_rows()
                if parameter.name in tables
                else distributed.get_gradient(parameter)
            )
            for parameter in parameters
        ]
        return paddle.add_n([paddle.zeros([], "float64"), *squares])

    def _list_own_parameters_with_gradient(self) -> list[Tensor]:
        """Return the parameters that have a gradient and that this process updates."""
        return [parameter for parameter in self._list_parameters_with_gradient() if self._is_own(parameter)]

    def _list_parameters_with_gradient(self) -> list[Tensor]:
        """Return the parameters that have a gradient; after the exchange the same on all processes."""
        return [parameter for parameter in self.parameters.values() if parameter.grad is not None]

    def _is_own(self, parameter: Tensor) -> bool:
        """Return whether this process updates a parameter: its owner, or without sharding every process."""
        return not self.is_sharded or self._owners[parameter.name] == distributed.rank()

    @paddle.no_grad()
    def _update(self, norm: float, is_finite: bool) -> None:
        """Unscale and clip the gradients, and update the parameters.

        If the step is not finite, only the loss scale is adapted.

        Args:
            norm: global gradient norm, without loss scale.
            is_finite: whether loss and gradients are finite.
        """
        if not is_finite and not self.scaler.is_enable():
            return
        trained = self._list_parameters_with_gradient()
        if not is_finite:
            # The scaler checks the gradients of this process; another process may have an overflow.
            for parameter in trained:
                distributed.get_gradient(parameter).fill_(math.inf)
        # Before the gradients of other owners are dropped: a process that owns none must also see an
        # overflow.
        self.scaler.unscale_(self.optimizer)
        if is_finite and self.clip_norm is not None and norm > self.clip_norm:
            self._clip(self.clip_norm / norm)
        for parameter in trained:
            if not self._is_own(parameter):
                parameter.grad = None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.is_sharded:  # the others get the new values from the owners
            distributed.broadcast_weights(trained, self._owners)

    def _clip(self, factor: float) -> None:
        for parameter in self._list_own_parameters_with_gradient():
            # The gradient of an embedding matrix may know the rows that are not 0.
            table = self.optimizer.tables.get(parameter.name)
            gradient = distributed.get_gradient(parameter) if table is None else table.gradient
            gradient.scale_(factor)

    def _count_bad_step(self, is_finite: bool, loss: float, norm: float) -> None:
        """Count and log consecutive steps with a non-finite loss or gradient.

        Raises:
            UserError: there were `max_bad_steps` such steps in a row.
        """
        if is_finite:
            self.bad_in_a_row = 0
            return
        # Overflows are expected until the loss scale is small enough.
        is_dynamic = self.scaler.is_use_dynamic_loss_scaling()
        if math.isfinite(loss) and is_dynamic and self.precision.loss_scale() > 1.0:
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
            raise UserError(
                f"step {self.steps}: non-finite loss or gradient in "
                f"{self.bad_in_a_row} consecutive steps. Reduce the learning rate, or check the data"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the training state except the weights.

        With sharding, each process returns its own part of the optimizer state.

        Returns:
            JSON values; and under "optimizer" the optimizer state by name, in tensors that are not copied:
            write them to disk before the next step.
        """
        loss_scale: dict[str, Any] = dict(self.scaler.state_dict())  # {} without amp fp16
        if loss_scale:
            loss_scale["scale"] = loss_scale["scale"].tolist()
        return {
            "steps": self.steps,
            "bad_in_a_row": self.bad_in_a_row,
            "loss_scale": loss_scale,
            "optimizer": self.optimizer.get_state(self.parameters),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the training state of a run, whose number of processes or sharding may have differed.

        Args:
            state: the merged results of `state_dict` of all processes.

        Raises:
            UserError: the state belongs to another model.
        """
        self._decorate()
        self.steps = int(state["steps"])
        self.bad_in_a_row = int(state["bad_in_a_row"])
        if state.get("loss_scale"):
            self.scaler.load_state_dict(state["loss_scale"])
        self.optimizer.load_state(self.parameters, state["optimizer"], self._is_own)
        self.optimizer.lr_scheduler.step(self.steps)
