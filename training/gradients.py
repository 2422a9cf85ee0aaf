"""The norm and the clipping of all gradients in few kernels, for a GPU, where starting one takes longest."""

from collections.abc import Sequence

import paddle
from paddle import Tensor


def squared_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of all gradients, float64 []."""
    if not gradients:
        return paddle.zeros([], "float64")
    vectors = [gradient for gradient in gradients if gradient.ndim == 1]
    others = [gradient for gradient in gradients if gradient.ndim != 1]
    if vectors:  # two thirds of the parameters, and a thousandth of the numbers
        others.append(paddle.concat(vectors))
    squares = [paddle._C_ops.squared_l2_norm(gradient) for gradient in others]  # [1] each
    return paddle.concat(squares).astype("float64").sum()


def divide_(gradients: Sequence[Tensor], divisor: float) -> None:
    """Divide all gradients, which have one type, by a number in place."""
    # What Paddle undoes a loss scale with. It also says whether a gradient is finite, which is known here.
    paddle._C_ops.check_finite_and_unscale_(list(gradients), paddle.full([1], divisor, gradients[0].dtype))
