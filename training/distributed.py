"""The processes of one run, joined by `paddle.distributed.fleet`; one process alone needs none of it.

Works under `fleetrun` / `python -m paddle.distributed.launch`: NCCL where there are GPUs, gloo on the CPU
(`fleetrun --nproc_per_node 2 --backend gloo script.py`). Paddle is imported only when it is needed.
"""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.runtime import is_main, rank, world_size

if TYPE_CHECKING:
    from paddle import Tensor
    from paddle.amp import GradScaler
    from paddle.optimizer import Optimizer

__all__ = [
    "all_sum", "barrier", "broadcast_", "gather", "init", "is_main", "rank", "sharded", "shared",
    "sum_gradients", "world_size",
]  # fmt: skip

FUSED_BYTES = 64 << 20  # hides a sum's fixed cost; fleet copies what it fuses, all of it at once


def init(use_gpu: bool = True, sharding_stage: int = 0) -> str:
    """Choose this process's device and join the other processes. Call it before the model is made.

    A second call changes nothing.

    Args:
        use_gpu: False keeps to the CPU where GPUs exist.
        sharding_stage: 0: the processes are fleet's data-parallel group; 1: its sharding group.

    Returns:
        The device: "cpu" or "gpu:0".

    Raises:
        UserError: the launcher chose a backend that this Paddle or this device cannot run.
    """
    import paddle

    gpu = use_gpu and paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if world_size() == 1:
        paddle.set_device("gpu" if gpu else "cpu")
        return str(paddle.device.get_device())
    backend = os.environ.get("PADDLE_DISTRI_BACKEND", "auto")
    if not gpu and backend != "gloo":
        if backend not in ("auto", ""):
            raise UserError(
                f"--backend {backend} needs GPUs that Paddle can use; on the CPU it is --backend gloo"
            )
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
    import paddle.distributed as dist
    from paddle.distributed import fleet
    from paddle.distributed.fleet.utils.log_util import set_log_level

    if dist.is_initialized():
        return str(paddle.device.get_device())
    set_log_level("ERROR")  # fleet tells every process of its groups otherwise
    strategy = fleet.DistributedStrategy()
    sizes = ("dp_degree", "sharding_degree")
    strategy.hybrid_configs = dict(zip(sizes, (1, world_size()) if sharding_stage else (world_size(), 1)))
    with warnings.catch_warnings(), contextlib.nullcontext() if gpu else _one_group():
        warnings.filterwarnings("ignore", message="Current global rank")  # of groups of one process
        fleet.init(is_collective=True, strategy=strategy, log_level="ERROR")
    return str(paddle.device.get_device())


@contextlib.contextmanager
def _one_group() -> Iterator[None]:
    """Within it, a new group of all processes is the default group.

    fleet makes a dozen groups, and gloo in Paddle 3.3 refuses connections for most groups of more than two
    processes beside the default one. NCCL connects a group only when it is used.
    """
    import paddle.distributed as dist

    new_group = dist.new_group

    def join(ranks: Sequence[int], *args, **options) -> Any:
        return dist.get_group() if len(ranks) == world_size() else new_group(ranks, *args, **options)

    dist.new_group = join
    try:
        yield
    finally:
        dist.new_group = new_group


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        # A sum, not dist.barrier(): it works alike with gloo and NCCL and needs no device id.
        all_sum([0.0])


def all_sum(values: Sequence[float]) -> list[float]:
    """The sums over all processes, element by element, in float64 (exact to its rounding)."""
    if world_size() == 1 or not values:
        return [float(value) for value in values]
    import paddle
    import paddle.distributed as dist

    total = paddle.to_tensor([float(value) for value in values], dtype="float64")
    dist.all_reduce(total)
    return total.tolist()


def gather(item: Any) -> list[Any]:
    """Every process's `item` (anything that pickles), in order of rank, on every process."""
    if world_size() == 1:
        return [item]
    import paddle.distributed as dist

    items: list[Any] = []
    dist.all_gather_object(items, item)
    return items


def broadcast_(tensors: Iterable["Tensor"], source: int = 0) -> None:
    """Overwrite the tensors in place with those of process `source`."""
    if world_size() == 1:
        return
    import paddle
    import paddle.distributed as dist

    with paddle.no_grad():
        for tensor in tensors:
            dist.broadcast(tensor, src=source)


def sum_gradients(parameters: Sequence["Tensor"]) -> None:
    """Add up each parameter's gradient over the data-parallel processes, in place; never an average.

    Every process passes the same parameters in the same order, each with a gradient: fleet skips a parameter
    without one, and processes that send different buffers wait for each other for ever.
    """
    import paddle.distributed as dist
    from paddle.distributed import fleet
    from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group

    group = fleet.get_hybrid_communicate_group().get_data_parallel_group()
    for part in _parts(parameters):
        if len(part) > 1:
            fused_allreduce_gradients_with_group(part, group, scale=1.0)
        else:  # in its own memory: the word table's would be copied twice
            dist.all_reduce(part[0].grad, group=group)


def _parts(parameters: Sequence["Tensor"]) -> list[list["Tensor"]]:
    """Consecutive parameters of one dtype, of at most FUSED_BYTES together or one alone."""
    parts: list[list[Tensor]] = []
    room = 0
    for parameter in parameters:
        size = parameter.size * parameter.element_size()
        if not parts or size > room or parameter.dtype != parts[-1][0].dtype:
            parts.append([])
            room = FUSED_BYTES
        parts[-1].append(parameter)
        room -= size
    return parts


def sharded(optimizer: "Optimizer") -> "Optimizer":
    """fleet's stage 1 around an optimizer: each parameter's moments and update belong to one process."""
    from paddle.distributed import fleet
    from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer import DygraphShardingOptimizer

    return DygraphShardingOptimizer(optimizer, fleet.get_hybrid_communicate_group())


def shared(scaler: "GradScaler") -> "GradScaler":
    """The scaler for a run on several processes: what overflows on one of them is an overflow on all."""
    if world_size() == 1:
        return scaler
    from paddle.distributed import fleet

    return fleet.distributed_scaler(scaler)
