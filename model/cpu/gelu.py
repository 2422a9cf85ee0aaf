"""Gelu by its definition, with the error function."""

import math

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from model.cpu.rows import as_array, as_rows, as_tensor, over_rows


class GeluOnCpu(PyLayer):
    """x times the normal distribution's cdf at x: [..., H] -> [..., H].

    The derivative, cdf + x pdf, is made in the forward pass, where the cdf is at hand, and replaces x.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = paddle.empty_like(x)
        derivative = paddle.empty_like(x)
        x_rows = as_rows(x)
        y_rows = as_rows(y)
        derivative_rows = as_rows(derivative)  # [N, H]

        def work(rows: slice) -> None:
            x_part = x_rows[rows]
            slope = derivative_rows[rows]
            scaled = x_part * math.sqrt(0.5)  # x / sqrt(2)
            # erf(x / sqrt(2)) / 2 + 1 / 2
            cdf = as_array(paddle.erf(as_tensor(scaled)).scale_(0.5, bias=0.5))
            # In place: first the pdf, exp(-x^2 / 2 - log(2 pi) / 2), then cdf + x pdf.
            np.multiply(scaled, scaled, out=slope)
            np.subtract(-0.5 * math.log(2 * math.pi), slope, out=slope)
            np.exp(slope, out=slope)
            slope *= x_part
            slope += cdf
            np.multiply(cdf, x_part, out=y_rows[rows])

        over_rows(work, *x_rows.shape)
        ctx.save_for_backward(derivative)
        return y

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensor()
        grad_x = paddle.empty_like(grad_y)
        grad_y_rows = as_rows(grad_y)
        derivative_rows = as_rows(derivative)
        grad_x_rows = as_rows(grad_x)

        def derive(rows: slice) -> None:
            np.multiply(grad_y_rows[rows], derivative_rows[rows], out=grad_x_rows[rows])

        over_rows(derive, *grad_y_rows.shape)
        return grad_x
