"""Copies of arrays from the host to the device and back."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import paddle
from paddle import Tensor

T = TypeVar("T")
# The type of a tree whose arrays `upload` replaces by tensors, which type checkers cannot follow.
Array = Any


def upload(tree: T) -> T:
    """Copy all NumPy arrays of a nested structure to the device in one transfer, with one synchronization.

    Args:
        tree: an array, or nested dataclasses, lists and dictionaries of arrays; other values stay unchanged.
            The arrays contain bools, integers below 2^53, or floats, because they are sent as float64.

    Returns:
        The same structure with tensors of the same shapes: float64 for float arrays, otherwise int64.
    """
    arrays: list[np.ndarray] = []
    _replace_arrays(tree, arrays.append)  # only collects the arrays
    tensors = _copy_to_device(arrays)
    # The arrays are visited in the same order as before, so that each gets its own tensor.
    return _replace_arrays(tree, lambda array: tensors.pop(0))


def _replace_arrays(tree: Any, convert: Callable[[np.ndarray], Any]) -> Any:
    """Return a nested structure with `convert(array)` for each array, called in a fixed order."""
    if isinstance(tree, np.ndarray):
        return convert(tree)
    if isinstance(tree, list):
        return [_replace_arrays(item, convert) for item in tree]
    if isinstance(tree, dict):
        return {key: _replace_arrays(item, convert) for key, item in tree.items()}
    if is_dataclass(tree) and not isinstance(tree, type):
        values = {field.name: getattr(tree, field.name) for field in fields(tree)}
        return replace(tree, **_replace_arrays(values, convert))
    return tree


def _copy_to_device(arrays: list[np.ndarray]) -> list[Tensor]:
    """Copy arrays to the device as one float64 array, and split it there; return a tensor per array."""
    sizes = [array.size for array in arrays if array.size]  # Paddle does not support empty parts
    parts = []  # one per non-empty array
    if sizes:
        numbers = np.concatenate([array.ravel().astype(np.float64) for array in arrays])
        together = paddle.empty([len(numbers)], "float64")
        together.set_value(numbers)  # each call of paddle.to_tensor leaks memory
        parts = paddle.split(together, sizes)
    tensors = []
    for array in arrays:
        tensor = parts.pop(0) if array.size else paddle.zeros([0], "float64")
        if array.ndim > 1:
            tensor = tensor.reshape(array.shape)
        tensors.append(tensor if array.dtype.kind == "f" else tensor.astype("int64"))
    return tensors


def to_array(x: Tensor) -> np.ndarray:
    """Copy a tensor to a NumPy array on the host. float16 and bfloat16 become float32."""
    if x.dtype in (paddle.float16, paddle.bfloat16):
        x = x.astype("float32")
    return x.numpy()
