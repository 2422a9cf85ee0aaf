"""The log line about the device of a run: capability, precision, attention, TF32.

float32 products use TF32, which keeps 10 bits of the mantissa, on a GPU of compute capability 8.0 or above.
The environment variable NVIDIA_TF32_OVERRIDE=0, set before the process starts, disables TF32.
"""

import os
from typing import Literal

import paddle

from ernie_m.model.device_capabilities import get_compute_capability, has_bf16, uses_flash
from ernie_m.model.kernel_selection import get_services, has_plain_kernels, is_on_gpu


def format_device_summary(precision: str, processes: int) -> str:
    """Format the log line about the device: capability, precision, attention, TF32, communication backend.

    Args:
        precision: mixed precision, such as "bf16 O1"; without mixed precision the dtype of the weights.
        processes: number of processes of the run, on all machines.
    """
    device = str(paddle.device.get_device())
    is_half = precision.startswith(("bf16", "fp16"))
    backend = "NCCL" if is_on_gpu() else os.environ.get("PADDLE_DISTRI_BACKEND", "gloo")
    facts = [f"precision {precision}", f"attention {name_attention(is_half)}"]
    if is_on_gpu():
        major, minor = get_compute_capability()
        device += f" ({paddle.device.cuda.get_device_name()}, capability {major}.{minor})"
        facts.append("TF32 on (off: NVIDIA_TF32_OVERRIDE=0)" if has_tf32() else "TF32 off")
    facts.append(f"collectives {backend}, {processes} processes" if processes > 1 else "1 process")
    if has_plain_kernels():
        facts.append("plain kernels")
    return "; ".join([f"device: {device}", *facts])


def name_attention(is_half_precision: bool) -> Literal["FlashMask", "padded groups", "unpadded"]:
    """Return the attention implementation of the current device, as named in the log.

    Args:
        is_half_precision: whether the model computes in half precision.
    """
    if get_services().get_mask_class():
        return "unpadded"
    return "FlashMask" if uses_flash(is_half_precision) else "padded groups"


def has_tf32() -> bool:
    """Return whether float32 products on the current GPU use TF32."""
    return has_bf16() and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
