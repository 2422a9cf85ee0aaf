"""The processes of one run, joined by `paddle.distributed.fleet`. A run on one process needs no fleet.

Start several processes with `fleetrun` or `python -m paddle.distributed.launch`. They use NCCL on GPUs and
gloo on the CPU (`fleetrun --nproc_per_node 2 --backend gloo script.py`).
"""

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from unittest import mock

import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.distributed import fleet
from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer import DygraphShardingOptimizer
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group
from paddle.distributed.fleet.utils.log_util import set_log_level
from paddle.optimizer import Optimizer

from training.card import check_wheel
from utils.errors import UserError

# The other folders import these three from here; `as` says that this is meant.
from utils.runtime import is_main as is_main
from utils.runtime import rank as rank
from utils.runtime import world_size as world_size

T = TypeVar("T")
# What gloo and NCCL say when the process at the other end is gone.
_CONNECTION_LOST = ("gloo/transport", "remote process exited")
# The bytes of gradients that are summed at once: enough to hide the fixed cost of a sum, and few, because
# fleet copies them.
FUSED_BYTES = 64 << 20


def init(use_gpu: bool = True, sharding_stage: int = 0) -> str:
    """Choose the device of this process, join the other processes, and return the device ("cpu", "gpu:0").

    Call it before you make the model. A second call changes nothing.

    Args:
        use_gpu: False: use the CPU even if there are GPUs.
        sharding_stage: 0: the processes form fleet's data-parallel group; 1: its sharding group.

    Raises:
        UserError: the launcher chose a backend that needs GPUs, and Paddle has none to use; or Paddle has no
            code for the card.
    """
    gpu = use_gpu and paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if gpu:
        check_wheel()
    if world_size() == 1:
        paddle.set_device("gpu" if gpu else "cpu")
        return str(paddle.device.get_device())
    if not gpu:
        backend = os.environ.get("PADDLE_DISTRI_BACKEND", "auto")
        if backend not in ("auto", "", "gloo"):
            raise UserError(f"--backend {backend} needs GPUs that Paddle can use; on the CPU use gloo")
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
    if not dist.is_initialized():
        _init_fleet(gpu, sharding_stage)
    return str(paddle.device.get_device())


def _init_fleet(gpu: bool, sharding_stage: int) -> None:
    """Join the other processes, without the lines that fleet would print."""
    set_log_level("ERROR")  # otherwise every process logs fleet's groups
    strategy = fleet.DistributedStrategy()
    if sharding_stage:
        strategy.hybrid_configs = {"dp_degree": 1, "sharding_degree": world_size()}
    else:
        strategy.hybrid_configs = {"dp_degree": world_size(), "sharding_degree": 1}
    with contextlib.ExitStack() as patches:
        patches.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Current global rank")  # of groups of one process
        # Fleet would print the flags of Paddle that utils/runtime.py has set.
        patches.enter_context(mock.patch("paddle.distributed.parallel._print_modified_flags"))
        if not gpu:
            patches.enter_context(_one_group())
        fleet.init(is_collective=True, strategy=strategy, log_level="ERROR")


def _one_group() -> contextlib.AbstractContextManager:
    """Within this context, `dist.new_group` of all processes returns the default group.

    Fleet makes a dozen groups. With more than two processes, gloo in Paddle 3.3 cannot connect most of them,
    except the default one.
    """
    new_group = dist.new_group

    def join(ranks: Sequence[int], *args, **options) -> Any:
        return dist.get_group() if len(ranks) == world_size() else new_group(ranks, *args, **options)

    return mock.patch.object(dist, "new_group", join)


@contextlib.contextmanager
def lost_process_is_a_user_error() -> Iterator[None]:
    """Turn the error of a sum over processes, one of which has ended, into a one-line `UserError`."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not any(sign in str(error) for sign in _CONNECTION_LOST):
            raise
        raise UserError(
            "another process of the run has ended, and its log or the launcher's says why; start the same "
            "command again"
        ) from error


def barrier() -> None:
    """Wait until every process has called this function."""
    if world_size() > 1:
        all_sum([0.0])  # unlike dist.barrier(), it needs no device id with NCCL


@lost_process_is_a_user_error()
def all_sum(values: Sequence[float]) -> list[float]:
    """The sum of `values` over all processes, element by element, in float64."""
    if world_size() == 1 or not values:
        return [float(value) for value in values]
    total = paddle.to_tensor([float(value) for value in values], dtype="float64")
    dist.all_reduce(total)
    return total.tolist()


@lost_process_is_a_user_error()
def sum_and_read(values: Tensor, numbers: Sequence[float]) -> list[float]:
    """Sum `values`, float64 [n], and `numbers` over all processes. It waits for the device once."""
    if world_size() == 1:
        return [*values.tolist(), *numbers]
    # `full` for equal numbers that follow each other: an upload would wait for the device, too.
    parts = []
    for number, equal_numbers in itertools.groupby(numbers):
        count = len(list(equal_numbers))
        parts.append(paddle.full([count], number, "float64"))
    total = paddle.concat([values, *parts])
    dist.all_reduce(total)
    return total.tolist()


@lost_process_is_a_user_error()
def gather(item: Any) -> list[Any]:
    """The `item` of each process, in order of rank, on every process. An item must pickle."""
    if world_size() == 1:
        return [item]
    items: list[Any] = []
    dist.all_gather_object(items, item)
    return items


def on_main(work: Callable[[], T]) -> T:
    """Call `work` on the main process alone. Call this function on every process.

    Returns:
        The result of `work`, which must pickle, on every process.

    Raises:
        UserError: on every process, if `work` raised it.
    """
    if world_size() == 1:
        return work()
    result = fault = None
    if is_main():
        try:
            result = work()
        except UserError as error:
            fault = str(error)
    result, fault = gather((result, fault))[0]  # those of the main process
    if fault is not None:
        raise UserError(fault)
    return result


@lost_process_is_a_user_error()
def broadcast_(tensors: Iterable[Tensor], source: int = 0) -> None:
    """Overwrite the tensors with those of process `source`, in place."""
    if world_size() == 1:
        return
    with paddle.no_grad():
        for tensor in tensors:
            dist.broadcast(tensor, src=source)


@lost_process_is_a_user_error()
def sum_(tensor: Tensor) -> None:
    """Replace a tensor with its sum over the processes, in place."""
    dist.all_reduce(tensor)


@lost_process_is_a_user_error()
def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace each parameter's gradient with its sum over the data-parallel processes, in place.

    Every process must pass the same parameters in the same order, and each must have a gradient. Otherwise
    the processes send different buffers and wait for each other for ever.
    """
    group = fleet.get_hybrid_communicate_group().get_data_parallel_group()
    for part in _parts(parameters):
        if len(part) > 1:
            fused_allreduce_gradients_with_group(part, group, scale=1.0)
        else:  # one parameter, such as the word table: in place, where fleet would copy it twice
            dist.all_reduce(part[0].grad, group=group)


def _parts(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Groups of consecutive parameters of one dtype: at most FUSED_BYTES in total, or a single parameter."""
    parts: list[list[Tensor]] = []
    room = 0  # bytes that the last part can still take
    for parameter in parameters:
        size = parameter.size * parameter.element_size()
        if not parts or size > room or parameter.dtype != parts[-1][0].dtype:
            parts.append([])
            room = FUSED_BYTES
        parts[-1].append(parameter)
        room -= size
    return parts


def sharded(optimizer: Optimizer) -> Optimizer:
    """Fleet's sharding stage 1: one process holds the moments of a parameter and updates it."""
    return DygraphShardingOptimizer(optimizer, fleet.get_hybrid_communicate_group())
