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
from ernie_m.model.kernel_check import check_agreement

AMPERE = (8, 0)  # bfloat16, FlashMask and TF32 require this capability
FLASH_VERSION = "FLAGS_flash_attn_version"
# The sizes of attention heads in this process: that of the released models, and those of other models made.
head_sizes = {64}


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
    return is_half_precision and has_bf16() and all(map(is_flash_supported, sorted(head_sizes)))


@functools.cache
def is_flash_supported(head_size: int) -> bool:
    """Return whether FlashMask computes a small example correctly; log a warning once if it does not.

    Paddle's wheel may lack the kernel for a GPU of sufficient compute capability. This also selects version 2
    of FlashMask for the process, because version 3 does not support dropout and `training=False`
    (`flashmask_attention` in paddle/nn/functional/flash_attention.py).

    Args:
        head_size: size of an attention head, D.
    """
    random_state = paddle.get_rng_state()
    with paddle.enable_grad(), paddle.amp.auto_cast(False):
        is_supported = check_agreement(
            functools.partial(_measure_flash_errors, head_size),
            0.02,  # rounding a number near 2 to bfloat16 has an error of up to 0.008
            f"FlashMask is unavailable for head size {head_size}; attention uses slower padded groups",
        )
    paddle.set_rng_state(random_state)
    return is_supported


def _measure_flash_errors(head_size: int) -> Iterator[tuple[str, float]]:
    """Yield the maximum errors of FlashMask's output and gradient, without and with dropout.

    Two sequences of 50 and 206 tokens end inside a block of the kernel. All scores are equal, so the output
    is the mean of a sequence's values, and the gradient of each value is 1. In the first head all values are
    1 in the first sequence and 2 in the second; in the second head, their signs alternate. With dropout the
    output is P v, where P are the remaining weights: the mean stays, and <P^T P v, v> = <P v, P v>, which is
    only noise in the second head if the backward pass drops other weights.
    """
    paddle.set_flags({FLASH_VERSION: 2})
    lengths = paddle.to_tensor([50, 206])
    mean = paddle.repeat_interleave(paddle.to_tensor([1.0, 2.0]), lengths)  # [256]
    sign = 1.0 - 2.0 * (paddle.arange(256) % 2).astype("float32")
    shape = [1, 256, 2, head_size]  # 1, N, heads, D
    value = paddle.stack([mean, mean * sign], axis=1).reshape([1, 256, 2, 1]).expand(shape).astype("bfloat16")
    value.stop_gradient = False
    query = paddle.ones_like(value)
    # For the columns of each sequence (start, end): rows from `start` on are masked, and rows before `end`.
    bounds = paddle.to_tensor([[50, 0], [256, 50]], dtype="int32")
    bounds = paddle.repeat_interleave(bounds, lengths, axis=0).reshape([1, 1, 256, 2])
    output = F.flashmask_attention(query, query, value, bounds)
    output.sum().backward()
    assert value.grad is not None  # set by the call above
    expected = paddle.stack([mean, paddle.zeros_like(mean)], axis=1).reshape([1, 256, 2, 1])
    for name, error in (("result", output - expected), ("gradient", value.grad - 1.0)):
        yield name, float(error.astype("float32").abs().max())
    value.clear_gradient(False)  # to None
    dropped = F.flashmask_attention(query, query, value, bounds, dropout=0.1)
    dropped.backward(dropped.detach())
    output, gradient, values = (x.detach().astype("float32")[0] for x in (dropped, value.grad, value))
    ratio = (output / values)[:, 0]  # of the first head
    yield "dropout", abs(float(ratio.mean()) - 1.0)
    yield "dropout without effect", float((ratio - 1.0).abs().max() < 0.02)
    backward, forward = float((gradient * values)[:, 1].sum()), float(output[:, 1].square().sum())
    yield "gradient of dropout", abs(backward / forward - 1.0)
