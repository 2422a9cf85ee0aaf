"""Models that only predict: their linear layers have packed weights, in float32 or bfloat16."""

import threading

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie_m.model import kernels, layers
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.cpu import onednn, packed
from ernie_m.model.cpu.packed import PackedLinear
from ernie_m.model.heads import SequenceClassifier
from ernie_m.training.precision import prepare_for_prediction
from tests.helpers.bfloat16 import distance, skip_module_without_onednn, widen

CONFIG = ErnieMConfig(
    vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, initializer_range=0.1
)

skip_module_without_onednn()
in_both_types = pytest.mark.parametrize("in_bfloat16", [False, True])


def rounded(x: np.ndarray, in_bfloat16: bool) -> np.ndarray:
    """Numbers [N, H] as a product takes them, in float64."""
    return (widen(onednn.to_bfloat16(x)) if in_bfloat16 else x).astype(np.float64)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def gelu(x: np.ndarray) -> np.ndarray:
    return F.gelu(paddle.to_tensor(x)).numpy()


@pytest.fixture
def model() -> SequenceClassifier:
    paddle.seed(0)
    return SequenceClassifier(CONFIG, 3).eval()


@in_both_types
@pytest.mark.parametrize("shape", [[0], [1], [2], [37], [3, 5], [600]])
def test_linear_layers_of_one_input(in_bfloat16, shape):
    """With widths that are no multiple of anything, as those of classifiers."""
    weights = [random(24, 40), random(24, 3)]
    biases = [random(40), random(3)]
    packed_layers = [PackedLinear(*parameters, in_bfloat16) for parameters in zip(weights, biases)]
    x = random(*shape, 24)
    results = packed.linear_layers(paddle.to_tensor(x), packed_layers)
    rows = rounded(x.reshape([-1, 24]), in_bfloat16)
    for result, weight, bias in zip(results, weights, biases):
        assert result.shape == [*shape, len(bias)]
        expected = rows @ rounded(weight, in_bfloat16) + bias
        if 0 not in shape:
            assert distance(result.numpy().reshape(expected.shape), expected) < 1e-6


@in_both_types
def test_a_feed_forward_pair(in_bfloat16):
    first = random(24, 96), random(96)
    second = random(96, 24), random(24)
    x = random(300, 24)
    between = gelu(rounded(x, in_bfloat16) @ rounded(first[0], in_bfloat16) + first[1]).astype(np.float32)
    expected = rounded(between, in_bfloat16) @ rounded(second[0], in_bfloat16) + second[1]
    pair = [PackedLinear(*parameters, in_bfloat16) for parameters in (first, second)]
    # In bfloat16 a few of the numbers between the products are rounded to the neighbour.
    bound = 1e-4 if in_bfloat16 else 1e-6
    assert distance(packed.feed_forward(paddle.to_tensor(x), *pair).numpy(), expected) < bound


@in_both_types
def test_bits_of_a_row_do_not_depend_on_the_number_of_rows(in_bfloat16):
    """Each number that a block may have, and others; the rows are the last ones, too."""
    pair = [PackedLinear(random(64, 256), random(256), in_bfloat16)]
    pair.append(PackedLinear(random(256, 64), random(64), in_bfloat16))
    x = random(700, 64)
    expected = packed.feed_forward(paddle.to_tensor(x), *pair).numpy()
    for rows in (1, *packed.SIZES, 3, 33, 257, 600):
        for part in (slice(0, rows), slice(700 - rows, 700)):
            result = packed.feed_forward(paddle.to_tensor(x[part]), *pair).numpy()
            assert np.array_equal(result, expected[part]), rows


@in_both_types
def test_a_model_keeps_packed_weights_alone(in_bfloat16, model, batch):
    if in_bfloat16:
        layers.use_bfloat16(model)
    with paddle.no_grad():
        expected = model(batch).numpy()
        layers.freeze(model)
        assert distance(model(batch).numpy(), expected) < (1e-2 if in_bfloat16 else 1e-5)
    names = [name for name, _ in model.named_parameters()]
    assert "classifier.bias" in names and "classifier.weight" not in names


@pytest.mark.parametrize("reason", ["plain kernels", "float64", "no AVX-512"])
def test_a_model_stays_as_it_is(monkeypatch, reason):
    """Without what packed weights need, a prediction in full precision works all the same."""
    if reason == "plain kernels":
        monkeypatch.setattr(kernels, "_kernels", kernels.PLAIN)
    elif reason == "no AVX-512":
        monkeypatch.setattr(onednn, "can_pack", lambda: False)
    dtype = "float64" if reason == "float64" else "float32"
    paddle.set_default_dtype(dtype)
    try:
        model = SequenceClassifier(CONFIG, 3).eval()
        prepare_for_prediction(model, "none")
    finally:
        paddle.set_default_dtype("float32")
    assert model.classifier.packed is None and model.classifier.weight.dtype == getattr(paddle, dtype)


def test_a_thread_that_has_ended_keeps_no_products(monkeypatch):
    """A program that answers each request in a thread of its own makes any number of them."""
    functions = onednn.functions()
    count = {"made": 0, "destroyed": 0}

    def counting(name: str, word: str) -> None:
        function = functions[name]

        def counted(*arguments):
            count[word] += 1
            return function(*arguments)

        monkeypatch.setitem(functions, name, counted)

    layer = PackedLinear(random(24, 40), random(40), in_bfloat16=False)
    counting("primitive_create", "made")
    counting("primitive_destroy", "destroyed")
    x = paddle.to_tensor(random(37, 24))
    thread = threading.Thread(target=packed.linear_layers, args=(x, [layer]))
    thread.start()
    thread.join()
    assert count["destroyed"] == count["made"] > 0


@in_both_types
def test_threads_share_a_model(in_bfloat16, model, batch):
    if in_bfloat16:
        layers.use_bfloat16(model)
    layers.freeze(model)
    with paddle.no_grad():
        expected = model(batch).numpy()
    wrong = []  # the turns with another result

    def work() -> None:
        with paddle.no_grad():
            for turn in range(20):
                if not np.array_equal(model(batch).numpy(), expected):
                    wrong.append(turn)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
