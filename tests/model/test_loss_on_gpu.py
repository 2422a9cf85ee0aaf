"""The masked-LM loss of a GPU, computed by a CPU: it is right in half precision, and moves few bytes.

test_word_table.py compares it with its definition in float64.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest

from model import device, loss_on_gpu, masked_loss
from model.word_table import WordEmbeddings
from tests.helpers.operations import Operations, recorded_operations

WORDS = 130  # 192 with padding
SIZE = 6
COUNT = 140  # more positions than words, so that no operation on the table counts as one on the logits


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(device, "on_cpu", lambda x: False)


class Example:
    """States, table, bias, labels and weights; their loss by `cross_entropy`, and by its definition.

    A third of the labels are those with the highest logit.
    """

    def __init__(self, dtype: str):
        paddle.set_default_dtype(dtype)
        self.table = WordEmbeddings(WORDS, SIZE)
        paddle.set_default_dtype("float32")
        paddle.seed(0)
        self.x = self.with_gradient(paddle.randn([COUNT, SIZE], dtype))
        self.weight = self.table.weight
        self.weight.set_value(paddle.randn([WORDS, SIZE], dtype))
        self.bias = self.with_gradient(paddle.randn([WORDS], dtype))
        highest = (paddle.matmul(self.x, self.weight, transpose_y=True) + self.bias).argmax(1)
        self.labels = paddle.where(paddle.arange(COUNT) % 3 == 0, highest, paddle.randint(0, WORDS, [COUNT]))
        self.weights = paddle.linspace(-1.0, 3.0, COUNT).astype(dtype)

    @staticmethod
    def with_gradient(tensor: paddle.Tensor) -> paddle.Tensor:
        """The tensor, which gets a gradient from now on."""
        tensor.stop_gradient = False
        return tensor

    def loss(self) -> masked_loss.MaskedLoss:
        return masked_loss.cross_entropy(self.x, self.table, self.bias, self.labels, self.weights)

    def definition(self) -> masked_loss.MaskedLoss:
        logits = paddle.matmul(self.x, self.weight, transpose_y=True) + self.bias
        label_logit = paddle.take_along_axis(logits, self.labels.unsqueeze(1), 1).squeeze(1)
        losses = paddle.logsumexp(logits, 1) - label_logit
        return masked_loss.MaskedLoss((losses * self.weights).sum(), losses, logits.argmax(1) == self.labels)

    def arrays(self, loss: masked_loss.MaskedLoss, factor: float = 1.0) -> list[np.ndarray]:
        """The total, each position's loss, and whether its label is the highest logit; then the gradients of
        `factor` x total by states, table and bias.
        """
        (loss.total * factor).backward()
        arrays = [np.asarray(value.numpy()) for value in loss]
        for tensor in (self.x, self.weight, self.bias):
            arrays.append(tensor.grad.numpy().copy())
            tensor.grad = None
        return arrays


@pytest.mark.parametrize(("gigabytes", "positions"), [(0, 1073), (24, 1073), (40, 4294), (80, 4294)])
def test_chunks_are_as_large_as_the_card_allows(monkeypatch, gigabytes, positions):
    """Base has 250,048 padded words, whose logits have 2 bytes: 1,073 positions fit into 512 MiB, 4,294 into
    2 GiB. A card reports a little less memory than it is sold with.
    """
    monkeypatch.setattr(device, "memory", lambda: int(gigabytes * 0.98 * (1 << 30)))
    first, *_, last = masked_loss.logit_chunks(10_000, 250_048, 2)
    assert (first, last.stop) == (slice(0, positions), 10_000)


def in_float16(x: paddle.Tensor) -> paddle.Tensor:
    """The nearest numbers of float16, as numpy rounds them, in the type of x."""
    array = x.numpy()
    return paddle.to_tensor(array.astype(np.float16).astype(array.dtype))


def round_to_float16(monkeypatch) -> None:
    """From now on the inputs and results of products and of the fused operations are rounded to float16."""
    softmax = paddle._C_ops.cross_entropy_with_softmax_
    matmul = paddle.matmul

    def rounded_matmul(x, y, **options):
        return in_float16(matmul(in_float16(x), in_float16(y), **options))

    def rounded_softmax(*args):
        return [in_float16(result) for result in softmax(*args)]

    monkeypatch.setattr(paddle, "matmul", rounded_matmul)
    monkeypatch.setattr(paddle._C_ops, "cross_entropy_with_softmax_", rounded_softmax)


def test_small_weights_survive_float16(monkeypatch):
    """A weight of 1e-9 for each loss, and a loss scale of 65536: float16 has no numbers below 6e-8."""
    example = Example("float32")
    for tensor in (example.x, example.weight, example.bias):
        tensor.set_value(tensor * 0.3)
    example.weights = paddle.full([COUNT], 1e-9)
    _, _, _, *expected = example.arrays(example.definition(), factor=65536.0)
    round_to_float16(monkeypatch)
    _, _, _, *gradients = example.arrays(example.loss(), factor=65536.0)
    for gradient, plain in zip(gradients, expected, strict=True):
        assert 0 < np.abs(gradient - plain).max() < 0.02 * np.abs(plain).max()


def test_the_weights_are_not_multiplied_in_half_precision(monkeypatch):
    """float32 stands here for half precision, and float64 for float32. In float32, 1e-50 is 0."""
    monkeypatch.setattr(device, "product_dtype", lambda x: paddle.float32)
    example = Example("float64")
    example.weights = paddle.full([COUNT], 1e-50, "float64")
    _, _, _, *expected = example.arrays(example.definition(), factor=1e50)
    _, _, _, *gradients = example.arrays(example.loss(), factor=1e50)
    for gradient, plain in zip(gradients, expected, strict=True):
        assert np.abs(gradient - plain).max() < 1e-4 * np.abs(plain).max()


def test_losses_without_weights_have_a_gradient_of_0():
    example = Example("float64")
    example.weights = paddle.zeros([COUNT], "float64")
    total, _, _, *gradients = example.arrays(example.loss())
    assert total == 0.0
    assert all((gradient == 0.0).all() for gradient in gradients)


def test_gradients_of_chunks_are_added_up_in_full_precision(monkeypatch):
    """Each position is a chunk, and all are the same. In half precision the first would swallow the others.

    float32 stands here for half precision: in it, 2^25 + 1 is 2^25.
    """
    monkeypatch.setattr(device, "product_dtype", lambda x: paddle.float32)
    monkeypatch.setattr(masked_loss, "LOGITS_BYTES", 192 * 4)
    example = Example("float64")
    example.x.set_value(example.x[:1].expand([COUNT, SIZE]))
    example.labels = paddle.zeros([COUNT], "int64")
    example.weights = paddle.concat([paddle.full([1], 2.0**25), paddle.ones([COUNT - 1])]).astype("float64")
    _, _, _, _, *expected = example.arrays(example.definition())
    _, _, _, _, *gradients = example.arrays(example.loss())
    for gradient, plain in zip(gradients, expected, strict=True):
        assert np.abs(gradient - plain).max() < 3e-7 * np.abs(plain).max()


@pytest.fixture
def operations(monkeypatch) -> Iterator[Operations]:
    return recorded_operations(monkeypatch)


def test_a_logit_is_moved_in_14_bytes(monkeypatch, operations):
    """Of them all; padded words count.

    float32 stands here for half precision, whose numbers have 2 bytes, and float64 for float32, with 4.
    """
    monkeypatch.setattr(device, "product_dtype", lambda x: paddle.float32)
    example = Example("float64")
    operations.begin()
    example.loss().total.backward()
    moved = operations.bytes_of_tensors_with(COUNT * WORDS, {paddle.float32: 2, paddle.float64: 4})
    assert moved / (COUNT * 192) <= 14


def test_the_table_is_cast_once(monkeypatch, operations):
    """Though the loss is computed in three chunks."""
    monkeypatch.setattr(device, "product_dtype", lambda x: paddle.float32)
    monkeypatch.setattr(masked_loss, "LOGITS_BYTES", 50 * 192 * 4)  # of 50 of the 140 positions
    example = Example("float64")
    operations.begin()
    loss = example.loss()
    assert sum(call.name == "cross_entropy_with_softmax_" for call in operations) == 3
    casts = [call for call in operations if call.name == "cast" and call.inputs[0].shape == [WORDS, SIZE]]
    assert len(casts) == 1 and casts[0].outputs[0].dtype == paddle.float32
    loss.total.backward()


def test_held_out_losses_are_computed_in_full_precision(monkeypatch, operations):
    """Though the products are not. float32 stands here for half precision, and float64 for float32."""
    monkeypatch.setattr(device, "product_dtype", lambda x: paddle.float32)
    example = Example("float64")
    operations.begin()
    with paddle.no_grad():
        losses = example.loss().losses
    (softmax,) = [call for call in operations if call.name == "cross_entropy_with_softmax_"]
    assert softmax.inputs[0].dtype == losses.dtype == paddle.float64


def test_the_operation_of_paddle():
    """It computes in place, and takes the arguments that Paddle's own function passes."""
    logits = paddle.randn([3, 5])
    column = paddle.to_tensor([[1], [0], [4]])
    options = loss_on_gpu.SOFTMAX_OPTIONS
    softmax, losses = paddle._C_ops.cross_entropy_with_softmax_(logits, column, *options)
    assert softmax.data_ptr() == logits.data_ptr() and losses.shape == [3, 1]
    header = Path(paddle.__file__).parent / "include/paddle/phi/api/include/api.h"
    (line,) = (line for line in header.read_text().splitlines() if " cross_entropy_with_softmax_(" in line)
    names = ("soft_label", "use_softmax", "numeric_stable_mode", "ignore_index", "axis")
    for name, value in zip(names, options, strict=True):
        assert f"{name} = {str(value).lower()}" in line  # its default in C++, such as "axis = -1"
    assert "cross_entropy_with_softmax(" in inspect.getsource(paddle.nn.functional.cross_entropy)
