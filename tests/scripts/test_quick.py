"""The quick demo, with a model of random weights instead of the real one."""

import json
import sys

import numpy as np
import pytest

from ernie_m.reader.text_featurizer import TextFeaturizer
from scripts import quick
from tests.helpers.checkpoints import change_config, stored
from tests.toys import make_ours, train_piece_model

CODES = ("en", "de", "fr", "es", "ru", "el", "tr", "ar", "hi", "zh")


def test_each_language_has_fifty_different_sentences():
    topics, texts = quick.read_sentences()
    assert tuple(texts) == CODES
    assert all(topics[10 * i : 10 * i + 10] == [topics[10 * i]] * 10 for i in range(5))
    for sentences in texts.values():
        # Each sentence is another one, so that one alone is the translation.
        assert len({*sentences}) == len(topics) == 50
        assert all(sentence and sentence == sentence.strip() for sentence in sentences)


@pytest.fixture
def model(tmp_path):
    """A folder of random weights with a vocabulary of the sentences."""
    _, texts = quick.read_sentences()
    sentences = [sentence for of_language in texts.values() for sentence in of_language]
    piece_model = train_piece_model(tmp_path / "piece.model", sentences, vocab_size=900)
    make_ours(tmp_path / "model", piece_model=piece_model)
    return tmp_path / "model"


def test_the_demo_searches_and_learns_topics(model, tmp_path, monkeypatch, capsys):
    """The question is searched for; translations, and the texts that are classified, are neither."""
    change_config(model, pipeline=stored(prompts={"query": "q ", "passage": "p "}))
    encoded = {}
    method = TextFeaturizer.__call__

    def record(encode, examples):
        encoded.setdefault(encode.prompt, set()).update(example.text_a for example in examples)
        return method(encode, examples)

    monkeypatch.setattr(TextFeaturizer, "__call__", record)
    monkeypatch.setattr(quick, "FOLDER", tmp_path / "demo")
    monkeypatch.setattr(sys, "argv", ["quick", "--model", str(model)])
    quick.main()
    _, texts = quick.read_sentences()
    sentences = {sentence for of_language in texts.values() for sentence in of_language}
    assert encoded == {"q ": {quick.QUESTION}, "p ": sentences, "": sentences}
    *_, last = capsys.readouterr().out.splitlines()
    results = json.loads(last)
    assert list(results) == ["translations", "topics", "seconds"]
    assert 0 <= results["topics"] <= 100
    # What the page reads.
    assert {file.stem for file in (tmp_path / "demo/texts").iterdir()} == {*CODES}
    assert (tmp_path / "demo/topics/config.json").is_file()


def test_topics_are_scored_on_sentences_that_are_not_learned():
    """By a classifier that knows the learned ones alone. All of xx are the first one."""

    class Memory(dict):
        def fit(self, texts, labels, output):
            self.update(zip(texts, labels))
            return self

        def classify(self, texts):
            return [{"label": self.get(text)} for text in texts]

    topics = ["a"] * 10 + ["b"] * 10
    memory = Memory()
    english = [str(number) for number in range(20)]
    accuracy = quick.score_topics(memory, topics, {"en": english, "xx": ["0"] * 20})
    assert accuracy == {"en": 0, "xx": 50}
    learned = {text: topic for text, topic in zip(english, topics) if int(text) % 10 < quick.LEARNED}
    assert memory == learned


def test_each_sentence_looks_for_its_translation_in_english():
    """The second finds the first one's; in the other direction each English sentence would find its own."""
    english = np.eye(3, dtype=np.float32)
    foreign = np.array([[1, 0, 0], [0.9, 0.5, 0], [0, 0.1, 1]], np.float32)
    found = quick.score_translations({"de": foreign, "en": english, "fr": 2 * english})
    assert found == {"de": pytest.approx(200 / 3), "fr": 100}
    assert quick.average_without_english({"en": 0, **found}) == 83.3
