"""The windows and answers of the official reader, against its rules in their own words."""

import pytest

from ernie_m.reader.files.squad import Question, QuestionFile
from ernie_m.reader.mrc_reader import (
    WindowConfig,
    make_official_windows,
    split_into_official_windows,
    split_into_windows,
)
from ernie_m.reader.tokenization import Tokenizer
from tests.toys import train_piece_model

TEXTS = ["born (rome) in 1985.", "(rome) and rome, old  rome", "a new\u00a0rome.x"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "piece.model"
    return Tokenizer(None, train_piece_model(path, TEXTS * 20, vocab_size=40))


def most_context(windows: list[range], token: int) -> int:
    """The number of the window in which a token has the most context, of equal ones the first."""
    scores = [
        min(token - window.start, window.stop - 1 - token) + 0.01 * len(window) if token in window else -1
        for window in windows
    ]
    return scores.index(max(scores))


@pytest.mark.parametrize("budget, stride", [(9, 4), (10, 3), (300, 128), (310, 128), (7, 20), (1, 1)])
def test_an_answer_begins_in_the_window_with_the_most_context(budget, stride):
    """Of 429 tokens, one more than two windows hold, the third window of 300 has the last one alone."""
    for length in (0, 1, budget, budget + 1, 2 * budget, 3 * budget + 2, 429):
        parts = split_into_official_windows(length, budget, stride)
        windows = [range(part.start, part.end) for part in parts]
        assert windows == [range(part.start, part.end) for part in split_into_windows(length, budget, stride)]
        owners = [
            number for number, part in enumerate(parts) for _ in range(part.answers_from, part.answers_to)
        ]
        assert owners == [most_context(windows, token) for token in range(length)]


@pytest.mark.parametrize(
    "text, answer, expected",
    [
        ("born (rome) in 1985.", "rome", "(rome)"),  # alone it is ▁rome
        ("born (rome) in 1985.", "(rome) in 1985", "(rome) in 1985"),
        ("and rome, old  rome", "old  rome", "old  rome"),
        ("and rome, old  rome", " rome", "rome"),  # its own subwords; the space belongs to the word before
        ("a new \u00ad rome.x", "rome.x", "rome.x"),  # a soft hyphen, a word without a token
        ("(rome) and rome, old  rome", "rome) ", "(rome)"),
        ("a new\u00a0rome.x", "ew\u00a0rome", "new\u00a0rome.x"),
    ],
)
def test_an_answer_has_whole_words_or_its_own_subwords(tokenizer, text, answer, expected):
    start = text.index(answer)
    question = Question("1", "where", 0, (answer,), (start, start + len(answer)))
    file = QuestionFile(None, [text], [question])
    windows = make_official_windows(file, tokenizer, WindowConfig(60, 10, 20, split_han=False))
    (window,) = windows
    first, last = window.answer
    spans = windows.spans[0]
    assert text[spans[first, 0] : spans[last, 1]] == expected


def test_skip_training_question_without_answer_span(tokenizer):
    """A vertical tab is not white space to the words, but it is to the answer."""
    question = Question("1", "where", 0, ("old\x0brome",), (0, 8))
    file = QuestionFile(None, ["old\x0brome in 1985."], [question])
    cut = WindowConfig(60, 10, 20, split_han=False)
    assert len(make_official_windows(file, tokenizer, cut, keep_all=False)) == 0
    assert len(make_official_windows(file, tokenizer, cut)) == 1
