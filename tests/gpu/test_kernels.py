"""Attention and the masked-LM loss, against the same in float64 on a CPU."""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor
from paddle.distributed.fleet.utils import recompute

from ernie_m.model import lm_head
from ernie_m.model.attention import FlashMask, select_mask_class
from ernie_m.model.device_transfer import upload
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.training import device_summary
from tests.gpu import toys
from tests.gpu.conftest import difference
from tests.helpers.plain_model import dense_attention

DTYPES = ["float32", "bfloat16", "float16"]
DROPOUT = 0.1
BLOCK = 256  # positions whose logits are in memory at once in the exact loss


def value_and_gradients(function: Callable, arrays: Sequence[np.ndarray], dtype: str) -> list[np.ndarray]:
    """function(*arrays) in this type, and its gradient by each array, for a fixed gradient of its value."""
    inputs = [paddle.to_tensor(array).astype(dtype) for array in arrays]
    for tensor in inputs:
        tensor.stop_gradient = False
    value = function(*inputs)
    gradient_of_value = paddle.to_tensor(np.random.default_rng([toys.SEED, 5]).normal(size=value.shape))
    (value.astype("float64") * gradient_of_value).sum().backward()
    return [tensor.astype("float64").numpy() for tensor in (value, *(tensor.grad for tensor in inputs))]


def error_of(function: Callable, exact: Callable, arrays: Sequence[np.ndarray], dtype: str) -> float:
    """The difference of a function's value and gradients in this type from exact ones, computed by a CPU."""
    # The inputs are rounded first, so that their rounding does not count as the function's.
    arrays = [paddle.to_tensor(array).astype(dtype).astype("float64").numpy() for array in arrays]
    values = value_and_gradients(function, arrays, dtype)
    location = paddle.device.get_device()
    paddle.set_device("cpu")
    exact_values = value_and_gradients(exact, arrays, "float64")
    if location != "cpu":
        paddle.set_device(location)
    return difference(values, exact_values)


def attention(layout: PackedLayout, heads: int, x: Tensor) -> Tensor:
    """The attention of models; x as for `dense_attention`."""
    is_half = x.dtype in (paddle.float16, paddle.bfloat16)
    kind = FlashMask if device_summary.name_attention(is_half) == "FlashMask" else select_mask_class()
    query, key, value = x.split(3, axis=-1)
    return upload(kind.from_layout(layout)).attend(query, key, value, heads, dropout_rate=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_equals_float64(location, bound, check, dtype):
    """12 heads of 64 numbers on a GPU; full rows, packed ones, and sequences with placeholders."""
    longest, heads, size = (512, 12, 64) if location == "gpu" else (64, 2, 16)
    lengths = [length for length in (8, 33, 64, 200, 512, 9) if length <= longest]
    context_lengths = [max(1, 3 * length // 4) for length in lengths]  # the other tokens are placeholders
    errors = []
    limit = bound(dtype)
    for layout in (
        PackedLayout([longest, longest]),
        PackedLayout(lengths),
        PackedLayout(lengths, context_lengths),
    ):
        padded = layout.pad_to_multiple(FlashMask.multiple)
        x = np.random.default_rng([toys.SEED, 4]).normal(size=[padded.tokens, 3 * heads * size])
        functions = (partial(attention, padded, heads), partial(dense_attention, padded, heads))
        errors.append(error_of(*functions, [x], dtype))
    check(max(errors), limit)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_flash_mask_dropout(bound, check, dtype):
    """It keeps values of 1 in the mean, and the backward pass drops what the forward pass dropped."""
    limit = bound(dtype)
    if device_summary.name_attention(is_half_precision=True) != "FlashMask":
        pytest.skip("no FlashMask on this device")
    heads = 2
    layout = PackedLayout([200, 56])
    mask = upload(FlashMask.from_layout(layout))
    arrays = np.random.default_rng([toys.SEED, 8]).normal(size=[3, layout.tokens, heads * 64])
    query, key, value = [paddle.to_tensor(array).astype(dtype) for array in arrays]

    def attend(value: Tensor) -> Tensor:
        paddle.seed(7)
        return mask.attend(query, key, value, heads, dropout_rate=DROPOUT).astype("float32")

    ones = attend(paddle.ones_like(value)).numpy()
    # The kernel's dropout has 8 bits: 0.1 is 26 of 256, so it keeps 0.898 of the weights, times 1 / 0.9.
    assert np.std(ones) > 0.005 and abs(np.mean(ones) - 1.0) < 0.02
    # out = P v with the dropped weights P, so <P^T out, v> = <out, out>.
    value.stop_gradient = False
    output = attend(value)
    output.backward(output.detach())
    backward = (value.grad.astype("float32") * value.detach().astype("float32")).sum().item()
    check(difference([[backward]], [[output.detach().square().sum().item()]]), limit)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_lm_loss_equals_float64(location, bound, check, monkeypatch, dtype):
    """The loss of two chunks of positions, with a factor for each; on a GPU with the vocabulary of XLM-R."""
    words, size = (250_002, 64) if location == "gpu" else (1002, 16)
    limit = bound(dtype)
    if location != "gpu":
        monkeypatch.setattr(lm_head, "LOGITS_BYTES", 40 * words * 4)
    # The second chunk has 8.
    positions = lm_head.split_into_logit_chunks(1 << 16, words, paddle.float32)[0].stop + 8
    rng = np.random.default_rng([toys.SEED, 2])
    arrays = [
        rng.normal(size=[positions, size]),
        0.2 * rng.normal(size=[words, size]),
        rng.normal(size=[words]),
    ]
    labels = rng.integers(0, words, positions)
    # The last positions count most, so that a wrong second chunk is not lost among the others.
    factors = np.linspace(0.1, 1.9, positions) / positions
    factors[-8:] *= 5.0

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # What the loss reads of a `WordEmbeddings`.
        table = SimpleNamespace(weight=weight, gradient=None, in_bfloat16=False)
        inputs = (x, table, bias, paddle.to_tensor(labels), paddle.to_tensor(factors))
        return lm_head.compute_cross_entropy(*inputs).total

    def exact(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        losses = []
        for start in range(0, positions, BLOCK):
            rows = slice(start, start + BLOCK)
            inputs = (x[rows], weight, bias, paddle.to_tensor(labels[rows]))
            losses.append((recompute(_cross_entropy, *inputs) * paddle.to_tensor(factors[rows])).sum())
        return paddle.add_n(losses)

    check(error_of(loss, exact, arrays, dtype), limit)


def _cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """The definition of the losses."""
    logits = paddle.matmul(x, weight, transpose_y=True) + bias
    return F.cross_entropy(logits, labels, reduction="none")
