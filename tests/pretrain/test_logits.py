"""No array of [masked positions, words] is made for any objective, on a CPU or as elsewhere; the gradients
are those of a loss that makes it, in float64 within 1e-9."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from model import word_table
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from pretrain.loss import masked_lm_loss
from tests.pretrain.objective_examples import LANGUAGES, objectives, pairs, rngs, texts

WORDS = 101


@pytest.fixture(scope="module")
def model():
    paddle.set_default_dtype("float64")
    paddle.seed(3)
    config = ErnieMConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=70, initializer_range=0.3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    yield PreTrainingModel(config, LANGUAGES)
    paddle.set_default_dtype("float32")


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    monkeypatch.setattr(word_table, "_SLICE", 30)
    monkeypatch.setattr(word_table, "_WIDE_SLICE", 40)
    monkeypatch.setattr(word_table, "MOST_LOGITS", 1)


@pytest.fixture
def widest(monkeypatch):
    """The numbers of columns of all products and exponentials that are made from now on."""
    seen = []

    def watched(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            seen.extend(result.shape[-1:])
            return result

        return call

    monkeypatch.setattr(paddle, "matmul", watched(paddle.matmul))
    monkeypatch.setattr(paddle.Tensor, "exp", watched(paddle.Tensor.exp))
    monkeypatch.setattr(np, "exp", watched(np.exp))
    return seen


def whole(x, table, bias, labels):
    logits = paddle.matmul(x, table.weight, transpose_y=True) + bias
    return F.cross_entropy(logits, labels, reduction="none").flatten()


def gradients(model, batch) -> dict[str, np.ndarray]:
    for parameter in model.parameters():
        parameter.grad = None
    loss = masked_lm_loss(model, batch)
    loss.total.backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return {"losses": loss.losses.numpy(), **found}


@pytest.mark.parametrize("on_cpu", [True, False], ids=["cpu", "elsewhere"])
@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm", "btmlm"])
def test_no_array_of_positions_and_words(model, monkeypatch, widest, objective, on_cpu):
    single = objective in ("mmlm", "btmlm")
    examples = texts([20, 9, 15], language=2) if single else pairs([(20, 9), (7, 15), (8, 8)])
    batch = objectives().batch(objective, examples, rngs(3))
    with monkeypatch.context() as patched:
        patched.setattr(word_table, "cross_entropy", whole)
        patched.setattr(word_table, "training_on_cpu", lambda x: False)  # Paddle's own gradients, all of them
        expected = gradients(model, batch)
    assert max(widest) == WORDS  # so the watch would see it
    widest.clear()
    with monkeypatch.context() as patched:
        patched.setattr(word_table, "training_on_cpu", lambda x: on_cpu)
        found = gradients(model, batch)
    assert max(widest) == 4 * 16  # the feed-forward layers: a slice is narrower
    assert ({30, 11} if on_cpu else {40, 21}) <= set(widest)  # a whole slice, and the last
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < 1e-9, name
