"""The loss: the sum over masked tokens of what the whole vocabulary's softmax gives, and how it divides."""

import numpy as np
import paddle
import pytest

from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from pretrain.loss import masked_lm_loss, model_inputs
from pretrain.objectives import Text
from tests.pretrain.objective_examples import LANGUAGES, objectives, pairs, rngs, texts


@pytest.fixture(scope="module")
def model():
    paddle.set_default_dtype("float64")
    paddle.seed(3)
    config = ErnieMConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=70,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    yield PreTrainingModel(config, LANGUAGES)
    paddle.set_default_dtype("float32")


def examples_of(objective):
    return (
        texts([20, 9, 15], language=2)
        if objective in ("mmlm", "btmlm")
        else pairs([(20, 9), (7, 15), (8, 8)])
    )


@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm", "btmlm"])
def test_against_all_logits(model, objective):
    batch = objectives().batch(objective, examples_of(objective), rngs(3))
    loss = masked_lm_loss(model, batch, accuracy=True)
    hidden = model(**model_inputs(batch))
    logits = model.lm_head(hidden.reshape([-1, 16])).numpy().reshape([*batch.input_ids.shape, 100])
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, columns = np.unravel_index(batch.target_positions, batch.input_ids.shape)
    expected = -log_probabilities[rows, columns, batch.target_ids]
    assert loss.losses.numpy() == pytest.approx(expected, abs=1e-9)
    assert float(loss.total) == pytest.approx(expected.sum(), abs=1e-9)
    assert loss.count == batch.masked == len(expected)
    assert np.array_equal(loss.correct.numpy(), logits[rows, columns].argmax(-1) == batch.target_ids)
    sums, counts, correct = loss.per_language(batch, 3)
    for language in range(3):
        mine = batch.target_languages == language
        assert sums[language] == pytest.approx(expected[mine].sum()) and counts[language] == mine.sum()
        assert correct[language] == loss.correct.numpy()[mine].sum()


@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm", "btmlm"])
def test_parts_of_a_step_add_up(model, objective):
    """Loss and gradients of micro-batches, divided by the step's count, are those of the whole batch."""
    examples = examples_of(objective)

    def gradients(parts):
        model.clear_gradients()
        batches = [
            objectives().batch(objective, [examples[i] for i in p], [rngs(3)[i] for i in p]) for p in parts
        ]
        count = sum(batch.masked for batch in batches)  # known before the first backward pass
        value = 0.0
        for batch in batches:
            loss = masked_lm_loss(model, batch).total / count
            loss.backward()
            value += float(loss)
        return value, {
            name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None
        }

    whole, apart = gradients([[0, 1, 2]]), gradients([[0], [2, 1]])
    assert whole[0] == pytest.approx(apart[0], abs=1e-9)
    for name, gradient in whole[1].items():
        assert np.abs(gradient - apart[1][name]).max() < 1e-9, name


def test_the_most_logits_at_a_time_make_no_difference(model, monkeypatch):
    batch = objectives().batch("tlm", examples_of("tlm"), rngs(3))
    results = []
    for most_logits in (1 << 27, 2 * 100):
        monkeypatch.setattr("model.word_table.MOST_LOGITS", most_logits)
        model.clear_gradients()
        loss = masked_lm_loss(model, batch, accuracy=True)
        loss.total.backward()
        gradients = [p.grad.numpy().copy() for p in model.parameters() if p.grad is not None]
        results.append((loss.losses.numpy(), loss.correct.numpy(), gradients))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-12)
    assert np.array_equal(results[0][1], results[1][1])
    assert all(np.abs(a - b).max() < 1e-9 for a, b in zip(results[0][2], results[1][2], strict=True))


def test_nothing_masked_adds_nothing(model):
    batch = objectives().batch("mmlm", [Text(np.zeros(0, dtype=np.int64), 0)], rngs(1))
    model.clear_gradients()
    loss = masked_lm_loss(model, batch, accuracy=True)
    assert float(loss.total) == 0.0 and loss.count == 0 and loss.correct.shape == [0]
    loss.total.backward()
    assert all(p.grad is None or not np.abs(p.grad.numpy()).any() for p in model.parameters())


def test_language_embedding_moves_masks_only(model):
    """The table changes what masks predict; with masks' rows at zero the model is the one without a table."""
    batch = objectives().batch("tlm", examples_of("tlm"), rngs(3))
    without = objectives(language_embedding="none").batch("tlm", examples_of("tlm"), rngs(3))
    assert np.array_equal(batch.input_ids, without.input_ids)
    assert model_inputs(without)["language_ids"] is None
    at_zero, plain = (masked_lm_loss(model, b).losses.numpy() for b in (batch, without))
    assert np.array_equal(at_zero, plain)
    with paddle.no_grad():
        model.language_embeddings.weight.set_value(
            paddle.ones([3, 16]) * paddle.arange(16.0).astype("float64")
        )
    assert np.abs(masked_lm_loss(model, batch).losses.numpy() - plain).min() > 0
    with paddle.no_grad():
        model.language_embeddings.weight.set_value(paddle.zeros([3, 16]))
