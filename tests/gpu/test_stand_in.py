"""The stand-in for a GPU does what its description says, or faults of a card would look like none."""

from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor

from tests.gpu import stand_in as stand_ins
from tests.gpu.stand_in import READ, UPLOAD

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
def test_autocast_chooses_the_type(stand_in, operation, dtype):
    half = of(HALF, 1.0, 2.0)
    single = of(paddle.float32, 1.0, 2.0)
    with paddle.amp.auto_cast(dtype="bfloat16"):
        assert operation(half, single).dtype == dtype


def test_numbers_of_different_types(stand_in):
    """Only sums and the like take them; the result has the wider type."""
    half = of(HALF, 1.0, 2.0)
    single = of(paddle.float32, 1.0, 2.0)
    assert (half + single).dtype == paddle.float32
    for operation in (
        lambda: paddle.matmul(half, single, transpose_y=True),
        lambda: paddle.concat([half, single]),
        lambda: paddle.index_add_(single, paddle.to_tensor([0]), 0, half),
        lambda: F.flashmask_attention(*[x.reshape([1, 1, 1, 2]) for x in (half, half, single)], None),
    ):
        with pytest.raises(TypeError, match="bfloat16 and paddle.float32"):
            operation()


def test_numbers_are_rounded(stand_in):
    """bfloat16 has 8 bits, the products of float32 have 11 of TF32, and other operations all 24."""
    eps = 2.0**-12
    assert (of(HALF, 1.0) + of(HALF, 2.0**-9)).item() == 1.0
    assert (of(HALF, 1.0) + of(HALF, 2.0**-7)).item() == 1.0 + 2.0**-7
    assert paddle.matmul(of(paddle.float32, 1.0 + eps), of(paddle.float32, 1.0)).item() == 1.0
    assert paddle.matmul(of(paddle.float32, 1.0 + 4 * eps), of(paddle.float32, 1.0)).item() == 1.0 + 4 * eps
    assert (of(paddle.float32, 1.0 + eps) * 1.0).item() == 1.0 + eps


def test_a_v100_has_no_tf32():
    with stand_ins.installed(stand_ins.V100):
        assert paddle.matmul(of(paddle.float32, 1.0 + 2.0**-12), of(paddle.float32, 1.0)).item() > 1.0


def attend_and_derive() -> None:
    """FlashMask for one sequence of 128 tokens, forward and backward."""
    x = paddle.ones([1, 128, 1, 8], HALF)
    x.stop_gradient = False
    bounds = paddle.full([1, 1, 128, 2], 0, "int32")
    F.flashmask_attention(x, x, x, bounds).sum().backward()


@pytest.mark.parametrize(
    ("work", "copies"),
    [
        (lambda: paddle.to_tensor(np.ones(3)), [UPLOAD]),
        (attend_and_derive, [UPLOAD]),  # the seed, in the backward pass
        (
            lambda: paddle._C_ops.check_finite_and_unscale_([paddle.ones([3])], paddle.ones([1])),
            [UPLOAD, UPLOAD],
        ),
        (lambda: paddle.ones([3]).numpy(), [READ]),
        (lambda: paddle.ones([3]).tolist(), [READ]),
        (lambda: float(paddle.ones([1])), [READ]),
        (lambda: paddle.ones([1]).item(), [READ]),
        (lambda: bool(paddle.ones([1]) > 0.0), [READ]),
    ],
)
def test_copies_are_counted(stand_in, work: Callable[[], object], copies):
    events = stand_in.profiled(work)
    assert [event for event in events if event[0] != "Kernel"] == copies
