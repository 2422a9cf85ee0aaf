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

from ernie_m.reader.files.squad import QuestionFile
from ernie_m.reader.question_answering import (
    NO_ANSWER,
    AnswerFeature,
    AnswerWindows,
    ContextPart,
    ContextWindow,
    Cut,
    EncodeWindows,
    cut_windows,
    encode_for_answers,
    encode_questions,
    special_tokens,
)
from ernie_m.tokenizer.offsets import Span
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.logging import progress

# Tab, line ends, and the space characters (Zs) separate words; \s has further characters.
_WORD = re.compile("[^\t\n\r \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# The official reader leaves room for one token more than an input has.
_UNUSED = 1


class WordTokens(NamedTuple):
    """The tokens of a context.

    Attributes:
        ids: int32 [tokens].
        spans: int32 [tokens, 2], the characters of each token.
        words: (start, end) of the characters of each word.
        first_tokens: of each word the number of its first token, then the number of all tokens.
    """

    ids: np.ndarray
    spans: np.ndarray
    words: list[Span]
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
    contexts = _encode_contexts(file, tokenizer)
    question_ids = encode_questions(file, tokenizer, cut)
    rows: list[tuple[int, ...]] = []  # those of `windows` of `AnswerWindows`
    for number, question in enumerate(file.questions):
        tokens = contexts[question.context]
        answer = None  # its first and its last token
        if question.span is not None:
            answer = find_answer(tokenizer, file.contexts[question.context], tokens, question.span)
        if answer is None and not keep_all:
            continue
        used = len(question_ids[number]) + special_tokens(cut.separators) + _UNUSED
        room = max(1, cut.max_seq_len - used)
        for part in cut_officially(len(tokens.ids), room, cut.doc_stride):
            is_here = answer is not None and part.holds(answer)
            first, last = answer if is_here else (NO_ANSWER, NO_ANSWER)
            rows.append((number, question.context, *part, first, last))
    return AnswerWindows(
        file,
        question_ids,
        context_ids=[tokens.ids for tokens in contexts],
        spans=[tokens.spans for tokens in contexts],
        windows=np.asarray(rows, np.int32).reshape(-1, 8),  # [0, 8] if there are none
    )


def _encode_contexts(file: QuestionFile, tokenizer: Tokenizer) -> list[WordTokens]:
    """The tokens of each context of a file."""

    @cache  # most words of a file occur often
    def encode(word: str) -> tuple[list[int], list[Span]]:
        return encode_for_answers(tokenizer, word, split_han=False)

    contexts = []
    for text in progress(file.contexts, f"tokenising {file.path}", unit="texts"):
        words = [match.span() for match in _WORD.finditer(text)]
        ids: list[int] = []
        spans: list[Span] = []
        first_tokens = [0]
        for word_start, word_end in words:
            word_ids, word_spans = encode(text[word_start:word_end])
            ids += word_ids
            spans += [(word_start + start, word_start + end) for start, end in word_spans]
            first_tokens.append(len(ids))
        span_array = np.asarray(spans, np.int32).reshape(-1, 2)  # [0, 2] without tokens
        contexts.append(WordTokens(np.asarray(ids, np.int32), span_array, words, first_tokens))
    return contexts


def find_answer(tokenizer: Tokenizer, text: str, tokens: WordTokens, span: Span) -> tuple[int, int] | None:
    """The first and the last token of an answer, as the drawing at the top of this file shows.

    Args:
        text: the context.
        tokens: those of the context.
        span: (start, end) of the characters of the answer.

    Returns:
        None if the words do not hold the answer, with single spaces for its white space.
    """
    start, end = span
    answer = text[start:end]
    # The word of a character; that of white space is the word before.
    word_starts = [word_start for word_start, _ in tokens.words]
    first_word = bisect_right(word_starts, start) - 1
    last_word = bisect_right(word_starts, end - 1) - 1
    words = [text[word_start:word_end] for word_start, word_end in tokens.words[first_word : last_word + 1]]
    if first_word < 0 or " ".join(answer.split()) not in " ".join(words):
        return None
    first = tokens.first_tokens[first_word]
    pieces = pieces_of_words(tokenizer, words)
    answer_pieces = tokenizer.tokenize(answer)
    for place in range(len(pieces) - len(answer_pieces) + 1):
        if answer_pieces and pieces[place : place + len(answer_pieces)] == answer_pieces:
            return first + place, first + place + len(answer_pieces) - 1
    return first, tokens.first_tokens[last_word + 1] - 1


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
