"""The warnings for text that a vocabulary was not made for, and for texts that are too long."""

import pytest

from ernie_m.reader import text_featurizer
from ernie_m.reader.text_featurizer import (
    Example,
    TextFeaturizer,
    warn_about_repeated_prompt,
    warn_if_truncated,
)
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary_coverage import count_unknown_words, warn_if_not_covered
from tests.toys import sentences, train_piece_model


@pytest.mark.parametrize(
    "text, shares",
    [
        (sentences(20, seed=5), []),
        (["qqq www vvv"] * 3, [(50, 0)]),
        (
            ["f d g s t k l n m r p b i u o e a"] * 3,
            [(0, 50)],
        ),
        (["bado a kani b"] * 3, []),
        (["狐狸跳过懒狗"], []),
        ([""], []),
    ],
    ids=["suited", "unknown", "letters", "some letters", "han", "empty"],
)
def test_warn_only_about_uncovered_text(tmp_path, caplog, text, shares):
    """The vocabulary is trained on made-up words, which have no q, w or v, and on some Chinese.

    In "unknown" all letters are unknown, and in "letters" each word is a single letter.
    """
    training = sentences(500, seed=99) + ["狐 狸 跳 过 懒 狗"] * 9
    tokenizer = Tokenizer(None, train_piece_model(tmp_path / "piece.model", training, vocab_size=220))
    warn_if_not_covered("train.en.tsv", tokenizer, [tokenizer.build_inputs(line) for line in text])
    assert [line.partition(". ")[0] for line in caplog.messages] == [
        f"train.en.tsv: {unknown} % of its tokens are unknown and {letters} % single letters"
        for unknown, letters in shares
    ]


@pytest.mark.parametrize("token", ["</s>", "<mask>", "[SEP]", "<unk>"])
def test_special_tokens_in_texts_are_plain_text_and_logged(tmp_path, caplog, token):
    tokenizer = Tokenizer(None, train_piece_model(tmp_path / "piece.model"))
    texts = [Example("bado", f"kani {token}{token}"), Example("[x] < a"), Example(f"a{token}")]
    warn_if_truncated("train.en.tsv", texts, TextFeaturizer(tokenizer, 64))
    assert caplog.messages[-1].startswith("train.en.tsv: 2 texts contain special tokens")
    assert not {tokenizer.sep_id, tokenizer.mask_id} & {*tokenizer.encode(texts[2].text_a)}


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


CUT = " are truncated to 16 tokens (max_seq_len)"
LONG = [Example("bado", "bado " * 20)]
BLANK = [Example(" "), Example("bado", " ")]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [Example("bado", "bado")] * 3 + LONG,
            ["1 of 4 sampled rows" + CUT],
        ),
        ([Example("bado")] * 6 + LONG, ["1 of 5 sampled rows" + CUT]),
        ([Example("bado", "bado"), *BLANK, Example("bado")], ["2 of 4 rows have an empty text"]),
        ([], []),
    ],
)
def test_warnings_about_sampled_rows(tmp_path, caplog, monkeypatch, rows, said):
    """At most five rows are looked at, from the first to the last."""
    monkeypatch.setattr(text_featurizer, "_MOST_MEASURED", 5)
    tokenizer = Tokenizer(None, train_piece_model(tmp_path / "piece.model"))
    warn_if_truncated("train.en.tsv", rows, TextFeaturizer(tokenizer, max_seq_len=16), "rows")
    assert caplog.messages == [f"train.en.tsv: {each}" for each in said]


def test_warn_once_about_texts_that_begin_with_their_prompt(caplog):
    for texts in (["q: a", " q:b", "c", "d"], ["q: a", " q:b", "q: c", "d"], ["q: a", "q: b", "c"]):
        warn_about_repeated_prompt("q: ", texts, "queries.tsv")
    assert [line.partition(", which")[0] for line in caplog.messages] == [
        "queries.tsv: most texts already begin with the prompt 'q: '"
    ]
