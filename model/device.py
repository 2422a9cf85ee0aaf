"""What the device can do: half precision, attention kernels, TF32.

    compute capability     amp fp16    amp bf16     attention in half precision
    below 8.0 (V100, T4)   yes         refused      rectangles: two products and a softmax
    8.0 and above          yes         yes          FlashMask, one row of tokens
    a CPU                  no          no           rectangles, computed by `model/cpu.py`

float32 products use TF32 on a GPU from capability 8.0, which keeps 10 bits of the mantissa. The environment
variable NVIDIA_TF32_OVERRIDE=0, set before the start, turns it off.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import paddle
from paddle import Tensor

AMPERE = (8, 0)  # bfloat16, FlashMask and TF32 begin with this capability


def on_gpu() -> bool:
    """Whether Paddle computes on a GPU."""
    return str(paddle.device.get_device()).startswith("gpu")


def capability() -> tuple[int, int]:
    """The compute capability of the GPU in use."""
    return tuple(paddle.device.cuda.get_device_capability())


def has_bf16() -> bool:
    """Whether the GPU in use computes in bfloat16."""
    return capability() >= AMPERE


def has_flash(x: Tensor) -> bool:
    """Whether there is FlashMask for x: in half precision, from compute capability 8.0 on."""
    return x.dtype in (paddle.float16, paddle.bfloat16) and x.place.is_gpu_place() and has_bf16()


def flash_in(half: bool) -> bool:
    """Whether a model that computes in half precision, or not, will use FlashMask on the device in use."""
    return half and on_gpu() and has_bf16()


def upload(groups: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Tensor]]:
    """Copy arrays to the device, all of them in one copy, because each copy waits for the device.

    They travel as float64, which holds integers below 2^53.

    Returns:
        The groups with tensors of the same shapes: float64 for an array of floats, otherwise int64.
    """
    arrays = [array for group in groups for array in group.values() if array.size]
    if arrays:
        row = paddle.to_tensor(np.concatenate([array.ravel().astype(np.float64) for array in arrays]))
        parts = iter(paddle.split(row, [array.size for array in arrays]))

    def tensor(array: np.ndarray) -> Tensor:
        part = next(parts) if array.size else paddle.zeros([0], "float64")
        part = part if array.ndim == 1 else part.reshape(array.shape)
        return part if array.dtype.kind == "f" else part.astype("int64")

    return [{name: tensor(array) for name, array in group.items()} for group in groups]


def has_tf32() -> bool:
    """Whether float32 products on the GPU in use are computed in TF32."""
    return has_bf16() and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"


def summary(precision: str, processes: int) -> str:
    """One line for the log: device, capability, precision, attention, TF32, collectives.

    Args:
        precision: "bf16 O1", "fp16 O1", ..., or the dtype of the weights without mixed precision.
        processes: of the run, on all machines.
    """
    backend = "NCCL" if on_gpu() else os.environ.get("PADDLE_DISTRI_BACKEND", "gloo")
    collectives = f"{backend}, {processes} processes" if processes > 1 else "none"
    device, tf32 = str(paddle.device.get_device()), ""
    if on_gpu():
        major, minor = capability()
        device += f" ({paddle.device.cuda.get_device_name()}, capability {major}.{minor})"
        tf32 = f"TF32 {'on, NVIDIA_TF32_OVERRIDE=0 turns it off' if has_tf32() else 'off'}; "
    kernel = "FlashMask" if flash_in(precision.startswith(("bf16", "fp16"))) else "rectangles"
    return f"device: {device}; precision {precision}; attention {kernel}; {tf32}collectives {collectives}"
