"""Gradients of which only some rows may differ from 0: a batch touches some thousand of 250,002 words.

What makes such a gradient says so on its parameter: `kept_gradient`, its memory as an array, and
`gradient_rows`, bool [rows], or None where any row may have a gradient. The norm, the clipping and the update
then leave the other rows alone.
"""

import numpy as np
import paddle
from paddle import Tensor

from utils.arrays import as_array


def rows_of_gradient(parameter: Tensor, gradient: Tensor) -> np.ndarray | None:
    """Where `gradient` may differ from 0, bool [rows]; None: anywhere."""
    kept = getattr(parameter, "kept_gradient", None)
    if kept is None or as_array(gradient).ctypes.data != kept.ctypes.data:
        return None
    return parameter.gradient_rows


def square_of_gradient(parameter: Tensor) -> Tensor:
    """The sum of the squares of `parameter.grad`, float64 []."""
    gradient, rows = parameter.grad, rows_of_gradient(parameter, parameter.grad)
    if rows is not None:
        gradient = paddle.to_tensor(as_array(gradient)[rows])
    return paddle._C_ops.squared_l2_norm(gradient).astype("float64")


def scale_gradient(parameter: Tensor, factor: float) -> None:
    """Multiply `parameter.grad` in place."""
    rows = rows_of_gradient(parameter, parameter.grad)
    if rows is None:
        parameter.grad.scale_(factor)
    else:
        as_array(parameter.grad)[rows] *= factor
