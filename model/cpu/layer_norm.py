"""Layer norm over the last axis."""

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from model.cpu.linear import column_sum
from model.cpu.rows import as_array, as_rows, needs_gradient, over_rows, row_dots, row_sums


class LayerNormOnCpu(PyLayer):
    """(x - mean) / sqrt(variance + epsilon) times weight [H], plus bias [H]: [..., H] -> [..., H]."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        y = paddle.empty_like(x)
        normed = paddle.empty_like(x)
        x_rows = as_rows(x)
        y_rows = as_rows(y)
        normed_rows = as_rows(normed)  # [N, H]
        weight_array = as_array(weight)  # [H]
        bias_array = as_array(bias)  # [H]
        size = x.shape[-1]
        scale = np.empty([len(x_rows), 1], x_rows.dtype)  # 1 / sqrt(variance + epsilon), [N, 1]

        def norm(rows: slice) -> None:
            mean = row_sums(x_rows[rows]) / size
            part = np.subtract(x_rows[rows], mean, out=normed_rows[rows])
            variance = row_dots(part, part) / size
            scale[rows] = 1.0 / np.sqrt(variance + epsilon)
            part *= scale[rows]
            np.multiply(part, weight_array, out=y_rows[rows])
            y_rows[rows] += bias_array

        over_rows(norm, *x_rows.shape)
        ctx.save_for_backward(normed, weight)
        ctx.scale = scale
        ctx.needs_gradient = needs_gradient(x, weight, bias)
        return y

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        normed, weight = ctx.saved_tensor()
        x_needs, weight_needs, bias_needs = ctx.needs_gradient
        grad_bias = column_sum(grad_y) if bias_needs else None
        grad_weight = column_sum(grad_y * normed) if weight_needs else None
        grad_x = _grad_x(grad_y, normed, weight, ctx.scale) if x_needs else None
        return grad_x, grad_weight, grad_bias


def _grad_x(grad_y: Tensor, normed: Tensor, weight: Tensor, scale: np.ndarray) -> Tensor:
    """The gradient of x: scale * (g - mean(g) - normed * mean(g * normed)), where g = grad_y * weight.

    Args:
        grad_y: [..., H]; the result has its shape.
        normed: (x - mean) * scale, [..., H].
        scale: [N, 1], 1 / sqrt(variance + epsilon) of each row.
    """
    grad_x = paddle.empty_like(grad_y)
    grad_y_rows = as_rows(grad_y)
    normed_rows = as_rows(normed)
    grad_x_rows = as_rows(grad_x)
    weight_array = as_array(weight)  # [H]
    size = grad_y.shape[-1]

    def derive(rows: slice) -> None:
        part = np.multiply(grad_y_rows[rows], weight_array, out=grad_x_rows[rows])  # g at first
        mean_of_products = row_dots(part, normed_rows[rows]) / size  # mean(g * normed), [rows, 1]
        part -= row_sums(part) / size  # mean(g)
        part -= mean_of_products * normed_rows[rows]
        part *= scale[rows]

    over_rows(derive, *grad_y_rows.shape)
    return grad_x
