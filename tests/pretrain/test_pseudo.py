"""BTMLM's pseudo-tokens: the second language, the pieces, the first pass, the statistics."""

import numpy as np
import paddle
import pytest

from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from pretrain import pseudo_translations
from pretrain.btmlm import PseudoTokenGenerator, allowed_pieces
from pretrain.objectives import SecondLanguage, Text
from tests.pretrain.examples import LANGUAGES, VOCABULARY, filled, first_pass, objectives, rngs, texts
from utils.errors import UserError

ALLOWED = [np.arange(4, 30), np.arange(30, 60), np.array([5, 61, 70, 98])]


@pytest.fixture
def model():
    paddle.seed(2)
    config = ErnieMConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
        max_position_embeddings=70,
        hidden_dropout_prob=0.5,
        attention_probs_dropout_prob=0.5,
    )
    model = PreTrainingModel(config, LANGUAGES)
    with paddle.no_grad():
        model.language_embeddings.weight.set_value(paddle.randn([3, 16]))
        model.lm_head.bias.set_value(paddle.randn([100]))
    return model


def btmlm_batch(seed: int = 1, **choices):
    return objectives(**choices).batch(
        "btmlm", texts([20, 13, 31, 7, 25, 16]), rngs(6, seed=seed), [2, 1, 1, 0, 2, 1]
    )


def test_only_the_target_languages_pieces_and_the_best_of_them(model):
    batch = btmlm_batch()
    after, pseudo_ids, _ = filled(model, batch, PseudoTokenGenerator(ALLOWED, VOCABULARY.special_ids))
    sentences = batch.stage1.slot_sentences
    model.eval()
    logits = model.lm_head(first_pass(model, batch)).numpy()
    for row, language, chosen in zip(logits, batch.stage1.slot_languages, pseudo_ids):
        assert chosen == max(ALLOWED[language], key=lambda piece: row[piece])
    assert len(set(pseudo_ids.tolist())) > 3
    # Each sentence's slots take its own predictions, whatever the order of languages.
    for number, language in enumerate([2, 1, 1, 0, 2, 1]):
        slots = np.sort(batch.stage1.slots[sentences == number])
        assert (np.searchsorted(batch.lengths.cumsum(), slots, side="right") == number).all()
        ids = after.input_ids[slots]
        assert len(ids) and np.isin(ids, ALLOWED[language]).all()
        assert np.array_equal(ids, pseudo_ids[sentences == number])
    # The batch itself is untouched.
    assert (batch.input_ids[batch.stage1.slots] == VOCABULARY.mask_id).all()


def test_all_pieces_without_specials(model):
    with paddle.no_grad():
        model.lm_head.bias[paddle.to_tensor(VOCABULARY.special_ids)] = 50.0  # specials would win everywhere
    pseudo_ids = filled(model, btmlm_batch()).pseudo_ids
    of_listed = PseudoTokenGenerator([VOCABULARY.ordinary_ids] * 3, VOCABULARY.special_ids)
    assert np.array_equal(pseudo_ids, filled(model, btmlm_batch(), of_listed).pseudo_ids)
    assert not np.isin(pseudo_ids, VOCABULARY.special_ids).any()


def test_no_dropout_no_gradient_and_the_model_is_left_as_it_was(model):
    batch = btmlm_batch()
    generator = PseudoTokenGenerator(ALLOWED, VOCABULARY.special_ids)
    for training in (True, False):
        model.train() if training else model.eval()
        first, second = (filled(model, batch, generator).pseudo_ids for _ in range(2))
        assert np.array_equal(first, second)  # dropout is 0.5 in this model
        assert all(layer.training is training for layer in model.sublayers(include_self=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_sampling_follows_the_softmax(model):
    temperature = 1.5
    times = 3000
    batch = btmlm_batch()
    generator = PseudoTokenGenerator(ALLOWED, VOCABULARY.special_ids, temperature)
    first, second = (filled(model, batch, generator).pseudo_ids for _ in range(2))
    assert np.array_equal(first, second)  # the draws are the batch's
    model.eval()
    hidden = first_pass(model, batch)[:1]
    pieces = ALLOWED[1]
    logits = model.lm_head(hidden).numpy()[0][pieces].astype(np.float64) / temperature
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    draws = (np.arange(times) + 0.5) / times  # every quantile once: frequencies are the probabilities
    rows = model.lm_head.transform(hidden).expand([times, -1])
    words = model.lm_head.word_embeddings.weight[pieces]
    bias = model.lm_head.bias[pieces]
    counts = np.bincount(generator.choose(rows, words, bias, paddle.to_tensor(draws)), minlength=len(pieces))
    assert counts.sum() == times and np.abs(counts / times - expected).max() < 1.5 / times


def test_second_language_by_pairs():
    choice = SecondLanguage(["en", "de", "fr", "sw"], {(0, 1): 1000, (1, 0): 24, (0, 2): 1, (2, 1): 0})
    weights = np.array([1024.0**0.7, 1.0])
    assert choice.probabilities[0] == pytest.approx([0, *(weights / weights.sum()), 0])
    assert choice.probabilities[1] == pytest.approx([1, 0, 0, 0])
    # Swahili has no parallel data: any language that has, by all its pairs.
    weights = np.array([1025.0, 1024.0, 1.0]) ** 0.7
    assert choice.probabilities[3] == pytest.approx([*(weights / weights.sum()), 0])
    rng = np.random.default_rng(0)
    counts = np.bincount([choice.draw(3, rng) for _ in range(20_000)], minlength=4) / 20_000
    assert np.abs(counts - choice.probabilities[3]).max() < 0.015


def test_second_language_uniform_or_without_any_pairs():
    for choice in (SecondLanguage(LANGUAGES, {(0, 1): 9}, "uniform"), SecondLanguage(LANGUAGES, {})):
        assert choice.probabilities == pytest.approx((1 - np.eye(3)) / 2)
    with pytest.raises(UserError, match="only language"):
        SecondLanguage(["en"], {})


def test_allowed_pieces():
    counts = np.zeros((3, 100))
    counts[0, [0, 3, 7, 8, 9, 99]] = [90, 90, 5, 4, 6, 90]
    counts[1, [11, 12]] = [1, 2]
    allowed = allowed_pieces(counts, 5, VOCABULARY)
    assert allowed[0].tolist() == [7, 9]  # no special one, and five times is enough
    assert allowed[1].tolist() == [11, 12]  # none reaches five: those that occur
    assert np.array_equal(allowed[2], VOCABULARY.ordinary_ids)  # no text at all


@pytest.mark.parametrize(
    "pseudo_ids, copied, repeated",
    [
        ([10] * 4 + [30] * 3, 7, 5),
        (range(60, 67), 0, 0),
        ([VOCABULARY.mask_id] * 7, 0, 5),  # a placeholder is no token of the sentence
        ([30] * 4 + [10] * 3, 0, 5),  # nor are those of another sentence
        ([10, 60, 60, 11, 31, 10, 62], 3, 1),
    ],
)
def test_copy_and_repeat_by_hand(model, monkeypatch, pseudo_ids, copied, repeated):
    sentences = [Text(np.arange(10, 30), 0), Text(np.arange(30, 43), 0)]
    batch = objectives().batch("btmlm", sentences, rngs(2), [1, 1])
    generator = PseudoTokenGenerator(None, VOCABULARY.special_ids)
    monkeypatch.setattr(generator, "_pseudo_ids", lambda *_: paddle.to_tensor(list(pseudo_ids)))
    assert filled(model, batch, generator).counts == {"pseudo": 7, "copied": copied, "repeated": repeated}


def test_found_in_translation_by_hand():
    batch = objectives().batch("btmlm", texts([10, 10]), rngs(2), second_languages=[1, 0])
    stage1 = batch.stage1  # two slots a sentence; language 0 first, so the second row's slots come first
    assert stage1.slot_sentences.tolist() == [1, 1, 0, 0]
    translations = [np.array([40, 41, 42]), np.array([50, 51, 9])]
    for pseudo_ids, ignored, found_and_all in (
        ([50, 40, 40, 42], [], (3, 4)),  # all but the second: 40 is in the translation of the other sentence
        ([50, 9, 40, 77], [9], (2, 3)),
    ):
        counts = pseudo_translations.found_in_translation(
            stage1, np.array(pseudo_ids), translations, np.array(ignored)
        )
        assert counts == found_and_all
    counts = np.zeros((2, 100), dtype=np.int64)
    counts[0, [9, 50, 60]] = [99, 5, 7]  # 9 is punctuation: the guesses are 60 and 50
    counts[1, [40, 41, 60]] = [5, 7, 1]
    guesses = pseudo_translations.most_frequent(stage1, counts, np.array([9]))
    assert pseudo_translations.found_in_translation(stage1, guesses, translations, np.array([9])) == (3, 4)


def test_punctuation():
    pieces = ["▁", ".", "▁,", "▁the", "。", "1", "ि", "►", "a.", "和"]
    assert pseudo_translations.punctuation_ids(pieces).tolist() == [0, 1, 2, 4, 7]
