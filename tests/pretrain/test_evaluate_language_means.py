"""The means that an export holds: over held-out sentences, of the finished model."""

import shutil

import numpy as np
import pytest

from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.weights import LANGUAGE_MEANS
from ernie_m.model.ernie import ErnieMModel
from ernie_m.pretrain import evaluate
from ernie_m.reader.corpus import Corpus
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.language_centering import LanguageCentering
from tests.launching import check_error, error_of


@pytest.fixture(scope="module")
def corpus(tiny_corpus):
    return Corpus(tiny_corpus)


def test_exported_language_means(pretrained, corpus):
    """de, en and fr have the held-out sides of their pairs; en has those of both language pairs."""
    checkpoint = open_checkpoint(pretrained / "encoder")
    shape = (checkpoint.config.num_hidden_layers + 1, checkpoint.config.hidden_size)
    means = LanguageCentering.read(checkpoint.language_means_path, shape)
    assert means.languages == ["de", "en", "fr"]

    model = ErnieMModel(checkpoint.config)
    load_weights(model, checkpoint)
    tokenizer = Tokenizer.from_folder(pretrained / "encoder")
    english = [
        stream[number][languages.index("en")]
        for languages, stream in corpus.held_out_parallel.items()
        for number in range(len(stream))
    ]
    embeddings = PaddleEncoder(model).encode(tokenizer.build_sentence_inputs(english, 32))  # [L + 1, N, H]
    np.testing.assert_allclose(means.vectors[1], embeddings.mean(axis=1), atol=1e-6)  # [L + 1, H]


def test_each_pair_gives_equally_many_sentences(corpus, monkeypatch):
    """5 sentences of English, in two pairs, are 3 of each, rounded up."""
    monkeypatch.setattr(evaluate, "SENTENCES", 5)
    assert len(evaluate.read_held_out_sentences(corpus, "en")) == 3 + 3
    german = evaluate.read_held_out_sentences(corpus, "de")
    text = corpus.held_out_parallel["de", "en"]
    assert [sentence.tolist() for sentence in german] == [text[number][0].tolist() for number in range(5)]


def test_a_language_without_pairs_has_its_monolingual_text(corpus, monkeypatch):
    monkeypatch.setattr(corpus, "held_out_parallel", {})
    text = corpus.held_out_mono["fr"]
    lines = [text.read_line(number).tolist() for number in range(text.num_lines)]
    for most in (evaluate.SENTENCES, 2):
        monkeypatch.setattr(evaluate, "SENTENCES", most)
        french = evaluate.read_held_out_sentences(corpus, "fr")
        assert [sentence.tolist() for sentence in french] == lines[:most]


def test_corrupt_means_are_one_line(pretrained, tmp_path):
    path = shutil.copytree(pretrained / "full", tmp_path / "full") / LANGUAGE_MEANS
    path.write_bytes(path.read_bytes()[:-4])  # the last number is gone
    assert "language_means.safetensors: corrupt" in error_of(LanguageCentering.read, path, (3, 32))
    check_error(error_of(open_checkpoint, path.parent), "language_means.safetensors: corrupt ", " bytes")
