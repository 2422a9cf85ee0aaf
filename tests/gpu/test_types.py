"""The type rules of a GPU on a CPU, by which the other tests of this folder run in half precision."""

import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor
from paddle.distributed.fleet.utils import recompute

HALF = paddle.bfloat16


def of(dtype: paddle.dtype, *numbers: float) -> Tensor:
    """The numbers as a matrix [1, n]."""
    return paddle.to_tensor([numbers]).astype(dtype)


@pytest.mark.parametrize(
    ("operation", "dtype"),
    [
        (lambda half, single: paddle.matmul(single, single, transpose_y=True), HALF),  # on the white list
        (lambda half, single: paddle.exp(half), paddle.float32),  # on the black list
        (lambda half, single: F.cross_entropy(half, paddle.to_tensor([0])), paddle.float32),
        (lambda half, single: F.gelu(half), HALF),  # on no list
        (lambda half, single: paddle.concat([half, single]), paddle.float32),
    ],
)
def test_autocast_chooses_the_type(gpu_types, operation, dtype):
    inputs = of(HALF, 1.0, 2.0), of(paddle.float32, 1.0, 2.0)
    with paddle.amp.auto_cast(dtype="bfloat16"):
        assert operation(*inputs).dtype == dtype


def test_a_recomputed_function_is_within_autocast_again(gpu_types):
    x = of(paddle.float32, 1.0, 2.0)
    x.stop_gradient = False
    types = []

    def product(x: Tensor) -> Tensor:
        y = paddle.matmul(x, x, transpose_y=True)
        types.append(y.dtype)
        return y.astype("float32").sum()

    with paddle.amp.auto_cast(dtype="bfloat16"):
        loss = recompute(product, x)
    loss.backward()
    assert types == [HALF, HALF] and x.grad.dtype == paddle.float32


def test_numbers_of_different_types(gpu_types):
    """Only sums and the like take them; the result has the wider type."""
    half = of(HALF, 1.0, 2.0)
    single = of(paddle.float32, 1.0, 2.0)
    bounds = paddle.zeros([1, 1, 1, 2], "int32")
    assert (half + single).dtype == paddle.float32
    for operation in (
        lambda: paddle.matmul(half, single, transpose_y=True),
        lambda: paddle.concat([half, single]),
        lambda: paddle.scatter_nd_add(half[0], paddle.to_tensor([[0]]), single[0, :1]),
        lambda: F.flashmask_attention(*[x.reshape([1, 1, 1, 2]) for x in (half, half, single)], bounds),
        lambda: F.flashmask_attention(*[single.reshape([1, 1, 1, 2])] * 3, bounds),
    ):
        with pytest.raises(TypeError, match="float32"):
            operation()


def test_results_are_rounded(gpu_types):
    """bfloat16 has 8 bits."""
    assert (of(HALF, 1.0) + of(HALF, 2.0**-9)).item() == 1.0
    assert (of(HALF, 1.0) + of(HALF, 2.0**-7)).item() == 1.0 + 2.0**-7
