"""Sharding stage 2 (ZeRO) by Paddle's fleet, on GPUs: a gradient, too, is kept by the owner of its parameter.

`paddle.distributed.sharding.group_sharded_parallel` puts a hook on each parameter, which reduces its gradient
to the owner in the backward pass. The hooks are collectives, so every process must run as many backward
passes as the others, and each pass must reach every parameter: what a pass does not use has weight 0 in it.
Paddle averages the gradients over the processes, in `optimizer.step()`; here they are sums, so losses are
multiplied by the number of processes.
"""

from typing import Any

import paddle
from paddle import Tensor, nn

from utils import distributed
from utils.errors import UserError
from utils.precision import Precision, on_gpu


def check(precision: Precision) -> None:
    """That stage 2 can be had.

    Raises:
        UserError: on a CPU, or with weights in half precision.
    """
    if not on_gpu():
        raise UserError(
            "sharding_stage 2 needs GPUs (Paddle's group_sharded_parallel has no other form): "
            "use sharding_stage 1, which divides the optimizer's state on any device"
        )
    if precision.halves_weights:
        raise UserError(
            "sharding_stage 2 keeps gradients in the precision of the weights, and amp_level O2 sums them in "
            "float32: use amp_level O1, or sharding_stage 1"
        )


class GroupSharding:
    """A model and its optimizer in stage 2. Make it when the weights are in place, on every process.

    Args:
        model: every trainable parameter is used in training.
        optimizer: without gradient clipping.
        parameters: name in the model -> parameter.

    Attributes:
        model, optimizer: to be used instead.
        inner: the optimizer that holds the moments.
        owner: trainable parameter -> the process that holds its gradient and moments.
    """

    def __init__(self, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, parameters: dict[str, Tensor]):
        from paddle.distributed.sharding import group_sharded_parallel

        self.inner, self.parameters = optimizer, parameters
        sharded: Any = group_sharded_parallel(model, optimizer, "os_g")
        self.model, self.optimizer = sharded[:2]
        ranks = self.optimizer.param2rank
        self.owner = {name: ranks[p.name] for name, p in parameters.items() if p.name in ranks}
        largest = max(self.owner, key=lambda name: parameters[name].size)
        # All but the word table, which every batch looks up: its sum would read, and zero, gigabytes.
        self._often = [parameters[name] for name in self.owner if name != largest]

    def align(self, micro_batches: list) -> list[tuple[Any, float]]:
        """This process's micro-batches and their weights, as many as on any other process."""
        count = max(distributed.gather(len(micro_batches)))
        weighed = [(micro_batch, 1.0) for micro_batch in micro_batches]
        return weighed + [(micro_batches[-1], 0.0)] * (count - len(micro_batches))

    def loss(self, loss: Tensor, weight: float) -> Tensor:
        """What the backward pass starts from: it reaches every parameter, and adds up to a sum."""
        none = paddle.add_n([parameter.sum() for parameter in self._often]) * 0.0
        return loss * (weight * distributed.world_size()) + none

    def with_gradient(self) -> list[Tensor]:
        """The parameters of this process whose gradient is there, times the number of processes until
        `optimizer.step()`."""
        mine = (self.parameters[name] for name, rank in self.owner.items() if rank == distributed.rank())
        return [parameter for parameter in mine if parameter.grad is not None]
