"""The warnings for text that a vocabulary was not made for, and for texts that are too long."""

import pytest

from ernie_m.reader import batching
from ernie_m.reader.batching import Example, TextFeaturizer, warn_if_truncated
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary_coverage import count_unknown_words, warn_if_not_covered
from tests.toys import sentences, train_piece_model


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
def test_warn_only_about_uncovered_text(tmp_path, caplog, text, is_warned):
    """The vocabulary is trained on made-up words, which have no q, w or v, and on some Chinese.

    In "unknown" all letters are unknown, and in "letters" each word is a single letter.
    """
    training = sentences(500, seed=99) + ["狐 狸 跳 过 懒 狗"] * 9
    tokenizer = Tokenizer(None, train_piece_model(tmp_path / "piece.model", training, vocab_size=220))
    warn_if_not_covered("train.en.tsv", tokenizer, tokenizer.encode_batch(text))
    assert [message.partition(": ")[0] for message in caplog.messages] == ["train.en.tsv"] * is_warned


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
    tokenizer = Tokenizer(None, train_piece_model(tmp_path / "piece.model", training, vocab_size=230))
    assert count_unknown_words(tokenizer, text) == count


@pytest.mark.parametrize(("length", "found"), [(4, "1 of 4"), (7, "1 of 5"), (0, None)])
def test_count_truncated_rows(tmp_path, caplog, monkeypatch, length, found):
    """At most five rows are looked at, from the first to the last, which is too long."""
    monkeypatch.setattr(batching, "_MOST_MEASURED", 5)
    tokenizer = Tokenizer(None, train_piece_model(tmp_path / "piece.model"))
    rows = [Example("a", "a")] * (length - 1) + [Example("a", "a " * 20)] * bool(length)
    warn_if_truncated("train.en.tsv", rows, TextFeaturizer(tokenizer, max_seq_len=16), "rows")
    message = f"train.en.tsv: {found} sampled rows are truncated to 16 tokens (max_seq_len)"
    assert [line for line in caplog.messages if " truncated " in line] == ([message] if found else [])


def test_rows_with_an_empty_text_are_counted(tmp_path, caplog):
    tokenizer = Tokenizer(None, train_piece_model(tmp_path / "piece.model"))
    rows = [Example(" "), Example("a", " "), Example("a", "a"), Example("a")]
    warn_if_truncated("train.en.tsv", rows, TextFeaturizer(tokenizer, max_seq_len=16), "rows")
    assert "train.en.tsv: 2 of 4 rows have an empty text" in caplog.messages
