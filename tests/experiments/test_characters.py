"""Nats a character: which words are masked, and what they cost."""

import math

import numpy as np
import paddle
import pytest

from experiments.characters import loss_of, masked_lines
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from reader.corpus import Blocks, Corpus
from reader.tokenization import Tokenizer
from tests.pretrain.tiny_run import make_corpus


@pytest.fixture(scope="module")
def tiny_corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("tiny"))


def test_whole_words_are_masked(tiny_corpus):
    """In each line 15 % of the words, at least one; their characters are counted, not the sign of a word."""
    corpus = Corpus(tiny_corpus)
    tokenizer = Tokenizer.from_folder(tiny_corpus)
    examples, characters = masked_lines(corpus, tokenizer, "de", 0, most=5)
    lines = Blocks(corpus.held_out_mono["de"], 126, one_line=True)
    assert len(examples) == 5
    counted = 0
    for line, example in zip(lines, examples):
        (sequence,) = example.sequences
        words = tokenizer.decode(line).split()
        masked = tokenizer.decode(sequence.target_ids).split()
        assert len(masked) == max(1, round(0.15 * len(words))) and set(masked) <= set(words)
        assert (sequence.input_ids[sequence.targets] == tokenizer.mask_id).all()
        counted += sum(map(len, masked))
    assert characters == counted


def test_the_loss_of_a_model_that_knows_nothing(tiny_corpus):
    corpus = Corpus(tiny_corpus)
    tokenizer = Tokenizer.from_folder(tiny_corpus)
    examples, characters = masked_lines(corpus, tokenizer, "de", 0, most=40)  # more than are run at a time
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = PreTrainingModel(ErnieMConfig(vocab_size=tokenizer.vocab_size, **shape), corpus.languages)
    model.eval()
    with paddle.no_grad():
        model.ernie_m.embeddings.word_embeddings.weight.zero_()
    masked = sum(len(example.sequences[0].targets) for example in examples)
    expected = masked * math.log(tokenizer.vocab_size) / characters
    np.testing.assert_allclose(loss_of(model, examples, characters), expected, rtol=1e-5)
