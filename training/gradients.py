"""The norm and the clipping of all gradients in few kernels, for a GPU, where starting one takes longest."""

from collections.abc import Sequence

import paddle
from paddle import Tensor


def squared_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of all gradients, float64 []."""
    if not gradients:
        return paddle.zeros([], "float64")
    # Biases and layer norms are two thirds of the parameters, but a thousandth of the numbers: joined, they
    # take one kernel.
    vectors = [gradient for gradient in gradients if gradient.ndim == 1]
    arrays = [gradient for gradient in gradients if gradient.ndim != 1]
    if vectors:
        arrays.append(paddle.concat(vectors))
    squares = [paddle._C_ops.squared_l2_norm(array) for array in arrays]  # [1] each
    return paddle.concat(squares).astype("float64").sum()


def divide_(gradients: Sequence[Tensor], divisor: float) -> None:
    """Divide all gradients, which have one dtype, by a number in place."""
    # Paddle's kernel for undoing a loss scale. It also says whether all gradients are finite, which is known
    # from their norm here.
    paddle._C_ops.check_finite_and_unscale_(list(gradients), paddle.full([1], divisor, gradients[0].dtype))
