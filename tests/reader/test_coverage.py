"""The warnings for text that a vocabulary was not made for, and for rows that are too long."""

import logging

import pytest

from ernie_m.reader.batching import EncodePairs, Example
from ernie_m.reader.coverage import count_unknown_words, warn_if_cut, warn_if_unsuited
from ernie_m.tokenizer.tokenizer import Tokenizer
from tests.toys import sentences, train_pieces


@pytest.mark.parametrize(
    "text, is_warned",
    [
        (sentences(20, seed=5), False),
        (["qqq www vvv"] * 3, True),
        (["f d g s t k l n m r p b i u o e a"] * 3, True),
        (["狐狸跳过懒狗"], False),
        ([""], False),
    ],
    ids=["suited", "unknown", "letters", "han", "empty"],
)
def test_only_unsuited_text_is_warned_of(tmp_path, caplog, text, is_warned):
    """The vocabulary is trained on made-up words, which have no q, w or v, and on some Chinese.

    In "unknown" all letters are unknown, and in "letters" each word is a single letter.
    """
    training = sentences(500, seed=99) + ["狐 狸 跳 过 懒 狗"] * 9
    tokenizer = Tokenizer(None, train_pieces(tmp_path / "piece.model", training, vocab_size=220))
    with caplog.at_level(logging.WARNING):
        warn_if_unsuited(tokenizer, text, "train.en.tsv")
    assert bool(caplog.messages) == is_warned
    assert all(message.startswith("train.en.tsv: ") for message in caplog.messages)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("bado kani, lera", 0),
        ("qqq bado www", 2),
        ("bdfgkl a b, I", 1),
        ("bdfg bado", 0),
        ("狐狸跳过懒狗", 0),
        ("", 0),
    ],
)
def test_unknown_words(tmp_path, text, count):
    """Words that are [UNK], or cut into many single letters; XLM-R's vocabulary cuts short ones."""
    training = sentences(500, seed=99) + ["狐 狸 跳 过 懒 狗", "a , b I"] * 9
    tokenizer = Tokenizer(None, train_pieces(tmp_path / "piece.model", training, vocab_size=230))
    assert count_unknown_words(tokenizer, text) == count


@pytest.mark.parametrize("long_rows, is_warned", [(20, False), (21, True)])
def test_a_file_is_warned_of_if_over_a_tenth_of_its_rows_is_cut(tmp_path, caplog, long_rows, is_warned):
    """20 of the first 200 rows may be cut without a warning. The 50 rows after them are not looked at."""
    tokenizer = Tokenizer(None, train_pieces(tmp_path / "piece.model"))
    short = Example("a", "a")
    long = Example("a", "a " * 20)
    examples = [long] * long_rows + [short] * (200 - long_rows) + [long] * 50
    with caplog.at_level(logging.WARNING):
        warn_if_cut(EncodePairs(tokenizer, max_seq_len=16), examples, "train.en.tsv")
    message = "train.en.tsv: 21 of the first 200 rows are longer than 16 tokens (--max_seq_len) and are cut"
    assert caplog.messages == ([message] if is_warned else [])
