"""BTMLM's pseudo-tokens: the second language, the subwords, the first pass, the statistics."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ernie_m.pretrain.btmlm_pseudo_tokens import PseudoTokenGenerator, find_allowed_subwords
from ernie_m.pretrain.masking import Text
from ernie_m.pretrain.objectives.btmlm import SecondLanguage
from tests.launching import error_of
from tests.pretrain.examples import (
    LANGUAGES,
    VOCABULARY,
    btmlm_batch,
    filled,
    first_pass,
    objectives,
    pretraining_model,
    texts,
)

# The subwords that may be produced, for each of the three languages.
ALLOWED = [np.arange(4, 30), np.arange(30, 60), np.array([5, 61, 70, 98])]
SECOND_LANGUAGES = [2, 1, 1, 0, 2, 1]  # of the six sentences of `make_btmlm_batch`


@pytest.fixture
def model():
    """A model with much dropout, so that a pass with dropout would give other results each time."""
    dropout = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    return pretraining_model(seed=2, initializer_range=0.5, **dropout)


def make_btmlm_batch():
    """Six sentences, each with pseudo-tokens of one of the three languages."""
    sentences = texts([20, 13, 31, 7, 25, 16])
    return btmlm_batch(objectives()["btmlm"], sentences, SECOND_LANGUAGES)


def test_pseudo_tokens_are_the_best_in_the_target_language(model):
    batch = make_btmlm_batch()
    after, pseudo_ids, _ = filled(model, batch, PseudoTokenGenerator(ALLOWED))
    model.eval()
    logits = model.lm_head(first_pass(model, batch)).numpy()  # [P, V]
    for logits_of_slot, language, chosen in zip(logits, batch.stage1.slot_languages, pseudo_ids):
        assert chosen == max(ALLOWED[language], key=lambda subword: logits_of_slot[subword])
    assert len(set(pseudo_ids.tolist())) > 3  # the model does not choose the same everywhere
    # Each sentence's slots take its own predictions, whatever the order of languages.
    slot_sentences = batch.stage1.slot_sentences
    for sentence, language in enumerate(SECOND_LANGUAGES):
        slots = np.sort(batch.stage1.slots[slot_sentences == sentence])
        sequence_of_slots = np.searchsorted(batch.inputs.lengths.cumsum(), slots, side="right")
        assert (sequence_of_slots == sentence).all()
        ids = after.inputs.input_ids[slots]
        assert len(ids) and np.isin(ids, ALLOWED[language]).all()
        assert np.array_equal(ids, pseudo_ids[slot_sentences == sentence])
    # The batch itself is untouched.
    assert (batch.inputs.input_ids[batch.stage1.slots] == VOCABULARY.mask_id).all()


def test_no_dropout_no_gradient_and_the_model_is_left_as_it_was(model):
    """A dropout of 0.5 would give other pseudo-tokens each time."""
    batch = make_btmlm_batch()
    generator = PseudoTokenGenerator(ALLOWED)
    for training in (True, False):
        if training:
            model.train()
        else:
            model.eval()
        first, second = (filled(model, batch, generator).pseudo_ids for _ in range(2))
        assert np.array_equal(first, second)
        assert all(layer.training is training for layer in model.sublayers(include_self=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_sampling_follows_the_softmax(model):
    """With draws at evenly spaced quantiles, each subword comes as often as its probability says."""
    temperature = 1.5
    times = 3000
    batch = make_btmlm_batch()
    generator = PseudoTokenGenerator(ALLOWED, temperature)
    first, second = (filled(model, batch, generator).pseudo_ids for _ in range(2))
    assert np.array_equal(first, second)  # the draws are the batch's
    # The probabilities of one position.
    model.eval()
    hidden = first_pass(model, batch)[:1]  # [1, H]
    subwords = ALLOWED[1]
    logits = model.lm_head(hidden).numpy()[0][subwords].astype(np.float64) / temperature
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    # The same position many times, each with another draw.
    draws = paddle.to_tensor((np.arange(times) + 0.5) / times)
    rows = model.lm_head.transform(hidden).expand([times, -1])
    words = model.lm_head.word_embeddings.weight[subwords]
    bias = model.lm_head.bias[subwords]
    counts = np.bincount(generator.choose_subwords(rows, words, bias, draws), minlength=len(subwords))
    assert counts.sum() == times
    assert np.abs(counts / times - expected).max() < 1.5 / times  # off by one draw, and rounding


def test_second_language_by_pairs():
    """1024 pairs of English and German, one of English and French, none of Swahili."""
    pairs = {(0, 1): 1000, (1, 0): 24, (0, 2): 1, (2, 1): 0}
    choice = SecondLanguage(["en", "de", "fr", "sw"], pairs)
    of_english, of_german, _, of_swahili = choice.probabilities
    weights = np.array([1024.0, 1.0]) ** 0.7
    assert of_english == pytest.approx([0, *(weights / weights.sum()), 0])
    assert of_german == pytest.approx([1, 0, 0, 0])
    # Swahili has no parallel data: any language that has, by all its pairs.
    weights = np.array([1025.0, 1024.0, 1.0]) ** 0.7
    assert of_swahili == pytest.approx([*(weights / weights.sum()), 0])
    # The draws follow the probabilities; 0.015 is four standard deviations of the frequencies.
    rng = np.random.default_rng(0)
    drawn = [choice.draw(3, rng) for _ in range(20_000)]
    frequencies = np.bincount(drawn, minlength=4) / 20_000
    assert np.abs(frequencies - of_swahili).max() < 0.015
    assert choice.draw(0, SimpleNamespace(random=lambda: 0.0)) == 1  # not English itself


def test_second_language_uniform_or_without_any_pairs():
    for choice in (SecondLanguage(LANGUAGES, {(0, 1): 9}, "uniform"), SecondLanguage(LANGUAGES, {})):
        assert choice.probabilities == pytest.approx((1 - np.eye(3)) / 2)
    for mode, expected in (("uniform", 1 / 2), ("parallel", 1 / (1 + 8**0.7))):
        of_objective = objectives(second_language=mode)["btmlm"].second_language
        assert of_objective.probabilities[0, 2] == pytest.approx(expected)  # of English, for French
    assert "two languages" in error_of(SecondLanguage, ["en"], {})


def test_allowed_subwords():
    """Subwords that occur at least 5 times; in the second language none does, and the third has no text."""
    counts = np.zeros((3, 100))  # [languages, V]
    counts[0, [0, 3, 99]] = 90  # special ids
    counts[0, [7, 8, 9]] = [5, 4, 6]
    counts[1, [11, 12]] = [1, 2]
    allowed = [subwords.tolist() for subwords in find_allowed_subwords(counts, 5, VOCABULARY)]
    assert allowed == [[7, 9], [11, 12], list(VOCABULARY.ordinary_ids)]


@pytest.mark.parametrize(
    "pseudo_ids, copied, repeated",
    [
        ([10] * 4 + [30] * 3, 7, 3 + 2),
        (range(60, 67), 0, 0),
        ([VOCABULARY.mask_id] * 7, 0, 3 + 2),  # a placeholder is not a token of the sentence
        ([30] * 4 + [10] * 3, 0, 3 + 2),  # nor are those of another sentence
        ([10, 60, 60, 11, 31, 10, 62], 3, 1),  # copied: 10 and 11, then 31; repeated: 60
    ],
)
def test_copy_and_repeat_by_hand(model, monkeypatch, pseudo_ids, copied, repeated):
    """A sentence of the ids 10 to 29 has the first 4 pseudo-tokens, one of the ids 30 to 42 has the other 3.

    A repeated one equals a pseudo-token of the sentence before it.
    """
    sentences = [Text(np.arange(10, 30), 0), Text(np.arange(30, 43), 0)]
    batch = btmlm_batch(objectives()["btmlm"], sentences, [1, 1])
    generator = PseudoTokenGenerator([])
    monkeypatch.setattr(generator, "_generate_ids", lambda *_: paddle.to_tensor(list(pseudo_ids)))
    assert filled(model, batch, generator).counts == {"pseudo": 7, "copied": copied, "repeated": repeated}
