"""Model inputs of question answering.

An input is `[CLS] question [SEP] part of the context [SEP]`, with two [SEP] between them for XLM-R. A context
that does not fit is split into overlapping windows that begin every `doc_stride` tokens. A file is tokenized
when it is read, each context once for all its questions, into arrays of ids and character spans.
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
from ernie_m.utils.logging import logger, show_progress

NO_ANSWER = -1
# Han characters: extension A, basic block, compatibility characters, and planes 2 and 3.
_HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_HAS_HAN = re.compile(_HAN)
# A Han character, or the text up to the next one.
_PARTS = re.compile(f"{_HAN}|(?:(?!{_HAN}).)+", re.DOTALL)


def encode_for_answers(tokenizer: Tokenizer, text: str, split_han: bool) -> tuple[list[int], list[Span]]:
    """Return the token ids of a text and the character span of each token, for extractive question answering.

    The span of a token includes the characters after it that normalization removes (a zero-width space after
    a footnote mark), as the answers of MLQA do.

    Args:
        split_han: whether each Han character is a separate token, because answers often begin or end inside a
            Chinese subword (亿美元, 年的).
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
    """Split tokens so that each Han character is a token."""
    split_ids: list[int] = []
    split_spans: list[Span] = []
    for id_, token, (start, end) in zip(ids, tokenizer.convert_ids_to_tokens(ids), spans):
        source = text[start:end]
        # A subword with the same characters as its source can be split.
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
        part_start = start
        for part, length in _split_han_subword(tokenizer, source, after_space=token.startswith("▁")):
            part_end = part_start + length
            split_ids.append(tokenizer.vocab.get(part, tokenizer.unk_id))
            split_spans.append((part_start, part_end))
            part_start = part_end
    return split_ids, split_spans


def _split_han_subword(tokenizer: Tokenizer, source: str, after_space: bool) -> list[tuple[str, int]]:
    """Tokenize `source` with each Han character as a separate token.

    Args:
        after_space: whether a space precedes `source`.

    Returns:
        (token, number of its characters in `source`), in order.
    """
    parts = _PARTS.findall(source)  # Han characters and the text between them
    tokens: list[tuple[str, int]] = []
    if after_space:
        # Join "▁" with the first part if the vocabulary contains it; otherwise it is a token.
        first = parts[0]
        if f"▁{first}" in tokenizer.vocab:
            tokens.append((f"▁{first}", len(first)))
            parts = parts[1:]
        else:
            tokens.append(("▁", 0))
    for part in parts:
        if part in tokenizer.vocab:
            tokens.append((part, len(part)))
        else:  # not in the vocabulary: split into characters
            tokens += [(character, 1) for character in part]
    return tokens


def count_special_tokens(num_separators: int) -> int:
    """Return the number of special tokens of a model input: [CLS], the separators, and the final [SEP].

    Args:
        num_separators: the number of [SEP] tokens between the question and the context.
    """
    return 2 + num_separators


@dataclass(frozen=True)
class WindowConfig:
    """Configuration of the sliding windows that split long contexts.

    Raises:
        UserError: a question of maximum length leaves no room for a context.
    """

    max_seq_len: int  # maximum length of an input in tokens
    max_query_length: int  # maximum length of a question in tokens; longer ones are truncated
    doc_stride: int  # tokens between the starts of two windows
    split_han: bool = True  # see `encode_for_answers`
    separators: int = 1  # the number of [SEP] between the question and the context

    def __post_init__(self) -> None:
        special_count = count_special_tokens(self.separators)
        if self.max_seq_len <= self.max_query_length + special_count:
            raise UserError(
                f"--max_seq_len {self.max_seq_len} leaves no room for a context "
                f"(--max_query_length {self.max_query_length}, {special_count} special tokens). "
                "Increase it, or decrease --max_query_length"
            )


class ContextWindow(NamedTuple):
    """A question and a window of its context. All positions are token indices in the whole context.

    In the overlap of two windows, an answer start is assigned to the window whose edge is farther away.
    """

    question_ids: np.ndarray  # int32 [Q]
    context_ids: np.ndarray  # int32 [C], the ids of the window's tokens
    start: int  # the first token of the window
    start_range: tuple[int, int]  # (from, to): answers of this window begin at from .. to - 1
    answer: tuple[int, int]  # (first, last) token, or (-1, -1) if the answer is not in this window


class ContextWindows(Sequence[ContextWindow]):
    """The windows of all questions of a file, in the order of the questions; see `make_windows`.

    A pickle omits `file` and `spans`, because the process that builds batches does not use them.

    Args:
        file: the contexts and questions.
        question_ids: the ids of each question, int32 [tokens].
        context_ids: the ids of each context, int32 [tokens].
        spans: the character spans of the tokens of each context, int32 [tokens, 2].
        windows: int32 [windows, 8]: the indices of the question and the context, the four fields of
            `ContextPart`, the first and the last token of the answer.
        cut: whether each question was truncated.
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

    def __getitem__(self, index: int) -> ContextWindow:  # type: ignore[override]  # slices are not supported
        question, context, start, end, answers_from, answers_to, first, last = self._windows[index].tolist()
        return ContextWindow(
            question_ids=self._question_ids[question],
            context_ids=self._context_ids[context][start:end],
            start=start,
            start_range=(answers_from, answers_to),
            answer=(first, last),
        )

    def get_question_windows(self, question_index: int) -> range:
        """Return the indices of the windows of question `question_index`."""
        questions = self._windows[:, 0]  # [windows], ascending: the question index of each window
        return range(*np.searchsorted(questions, [question_index, question_index + 1]).tolist())

    def __getstate__(self) -> dict:  # for pickle
        return {**vars(self), "file": None, "spans": None}


def read_windows(
    path: str | os.PathLike,
    purpose: str,
    tokenizer: Tokenizer,
    window_config: WindowConfig,
    split_file: Callable[..., "ContextWindows"] | None = None,
) -> ContextWindows:
    """Read a file of questions with `read_squad`, and split its contexts into windows.

    Args:
        purpose: "train", "dev" or "test"; for "train", questions and windows without an answer are dropped.
        split_file: splits the contexts; None: `make_windows`.

    Raises:
        UserError: there are no windows; see also `read_squad`.
    """
    file = read_squad(path, purpose)
    windows = (split_file or make_windows)(file, tokenizer, window_config, keep_all=purpose != "train")
    with_answer = sum(window.answer[0] != NO_ANSWER for window in windows)
    if purpose == "train" and with_answer == 0:
        raise UserError(
            f"{path}: no answer matches its context at answer_start. Fix answer_start, in characters from 0"
        )
    if not windows:
        raise UserError(f"{path}: all contexts are empty")
    counts = f"{len(file.questions)} questions, {len(file.contexts)} contexts, {len(windows)} windows"
    if purpose != "test":
        counts += f" ({with_answer} with the answer)"
    logger.info("%s: %s", path, counts)
    return windows


def make_windows(
    file: QuestionFile, tokenizer: Tokenizer, window_config: WindowConfig, keep_all: bool = True
) -> ContextWindows:
    """Tokenize the questions and contexts of a file, and split the contexts into windows.

    Args:
        keep_all: whether to keep windows without the answer.
    """
    contexts = encode_texts(
        file, file.contexts, partial(encode_for_answers, tokenizer, split_han=window_config.split_han)
    )

    def find_answer_tokens(context: int, span: Span) -> tuple[int, int] | None:
        return find_span_tokens(contexts[context][1], file.contexts[context], span)

    return split_contexts(file, tokenizer, window_config, contexts, find_answer_tokens, keep_all)


def split_contexts(
    file: QuestionFile,
    tokenizer: Tokenizer,
    window_config: WindowConfig,
    contexts: Sequence[tuple[np.ndarray, np.ndarray]],
    locate_answer: Callable[[int, Span], tuple[int, int] | None],
    keep_questions: bool,
    keep_windows: bool = False,
    split_context: "Callable[[int, int, int], list[ContextPart]] | None" = None,
    reserved_tokens: int = 0,
) -> ContextWindows:
    """Tokenize the questions of a file, and split their contexts into windows.

    Args:
        contexts: the ids and spans of each context.
        locate_answer: maps a context index and the character span of an answer to its first and last token.
        keep_questions: whether to keep the windows of questions whose answer is not found.
        keep_windows: whether to keep windows without the answer.
        split_context: maps (length, budget, stride) to the windows of a context; None: `split_into_windows`.
        reserved_tokens: the number of tokens to leave free in each window.
    """
    encode = partial(encode_for_answers, tokenizer, split_han=window_config.split_han)
    texts = [question.text for question in file.questions]
    whole_ids = [ids for ids, _ in encode_texts(file, texts, encode)]
    question_ids = [ids[: window_config.max_query_length] for ids in whole_ids]
    rows: list[tuple[int, ...]] = []  # `windows` of `ContextWindows`
    for number, question in enumerate(file.questions):
        # The first and the last token.
        answer = None if question.span is None else locate_answer(question.context, question.span)
        if answer is None and not keep_questions:
            continue
        length = len(contexts[question.context][0])
        used = len(question_ids[number]) + count_special_tokens(window_config.separators) + reserved_tokens
        for part in (split_context or split_into_windows)(
            length, max(1, window_config.max_seq_len - used), window_config.doc_stride
        ):
            index = answer if answer is not None and part.contains_answer(answer) else (NO_ANSWER, NO_ANSWER)
            if index == answer or keep_questions or keep_windows:
                rows.append((number, question.context, *part, *index))
    return ContextWindows(
        file,
        question_ids,
        context_ids=[ids for ids, _ in contexts],
        spans=[spans for _, spans in contexts],
        windows=np.asarray(rows, np.int32).reshape(-1, 8),  # [0, 8] without windows
        cut=[len(ids) > window_config.max_query_length for ids in whole_ids],
    )


def encode_texts(
    file: QuestionFile, texts: Sequence[str], encode: Callable[[str], tuple[list[int], list[Span]]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the token ids, int32 [tokens], and the character spans, int32 [tokens, 2], of each text.

    Args:
        file: the source of the texts, named in the progress bar.
        encode: tokenizes a text with spans, such as `encode_for_answers`.
    """
    # Requests of ernie-m predict have no file.
    shown = texts if file.path is None else show_progress(texts, f"tokenizing {file.path}", unit="texts")
    return [
        (np.asarray(ids, np.int32), np.asarray(spans, np.int32).reshape(-1, 2))  # [0, 2] without tokens
        for ids, spans in map(encode, shown)
    ]


class ContextPart(NamedTuple):
    """A window of a context: tokens start .. end - 1.

    Its answers begin at tokens answers_from .. answers_to - 1.
    """

    start: int
    end: int
    answers_from: int
    answers_to: int

    def contains_answer(self, answer: tuple[int, int]) -> bool:
        """Return whether the window contains an answer, given by its first and last token."""
        first, last = answer
        return self.start <= first and last < self.end


def split_into_windows(length: int, budget: int, stride: int) -> list[ContextPart]:
    """Split a context into overlapping windows.

    Args:
        length: the number of tokens of the context.
        budget: maximum number of context tokens of a window.
        stride: tokens between the starts of two windows, limited to `budget`.
    """
    if not length:
        return []
    starts = [0]
    while starts[-1] + budget < length:
        starts.append(starts[-1] + min(stride, budget))
    ends = [min(start + budget, length) for start in starts]
    # Answers that begin in the first half of an overlap belong to the first window, the others to the second.
    middles = [(next_start + end) // 2 for end, next_start in zip(ends, starts[1:])]
    start_ranges = pairwise([0, *middles, length])
    return [ContextPart(start, end, *answers) for start, end, answers in zip(starts, ends, start_ranges)]


def find_span_tokens(spans: np.ndarray, text: str, span: Span) -> tuple[int, int] | None:
    """Return the indices of the first and last token that cover a character span of a text.

    Args:
        spans: the character spans of the tokens, int32 [tokens, 2].
        span: (start, end) in characters; white space at both ends is ignored.

    Returns:
        None if no token overlaps the span.
    """
    start, end = span
    # Strip white space.
    characters = text[start:end]
    start += len(characters) - len(characters.lstrip())
    end -= len(characters) - len(characters.rstrip())
    first = bisect_right(spans[:, 1], start)  # the first token that ends after the start
    last = bisect_left(spans[:, 0], end) - 1  # the last token that begins before the end
    return (first, last) if first <= last else None


class AnswerFeature(NamedTuple):
    """The ids of a model input, with special tokens, and the window that they encode."""

    ids: list[int]
    window: ContextWindow


@dataclass(frozen=True)
class AnswerBatch:
    """A micro-batch of B windows, with int64 arrays. Positions are columns of `input_ids`."""

    input_ids: np.ndarray  # [B, T], padded on the right
    answers: np.ndarray  # [B, 2], the positions of the answer's first and last token; -1: no answer, no loss
    start_ranges: np.ndarray  # [B, 2], (from, to): answers begin at positions from .. to - 1
    ends: np.ndarray  # [B], the position after the context
    shift: np.ndarray  # [B], the index of a token in the whole context minus its position
    indices: np.ndarray  # [B], the index of each window in the data set
    count: int  # number of windows of the step, over all micro-batches and processes


class WindowFeaturizer:
    """Featurizer of `ContextWindows`: builds model inputs and batches; see `ernie_m.reader.batching`.

    Only the ids of the special tokens are stored, so that a pickle does not contain the tokenizer.
    """

    target_without_answer = NO_ANSWER  # in `AnswerBatch.answers`, for windows without the answer

    def __init__(self, tokenizer: Tokenizer, window_config: WindowConfig):
        self.separators = window_config.separators
        self.cls_id = tokenizer.cls_id
        self.sep_id = tokenizer.sep_id
        self.pad_id = tokenizer.pad_id

    def __call__(self, windows: Sequence[ContextWindow]) -> list[AnswerFeature]:
        """Return the model input of each window, with special tokens."""
        separators = [self.sep_id] * self.separators
        return [
            AnswerFeature(
                [
                    self.cls_id,
                    *window.question_ids.tolist(),
                    *separators,
                    *window.context_ids.tolist(),
                    self.sep_id,
                ],
                window,
            )
            for window in windows
        ]

    def count_targets(self, features: Sequence[AnswerFeature]) -> int:
        """Return the divisor of the loss: the number of windows."""
        return len(features)

    def collate(self, features: Sequence[AnswerFeature], indices: np.ndarray, count: int) -> AnswerBatch:
        """Collate features into a padded batch; see `Featurizer`.

        Token indices in the context become positions in the model input.
        """
        windows = [feature.window for feature in features]
        # [CLS], the question and its separators precede the context.
        before = 1 + self.separators
        begins = np.asarray([len(window.question_ids) + before for window in windows], np.int64)  # [B]
        ends = begins + [len(window.context_ids) for window in windows]  # [B]
        shift = np.asarray([window.start for window in windows], np.int64) - begins  # [B]
        # Position = index in the whole context - shift. Both arrays are [B, 2].
        start_ranges = np.asarray([window.start_range for window in windows], np.int64) - shift[:, None]
        answers = np.asarray([window.answer for window in windows], np.int64) - shift[:, None]
        has_no_answer = [window.answer[0] == NO_ANSWER for window in windows]  # bool [B]
        answers[has_no_answer] = self.target_without_answer
        # The ids end with the [SEP] after the context, at `end`, before the padding of
        # `OfficialWindowFeaturizer`.
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


# Words are separated by tabs, newlines, and space characters (Zs), which are fewer than \s.
_WORD = re.compile("[^\t\n\r \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# The official reader leaves one token of each input unused.
_UNUSED = 1


class WordTokens(NamedTuple):
    """The words of a context and their tokens.

    Attributes:
        bounds: the character span of each word.
        first_tokens: the index of the first token of each word, then the total number of tokens.
    """

    bounds: list[Span]
    first_tokens: list[int]


def split_words(text: str) -> list[str]:
    """Split a context into words at white space."""
    return _WORD.findall(text)


def tokenize_words(tokenizer: Tokenizer, words: Sequence[str]) -> list[str]:
    """Tokenize words separately, and return all their tokens. Unknown subwords are returned as their text."""
    return list(chain.from_iterable(map(tokenizer.tokenize, words)))


def make_official_windows(
    file: QuestionFile, tokenizer: Tokenizer, window_config: WindowConfig, keep_all: bool = True
) -> ContextWindows:
    """Tokenize a file and split its contexts into windows, as the official reader does.

    The words of a context are tokenized separately.

    Args:
        keep_all: whether to keep questions whose answer is not found. Windows without the answer are always
            kept.
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

    def find_answer_tokens(context: int, span: Span) -> tuple[int, int] | None:
        text = file.contexts[context]
        return find_answer(tokenizer, text, words_of[text], span)

    contexts = encode_texts(file, file.contexts, encode)
    return split_contexts(
        file,
        tokenizer,
        window_config,
        contexts,
        find_answer_tokens,
        keep_all,
        True,
        split_into_official_windows,
        _UNUSED,
    )


def find_answer(tokenizer: Tokenizer, text: str, words: WordTokens, span: Span) -> tuple[int, int] | None:
    """Return the indices of the first and last token of an answer, as the official reader does.

    Args:
        text: the context.
        words: the words of the context.
        span: (start, end) of the answer in characters.

    Returns:
        None if the words at the span do not contain the answer after collapsing white space.
    """
    start, end = span
    answer = text[start:end]
    # The word of a character; for white space the word before.
    word_starts = [word_start for word_start, _ in words.bounds]
    first_word = bisect_right(word_starts, start) - 1
    last_word = bisect_right(word_starts, end - 1) - 1
    touched = [text[word_start:word_end] for word_start, word_end in words.bounds[first_word : last_word + 1]]
    if first_word < 0 or " ".join(answer.split()) not in " ".join(touched):
        return None
    first = words.first_tokens[first_word]
    tokens = tokenize_words(tokenizer, touched)
    answer_tokens = tokenizer.tokenize(answer)
    for index in range(len(tokens) - len(answer_tokens) + 1):
        if answer_tokens and tokens[index : index + len(answer_tokens)] == answer_tokens:
            return first + index, first + index + len(answer_tokens) - 1
    return first, words.first_tokens[last_word + 1] - 1


def split_into_official_windows(length: int, budget: int, stride: int) -> list[ContextPart]:
    """Split a context by `split_into_windows`, and assign answer starts to windows like the official reader.

    A token is assigned to the window in which its score is highest: the number of tokens on its shorter side,
    plus 0.01 times the window length. Ties go to the first window.
    """
    parts = split_into_windows(length, budget, stride)
    if len(parts) < 2:
        return parts
    contexts = np.full([len(parts), length], -np.inf)  # score of each token in each window
    for row, part in zip(contexts, parts):
        size = part.end - part.start
        indices = np.arange(size)
        row[part.start : part.end] = np.minimum(indices, size - 1 - indices) + 0.01 * size
    # Windows are in order; rounding must not return to an earlier one.
    owners = np.maximum.accumulate(contexts.argmax(axis=0))  # [length]
    bounds = np.searchsorted(owners, np.arange(len(parts) + 1)).tolist()
    return [
        part._replace(answers_from=bounds[number], answers_to=bounds[number + 1])
        for number, part in enumerate(parts)
    ]


class OfficialWindowFeaturizer(WindowFeaturizer):
    """Featurizer like the official reader: all inputs have the same length, so that batches keep file order.

    Inputs are padded to `max_seq_len`; `collate` removes the padding. Windows without the answer have the
    target (0, 0), the position of [CLS].
    """

    target_without_answer = 0

    def __init__(self, tokenizer: Tokenizer, window_config: WindowConfig):
        super().__init__(tokenizer, window_config)
        self.max_seq_len = window_config.max_seq_len

    def __call__(self, windows: Sequence[ContextWindow]) -> list[AnswerFeature]:
        """Return the model input of each window, padded to `max_seq_len`."""
        return [
            feature._replace(ids=feature.ids + [self.pad_id] * (self.max_seq_len - len(feature.ids)))
            for feature in super().__call__(windows)
        ]
