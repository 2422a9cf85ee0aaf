"""Capabilities of the device: half precision and attention implementation.

compute capability     amp fp16    amp bf16        attention in half precision
below 8.0 (V100, T4)   yes         not supported   padded groups: two products and a softmax each
8.0 and above          yes         yes             FlashMask, all tokens at once
a CPU                  no          some            unpadded, by `model/cpu/attention.py`; padded groups if
                                                   Paddle was built without MKL
"""

import functools
from collections.abc import Iterator

import paddle
import paddle.nn.functional as F

from ernie_m.model import kernel_selection

AMPERE = (8, 0)  # bfloat16, FlashMask and TF32 require this capability
FLASH_VERSION = "FLAGS_flash_attn_version"


def get_compute_capability() -> tuple[int, int]:
    """Return the compute capability of the current GPU, such as (8, 0)."""
    major, minor = paddle.device.cuda.get_device_capability()
    return major, minor


def has_bf16() -> bool:
    """Return whether the current GPU supports bfloat16."""
    return get_compute_capability() >= AMPERE


def uses_flash(is_half_precision: bool) -> bool:
    """Return whether FlashMask computes attention on the current device, in half precision or not."""
    if kernel_selection.has_plain_kernels() or not kernel_selection.is_on_gpu():
        return False
    return is_half_precision and has_bf16() and is_flash_supported()


@functools.cache
def is_flash_supported() -> bool:
    """Return whether FlashMask computes a small example correctly; log a warning once if it does not.

    Paddle's wheel may lack the kernel for a GPU of sufficient compute capability. This also selects version 2
    of FlashMask for the process, because version 3 does not support dropout and `training=False`
    (`flashmask_attention` in paddle/nn/functional/flash_attention.py).
    """
    with paddle.enable_grad(), paddle.amp.auto_cast(False):
        return kernel_selection.check_agreement(
            _measure_flash_errors,
            0.02,  # rounding a number near 2 to bfloat16 has an error of up to 0.008
            "FlashMask is unavailable; attention uses padded groups, which is slower",
        )


def _measure_flash_errors() -> Iterator[tuple[str, float]]:
    """Yield the maximum errors of FlashMask's output and gradient for two sequences of 64 tokens.

    All values are 1 in the first sequence and 2 in the second, so the output equals the values if no token
    attends to the other sequence. All scores are equal, so the gradient of each value is 1.
    """
    paddle.set_flags({FLASH_VERSION: 2})
    value = paddle.repeat_interleave(paddle.to_tensor([1.0, 2.0]), 64).reshape([1, 128, 1, 1])
    value = value.expand([1, 128, 2, 64]).astype("bfloat16")  # 1, N, heads, D
    value.stop_gradient = False
    query = paddle.ones_like(value)
    # For the columns of each sequence (start, end): rows from `start` on are masked, and rows before `end`.
    bounds = paddle.to_tensor([[64, 0], [128, 64]], dtype="int32")
    bounds = paddle.repeat_interleave(bounds, 64, axis=0).reshape([1, 1, 128, 2])
    output = F.flashmask_attention(query, query, value, bounds)
    output.sum().backward()
    assert value.grad is not None  # set by the call above
    for name, error in (("result", output - value), ("gradient", value.grad - 1.0)):
        yield name, float(error.astype("float32").abs().max())
