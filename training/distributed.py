"""Processes of one run: who am I, sums over all of us. One process needs none of it and pays nothing.

Works under `fleetrun` / `python -m paddle.distributed.launch`: NCCL where there are GPUs, gloo on the CPU
(`fleetrun --nproc_per_node 2 --backend gloo script.py`). Paddle is imported only when it is needed.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.processes import is_main, rank, world_size

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["all_sum", "barrier", "broadcast_", "gather", "init", "is_main", "rank", "sum_", "world_size"]

# Large enough to hide a collective's fixed cost, small beside the gradients themselves.
BUCKET_BYTES = 64 << 20


def init(use_gpu: bool = True) -> str:
    """Choose this process's device and join the other processes. Call once, before the model is made.

    Args:
        use_gpu: False keeps to the CPU where GPUs exist.

    Returns:
        The device: "cpu" or "gpu:0".

    Raises:
        UserError: the launcher chose a backend that this Paddle or this device cannot run.
    """
    import paddle
    import paddle.distributed as dist

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
    dist.init_parallel_env()
    return str(paddle.device.get_device())


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


def sum_(tensors: Sequence["Tensor"], to: int | None = None, bucket_bytes: int = BUCKET_BYTES) -> None:
    """Add the tensors up over all processes, in place: never an average, whatever the number of processes.

    Small ones travel together in flat buckets; one larger than a bucket travels as it is, without a copy.
    Every process must pass the same shapes and dtypes in the same order.

    Args:
        to: only this process gets the sums (elsewhere the values are undefined afterwards); None: all do.
    """
    if world_size() == 1:
        return
    import paddle
    import paddle.distributed as dist

    def add_up(tensor: "Tensor") -> None:
        if to is None:
            dist.all_reduce(tensor)
        else:
            dist.reduce(tensor, dst=to)

    with paddle.no_grad():
        for bucket in _buckets(tensors, bucket_bytes):
            if len(bucket) == 1:
                add_up(bucket[0])
                continue
            flat = paddle.concat([tensor.reshape([-1]) for tensor in bucket])
            add_up(flat)
            parts = paddle.split(flat, [tensor.size for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                paddle.assign(part.reshape(tensor.shape), output=tensor)


def _buckets(tensors: Sequence["Tensor"], bucket_bytes: int) -> Iterator[list["Tensor"]]:
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        size = tensor.size * tensor.element_size()
        if bucket and (held + size > bucket_bytes or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += size
    if bucket:
        yield bucket
