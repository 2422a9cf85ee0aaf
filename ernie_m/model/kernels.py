"""The operations for which a device may have a faster implementation, each by Paddle's public operations.

`Kernels` is the interface, and its methods are the plain implementation. `ernie_m.model.cpu` has a subclass
for CPUs, `CpuKernels`, which overrides what it computes faster: the same mathematics, equal up to rounding.
Without that folder everything is computed here.

    of(x)       kernels for a tensor: the operations of a forward pass
    current()   kernels of this process: attention mask, optimizer of embedding matrices, workers, precision

This is the only module that knows whether a CPU uses its own kernels. `ernie_m/model/ernie.py` defines the
symbols.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import TypeVar

import paddle.nn.functional as F
from paddle import Tensor, nn

from ernie_m.model import kernel_selection

T = TypeVar("T")
R = TypeVar("R")


class Kernels:
    """Paddle's public operations: the plain implementation on every device."""

    def apply_linear(self, x: Tensor, layers: Sequence[nn.Linear], dtype: str) -> Sequence[Tensor]:
        """Apply linear layers to the same input: x [..., I] -> [..., O] per layer.

        Args:
            dtype: dtype of the results of layers with `in_bfloat16`.
        """
        return [F.linear(x, layer.weight, layer.bias) for layer in layers]

    def layer_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
        """Normalize over the last axis: x [..., H], weight and bias [H] -> [..., H]."""
        return F.layer_norm(x, [x.shape[-1]], weight, bias, epsilon)

    def gelu(self, x: Tensor) -> Tensor:
        """Compute the exact GELU of each element: [..., H] -> [..., H]."""
        return F.gelu(x)

    def dropout(self, x: Tensor, probability: float, residual: Tensor | None) -> Tensor:
        """Apply inverted dropout to x [..., H], then add `residual` [..., H], if given."""
        x = F.dropout(x, probability, training=True)
        return x if residual is None else x + residual

    # ---- of the process

    def get_mask_class(self) -> type | None:
        """Return the class of attention masks with unpadded attention; None: this device has none."""
        return None

    def repeat_dropout(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function that draws the same dropout masks at each call, as recomputation requires.

        Paddle's `recompute` saves the state of Paddle's generator.
        """
        return function


_PLAIN = Kernels()


@cache
def load_cpu_kernels() -> Kernels:
    """Return the kernels of `ernie_m.model.cpu`; without this folder Paddle's operations.

    The module is named in a string, because it imports this one.
    """
    try:
        return import_module("ernie_m.model.cpu.kernels").CpuKernels()
    except ModuleNotFoundError as error:
        if error.name not in ("ernie_m.model.cpu", "ernie_m.model.cpu.kernels"):
            raise
        return _PLAIN


def of(x: Tensor) -> Kernels:
    """Return the kernels for operations on a tensor."""
    return load_cpu_kernels() if kernel_selection.is_on_cpu(x) else _PLAIN


def current() -> Kernels:
    """Return the kernels of this process, by its device."""
    is_plain = kernel_selection.has_plain_kernels() or kernel_selection.is_on_gpu()
    return _PLAIN if is_plain else load_cpu_kernels()
