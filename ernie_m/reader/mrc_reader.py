"""The model inputs of questions and their contexts.

An input is `[CLS] question [SEP] part of the context [SEP]`; in models of XLM-R's kind two [SEP] stand
between the two. A context that does not fit is cut into windows that begin every `doc_stride` tokens and
overlap. A file is tokenized when it is read, each context once for all its questions, and kept as arrays of
ids and character spans.
"""

import os
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

from ernie_m.reader.batching import pad
from ernie_m.reader.files.squad import QuestionFile, read_squad
from ernie_m.reader.token_offsets import Span, encode_with_offsets
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger, progress

NO_ANSWER = -1
# Han characters: extension A, the basic block, compatibility characters, and all in planes 2 and 3.
_HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_HAS_HAN = re.compile(_HAN)
# A Han character, or the text up to the next one.
_PARTS = re.compile(f"{_HAN}|(?:(?!{_HAN}).)+", re.DOTALL)


def encode_for_answers(tokenizer: Tokenizer, text: str, split_han: bool) -> tuple[list[int], list[Span]]:
    """`encode_with_offsets`, adapted to answers, which begin and end with whole tokens.

    The span of a token includes the characters after it that normalization drops (a zero-width space after a
    footnote mark), as the answers of MLQA do. With `split_han` each Han character is a token, because answers
    often begin or end inside a piece of Chinese text (亿美元, 年的).
    """
    ids, spans = encode_with_offsets(tokenizer, text)
    if split_han and _HAS_HAN.search(text):
        ids, spans = _split_han(tokenizer, text, ids, spans)
    # Normalization drops only characters that are not printable.
    if text.isprintable():
        return ids, spans
    dropped = {index for index, character in enumerate(text) if not tokenizer.normalize(character)}
    widened = []
    for start, end in spans:
        if start < end:  # an empty span stays empty
            while end in dropped:
                end += 1
        widened.append((start, end))
    return ids, widened


def _split_han(
    tokenizer: Tokenizer, text: str, ids: list[int], spans: list[Span]
) -> tuple[list[int], list[Span]]:
    """Cut the tokens of a text so that each Han character is a token."""
    split_ids: list[int] = []
    split_spans: list[Span] = []
    for id_, token, (start, end) in zip(ids, tokenizer.convert_ids_to_tokens(ids), spans):
        source = text[start:end]
        # A piece that has the same characters as its source can be cut between them.
        can_be_cut = (
            len(source) > 1
            and _HAS_HAN.search(source)
            and unicodedata.is_normalized("NFKC", source)
            and tokenizer.normalize(source) == source
        )
        if not can_be_cut:
            split_ids.append(id_)
            split_spans.append((start, end))
            continue
        piece_start = start
        for piece, length in _han_pieces(tokenizer, source, after_space=token.startswith("▁")):
            piece_end = piece_start + length
            split_ids.append(tokenizer.vocab.get(piece, tokenizer.unk_id))
            split_spans.append((piece_start, piece_end))
            piece_start = piece_end
    return split_ids, split_spans


def _han_pieces(tokenizer: Tokenizer, source: str, after_space: bool) -> list[tuple[str, int]]:
    """The pieces for `source`, each Han character apart.

    Args:
        after_space: whether a space stands before `source`.

    Returns:
        (piece, number of characters of `source` for which it stands), in order.
    """
    parts = _PARTS.findall(source)  # Han characters, and the text between them
    pieces: list[tuple[str, int]] = []
    if after_space:
        # The space before the text joins its first part if there is such a piece; else it is a piece itself.
        first = parts[0]
        if f"▁{first}" in tokenizer.vocab:
            pieces.append((f"▁{first}", len(first)))
            parts = parts[1:]
        else:
            pieces.append(("▁", 0))
    for part in parts:
        if part in tokenizer.vocab:
            pieces.append((part, len(part)))
        else:  # no such piece: one for each character
            pieces += [(character, 1) for character in part]
    return pieces


def special_tokens(separators: int) -> int:
    """The number of special tokens of an input: [CLS], those behind the question, and the one at the end."""
    return 2 + separators


@dataclass(frozen=True)
class Cut:
    """How inputs are cut.

    Raises:
        UserError: a question of maximum length leaves no room for a context.
    """

    max_seq_len: int  # tokens of an input
    max_query_length: int  # tokens of a question; the rest is left out
    doc_stride: int  # tokens between the starts of two windows, at most as many as fit into one
    split_han: bool = True  # see `encode_for_answers`
    separators: int = 1  # the number of [SEP] between the question and the context

    def __post_init__(self) -> None:
        special_count = special_tokens(self.separators)
        if self.max_seq_len <= self.max_query_length + special_count:
            raise UserError(
                f"--max_seq_len {self.max_seq_len} leaves no room for a context next to --max_query_length "
                f"{self.max_query_length} and {special_count} special tokens"
            )


class ContextWindow(NamedTuple):
    """A question and a part of its context. All positions are token numbers in the whole context.

    Where two windows overlap, an answer may begin at each token in one of them only: the one whose edge is
    farther away.
    """

    question_ids: np.ndarray  # int32 [Q]
    context_ids: np.ndarray  # int32 [C], those of the part
    start: int  # the first token of the part
    start_range: tuple[int, int]  # (from, to): an answer from this window begins at from .. to - 1
    answer: tuple[int, int]  # (first, last) token, if all of the answer is in this window, else (-1, -1)


class AnswerWindows(Sequence[ContextWindow]):
    """The windows of a file, in the order of its questions; made by `make_windows`.

    A pickle has neither `file` nor `spans`: the reader process, which makes the inputs, does not need them.

    Args:
        file: the contexts and questions.
        question_ids: for each question its ids, int32 [tokens].
        context_ids: for each context its ids, int32 [tokens].
        spans: for each context the character spans of its tokens, int32 [tokens, 2].
        windows: int32 [windows, 8]: the number of the question, that of the context, the four fields of
            `ContextPart`, the first and the last token of the answer.
        cut: for each question whether it is cut to fit.
    """

    def __init__(
        self,
        file: QuestionFile,
        question_ids: list[np.ndarray],
        context_ids: list[np.ndarray],
        spans: list[np.ndarray],
        windows: np.ndarray,
        cut: list[bool],
    ):
        self.file = file
        self.cut = cut
        self.spans = spans
        self._question_ids = question_ids
        self._context_ids = context_ids
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> ContextWindow:  # type: ignore[override]  # nobody asks for a slice
        question, context, start, end, answers_from, answers_to, first, last = self._windows[index].tolist()
        return ContextWindow(
            question_ids=self._question_ids[question],
            context_ids=self._context_ids[context][start:end],
            start=start,
            start_range=(answers_from, answers_to),
            answer=(first, last),
        )

    def of_question(self, number: int) -> range:
        """The numbers of the windows of the question with this number in the file."""
        questions = self._windows[:, 0]  # [windows], ascending: the question of each window
        start = np.searchsorted(questions, number, side="left")
        end = np.searchsorted(questions, number, side="right")
        return range(start, end)

    def __getstate__(self) -> dict:  # for pickle
        return {**vars(self), "file": None, "spans": None}


def read_windows(
    path: str | os.PathLike,
    purpose: str,
    tokenizer: Tokenizer,
    cut: Cut,
    make: Callable[..., "AnswerWindows"] | None = None,
) -> AnswerWindows:
    """Read, check and tokenize a file; see `read_squad`.

    Args:
        make: makes the windows; None: `make_windows`.

    Raises:
        UserError: as `read_squad`, or there is nothing to train on or to predict.
    """
    file = read_squad(path, purpose)
    windows = (make or make_windows)(file, tokenizer, cut, keep_all=purpose != "train")
    with_answer = sum(window.answer[0] != NO_ANSWER for window in windows)
    if purpose == "train" and with_answer == 0:
        raise UserError(f"{path}: no context has an answer at its offset")
    if not windows:
        raise UserError(f"{path}: every question has an empty context")
    counts = f"{len(file.questions)} questions on {len(file.contexts)} texts, {len(windows)} windows"
    if purpose != "test":
        counts += f", {with_answer} of them with the answer"
    logger.info("%s: %s", path, counts)
    return windows


def make_windows(file: QuestionFile, tokenizer: Tokenizer, cut: Cut, keep_all: bool = True) -> AnswerWindows:
    """Tokenize questions and contexts and cut them into windows.

    Args:
        keep_all: keep all windows, not only those that contain the answer.
    """
    contexts = encode_all(
        file, file.contexts, partial(encode_for_answers, tokenizer, split_han=cut.split_han)
    )

    def find(context: int, span: Span) -> tuple[int, int] | None:
        return find_tokens(contexts[context][1], file.contexts[context], span)

    return windows_of(file, tokenizer, cut, contexts, find, keep_all)


def windows_of(
    file: QuestionFile,
    tokenizer: Tokenizer,
    cut: Cut,
    contexts: Sequence[tuple[np.ndarray, np.ndarray]],
    find: Callable[[int, Span], tuple[int, int] | None],
    keep_questions: bool,
    keep_windows: bool = False,
    cut_context: "Callable[[int, int, int], list[ContextPart]] | None" = None,
    unused: int = 0,
) -> AnswerWindows:
    """Tokenize the questions of a file, and cut their contexts into windows.

    Args:
        contexts: the ids and the spans of each context.
        find: the number of a context, and the characters of an answer in it -> its first and its last token.
        keep_questions: whether windows of a question are kept if its answer is not found.
        keep_windows: whether windows without the answer are kept if the context has it.
        cut_context: as `cut_windows`; None: this.
        unused: the tokens by which each window stays below the longest input.
    """
    encode = partial(encode_for_answers, tokenizer, split_han=cut.split_han)
    texts = [question.text for question in file.questions]
    whole_ids = [ids for ids, _ in encode_all(file, texts, encode)]
    question_ids = [ids[: cut.max_query_length] for ids in whole_ids]
    rows: list[tuple[int, ...]] = []  # those of `windows` of `AnswerWindows`
    for number, question in enumerate(file.questions):
        # Its first and its last token.
        answer = None if question.span is None else find(question.context, question.span)
        if answer is None and not keep_questions:
            continue
        length = len(contexts[question.context][0])
        used = len(question_ids[number]) + special_tokens(cut.separators) + unused
        for part in (cut_context or cut_windows)(length, max(1, cut.max_seq_len - used), cut.doc_stride):
            index = answer if answer is not None and part.holds(answer) else (NO_ANSWER, NO_ANSWER)
            if index == answer or keep_questions or keep_windows:
                rows.append((number, question.context, *part, *index))
    return AnswerWindows(
        file,
        question_ids,
        context_ids=[ids for ids, _ in contexts],
        spans=[spans for _, spans in contexts],
        windows=np.asarray(rows, np.int32).reshape(-1, 8),  # [0, 8] if there are none
        cut=[len(ids) > cut.max_query_length for ids in whole_ids],
    )


def encode_all(
    file: QuestionFile, texts: Sequence[str], encode: Callable[[str], tuple[list[int], list[Span]]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each text its ids, int32 [tokens], and the character spans of its tokens, int32 [tokens, 2]."""
    # The requests of ernie-m predict come from no file.
    shown = texts if file.path is None else progress(texts, f"tokenizing {file.path}", unit="texts")
    return [
        (np.asarray(ids, np.int32), np.asarray(spans, np.int32).reshape(-1, 2))  # [0, 2] without tokens
        for ids, spans in map(encode, shown)
    ]


class ContextPart(NamedTuple):
    """The tokens start .. end - 1 of a context. Answers from it begin at answers_from .. answers_to - 1."""

    start: int
    end: int
    answers_from: int
    answers_to: int

    def holds(self, answer: tuple[int, int]) -> bool:
        """Whether all tokens of an answer, from the first to the last, are in this part."""
        first, last = answer
        return self.start <= first and last < self.end


def cut_windows(length: int, room: int, stride: int) -> list[ContextPart]:
    """The windows of a context.

    Args:
        length: the number of its tokens.
        room: tokens of the context that fit into a window.
        stride: tokens between the starts of two windows; at most `room` are taken.
    """
    if not length:
        return []
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + min(stride, room))
    ends = [min(start + room, length) for start in starts]
    # Two neighbors overlap from the start of the second to the end of the first. Answers that begin in the
    # first half of the overlap come from the first window, the others from the second.
    middles = [(next_start + end) // 2 for end, next_start in zip(ends, starts[1:])]
    start_ranges = pairwise([0, *middles, length])
    return [ContextPart(start, end, *answers) for start, end, answers in zip(starts, ends, start_ranges)]


def find_tokens(spans: np.ndarray, text: str, span: Span) -> tuple[int, int] | None:
    """The first and the last of the fewest tokens that cover characters of a text.

    Args:
        spans: of the tokens, int32 [tokens, 2].
        span: (start, end) of the characters; white space at both ends need not be covered.

    Returns:
        None if no token covers any of them.
    """
    start, end = span
    # Leave out the white space at both ends.
    characters = text[start:end]
    start += len(characters) - len(characters.lstrip())
    end -= len(characters) - len(characters.rstrip())
    first = bisect_right(spans[:, 1], start)  # the first token that ends after the start
    last = bisect_left(spans[:, 0], end) - 1  # the last token that begins before the end
    return (first, last) if first <= last else None


class AnswerFeature(NamedTuple):
    """One input, and its window."""

    ids: list[int]
    window: ContextWindow


@dataclass(frozen=True)
class AnswerBatch:
    """What one process feeds the model at once. All arrays are int64. A place is a column of `input_ids`."""

    input_ids: np.ndarray  # [B, T], padded on the right
    answers: np.ndarray  # [B, 2], the places of the answer's first and last token; -1: none here, no loss
    start_ranges: np.ndarray  # [B, 2], (from, to): an answer may begin at the places from .. to - 1
    ends: np.ndarray  # [B], the place after the context
    shift: np.ndarray  # [B], the number of a token in the whole context is its place + shift
    indices: np.ndarray  # [B], the number of each window in the data set
    count: int  # windows of the whole step, over all micro-batches and processes


class EncodeWindows:
    """`ernie_m.reader.batching.EncodeExamples` for `AnswerWindows`. It holds three ids, not the tokenizer."""

    place_without_answer = NO_ANSWER  # in `AnswerBatch.answers`, if the answer is not in the window

    def __init__(self, tokenizer: Tokenizer, cut: Cut):
        self.separators = cut.separators
        self.cls_id = tokenizer.cls_id
        self.sep_id = tokenizer.sep_id
        self.pad_id = tokenizer.pad_id

    def __call__(self, windows: Sequence[ContextWindow]) -> list[AnswerFeature]:
        features = []
        for window in windows:
            between = [self.sep_id] * self.separators
            ids = [
                self.cls_id,
                *window.question_ids.tolist(),
                *between,
                *window.context_ids.tolist(),
                self.sep_id,
            ]
            features.append(AnswerFeature(ids, window))
        return features

    def count(self, features: Sequence[AnswerFeature]) -> int:
        return len(features)

    def collate(self, features: Sequence[AnswerFeature], indices: np.ndarray, count: int) -> AnswerBatch:
        """Features as a batch; see `EncodeExamples`. Token numbers of the context become places."""
        windows = [feature.window for feature in features]
        # [CLS], the question and its separators stand before the context.
        before = 1 + self.separators
        begins = np.asarray([len(window.question_ids) + before for window in windows], np.int64)  # [B]
        ends = begins + [len(window.context_ids) for window in windows]  # [B]
        shift = np.asarray([window.start for window in windows], np.int64) - begins  # [B]
        # A token's place is its number in the whole context - shift. Both arrays are [B, 2].
        start_ranges = np.asarray([window.start_range for window in windows], np.int64) - shift[:, None]
        answers = np.asarray([window.answer for window in windows], np.int64) - shift[:, None]
        has_no_answer = [window.answer[0] == NO_ANSWER for window in windows]  # bool [B]
        answers[has_no_answer] = self.place_without_answer
        # The ids end with the [SEP] after the context, at `end`. `EncodeInOrder` has put padding behind it.
        ids = [feature.ids[: end + 1] for feature, end in zip(features, ends)]
        return AnswerBatch(
            input_ids=pad(ids, self.pad_id),
            answers=answers,
            start_ranges=start_ranges,
            ends=ends,
            shift=shift,
            indices=np.asarray(indices, np.int64),
            count=count,
        )


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


def tokenize_words(tokenizer: Tokenizer, words: Sequence[str]) -> list[str]:
    """The pieces of all words. A piece that is not in the vocabulary is given as its text."""
    return list(chain.from_iterable(map(tokenizer.tokenize, words)))


def make_official_windows(
    file: QuestionFile, tokenizer: Tokenizer, cut: Cut, keep_all: bool = True
) -> AnswerWindows:
    """Tokenize questions and contexts and cut them into windows.

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

    def find(context: int, span: Span) -> tuple[int, int] | None:
        text = file.contexts[context]
        return find_answer(tokenizer, text, words_of[text], span)

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
    pieces = tokenize_words(tokenizer, touched)
    answer_pieces = tokenizer.tokenize(answer)
    for index in range(len(pieces) - len(answer_pieces) + 1):
        if answer_pieces and pieces[index : index + len(answer_pieces)] == answer_pieces:
            return first + index, first + index + len(answer_pieces) - 1
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
        indices = np.arange(size)
        row[part.start : part.end] = np.minimum(indices, size - 1 - indices) + 0.01 * size
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
