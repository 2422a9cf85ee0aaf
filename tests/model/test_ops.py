"""Every fast path against plain Paddle, in float64, within 1e-9: values and gradients."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from model import layers
from model.cpu import rows

TOLERANCE = 1e-9


@pytest.fixture(autouse=True, params=[1, 3])
def float64(request, monkeypatch):
    """With so many threads, which have several blocks each."""
    monkeypatch.setattr(rows, "thread_count", lambda: request.param)
    monkeypatch.setattr(rows, "BLOCK", 16)
    rows._pool.cache_clear()
    paddle.set_default_dtype("float64")
    paddle.seed(0)
    yield
    paddle.set_default_dtype("float32")


def value_and_gradients(function, x, weight, *parameters):
    """f(x), and the gradients of sum(weight x f(x)) with respect to x and the parameters."""
    x = x.clone().detach()
    x.stop_gradient = False
    y = function(x)
    (y * weight).sum().backward()
    gradients = [tensor.grad.numpy() for tensor in (x, *parameters)]
    for parameter in parameters:
        parameter.clear_grad()
    return [y.numpy(), *gradients]


def assert_same(plain, fast):
    for a, b in zip(plain, fast, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() < TOLERANCE
        assert np.abs(a).max() > 1e-3  # something is compared


def pair(ours: nn.Layer, theirs: nn.Layer):
    ours.set_state_dict(theirs.state_dict())
    return ours, theirs


def test_all_rows_once_and_a_fault_comes_out():
    seen = np.zeros(50, int)

    def work(part: slice) -> None:
        seen[part] += 1
        if part.stop > 60:
            raise ValueError("the last rows")

    rows.over_rows(work, 50, 5)
    assert (seen == 1).all()
    with pytest.raises(ValueError, match="the last rows"):
        rows.over_rows(work, 61, 5)


@pytest.mark.parametrize("shape", [[3, 5, 8], [5, 8], [1, 8]])
def test_linear(shape):
    ours, theirs = pair(layers.Linear(8, 6), nn.Linear(8, 6))
    for layer in (ours, theirs):
        layer.bias.set_value(paddle.arange(6, dtype="float64"))
    x, weight = paddle.randn(shape), paddle.randn([*shape[:-1], 6])
    assert_same(
        value_and_gradients(theirs, x, weight, theirs.weight, theirs.bias),
        value_and_gradients(ours, x, weight, ours.weight, ours.bias),
    )


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e3])
def test_layer_norm(spread):
    ours, theirs = pair(layers.LayerNorm(8, 1e-5), nn.LayerNorm(8, 1e-5))
    for layer in (ours, theirs):
        layer.weight.set_value(paddle.linspace(-1, 2, 8))
        layer.bias.set_value(paddle.linspace(3, 4, 8))
    x, weight = paddle.randn([3, 5, 8]) * spread + 2, paddle.randn([3, 5, 8])
    plain = value_and_gradients(theirs, x, weight, theirs.weight, theirs.bias)
    fast = value_and_gradients(ours, x, weight, ours.weight, ours.bias)
    # The gradient of x grows as 1 / spread, up to 1 / sqrt(epsilon).
    scale = max(1.0, np.abs(plain[1]).max())
    plain[1], fast[1] = plain[1] / scale, fast[1] / scale
    for a, b in zip(plain, fast):
        assert np.abs(a - b).max() < TOLERANCE


def test_gelu():
    x = paddle.concat([paddle.linspace(-9, 9, 181), paddle.to_tensor([0.0, -40.0, 40.0])])
    weight = paddle.linspace(-2, 3, 184)
    assert_same(value_and_gradients(F.gelu, x, weight), value_and_gradients(layers.gelu, x, weight))


def test_dropout_is_unbiased_and_scales():
    x = paddle.full([300, 300], 2.0)
    for probability in (0.1, 0.5):
        y = layers.dropout(x, probability, training=True).numpy()
        kept = y != 0
        # five standard deviations
        assert abs(kept.mean() - (1 - probability)) < 5 * np.sqrt(probability * (1 - probability) / y.size)
        assert y[kept] == pytest.approx(np.full(kept.sum(), 2 / (1 - probability)), rel=1e-5)
        # neighbours in a row and in a column are independent
        for a, b in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1])):
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / 300


def test_dropout_edges():
    x = paddle.randn([5, 3])
    assert layers.dropout(x, 0.3, training=False) is x
    assert layers.dropout(x, 0.0, training=True) is x
    assert not layers.dropout(x, 1.0, training=True).numpy().any()
    assert layers.dropout(x.astype("float32"), 0.1, training=True).dtype == paddle.float32
    assert np.array_equal(layers.dropout(x, 1e-6, training=True).numpy(), x.numpy())
    assert layers.dropout(x[:0], 0.1, training=True).shape == [0, 3]


def test_dropout_gradient_is_the_mask():
    x = paddle.ones([50, 40])
    value, gradient = value_and_gradients(lambda x: layers.dropout(x, 0.4, True), x, paddle.ones([50, 40]))
    assert np.array_equal(value, gradient) and 0 < (value == 0).mean() < 1


def test_dropout_adds_what_it_is_given():
    """The same mask as without it, and a gradient of its own."""
    x, other, weight = (paddle.randn([50, 40]) for _ in range(3))
    other.stop_gradient = False
    results = []

    def add_afterwards(y):
        return layers.dropout(y, 0.4, True) + other

    def add_at_once(y):
        return layers.dropout(y, 0.4, True, other)

    for add in (add_afterwards, add_at_once):
        paddle.seed(7)
        results.append(value_and_gradients(add, x, weight, other))
    assert_same(*results)


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


class Block(nn.Layer):
    """One of each."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = layers.Linear(8, 8), layers.LayerNorm(8, 1e-5)

    def forward(self, x):
        return self.norm(layers.dropout(layers.gelu(self.linear(x)), 0.3, self.training))


def test_recompute_draws_the_same_dropout():
    block, x, weight = Block(), paddle.randn([4, 8]), paddle.randn([4, 8])
    results = []
    for function in (block, lambda x: recompute(block, x)):
        paddle.seed(5)
        results.append(value_and_gradients(function, x, weight, *block.parameters()))
    for a, b in zip(*results, strict=True):
        assert np.abs(a - b).max() < TOLERANCE


def test_frozen_parameters_and_partial_gradients():
    block, x, weight = Block(), paddle.randn([4, 8]), paddle.randn([4, 8])
    block.eval()
    expected = value_and_gradients(block, x, weight, *block.parameters())
    x.stop_gradient = False
    for parameter in block.parameters():  # what paddle.grad is not asked for
        parameter.stop_gradient = True
    (partial,) = paddle.grad((block(x) * weight).sum(), [x])
    assert np.array_equal(partial.numpy(), expected[1])
    for parameter in block.parameters():
        parameter.stop_gradient = False
    block.linear.weight.stop_gradient = block.norm.bias.stop_gradient = True
    (block(x) * weight).sum().backward()
    assert np.array_equal(x.grad.numpy(), expected[1])
    assert not block.linear.weight.grad.numpy().any() and not block.norm.bias.grad.numpy().any()
    assert np.array_equal(block.norm.weight.grad.numpy(), expected[4])
