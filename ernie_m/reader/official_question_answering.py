"""Questions as the official reader makes inputs of them (--official_compat true; docs/tasks.md).

It cuts a context at white space and tokenises each word by itself. In training an answer is all tokens of the
words that it touches, or fewer if the answer, tokenised alone, gives a part of them:

    context   born (1985) in Ulm.           the answer 1985 is in the word (1985)
    tokens    ▁born ▁( 1985 ) ▁in ▁Ul m .
    trained         ▁( 1985 )               all of the word, because 1985 alone is ▁1985
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

import numpy as np

from ernie_m.reader.files.squad import Question, QuestionFile
from ernie_m.reader.question_answering import (
    AnswerFeature,
    AnswerWindows,
    ContextPart,
    ContextWindow,
    Cut,
    EncodeWindows,
    cut_windows,
    encode_all,
    encode_for_answers,
    windows_of,
)
from ernie_m.tokenizer.offsets import Span
from ernie_m.tokenizer.tokenizer import Tokenizer

# Tab, line ends, and the space characters (Zs) separate words; \s has further characters.
_WORD = re.compile("[^\t\n\r \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# The official reader leaves room for one token more than an input has.
_UNUSED = 1


class WordTokens(NamedTuple):
    """The words of a context.

    Attributes:
        bounds: (start, end) of the characters of each word.
        first_tokens: of each word the number of its first token, then the number of all tokens.
    """

    bounds: list[Span]
    first_tokens: list[int]


def split_words(text: str) -> list[str]:
    """The words of a context."""
    return _WORD.findall(text)


def pieces_of_words(tokenizer: Tokenizer, words: Sequence[str]) -> list[str]:
    """The pieces of all words. A piece that is not in the vocabulary is given as its text."""
    return list(chain.from_iterable(map(tokenizer.tokenize, words)))


def make_official_windows(
    file: QuestionFile, tokenizer: Tokenizer, cut: Cut, keep_all: bool = True
) -> AnswerWindows:
    """Tokenise questions and contexts and cut them into windows.

    Args:
        keep_all: keep the questions whose answer is not found, too. Windows without the answer are kept
            anyhow.
    """
    words_of: dict[str, WordTokens] = {}  # context -> its words

    @cache  # most words of a file occur often
    def encode_word(word: str) -> tuple[list[int], list[Span]]:
        return encode_for_answers(tokenizer, word, split_han=False)

    def encode(text: str) -> tuple[list[int], list[Span]]:
        words = WordTokens([match.span() for match in _WORD.finditer(text)], [0])
        words_of[text] = words
        ids: list[int] = []
        spans: list[Span] = []
        for word_start, word_end in words.bounds:
            word_ids, word_spans = encode_word(text[word_start:word_end])
            ids += word_ids
            spans += [(word_start + start, word_start + end) for start, end in word_spans]
            words.first_tokens.append(len(ids))
        return ids, spans

    def find(question: Question) -> tuple[int, int] | None:
        text = file.contexts[question.context]
        return find_answer(tokenizer, text, words_of[text], question.span)

    contexts = encode_all(file, file.contexts, encode)
    return windows_of(file, tokenizer, cut, contexts, find, keep_all, True, cut_officially, _UNUSED)


def find_answer(tokenizer: Tokenizer, text: str, words: WordTokens, span: Span) -> tuple[int, int] | None:
    """The first and the last token of an answer, as the drawing at the top of this file shows.

    Args:
        text: the context.
        words: those of the context.
        span: (start, end) of the characters of the answer.

    Returns:
        None if the words do not hold the answer, with single spaces for its white space.
    """
    start, end = span
    answer = text[start:end]
    # The word of a character; that of white space is the word before.
    word_starts = [word_start for word_start, _ in words.bounds]
    first_word = bisect_right(word_starts, start) - 1
    last_word = bisect_right(word_starts, end - 1) - 1
    touched = [text[word_start:word_end] for word_start, word_end in words.bounds[first_word : last_word + 1]]
    if first_word < 0 or " ".join(answer.split()) not in " ".join(touched):
        return None
    first = words.first_tokens[first_word]
    pieces = pieces_of_words(tokenizer, touched)
    answer_pieces = tokenizer.tokenize(answer)
    for place in range(len(pieces) - len(answer_pieces) + 1):
        if answer_pieces and pieces[place : place + len(answer_pieces)] == answer_pieces:
            return first + place, first + place + len(answer_pieces) - 1
    return first, words.first_tokens[last_word + 1] - 1


def cut_officially(length: int, room: int, stride: int) -> list[ContextPart]:
    """`cut_windows`, with other places where answers may begin.

    A token belongs to the window in which it has the most context on its shorter side, plus a hundredth of
    the length of the window; of equal ones to the first.
    """
    parts = cut_windows(length, room, stride)
    if len(parts) < 2:
        return parts
    contexts = np.full([len(parts), length], -np.inf)  # for each token in each window
    for row, part in zip(contexts, parts):
        size = part.end - part.start
        places = np.arange(size)
        row[part.start : part.end] = np.minimum(places, size - 1 - places) + 0.01 * size
    # The windows follow each other; rounding may not bring an earlier one back.
    owners = np.maximum.accumulate(contexts.argmax(axis=0))  # [length]
    bounds = np.searchsorted(owners, np.arange(len(parts) + 1)).tolist()
    return [
        part._replace(answers_from=bounds[number], answers_to=bounds[number + 1])
        for number, part in enumerate(parts)
    ]


class EncodeInOrder(EncodeWindows):
    """Inputs in the order of the file. A window without the answer has the target (0, 0), the place of [CLS].

    Every input is filled up to `max_seq_len`, so that sorting by length leaves the order alone; `collate`
    takes the padding off again.
    """

    place_without_answer = 0

    def __init__(self, tokenizer: Tokenizer, cut: Cut):
        super().__init__(tokenizer, cut)
        self.max_seq_len = cut.max_seq_len

    def __call__(self, windows: Sequence[ContextWindow]) -> list[AnswerFeature]:
        features = []
        for feature in super().__call__(windows):
            padding = [self.pad_id] * (self.max_seq_len - len(feature.ids))
            features.append(feature._replace(ids=feature.ids + padding))
        return features
