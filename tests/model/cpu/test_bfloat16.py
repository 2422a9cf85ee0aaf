"""Models whose products are in bfloat16. On a CPU without the instructions oneDNN does the same, slowly."""

import numpy as np
import paddle
import pytest

from ernie_m.model import layers, lm_head, transformer_encoder, word_embeddings
from ernie_m.model.attention import PaddedMask
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.cpu import bfloat16, onednn
from ernie_m.model.cpu.attention_mask import CpuMask
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.packed_layout import PackedLayout
from tests.helpers.bfloat16 import distance, skip_module_without_onednn, widen
from tests.helpers.gradients import compute_gradients
from tests.helpers.plain_model import dense_attention
from tests.model.cpu.dense_dropout import draw_dense_dropout

CONFIG = ErnieMConfig(
    vocab_size=300,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.1,
)
DTYPES = {"float32": paddle.float32, "bfloat16": paddle.bfloat16}

skip_module_without_onednn()


def rounded(x: np.ndarray) -> np.ndarray:
    """The nearest numbers that bfloat16 has, as float64."""
    bits = onednn.to_bfloat16(np.ascontiguousarray(x, np.float32).reshape([len(x), -1]))
    return widen(bits).astype(np.float64).reshape(x.shape)


def random(*shape: int) -> paddle.Tensor:
    """Random numbers that get a gradient."""
    x = paddle.randn(shape)
    x.stop_gradient = False
    return x


@pytest.fixture(autouse=True)
def seed():
    paddle.seed(0)


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 24, 40), (37, 3072, 768), (77, 384, 3072)])
def test_linear_layers_with_shared_input(tokens, inputs, outputs):
    """Each product has rounded factors, that for the gradient of a bias; sums are float32.

    Those of many terms, in the products or in the gradient of x, are made of parts.
    """
    linear_layers = [layers.Linear(inputs, 16), layers.Linear(inputs, outputs)]
    for layer in linear_layers:
        layer.in_bfloat16 = True
        layer.bias.set_value(paddle.randn(layer.bias.shape))
    x = random(3, tokens, inputs)
    grads = [paddle.randn([3, tokens, size]) for size in (16, outputs)]
    results = layers.apply_linear_layers(x, linear_layers)
    paddle.autograd.backward(list(results), grads)
    rows = rounded(x.numpy().reshape([-1, inputs]))
    grad_x = 0.0  # the sum of what the layers give
    for layer, y, grad in zip(linear_layers, results, grads):
        weight = rounded(layer.weight.numpy())
        grad_rows = grad.numpy().reshape([-1, grad.shape[-1]])
        assert distance(y.numpy().reshape(grad_rows.shape), rows @ weight + layer.bias.numpy()) < 1e-6
        assert distance(layer.weight.grad.numpy(), rows.T @ rounded(grad_rows)) < 1e-6
        assert distance(layer.bias.grad.numpy(), rounded(grad_rows).sum(0)) < 1e-6
        grad_x = grad_x + rounded(grad_rows) @ weight.T
    assert distance(x.grad.numpy().reshape([-1, inputs]), grad_x) < 1e-6


def test_gives_frozen_weights_no_gradient():
    layer = layers.Linear(8, 4)
    layer.in_bfloat16 = True
    layer.weight.stop_gradient = True
    x = random(5, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None and x.grad is not None
    layer.weight.stop_gradient = False
    layer(x.detach()).sum().backward()
    assert layer.weight.grad is not None
    with paddle.no_grad():
        assert layer(x).stop_gradient


@pytest.mark.parametrize("dropout_rate", [0.0, 0.3])
@pytest.mark.parametrize("context_lengths", [None, [66, 169, 20, 1]])
def test_attention_is_within_one_percent_of_float64(monkeypatch, context_lengths, dropout_rate):
    """Within 1 % of that of the definition. Of the 12 heads of 40 tokens ten are computed at a time."""
    monkeypatch.setattr("ernie_m.model.cpu.attention_bfloat16._AT_ONCE", 1 << 14)  # fewer than 170 x 170
    layout = PackedLayout([128, 170, 40, 1], context_lengths)
    x = random(layout.tokens, 288)
    weight = paddle.randn([layout.tokens, 96])
    paddle.seed(5)
    dropout = draw_dense_dropout(layout, 12, dropout_rate, is_float32=False)
    paddle.seed(5)
    inputs = x.astype("bfloat16").split(3, axis=-1)
    results = []  # [N, 4 x 96] each: the output, and the gradients of queries, keys and values
    for y in (
        dense_attention(layout, 12, x.astype("float64"), dropout),
        CpuMask.from_layout(layout).attend(*inputs, 12, dropout_rate),
    ):
        (gradient,) = paddle.grad((y.astype("float32") * weight).sum(), [x])
        results.append(np.concatenate([y.astype("float32").numpy(), gradient.numpy()], axis=1))
    for exact, array in zip(*(np.split(result, 4, axis=1) for result in results)):
        assert 1e-4 < distance(array, exact) < 0.01


def test_dtype_between_layers(monkeypatch):
    """Attention is in bfloat16 from a mean length of 96 on, and only with the kernels of a CPU."""
    masks = [CpuMask(PackedLayout(lengths)) for lengths in ([96], [95], [191, 1], [190, 1])]
    masks.append(PaddedMask.from_layout(PackedLayout([96])))
    assert [mask.dtype for mask in masks] == ["bfloat16", "float32", "bfloat16", "float32", "float32"]
    layer = layers.Linear(8, 4)
    layers.use_bfloat16(layer)
    results = [layers.apply_linear_layers(paddle.ones([2, 8]), [layer], dtype) for dtype in DTYPES]
    assert [y.dtype for (y,) in results] == [*DTYPES.values()]
    # The widest activations are those between the two layers of the feed-forward network.
    widest = []
    monkeypatch.setattr(transformer_encoder, "gelu", lambda x: widest.append(x.dtype) or layers.gelu(x))
    layer = transformer_encoder.EncoderLayer(CONFIG)
    layers.use_bfloat16(layer)
    layer(paddle.ones([2, 32]), CpuMask(PackedLayout([2])))
    assert widest == [paddle.bfloat16]


def test_a_cross_entropy(monkeypatch):
    """Its loss and gradients are those of the definition, with the factors of products rounded.

    They are computed in blocks of 64 of the 300 words, and in chunks of 3 of the 7 positions. Two backward
    passes add up, as those of two micro-batches do.
    """
    monkeypatch.setattr(bfloat16, "_BLOCK_WORDS", 64)
    monkeypatch.setattr(lm_head, "LOGITS_BYTES", 3 * 300 * 4)  # of a chunk, with 4 bytes for each logit
    table = word_embeddings.WordEmbeddings(300, 32)
    layers.use_bfloat16(table)
    bias = random(300)
    x = random(7, 32)
    labels = paddle.to_tensor([3, 7, 0, 299, 3, 64, 128])
    weights = paddle.to_tensor([0.5, 1.0, 2.0, 0.25, 1.0, 3.0, 1.0])
    for _ in range(2):
        loss = lm_head.compute_cross_entropy(x, table, bias, labels, weights)
        loss.total.backward()
    words = rounded(table.weight.numpy())  # [V, H]
    rows = rounded(x.numpy())  # [positions, H]
    factors = weights.numpy()[:, None]  # [positions, 1]
    scores = rows @ words.T + bias.numpy()
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = -np.log(probabilities[range(7), labels.numpy()])
    grad_logits = probabilities.copy()
    grad_logits[range(7), labels.numpy()] -= 1.0
    assert distance(loss.losses.numpy(), expected) < 1e-6
    assert loss.total.item() == pytest.approx((expected * weights.numpy()).sum(), rel=1e-6)
    assert distance(bias.grad.numpy(), 2 * (grad_logits * factors).sum(0)) < 1e-5
    # There the numbers to be rounded come from float32, so a few are rounded to the neighbor: hence 1e-4.
    grad_logits = rounded(grad_logits)
    assert distance(x.grad.numpy(), 2 * (grad_logits @ words) * factors) < 1e-4
    assert distance(table.weight.grad.numpy(), 2 * grad_logits.T @ rounded(x.numpy() * factors)) < 1e-4
    with paddle.no_grad():
        again = lm_head.compute_cross_entropy(x, table, bias, labels, weights)
    assert np.array_equal(again.losses.numpy(), loss.losses.numpy())


def test_weights_are_rounded_once_while_they_stay():
    """Each weight: others may have the same shape."""
    layer, other = (layers.Linear(8, 4) for _ in range(2))
    x = paddle.ones([1, 8])
    for of_both in (layer, other):
        layers.use_bfloat16(of_both)
    expected = other(x).numpy()

    def doubled() -> bool:
        """Whether a layer sees that its weight is doubled."""
        before = layer(x).numpy()
        layer.weight.set_value(2 * layer.weight)
        return bool(np.any(layer(x).numpy() != before))

    with bfloat16.cache_rounded_weights():
        assert not doubled()
        assert np.array_equal(other(x).numpy(), expected)
    assert doubled()


class Pretraining:
    """A small model, and a batch of which some positions are predicted."""

    def __init__(self, batch: PackedBatch):
        paddle.seed(0)
        self.model = PreTrainingModel(CONFIG, ["en"])
        self.batch = batch
        self.positions = paddle.to_tensor([1, 4, 9, 15, 20, 22])
        self.labels = paddle.to_tensor([5, 80, 5, 299, 100, 4])

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of the masked-LM loss."""
        hidden = self.model.encode(self.batch, self.positions)
        return compute_gradients(self.model, self.model.lm_head.loss(hidden, self.labels).total)


@pytest.mark.parametrize("recompute", [False, True])
def test_model_gradients_against_float32(batch, recompute):
    """All together differ by less than 1 %, each by less than 3 %. They differ, or nothing was rounded."""
    training = Pretraining(batch)
    exact = training.gradients()
    layers.use_bfloat16(training.model)
    training.model.ernie_m.set_recompute(recompute)
    gradients = training.gradients()
    assert gradients.keys() == exact.keys()
    all_exact, all_gradients = (
        np.concatenate([arrays[name].ravel() for name in exact]) for arrays in (exact, gradients)
    )
    assert 1e-4 < distance(all_gradients, all_exact) < 0.01
    for name in exact:
        # The gradient of a key's bias is 0 but for rounding: softmax does not see what all scores have more.
        if np.linalg.norm(exact[name]) > 1e-3 * np.linalg.norm(all_exact):
            assert distance(gradients[name], exact[name]) < 0.03, name
