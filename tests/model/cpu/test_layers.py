"""Every layer of `model/cpu/` has the values and gradients of plain Paddle, within 1e-9 in float64.

oneDNN computes GELU and layer norm in float32; they are within 1e-5 of Paddle's in float64.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from ernie_m.model import layers
from ernie_m.model.cpu import attention, numpy_views
from ernie_m.model.cpu.attention_mask import CpuMask
from ernie_m.model.cpu.layers import SequenceSums
from ernie_m.model.dropout_stream import DropoutStream
from ernie_m.model.packed_layout import PackedLayout
from tests.helpers.kernels import needs_mkl
from tests.helpers.plain_model import dense_attention
from tests.model.cpu.dense_dropout import draw_dense_dropout

TOLERANCE = 1e-9


@pytest.fixture(autouse=True, params=[1, 3])
def float64(float64, request, monkeypatch):
    """New tensors are float64.

    The layers compute with 1 or 3 threads, which have several blocks of rows each.
    """
    monkeypatch.setattr(numpy_views, "get_usable_thread_count", lambda: request.param)
    monkeypatch.setattr(numpy_views, "BLOCK", 16)
    numpy_views._get_thread_pool.cache_clear()  # the next call makes a pool of so many threads


def value_and_gradients(function, x, weight, *parameters) -> list[np.ndarray]:
    """f(x), and the gradients of the sum of weight * f(x) by x and by each of the parameters."""
    x = x.clone().detach()
    x.stop_gradient = False
    y = function(x)
    (y * weight).sum().backward()
    gradients = [tensor.grad.numpy() for tensor in (x, *parameters)]
    for parameter in parameters:
        parameter.clear_grad()
    return [y.numpy(), *gradients]


def assert_same(plain: list[np.ndarray], arrays: list[np.ndarray], tolerance: float = TOLERANCE) -> None:
    for expected, array in zip(plain, arrays, strict=True):
        assert array.shape == expected.shape
        assert np.abs(array - expected).max() < tolerance
        assert np.abs(expected).max() > 1e-3  # something is compared


def test_visit_all_rows_once_and_raise_errors():
    """50 rows with a block of 5; an exception in a thread is raised in the caller."""
    visits = np.zeros(50, int)

    def work(part: slice) -> None:
        visits[part] += 1
        if part.stop > 60:  # of 61 rows, only the last part
            raise ValueError("the last rows")

    numpy_views.run_on_row_slices(work, 50, 5)
    assert (visits == 1).all()
    with pytest.raises(ValueError, match="the last rows"):
        numpy_views.run_on_row_slices(work, 61, 5)


@pytest.mark.parametrize("shape", [[3, 5, 8], [5, 8], [1, 8]])
def test_linear_layer_equals_paddle(shape):
    layer = layers.Linear(8, 6)
    plain = nn.Linear(8, 6)
    plain.bias.set_value(paddle.arange(6, dtype="float64"))
    layer.set_state_dict(plain.state_dict())
    x = paddle.randn(shape)
    weight = paddle.randn([*shape[:-1], 6])
    assert_same(
        value_and_gradients(plain, x, weight, plain.weight, plain.bias),
        value_and_gradients(layer, x, weight, layer.weight, layer.bias),
    )


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e3])
def test_layer_norm_is_as_near_to_float64_as_paddle(spread):
    layer = layers.LayerNorm(8, 1e-5)
    plain = nn.LayerNorm(8, 1e-5)
    plain.weight.set_value(paddle.linspace(-1, 2, 8))
    plain.bias.set_value(paddle.linspace(3, 4, 8))
    layer.set_state_dict(plain.state_dict())
    layer.to(dtype="float32")
    x = (paddle.randn([3, 5, 8]) * spread + 2).astype("float32")
    weight = paddle.randn([3, 5, 8], "float32")
    expected = value_and_gradients(
        plain, x.astype("float64"), weight.astype("float64"), plain.weight, plain.bias
    )
    arrays = value_and_gradients(layer, x, weight, layer.weight, layer.bias)
    plain.to(dtype="float32")
    of_paddle = value_and_gradients(plain, x, weight, plain.weight, plain.bias)
    # The gradient of x grows as 1 / spread, up to 1 / sqrt(epsilon). If the spread is small next to the mean,
    # nothing in float32 is exact: then Paddle's own error counts.
    for exact, array, array_of_paddle in zip(expected, arrays, of_paddle, strict=True):
        tolerance = 1e-5 * np.abs(exact).max() + 2 * np.abs(array_of_paddle - exact).max()
        assert np.abs(array - exact).max() < tolerance


def test_gelu_equals_paddle():
    x = paddle.concat([paddle.linspace(-9, 9, 181), paddle.to_tensor([0.0, -40.0, 40.0])])
    weight = paddle.linspace(-2, 3, 184)
    in_float32 = value_and_gradients(layers.gelu, x.astype("float32"), weight.astype("float32"))
    assert_same(value_and_gradients(F.gelu, x, weight), in_float32, tolerance=1e-5)


def test_dropout_edges():
    x = paddle.randn([5, 3])
    assert layers.dropout(x, 0.3, training=False) is x
    assert layers.dropout(x, 0.0, training=True) is x
    assert not layers.dropout(x, 1.0, training=True).numpy().any()
    assert layers.dropout(x.astype("float32"), 0.1, training=True).dtype == paddle.float32
    # A probability is rounded to 1/65536, and this one to 0.
    assert np.array_equal(layers.dropout(x, 1e-6, training=True).numpy(), x.numpy())
    assert layers.dropout(x[:0], 0.1, training=True).shape == [0, 3]


@pytest.mark.parametrize("frozen", [None, "x", "residual"])
def test_dropout_adds_the_residual(frozen):
    """The same mask as without it, and a gradient for what is not frozen."""
    x, residual, weight = (paddle.randn([50, 40]) for _ in range(3))
    x.stop_gradient, residual.stop_gradient = frozen == "x", frozen == "residual"
    results = []
    for compute in (
        lambda: layers.dropout(x, 0.4, True) + residual,
        lambda: layers.dropout(x, 0.4, True, residual),
    ):
        paddle.seed(7)
        y = compute()
        inputs = [tensor for tensor in (x, residual) if not tensor.stop_gradient]
        results.append([y.numpy(), *(tensor.numpy() for tensor in paddle.grad((y * weight).sum(), inputs))])
    assert_same(*results)


def test_dropout_masks_of_a_stream(monkeypatch):
    """Mask i, from 1, has 16 random bits for each element, of SFC64 with the key and i, in parts of 100.

    What stays is rescaled, and so is its gradient.
    """
    monkeypatch.setattr("ernie_m.model.cpu.layers.PART_SIZE", 100)
    x, weight = paddle.randn([2, 103]), paddle.randn([2, 103])
    with DropoutStream((3, 5)):
        results = [value_and_gradients(lambda x: layers.dropout(x, 0.4, True), x, weight) for _ in range(2)]
    for number, arrays in enumerate(results, start=1):
        seeds = [np.random.SeedSequence([3, 5, number], spawn_key=key) for key in ((), (1,), (2,))]
        bits = np.stack([np.random.SFC64(seed).random_raw(25).view(np.uint16) for seed in seeds])
        factors = np.where(bits.ravel()[:206] < 39322, 65536 / 39322, 0.0).reshape([2, 103])  # 0.6 of 65536
        assert_same([x.numpy() * factors, weight.numpy() * factors], arrays)


def test_dropout_follows_paddles_generator():
    x = paddle.ones([40, 40])
    paddle.seed(3)
    state = paddle.get_rng_state()
    first, second = (layers.dropout(x, 0.5, True).numpy() for _ in range(2))
    assert not np.array_equal(first, second)
    paddle.seed(3)
    assert np.array_equal(layers.dropout(x, 0.5, True).numpy(), first)
    paddle.set_rng_state(state)
    assert np.array_equal(layers.dropout(x, 0.5, True).numpy(), first)


HEADS = 3
# Two sequences of the same length, of which one has placeholders, and others.
LAYOUT = PackedLayout([9, 7, 8, 7, 1], [9, 4, 8, 7, 1])


@pytest.fixture(params=[6 * 7 * 7, 2 * 8 * 8])  # two sequences; two of the three heads
def small_pieces(monkeypatch, request):
    """Attention in many pieces, of some heads of a sequence or of two sequences."""
    monkeypatch.setattr("ernie_m.model.cpu.attention.CHUNK", request.param)
    attention._blocks.cache_clear()


def attend(x: paddle.Tensor, dropout_rate: float) -> paddle.Tensor:
    """As `dense_attention`, with always the same draw of dropout."""
    query, key, value = x.split(3, axis=-1)
    paddle.seed(5)
    return CpuMask.from_layout(LAYOUT).attend(query, key, value, HEADS, dropout_rate)


@needs_mkl
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dropout_rate", [0.0, 0.4])
def test_attention_equals_dense_attention_with_the_same_dropout(dropout_rate):
    """With the mask and the scale of dropout in both passes."""
    paddle.seed(5)
    dropout = draw_dense_dropout(LAYOUT, HEADS, dropout_rate, is_float32=True)
    x = paddle.randn([LAYOUT.tokens, 36])
    weight = paddle.randn([LAYOUT.tokens, 12])
    assert_same(
        value_and_gradients(lambda x: dense_attention(LAYOUT, HEADS, x, dropout), x, weight),
        value_and_gradients(lambda x: attend(x, dropout_rate), x, weight),
    )


@needs_mkl
@pytest.mark.usefixtures("small_pieces")
def test_softmax_handles_extreme_scores():
    """A query whose greatest score is far below another's, and scores that exp() would make infinite."""
    x = paddle.randn([LAYOUT.tokens, 36])
    x[:, :24] *= 100.0
    weight = paddle.randn([LAYOUT.tokens, 12])
    expected = value_and_gradients(lambda x: dense_attention(LAYOUT, HEADS, x), x, weight)
    for plain, array in zip(expected, value_and_gradients(lambda x: attend(x, 0.0), x, weight), strict=True):
        assert np.abs(array - plain).max() < 1e-9 * np.abs(plain).max()


@needs_mkl
@pytest.mark.usefixtures("small_pieces")
def test_sum_sequences_by_weight():
    x = paddle.randn([LAYOUT.tokens, 12])
    weights = np.random.default_rng(0).random(LAYOUT.tokens)
    weight = paddle.randn([5, 12])
    matrix = np.zeros([5, LAYOUT.tokens])  # the weight of each token in each sequence's sum
    matrix[LAYOUT.sequence_indices(), range(LAYOUT.tokens)] = weights
    assert_same(
        value_and_gradients(lambda x: paddle.matmul(paddle.to_tensor(matrix), x), x, weight),
        value_and_gradients(lambda x: SequenceSums.apply(x, weights, LAYOUT), x, weight),
    )


class Block(nn.Layer):
    """A linear layer, gelu, dropout and a norm."""

    def __init__(self):
        super().__init__()
        self.linear = layers.Linear(8, 8)
        self.norm = layers.LayerNorm(8, 1e-5)

    def forward(self, x):
        return self.norm(layers.dropout(layers.gelu(self.linear(x)), 0.3, self.training))


def test_recompute_draws_the_same_dropout():
    block = Block()
    x = paddle.randn([4, 8])
    weight = paddle.randn([4, 8])
    paddle.seed(5)
    expected = value_and_gradients(block, x, weight, *block.parameters())
    paddle.seed(5)
    assert_same(expected, value_and_gradients(lambda x: recompute(block, x), x, weight, *block.parameters()))


def test_frozen_parameters_and_partial_gradients():
    """The gradients of the other tensors are those that they have without frozen ones."""
    block = Block()
    x = paddle.randn([4, 8])
    weight = paddle.randn([4, 8])
    block.eval()
    # The value, then the gradients of x, of weight and bias of the linear layer, and of those of the norm.
    _, grad_x, _, _, grad_norm_weight, _ = value_and_gradients(block, x, weight, *block.parameters())
    x.stop_gradient = False
    for parameter in block.parameters():  # what paddle.grad is not asked for
        parameter.stop_gradient = True
    (partial,) = paddle.grad((block(x) * weight).sum(), [x])
    assert np.array_equal(partial.numpy(), grad_x)
    for parameter in block.parameters():
        parameter.stop_gradient = False
    block.linear.weight.stop_gradient = block.norm.bias.stop_gradient = True
    (block(x) * weight).sum().backward()
    assert np.array_equal(x.grad.numpy(), grad_x)
    assert not block.linear.weight.grad.numpy().any() and not block.norm.bias.grad.numpy().any()
    assert np.array_equal(block.norm.weight.grad.numpy(), grad_norm_weight)
