"""What the device can do: half precision, attention kernels, TF32.

    compute capability     amp fp16    amp bf16     attention in half precision
    below 8.0 (V100, T4)   yes         refused      padded groups: two products and a softmax each
    8.0 and above          yes         yes          FlashMask, all tokens at once
    a CPU                  no          no           padded groups, computed by `model/cpu/attention.py`

float32 products use TF32 on a GPU from capability 8.0, which keeps 10 bits of the mantissa. The environment
variable NVIDIA_TF32_OVERRIDE=0, set before the start, turns it off.
"""

import os
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import paddle
from paddle import Tensor

T = TypeVar("T")
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


def flash_in(half: bool) -> bool:
    """Whether a model that computes in half precision, or not, will use FlashMask on the device in use."""
    return half and on_gpu() and has_bf16()


def on_cpu(x: Tensor) -> bool:
    """Whether a tensor lies on a CPU and is computed with now, not in a graph that is being traced."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def training_on_cpu(x: Tensor) -> bool:
    """Whether a tensor lies on a CPU and what is computed with it gets gradients."""
    return on_cpu(x) and paddle.is_grad_enabled()


class Uploadable:
    """The base of dataclasses whose arrays travel to the device.

    The fields hold NumPy arrays at first, and tensors in the copy that `upload` returns. Lists, dictionaries
    and further `Uploadable`s in the fields are followed; everything else stays on the host.
    """


def upload(tree: T) -> T:
    """Copy all arrays of a tree to the device in one copy, because each copy waits for the device.

    Args:
        tree: an `Uploadable`, or lists and dictionaries of them. Its arrays hold bools, integers below 2^53,
            or floats: they travel as float64.

    Returns:
        The same tree with tensors of the same shapes: float64 for an array of floats, otherwise int64.
    """
    arrays: list[np.ndarray] = []
    _replace_arrays(tree, arrays.append)
    tensors = iter(_copy(arrays))
    return _replace_arrays(tree, lambda array: next(tensors))


def _replace_arrays(tree: Any, replacement: Callable[[np.ndarray], Any]) -> Any:
    """The tree with `replacement(array)` for each array, always in the same order."""
    if isinstance(tree, np.ndarray):
        return replacement(tree)
    if isinstance(tree, list):
        return [_replace_arrays(item, replacement) for item in tree]
    if isinstance(tree, dict):
        return {key: _replace_arrays(item, replacement) for key, item in tree.items()}
    if isinstance(tree, Uploadable):
        values = {field.name: getattr(tree, field.name) for field in fields(tree)}
        return replace(tree, **_replace_arrays(values, replacement))
    return tree


def _copy(arrays: list[np.ndarray]) -> list[Tensor]:
    filled = [array for array in arrays if array.size]
    if filled:
        numbers = np.concatenate([array.ravel().astype(np.float64) for array in filled])
        parts = iter(paddle.split(paddle.to_tensor(numbers), [array.size for array in filled]))
    tensors = []
    for array in arrays:
        tensor = next(parts) if array.size else paddle.zeros([0], "float64")
        if array.ndim > 1:
            tensor = tensor.reshape(array.shape)
        tensors.append(tensor if array.dtype.kind == "f" else tensor.astype("int64"))
    return tensors


def has_tf32() -> bool:
    """Whether float32 products on the GPU in use are computed in TF32."""
    return has_bf16() and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"


def summary(precision: str, processes: int) -> str:
    """One line for the log: device, capability, precision, attention, TF32, collectives.

    Args:
        precision: "bf16 O1", "fp16 O1", ..., or the dtype of the weights without mixed precision.
        processes: of the run, on all machines.
    """
    device = str(paddle.device.get_device())
    attention = "FlashMask" if flash_in(precision.startswith(("bf16", "fp16"))) else "padded groups"
    backend = "NCCL" if on_gpu() else os.environ.get("PADDLE_DISTRI_BACKEND", "gloo")
    facts = [f"precision {precision}", f"attention {attention}"]
    if on_gpu():
        major, minor = capability()
        device += f" ({paddle.device.cuda.get_device_name()}, capability {major}.{minor})"
        facts.append("TF32 on, NVIDIA_TF32_OVERRIDE=0 turns it off" if has_tf32() else "TF32 off")
    facts.append(f"collectives {backend}, {processes} processes" if processes > 1 else "collectives none")
    return "; ".join([f"device: {device}", *facts])
