"""Zero-shot classification gives the same probabilities as the pipeline of the newest transformers."""

import numpy as np
import pytest
import transformers

import ernie_m
from ernie_m.commands import convert
from tests.toys import CONFIG, make_ours, train_piece_model

# Words of five languages, of which texts and labels are made; without digits before commas (docs/models.md).
WORDS = {
    "en": "the man buys a book at the market and reads it to his friend in the old house",
    "de": "der Mann kauft ein Buch auf dem Markt und liest es seinem Freund im alten Haus vor",
    "ru": "мужчина покупает книгу на рынке и читает её своему другу в старом доме",
    "hi": "आदमी बाज़ार में एक किताब खरीदता है और उसे अपने दोस्त को पुराने घर में पढ़कर सुनाता है",
    "zh": "男人 在 市场 买 一本 书 然后 在 老 房子 里 读 给 他的 朋友 听",
}
TEXTS_OF_EACH = 40
LABELS = ["politics", "Sport", "книга", "वाणिज्य", "老 房子"]
TEMPLATES = {
    "en": "This example is {}.",
    "de": "In diesem Text geht es um {}.",
    "ru": "Этот текст о {}.",
    "hi": "यह {} के बारे में है।",
    "zh": "这个 例子 是 {}。",
}
# The pipeline finds the contradiction by its index, here the first, and this project by its name.
INFERENCE_LABELS = ["contradiction", "neutral", "entailment"]


def draw_texts(language: str) -> list[str]:
    """Texts of 3 to 19 words of a language."""
    random = np.random.default_rng(sorted(WORDS).index(language))
    words = WORDS[language].split()
    return [" ".join(random.choice(words, random.integers(3, 20))) for _ in range(TEXTS_OF_EACH)]


@pytest.fixture(scope="module")
def models(module_folder):
    """A model of natural language inference with wide random weights, and the pipeline on its conversion."""
    texts = [*WORDS.values(), *LABELS, *TEMPLATES.values()] * 20
    piece_model = train_piece_model(
        module_folder / "piece.model", texts, vocab_size=260, normalization_rule_name="nmt_nfkc"
    )
    config = {**CONFIG, "max_position_embeddings": 130, "hidden_size": 32}
    make_ours(module_folder / "plain", "classification", INFERENCE_LABELS, config, piece_model)
    convert.main([str(module_folder / "plain"), str(module_folder / "native"), "--to", "ernie-m"])
    convert.main([str(module_folder / "plain"), str(module_folder / "reference"), "--to", "xlm-roberta"])
    reference = transformers.pipeline(
        "zero-shot-classification", model=str(module_folder / "reference"), device="cpu"
    )
    return ernie_m.load(module_folder / "native"), reference


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("language", WORDS)
def test_the_same_probabilities(models, language, multi_label):
    """`multi_label`: whether more than one label may be right, so that each has a probability of its own."""
    model, reference = models
    texts = draw_texts(language)
    template = TEMPLATES[language]
    predictions = model.zero_shot(texts, LABELS, template, multi_label=multi_label)
    expected = reference(
        texts, candidate_labels=LABELS, hypothesis_template=template, multi_label=multi_label
    )
    for prediction, of_peer in zip(predictions, expected, strict=True):
        for label, score in zip(of_peer["labels"], of_peer["scores"], strict=True):
            assert abs(prediction["probabilities"][label] - score) < 1e-5
    assert len({prediction["label"] for prediction in predictions}) > 1  # the model tells texts apart
