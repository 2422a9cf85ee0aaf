"""Copies of the weights in half precision, for a GPU and a small batch, where starting kernels takes longest.

Autocast casts the weight and the bias of each linear layer before its product, and their gradients after it:
288 kernels in a step of 12 layers. Here parameters of one shape are cast at once, and so are their gradients:

    parameters -> stack -> cast -> unbind, which makes views of what was cast

Weights and biases have five shapes, with three kernels each: 15 forward and 15 backward. Each number is
rounded as autocast rounds it: results and gradients are the same to the last bit.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import paddle
from paddle import Tensor, nn

from model import device
from model.layers import Linear

# The greatest N x H^2 of a small batch, which is 1,820 tokens of base and 1,024 of large. By the estimate
# (benchmarks/estimate.py) an A100 waits for the host up to twice as many tokens. In a larger batch the stacks
# would cost time, because they read and write 20 bytes for each weight.
SMALL_BATCH = 1 << 30


@contextmanager
def half_weights(stack: Sequence[nn.Layer], x: Tensor) -> Iterator[None]:
    """Let the linear layers of a stack compute with copies of their weights, where that is faster.

    Call each layer once within this context: gradients of two calls would be added up in half precision.

    Args:
        x: [N, H], the input of the stack.
    """
    layers = _layers_to_cast(stack, x)
    dtype = device.product_dtype(x)
    weights = cast_together([layer.weight for layer in layers], dtype)
    biases = cast_together([layer.bias for layer in layers], dtype)
    for layer, weight, bias in zip(layers, weights, biases):
        layer.half_copies.extend([weight, bias])
    try:
        yield
    finally:
        for layer in layers:
            layer.half_copies.clear()


def _layers_to_cast(stack: Sequence[nn.Layer], x: Tensor) -> list[Linear]:
    """The linear layers of a stack if their weights should be cast together, otherwise none."""
    tokens, size = x.shape
    if not device.uses_gpu_kernels() or tokens * size**2 > SMALL_BATCH:
        return []
    sublayers = [sublayer for layer in stack for sublayer in layer.sublayers()]
    layers = [sublayer for sublayer in sublayers if isinstance(sublayer, Linear)]
    # Without autocast, or with weights that are in half precision themselves (O2), there is nothing to cast.
    if not layers or layers[0].weight.dtype == device.product_dtype(x):
        return []
    return layers


def cast_together(tensors: Sequence[Tensor], dtype: paddle.dtype) -> list[Tensor]:
    """A copy of each tensor in this type, made by three operations for all tensors of one shape."""
    indices_of_shape = defaultdict(list)
    for index, tensor in enumerate(tensors):
        indices_of_shape[tuple(tensor.shape)].append(index)
    copy_of_index: dict[int, Tensor] = {}
    for indices in indices_of_shape.values():
        stacked = paddle.stack([tensors[index] for index in indices])  # [n, ...]
        copies = paddle.unbind(stacked.astype(dtype))  # n tensors
        copy_of_index.update(zip(indices, copies))
    return [copy_of_index[index] for index in range(len(tensors))]
