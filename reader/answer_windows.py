"""Questions with their contexts as model inputs: `[CLS] question [SEP] part of the context [SEP]`.

A context that does not fit is cut into windows that begin every `doc_stride` tokens and overlap. A file is
tokenised when it is read, a context once for all its questions; kept are arrays of ids and spans.
"""

import logging
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from reader.answer_tokens import Span, encode_for_answers
from reader.squad import QuestionFile, read_squad
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.logging import progress

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = 3  # [CLS] and two [SEP]
NO_ANSWER = -1


@dataclass(frozen=True)
class Cut:
    """How inputs are cut.

    Args:
        max_seq_len: most tokens of an input, special ones included.
        max_query_length: most tokens of a question; the rest of it is left out.
        doc_stride: tokens between the starts of two windows; never more than fit in one.
        split_han: see `reader.answer_tokens.encode_for_answers`.

    Raises:
        UserError: a question of full length leaves no room for a context.
    """

    max_seq_len: int
    max_query_length: int
    doc_stride: int
    split_han: bool = True

    def __post_init__(self) -> None:
        if self.max_seq_len <= self.max_query_length + SPECIAL_TOKENS:
            raise UserError(
                f"--max_seq_len {self.max_seq_len} leaves no room for a context beside --max_query_length "
                f"{self.max_query_length} and {SPECIAL_TOKENS} special tokens; lower --max_query_length"
            )


class Window(NamedTuple):
    """A question and a part of its context. All numbers are those of tokens of the whole context.

    Attributes:
        question_ids, context_ids: int32 [Q], int32 [C].
        start: the first token of the part.
        own: (from, to), where an answer may begin that this window is asked for. In an overlap each token
            belongs to the window where it stands farther from the edge.
        answer: (first, last) of the answer, if all of it is in here, else (-1, -1).
    """

    question_ids: np.ndarray
    context_ids: np.ndarray
    start: int
    own: tuple[int, int]
    answer: tuple[int, int]


class Ragged:
    """Lists of numbers of different lengths in one array; `[i]` is a list, int32 [n] or [n, 2]."""

    def __init__(self, rows: Iterable[Sequence], width: tuple[int, ...] = ()):
        arrays = [np.asarray(row, np.int32).reshape(-1, *width) for row in rows]
        self.bounds = np.cumsum([0, *map(len, arrays)])  # int64 [rows + 1]
        self.values = np.concatenate([np.zeros((0, *width), np.int32), *arrays])

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.bounds[index] : self.bounds[index + 1]]


class AnswerWindows(Sequence[Window]):
    """The windows of a file, in the order of its questions; made by `make_windows`.

    To a worker process it is sent without texts and spans, which inputs do not need.

    Attributes:
        file: what was read.
        spans: `spans[context]`, the character spans of a context's tokens, int32 [tokens, 2].
    """

    def __init__(
        self, file: QuestionFile, questions: Ragged, contexts: Ragged, spans: Ragged, windows: np.ndarray,
        answers: np.ndarray,
    ):  # fmt: skip
        self.file, self.spans = file, spans
        self._questions, self._contexts = questions, contexts
        self._windows = windows  # int32 [windows, 6]: question, context, start, end, own from, own to
        self._answers = answers  # int32 [windows, 2]: first and last token

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Window:
        question, context, start, end, own_from, own_to = self._windows[index].tolist()
        first, last = self._answers[index].tolist()
        return Window(
            self._questions[question], self._contexts[context][start:end], start, (own_from, own_to),
            (first, last),
        )  # fmt: skip

    def of_question(self, number: int) -> range:
        """The windows of a question of the file."""
        column = self._windows[:, 0]
        return range(np.searchsorted(column, number), np.searchsorted(column, number, side="right"))

    def answered(self) -> tuple[int, int]:
        """How many questions have their answer in a window, and how many windows hold one."""
        holding = self._windows[self._answers[:, 0] != NO_ANSWER, 0]
        return len(np.unique(holding)), len(holding)

    def __getstate__(self) -> dict:
        return {**vars(self), "file": None, "spans": None}


def read_windows(
    path: str | os.PathLike, purpose: str, tokenizer: Tokenizer, cut: Cut, keep_all: bool = False
) -> AnswerWindows:
    """Read, check and tokenise a file; see `reader.squad.read_squad`.

    Args:
        keep_all: keep the windows without the answer in a training file too.

    Raises:
        UserError: what `read_squad` raises, or there is nothing to train on.
    """
    file = read_squad(path, purpose)
    windows = make_windows(file, tokenizer, cut, keep_all or purpose != "train")
    answered, with_answer = windows.answered()
    if purpose == "train" and not answered:
        raise UserError(f"{path}: no answer stands at its offset, so there is nothing to train on")
    if not windows:
        raise UserError(f"{path}: the tokenizer leaves nothing of its texts, so there is no answer in them")
    logger.info(
        "%s: %d questions on %d texts, %d windows%s", path, len(file.questions), len(file.contexts),
        len(windows),
        f", {with_answer} of them with the answer of {answered} questions" if purpose != "test" else "",
    )  # fmt: skip
    return windows


def make_windows(file: QuestionFile, tokenizer: Tokenizer, cut: Cut, keep_all: bool = True) -> AnswerWindows:
    """Tokenise questions and contexts and cut them into windows.

    Args:
        file: what a bar of progress is named after; one without a path has none.
        keep_all: False leaves out the windows that do not hold the answer.
    """

    def encode(texts: Sequence[str], what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for text in progress(texts, f"tokenising {what}{file.path}", unit="texts") if file.path else texts:
            ids, spans = encode_for_answers(tokenizer, text, cut.split_han)
            yield np.asarray(ids, np.int32), np.asarray(spans, np.int32).reshape(-1, 2)

    contexts, spans = zip(*encode(file.contexts, ""))
    asked = encode([question.text for question in file.questions], "the questions of ")
    questions = [ids[: cut.max_query_length] for ids, _ in asked]
    windows: list[tuple[int, ...]] = []
    answers: list[tuple[int, int]] = []
    for number, question in enumerate(file.questions):
        whole = None
        if question.span is not None:
            whole = find_tokens(spans[question.context], file.contexts[question.context], question.span)
        room = cut.max_seq_len - len(questions[number]) - SPECIAL_TOKENS
        for place in cut_windows(len(contexts[question.context]), room, cut.doc_stride):
            inside = whole is not None and place[0] <= whole[0] and whole[1] < place[1]
            if inside or keep_all:
                windows.append((number, question.context, *place))
                answers.append(whole if inside else (NO_ANSWER, NO_ANSWER))
    return AnswerWindows(
        file, Ragged(questions), Ragged(contexts), Ragged(spans, (2,)),
        np.asarray(windows, np.int32).reshape(-1, 6), np.asarray(answers, np.int32).reshape(-1, 2),
    )  # fmt: skip


def cut_windows(length: int, room: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(start, end, own from, own to) of the windows of a context of `length` tokens; see `Window`.

    Args:
        room: tokens of the context that a window holds.
        stride: tokens between two starts; where it is more than `room`, that is.
    """
    if not length:
        return []
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + min(stride, room))
    places = [(start, min(start + room, length)) for start in starts]
    middles = [(after[0] + before[1]) // 2 for before, after in pairwise(places)]
    return [(*place, *own) for place, own in zip(places, pairwise([0, *middles, length]))]


def find_tokens(spans: np.ndarray, text: str, span: Span) -> tuple[int, int] | None:
    """The first and the last token of the fewest that cover the characters (start, end) of `text`.

    Args:
        spans: int32 [tokens, 2].

    Returns:
        None where no token has anything of them.
    """
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    first = bisect_right(spans[:, 1], start)  # the first that ends behind the start
    last = bisect_left(spans[:, 0], end) - 1  # the last that begins before the end
    return (first, last) if first <= last else None
