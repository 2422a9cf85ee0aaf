"""Weights that are cast together, beside autocast, which casts each by itself.

A CPU has no autocast and no products in half precision. Here the weights are float64, and float32 is the half
type: the products cast their inputs as autocast does.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from model import device, half_weights
from model.batch import TokenBatch
from model.config import ErnieMConfig
from model.device import upload
from model.heads import SequenceClassifier
from model.layers import LayerNorm, Linear
from model.word_rows import StepWords
from tests.helpers.batches import PAD, compute_as_on_a_gpu
from tests.helpers.operations import recorded_operations
from training.engine import Engine
from training.optimizer import build_optimizer

CONFIG = ErnieMConfig(vocab_size=60, hidden_size=8, num_hidden_layers=3, num_attention_heads=2)
MICRO_BATCHES = 3
WORDS = StepWords(np.arange(CONFIG.vocab_size))  # of all batches


@pytest.fixture(autouse=True)
def _autocast(float64, monkeypatch):
    """The lists of `training.precision.autocast`, as far as these models need them."""
    compute_as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(device, "uses_gpu_kernels", lambda: True)
    monkeypatch.setattr(device, "product_dtype", lambda x: paddle.float32)
    linear = F.linear

    def linear_in_half(x, weight, bias, name=None):
        return linear(*(tensor.astype("float32") for tensor in (x, weight, bias)))

    def norm_in_half(layer, x):
        # Autocast leaves the weights of a norm as they are, but a CPU needs them in the type of x.
        weights = (layer.weight.astype("float32"), layer.bias.astype("float32"))
        return F.layer_norm(x.astype("float32"), layer.weight.shape, *weights, layer.epsilon)

    monkeypatch.setattr(F, "linear", linear_in_half)
    monkeypatch.setattr(LayerNorm, "forward", norm_in_half)


def make_model() -> SequenceClassifier:
    paddle.seed(1)
    return SequenceClassifier(CONFIG, 3)


def batch_of(number: int):
    ids = np.random.default_rng(number).integers(4, 60, [4, 9])
    return upload(TokenBatch.from_padded(ids, PAD, WORDS))


def classify(model, batch):
    labels = paddle.arange(4) % 3
    return F.cross_entropy(model(batch).astype("float64"), labels)


def encode_twice(model, batch):
    """The loss of two forward passes, as in retrieval, which may end below the top layer."""
    states = model.ernie_m.encode(batch, layers=2).sequence
    states_of_other = model.ernie_m.encode(batch_of(100), layers=2).sequence
    return (states * states_of_other).astype("float64").mean()


def trained(loss) -> dict[str, bytes]:
    """The gradients of a step with several micro-batches, and the weights after it. One weight is frozen.

    `loss`: a function of the model and a batch.
    """
    model = make_model()
    model.ernie_m.encoder.layers[0].linear1.weight.stop_gradient = True
    engine = Engine(model, build_optimizer(model, 1e-2), clip_norm=1e-3)
    results = {}

    def note_gradients():
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                results[f"gradient of {name}"] = parameter.grad.numpy().tobytes()

    batches = [batch_of(number) for number in range(MICRO_BATCHES)]
    engine.step(batches, lambda batch: (loss(model, batch), {}), before_update=note_gradients)
    for name, parameter in model.named_parameters():
        results[name] = parameter.numpy().tobytes()
    return results


@pytest.mark.parametrize("loss", [classify, encode_twice])
def test_gradients_are_those_of_autocast(monkeypatch, loss):
    together = trained(loss)
    monkeypatch.setattr(half_weights, "SMALL_BATCH", 0)  # no batch is small: each weight is cast by itself
    alone = trained(loss)
    assert together == alone
    assert sum(name.startswith("gradient of") for name in together) > 20


def casts_together(monkeypatch, model) -> int:
    """How often a forward pass casts many tensors at once."""
    operations = recorded_operations(monkeypatch)
    operations.begin()
    model(batch_of(0))
    # `cast_together` stacks the tensors of one shape, casts them and takes them apart with one "unbind".
    return sum(operation.name == "unbind" for operation in operations)


def test_weights_of_one_shape_are_cast_together(monkeypatch):
    """Three shapes of matrices (8 x 8, 8 x 32 and 32 x 8), and two of biases; also in evaluation."""
    model = make_model()
    assert casts_together(monkeypatch, model) == 5
    with paddle.no_grad():
        assert casts_together(monkeypatch, model.eval()) == 5
    assert all(layer.half_copies == [] for layer in model.sublayers() if isinstance(layer, Linear))


def use_recompute(monkeypatch, model):
    model.ernie_m.use_recompute(True)


def make_the_batch_large(monkeypatch, model):
    """It has 4 x 9 tokens, which are filled up to 64, and H = 8: N x H^2 is just above this bound."""
    monkeypatch.setattr(half_weights, "SMALL_BATCH", 63 * 8**2)


def turn_autocast_off(monkeypatch, model):
    monkeypatch.setattr(device, "product_dtype", lambda x: paddle.float64)


def use_plain_kernels(monkeypatch, model):
    monkeypatch.setattr(device, "uses_gpu_kernels", lambda: False)


@pytest.mark.parametrize(
    "change", [use_recompute, make_the_batch_large, turn_autocast_off, use_plain_kernels]
)
def test_where_weights_are_not_cast_together(monkeypatch, change):
    model = make_model()
    change(monkeypatch, model)
    assert casts_together(monkeypatch, model) == 0


def test_no_copies_stay_after_an_error(monkeypatch):
    """A norm that returns too few rows makes the forward pass fail."""
    model = make_model()
    monkeypatch.setattr(LayerNorm, "forward", lambda layer, x: x[1:])
    with pytest.raises(IndexError):
        model(batch_of(0))
    assert all(layer.half_copies == [] for layer in model.sublayers() if isinstance(layer, Linear))
