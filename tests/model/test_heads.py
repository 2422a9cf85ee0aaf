import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from model.attention import CompactMask
from model.ernie_m import ErnieMConfig
from model.heads import LMHead, PreTrainingModel, SequenceClassifier, SpanClassifier, TokenClassifier

CONFIG = ErnieMConfig(
    vocab_size=40, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=12,
    initializer_range=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
IDS = np.array([[0, 7, 8, 9, 2, 2, 11, 2], [0, 30, 2, 1, 1, 1, 1, 1]])


@pytest.fixture(autouse=True)
def float64():
    paddle.set_default_dtype("float64")
    paddle.seed(0)
    yield
    paddle.set_default_dtype("float32")


def head_names(model) -> dict[str, list[int]]:
    return {n: p.shape for n, p in model.state_dict().items() if not n.startswith("ernie_m.")}


def test_sequence_classifier():
    model = SequenceClassifier(CONFIG, 3)
    assert head_names(model) == {"classifier.weight": [12, 3], "classifier.bias": [3]}
    ids = paddle.to_tensor(IDS)
    pooled = model.ernie_m(ids).pooled
    expected = F.linear(pooled, model.classifier.weight, model.classifier.bias)
    assert np.abs((model(ids) - expected).numpy()).max() < 1e-9
    positions, mask = paddle.to_tensor([[2] * 8] * 2), paddle.ones([2, 8])
    expected = model.classifier(model.ernie_m(ids, positions, mask).pooled)
    assert np.abs((model(ids, positions, mask) - expected).numpy()).max() < 1e-9


def test_token_classifier_has_no_dropout_of_its_own():
    model = TokenClassifier(CONFIG, 5)
    assert head_names(model) == {"classifier.weight": [12, 5], "classifier.bias": [5]}
    logits = model(paddle.to_tensor(IDS))
    assert logits.shape == [2, 8, 5]
    assert np.array_equal(logits.numpy(), model(paddle.to_tensor(IDS)).numpy())


def test_span_classifier():
    model = SpanClassifier(CONFIG)
    assert head_names(model) == {"classifier.weight": [12, 2], "classifier.bias": [2]}
    start, end = model(paddle.to_tensor(IDS))
    both = model.classifier(model.ernie_m(paddle.to_tensor(IDS)).sequence)
    assert start.shape == end.shape == [2, 8]
    assert np.abs((paddle.stack([start, end], -1) - both).numpy()).max() < 1e-9


@pytest.mark.parametrize("classifier", [SequenceClassifier, SpanClassifier])
def test_dropout_before_the_classifier(classifier):
    config = ErnieMConfig(**CONFIG.to_dict() | {"hidden_dropout_prob": 0.5})
    model = classifier(config) if classifier is SpanClassifier else classifier(config, 3)
    model.ernie_m.eval()
    ids = paddle.to_tensor(IDS)
    outputs = [np.stack([np.asarray(part) for part in model(ids)]) for _ in range(2)]
    assert not np.array_equal(*outputs)
    model.eval()
    outputs = [np.stack([np.asarray(part) for part in model(ids)]) for _ in range(2)]
    assert np.array_equal(*outputs)


@pytest.fixture
def pretraining():
    model = PreTrainingModel(CONFIG, ["en", "de", "zh"])
    model.lm_head.bias.set_value(paddle.randn([40]))
    return model


def test_lm_head_is_tied_and_named_once(pretraining):
    assert head_names(pretraining) == {
        "lm_head.dense.weight": [12, 12],
        "lm_head.dense.bias": [12],
        "lm_head.layer_norm.weight": [12],
        "lm_head.layer_norm.bias": [12],
        "lm_head.bias": [40],
        "language_embeddings.weight": [3, 12],
    }
    table, head, hidden = (
        pretraining.ernie_m.embeddings.word_embeddings.weight,
        pretraining.lm_head,
        paddle.randn([5, 12]),
    )
    x = F.layer_norm(F.gelu(F.linear(hidden, head.dense.weight, head.dense.bias)), [12])
    expected = paddle.matmul(x, table, transpose_y=True) + head.bias
    assert np.abs((head(hidden) - expected).numpy()).max() < 1e-9
    pretraining.ernie_m.embeddings.word_embeddings.weight.set_value(table * 2)
    assert np.abs((head(hidden) - head.bias - 2 * (expected - head.bias)).numpy()).max() < 1e-9


def loss_and_gradients(head: LMHead, hidden, loss_of):
    hidden = hidden.clone().detach()
    hidden.stop_gradient = False
    losses = loss_of(hidden)
    (losses * paddle.arange(1.0, 1 + len(losses))).sum().backward()
    tensors = {"hidden": hidden, "table": head.word_embeddings.weight, **dict(head.named_parameters())}
    gradients = {name: tensor.grad.numpy() for name, tensor in tensors.items()}
    head.clear_gradients()
    head.word_embeddings.weight.clear_grad()
    return losses.numpy(), gradients


@pytest.mark.parametrize("most_logits", [1, 3 * 40, 7 * 40, 1 << 27])
def test_loss_is_the_cross_entropy_of_each_position_in_bounded_memory(pretraining, most_logits, monkeypatch):
    head, hidden, labels = (
        pretraining.lm_head,
        paddle.randn([7, 12]),
        paddle.to_tensor([3, 9, 0, 39, 5, 5, 17]),
    )
    logits = head(hidden).numpy()
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(7), labels.numpy()]
    _, plain = loss_and_gradients(head, hidden, lambda x: F.cross_entropy(head(x), labels, reduction="none"))
    monkeypatch.setattr("model.word_table.MOST_LOGITS", most_logits)
    for on_cpu in (True, False):  # the second is what a GPU takes
        monkeypatch.setattr("model.word_table.training_on_cpu", lambda x, on_cpu=on_cpu: on_cpu)
        losses, gradients = loss_and_gradients(head, hidden, lambda x: head.loss(x, labels))
        assert losses.shape == (7,) and np.abs(losses - expected).max() < 1e-9
        for name, gradient in gradients.items():
            assert np.abs(gradient - plain[name]).max() < 1e-9, name
        with paddle.no_grad():
            assert np.abs(head.loss(hidden, labels).numpy() - expected).max() < 1e-9


def test_loss_of_no_positions_is_empty_and_has_a_gradient(pretraining):
    hidden = pretraining(paddle.to_tensor(IDS)).reshape([-1, 12])[:0]
    losses = pretraining.lm_head.loss(hidden, paddle.zeros([0], "int64"))
    assert losses.shape == [0]
    (losses.sum() + 0.0).backward()


def test_language_embeddings_touch_only_the_tokens_that_carry_a_language(pretraining):
    ids = paddle.to_tensor(IDS)
    languages = paddle.to_tensor([[-1, 0, -1, 2, -1, -1, 1, -1], [-1] * 8])
    plain = pretraining(ids).numpy()
    assert np.abs(pretraining(ids, None, languages).numpy() - plain).max() < 1e-12  # zero at the start
    rows = paddle.randn([3, 12])
    pretraining.language_embeddings.weight.set_value(rows)
    output = pretraining(ids, None, languages)
    assert np.abs(output.numpy()[0] - plain[0]).max() > 1e-3
    assert np.abs(output.numpy()[1] - plain[1]).max() < 1e-12
    bias = np.zeros([2, 8, 12])
    for position, language in ((1, 0), (3, 2), (6, 1)):
        bias[0, position] = rows.numpy()[language]
    expected = pretraining.ernie_m(ids, input_bias=paddle.to_tensor(bias)).sequence
    assert np.abs((output - expected).numpy()).max() < 1e-9
    (output[0] ** 2).sum().backward()
    assert (np.abs(pretraining.language_embeddings.weight.grad.numpy()).max(-1) > 0).all()


def test_compact_mask_reaches_the_encoder(pretraining):
    mask = CompactMask(5, paddle.to_tensor(IDS != 1))
    compact, dense = (pretraining(paddle.to_tensor(IDS), attention_mask=m) for m in (mask, mask.dense()))
    assert np.abs((compact - dense).numpy()).max() < 1e-9
    assert np.abs((compact - pretraining(paddle.to_tensor(IDS))).numpy()).max() > 1e-3
