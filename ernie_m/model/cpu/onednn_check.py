"""Comparison of oneDNN's results with Paddle's, before oneDNN is used.

The oneDNN library in Paddle's wheel has no stable API, and is called with raw pointers.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ernie_m.model.cpu import onednn
from ernie_m.model.cpu.attention_bfloat16 import Bfloat16Attention
from ernie_m.model.cpu.bfloat16 import Bfloat16Linear
from ernie_m.model.cpu.layers import CpuGelu, CpuLayerNorm
from ernie_m.model.kernel_check import check_agreement
from ernie_m.model.packed_layout import PackedLayout

_MAJOR = 3  # the oneDNN version of the functions and constants that `ernie_m/model/cpu/onednn.py` has
_SIZE = 64  # tokens, and elements of each
_MATRIX = (_SIZE, _SIZE)
_LONG = 3072  # terms of long sums


class _CheckedOperation(NamedTuple):
    """An operation in this project and in Paddle, and the shapes of its inputs."""

    custom: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    shapes: Sequence[Sequence[int]]


_IN_FLOAT32 = {
    "GELU": _CheckedOperation(CpuGelu.apply, F.gelu, [_MATRIX]),
    "layer norm": _CheckedOperation(
        lambda x, weight, bias: CpuLayerNorm.apply(x, weight, bias, 1e-5),
        lambda x, weight, bias: F.layer_norm(x, [_SIZE], weight, bias, 1e-5),
        [_MATRIX, [_SIZE], [_SIZE]],
    ),
}
_IN_BFLOAT16 = {
    # Two layers of the same x: their products are long sums, and their gradients are added. With 77 tokens,
    # on four threads or more, oneDNN 3.6 fails without the whole blocks that `multiply` requires.
    "linear layer": _CheckedOperation(
        lambda x, *parameters: sum(Bfloat16Linear.apply(x, "float32", *parameters)),
        lambda x, *parameters: sum(map(F.linear, [x, x], parameters[:2], parameters[2:])),
        [[77, _LONG], *[[_LONG, 384]] * 2, *[[384]] * 2],
    ),
    "attention": _CheckedOperation(
        lambda *inputs: Bfloat16Attention.apply(
            *(x.astype("bfloat16") for x in inputs), PackedLayout([_SIZE], [_SIZE]), 1, 0.0
        ).astype("float32"),
        lambda q, k, v: paddle.matmul(F.softmax(paddle.matmul(q, k, transpose_y=True) * _SIZE**-0.5), v),
        [_MATRIX] * 3,
    ),
}


@cache
def is_supported() -> bool:
    """Return whether oneDNN's GELU and layer norm agree with Paddle's; log a warning once if they do not."""
    return _are_within_tolerance(_IN_FLOAT32, tolerance=1e-5)


@cache
def find_missing_requirement() -> str | None:
    """Return what is missing on this machine for bfloat16 products, for an error message; None: nothing."""
    if not is_supported():
        return f"a oneDNN {_MAJOR} in the installed Paddle that agrees with Paddle's kernels"
    if not onednn.supports_bfloat16():
        return "a CPU with bfloat16 instructions (avx512_bf16 or AMX)"
    if not _are_within_tolerance(_IN_BFLOAT16, tolerance=0.02):  # bfloat16 has 8 bits of precision
        return "correct products in bfloat16"
    return None


def _are_within_tolerance(operations: dict[str, _CheckedOperation], tolerance: float) -> bool:
    """Return whether outputs and gradients of all operations agree with Paddle's within the tolerance."""
    return check_agreement(
        partial(_measure_errors, operations), tolerance, "oneDNN is disabled; computation is slower"
    )


def _measure_errors(operations: dict[str, _CheckedOperation]) -> Iterator[tuple[str, float]]:
    if onednn.get_version()[0] != _MAJOR:
        raise RuntimeError(f"version {onednn.get_version()} (expected {_MAJOR})")
    for name, kind in operations.items():
        yield name, _measure_error(kind)


def _measure_error(operation: _CheckedOperation) -> float:
    """Return the maximum error of an operation's output and gradients, relative to each array's maximum."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape, np.float32) for shape in operation.shapes]
    expected, results = (
        _compute_output_and_gradients(compute, arrays) for compute in (operation.reference, operation.custom)
    )
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(results, expected, strict=True))


@paddle.enable_grad()
def _compute_output_and_gradients(
    compute: Callable[..., Tensor], arrays: list[np.ndarray]
) -> list[np.ndarray]:
    """Return an operation's output, and the gradients of its sum of squares with respect to the inputs."""
    inputs = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
    result = compute(*inputs)
    result.square().sum().backward()
    return [result.numpy(), *(tensor.grad.numpy() for tensor in inputs)]
