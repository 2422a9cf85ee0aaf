"""Communication among the processes of a run, by Paddle's fleet.

Start several processes with `fleetrun` or `python -m paddle.distributed.launch`. They use NCCL on GPUs and
gloo on the CPU (`fleetrun --nproc_per_node 2 --backend gloo script.py`).
"""

import contextlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.distributed import fleet
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group
from paddle.distributed.fleet.utils.log_util import set_log_level

from ernie_m.utils.errors import UserError

# Other modules import these three from here; `as` marks them as re-exported.
from ernie_m.utils.paddle_settings import is_main as is_main
from ernie_m.utils.paddle_settings import rank as rank
from ernie_m.utils.paddle_settings import world_size as world_size

T = TypeVar("T")
# Variables that launch.py, fleetrun and paddle.distributed.launch all set.
_OF_LAUNCHERS = (
    "PADDLE_TRAINERS_NUM",
    "PADDLE_TRAINER_ID",
    "PADDLE_CURRENT_ENDPOINT",
    "PADDLE_TRAINER_ENDPOINTS",
)
# Errors of gloo and NCCL when the remote process has ended.
_CONNECTION_LOST = ("gloo/transport", "remote process exited")
FUSED_BYTES = 64 << 20  # larger gradients are summed separately, in place
LAYER = 16  # the parameters of an encoder layer


def init(use_gpu: bool = True) -> str:
    """Set the device of this process, join the other processes, and return the device ("cpu", "gpu:0").

    Call this before making the model. Later calls have no effect.

    Args:
        use_gpu: False: use the CPU even if there is a GPU.

    Raises:
        UserError: the launcher's backend requires a GPU, and Paddle cannot use one; or only some of a
            launcher's environment variables are set.
    """
    variables = {name: os.environ.get(name) for name in _OF_LAUNCHERS}
    if rank() >= world_size() or (world_size() > 1 and not all(variables.values())):
        left = [name for name, value in variables.items() if value]
        in_words = ", ".join(f"{name} is {value or 'not set'}" for name, value in variables.items())
        raise UserError(
            f"{in_words}: inconsistent launcher variables. Unset {' '.join(left)}, or start several "
            "processes with launch.py or fleetrun"
        )
    takes_gpu = use_gpu and paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if not takes_gpu and "FLAGS_use_stride_kernel" not in os.environ:
        # `ernie_m.utils.paddle_settings` did not know yet that this process does not use the machine's GPU.
        paddle.set_flags({"FLAGS_use_stride_kernel": False})
    if world_size() == 1:
        paddle.set_device("gpu" if takes_gpu else "cpu")
        return str(paddle.device.get_device())
    if not takes_gpu:
        backend = os.environ.get("PADDLE_DISTRI_BACKEND", "auto")
        if backend not in ("auto", "", "gloo"):
            raise UserError(
                f"--backend {backend} (PADDLE_DISTRI_BACKEND) requires GPUs that Paddle can use. "
                "On a CPU use gloo"
            )
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
    if not dist.is_initialized():
        set_log_level("WARNING")  # before the strategy, which logs that it exists
        strategy = fleet.DistributedStrategy()
        # Otherwise fleet makes a second group of all processes, and with three or more processes gloo
        # occasionally refuses connections.
        strategy.heter_ccl_mode = True
        # Otherwise Paddle prints the flags that ernie_m/utils/paddle_settings.py has set.
        with contextlib.redirect_stderr(io.StringIO()):
            fleet.init(is_collective=True, strategy=strategy, log_level="WARNING")
    return str(paddle.device.get_device())


@contextlib.contextmanager
def translate_connection_errors() -> Iterator[None]:
    """Translate connection errors within a `with` block, after another process has ended, into UserError."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not any(sign in str(error) for sign in _CONNECTION_LOST):
            raise
        raise UserError(
            "another process of the run has ended (see its or the launcher's log). Rerun to resume"
        ) from error


def barrier() -> None:
    """Wait until every process has called this function."""
    if world_size() > 1:
        all_reduce_sum([0.0])  # unlike dist.barrier(), it needs no device id with NCCL


@translate_connection_errors()
def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """Sum `values` over all processes (all-reduce), element by element, in float64."""
    if world_size() == 1 or not values:
        return [float(value) for value in values]
    total = paddle.to_tensor([float(value) for value in values], dtype="float64")
    dist.all_reduce(total)
    return total.numpy().tolist()


@translate_connection_errors()
def gather(item: Any) -> list[Any]:
    """Gather a picklable item of each process on every process (all-gather), in order of rank."""
    if world_size() == 1:
        return [item]
    items: list[Any] = []
    dist.all_gather_object(items, item)
    return items


def gather_items(items: Iterable[T]) -> list[T]:
    """Gather the picklable items of all processes on every process, in order of rank."""
    return list(itertools.chain.from_iterable(gather(list(items))))


@translate_connection_errors()
def all_gather_rows(rows: Tensor, integer: int) -> list[tuple[Tensor, int]]:
    """All-gather the rows and an integer of each process, in order of rank, without pickling.

    Args:
        rows: [N, H]; H is the same on every process, N may differ.
        integer: an integer to send with the rows.
    """
    if world_size() == 1:
        return [(rows, integer)]
    counts: list[Tensor] = []
    dist.all_gather(counts, paddle.to_tensor([len(rows), integer], dtype="int64"))
    counts_of_processes = [count.numpy().tolist() for count in counts]
    most_rows = max(count for count, _ in counts_of_processes)
    padded = paddle.zeros([most_rows, rows.shape[1]], rows.dtype)  # all processes send equal shapes
    padded[: len(rows)] = rows
    parts: list[Tensor] = []
    dist.all_gather(parts, padded)
    return [
        (part[:count], number_of_process)
        for part, (count, number_of_process) in zip(parts, counts_of_processes)
    ]


def run_on_all(function: Callable[[], T]) -> list[T]:
    """Call `function` on every process, and raise its error on all. Call this on every process.

    Returns:
        The results, which must be picklable, in order of rank.

    Raises:
        UserError: `function` has raised a UserError or OSError on any process.
    """
    result = own_error = None
    try:
        result = function()
    except UserError as error:
        own_error = error
    except OSError as error:  # the others must not wait for this process
        own_error = UserError(f"{error.filename or 'a file'}: {error.strerror or error}")
    outcomes = gather((result, own_error))
    errors = [error for _, error in outcomes if error is not None]
    if errors:
        raise own_error or errors[0]
    return [result for result, _ in outcomes]


def run_on_main(function: Callable[[], T]) -> T:
    """Call `function` on the main process only, and return its result on every process.

    Call this on every process.

    Raises:
        UserError: on every process, if `function` has raised a UserError or OSError.
    """
    return run_on_all(lambda: [function()] if is_main() else [])[0][0]


class Totals:
    """Named float64 sums over micro-batches and processes, which synchronize with the device once.

    Tensors on the device and numbers on the host are summed separately until `read`, because reading a tensor
    and uploading a number both wait for the device.

    Args:
        names: names of the sums, the same in the same order on all processes.
    """

    def __init__(self, names: Sequence[str]):
        self._tensors = dict.fromkeys(names, paddle.zeros([], "float64"))
        self._numbers = dict.fromkeys(names, 0.0)

    def add(self, name: str, value: Tensor | float) -> None:
        """Add a number, or a tensor with one element, to a sum."""
        if isinstance(value, Tensor):
            self._tensors[name] = self._tensors[name] + value.detach().astype("float64").reshape([])
        else:
            self._numbers[name] += float(value)

    @translate_connection_errors()
    def all_reduce(self, numbers: Sequence[float]) -> tuple[dict[str, float], list[float]]:
        """Sum over the processes (all-reduce). Call this on every process.

        Args:
            numbers: additional numbers to sum, equally many on all processes.

        Returns:
            The sums by name, and the sums of `numbers`, in their order.
        """
        # The sums of tensors, of named numbers, and `numbers`, concatenated.
        on_device = paddle.stack(list(self._tensors.values()))
        on_host = [*self._numbers.values(), *numbers]
        if world_size() == 1:
            sums = [*on_device.numpy().tolist(), *on_host]
        else:
            # `full` makes each run of equal numbers on the device. Uploading the numbers would wait for the
            # device a second time.
            runs = [(number, len(list(run))) for number, run in itertools.groupby(on_host)]
            parts = [paddle.full([length], number, "float64") for number, length in runs]
            total = paddle.concat([on_device, *parts])
            dist.all_reduce(total)
            sums = total.numpy().tolist()
        count = len(self._tensors)
        totals = map(sum, zip(sums[:count], sums[count:]))
        return dict(zip(self._tensors, totals)), sums[2 * count :]


@translate_connection_errors()
def broadcast_(tensors: Iterable[Tensor], source: int = 0) -> None:
    """Broadcast tensors from process `source`: overwrite them in place on the other processes."""
    if world_size() == 1:
        return
    with paddle.no_grad():
        for tensor in tensors:
            dist.broadcast(tensor, src=source)


def get_gradient(parameter: Tensor) -> Tensor:
    """Return the gradient of a parameter, which must have one."""
    assert parameter.grad is not None, parameter.name
    return parameter.grad


@translate_connection_errors()
def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Sum the gradient of each parameter over the processes, in place (all-reduce).

    Every process must pass the same parameters in the same order, all with a gradient. Otherwise the
    processes deadlock.
    """
    small = []
    for parameter in parameters:
        if parameter.size * parameter.element_size() < FUSED_BYTES:
            small.append(parameter)
        else:  # such as the embedding matrix: in place, without a copy
            dist.all_reduce(get_gradient(parameter))
    # Fleet copies its whole input before the first sum, so it gets the parameters of about an encoder layer.
    # It divides by the number of processes unless a scale is given.
    for start in range(0, len(small), LAYER):
        fused_allreduce_gradients_with_group(small[start : start + LAYER], None, FUSED_BYTES, scale=1.0)


# Sharding stage 1 (ZeRO, https://arxiv.org/abs/1910.02054): each parameter has an owner, which updates it


def assign_owners(parameters: Iterable[Tensor]) -> dict[str, int]:
    """Assign each parameter to a process, its owner: Paddle's parameter name -> rank.

    The parameters are assigned largest first, each to the process with the fewest elements so far.
    """
    owners = {}
    numbers = [0] * world_size()  # number of elements that each process owns so far
    for parameter in sorted(parameters, key=lambda parameter: parameter.size, reverse=True):
        owner = numbers.index(min(numbers))
        owners[parameter.name] = owner
        numbers[owner] += parameter.size
    return owners


@translate_connection_errors()
def reduce_gradients(parameters: Sequence[Tensor], owners: Mapping[str, int]) -> None:
    """Sum the gradient of each parameter over the processes on its owner (reduce).

    Every process must pass the same parameters in the same order, all with a gradient. On other processes the
    gradient becomes undefined.
    """
    for parameter in parameters:
        dist.reduce(get_gradient(parameter), dst=owners[parameter.name])


@translate_connection_errors()
def broadcast_weights(parameters: Sequence[Tensor], owners: Mapping[str, int]) -> None:
    """Broadcast each parameter from its owner to the other processes."""
    for parameter in parameters:
        dist.broadcast(parameter, src=owners[parameter.name])
