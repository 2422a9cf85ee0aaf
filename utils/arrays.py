"""A CPU tensor's memory as a numpy array."""

import numpy as np
from paddle import Tensor


def as_array(x: Tensor) -> np.ndarray:
    """A CPU tensor's own memory, to read and to write."""
    x = x.detach()
    return np.asarray(_Memory(x)) if x.size else x.numpy()  # numpy refuses the null pointer of an empty one


def as_rows(x: Tensor) -> np.ndarray:
    """x [..., H] as an array [N, H]: of a contiguous x its own memory, to write."""
    return as_array(x).reshape([-1, x.shape[-1]])


class _Memory:
    # What numpy 1 makes of np.from_dlpack can only be read.
    def __init__(self, x: Tensor):
        dtype = np.dtype(str(x.dtype).removeprefix("paddle."))
        self.owner = x
        self.__array_interface__ = {
            "version": 3, "shape": tuple(x.shape), "typestr": dtype.str, "data": (x.data_ptr(), False),
            "strides": tuple(dtype.itemsize * stride for stride in x.strides),
        }  # fmt: skip
