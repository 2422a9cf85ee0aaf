"""Questions and their contexts: SQuAD v1.1 JSON (also MLQA, XQuAD and TyDi QA GoldP), and the model inputs.

An input is `[CLS] question [SEP] part of the context [SEP]`. A context that does not fit is cut into windows
that begin every `doc_stride` tokens and overlap. A file is tokenised when it is read, each context once for
all its questions, and kept as arrays of ids and character spans.
"""

import logging
import os
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reader.batching import pad
from reader.tokenization import Span, Tokenizer, normalize
from utils.errors import UserError
from utils.files import read_json
from utils.logging import progress

logger = logging.getLogger(__name__)

NO_ANSWER = -1
INPUT_SPECIAL_TOKENS = 3  # [CLS] and two [SEP]
_FORM = '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id", "question", "answers"}]}]}]}'
_KINDS = {list: "a list", int: "a whole number"}
_HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_HAS_HAN = re.compile(_HAN)
_PARTS = re.compile(f"{_HAN}|(?:(?!{_HAN}).)+", re.DOTALL)


class Question(NamedTuple):
    """One question."""

    id: str  # the key of its prediction
    text: str
    context: int  # the number of its context in `QuestionFile.contexts`
    answers: tuple[str, ...]  # the texts of the accepted answers; empty if they were not read
    span: tuple[int, int] | None  # the characters (start, end) of the first answer that is at its offset


@dataclass(frozen=True)
class QuestionFile:
    """The contexts and questions of one file, in its order. `path` is None if they come from elsewhere."""

    path: Path | None
    contexts: list[str]
    questions: list[Question]


def read_squad(path: str | os.PathLike, purpose: str = "train") -> QuestionFile:
    """Read and check a file.

    An answer that is not at its offset is skipped as a span, though scores still accept its text. One line of
    the log counts such answers and shows the first.

    Args:
        purpose: "train" or "dev", where every question must have an answer, or "test" (answers are not read).

    Raises:
        UserError: the file is not JSON or not of this form (names the place, as in `data[3].paragraphs[0]`),
            an id is repeated in a "dev" or "test" file, or there is no question.
    """
    path, ids, wrong = Path(path), set(), []
    file = QuestionFile(path, [], [])
    articles = _items(path, read_json(path, f"the form is {_FORM}"), "", "data")
    for paragraph, place in (one for article in articles for one in _items(path, *article, "paragraphs")):
        context = _get(path, paragraph, place, "context", str)
        for qa, qa_place in _items(path, paragraph, place, "qas"):
            id_ = str(_get(path, qa, qa_place, "id", str | int))
            if id_ in ids and purpose != "train":
                raise UserError(f"{path}: {qa_place}.id: '{id_}' occurs twice; answers are kept by id")
            ids.add(id_)
            texts, span = [], None
            for answer, answer_place in [] if purpose == "test" else _items(path, qa, qa_place, "answers"):
                start = _get(path, answer, answer_place, "answer_start", int)
                text = _get(path, answer, answer_place, "text", str)
                texts.append(text)
                found = context[start : start + len(text)] if start >= 0 else ""
                if not text.strip() or found != text:
                    wrong.append(f"{answer_place}: '{text}' at {start}, where the context has '{found}'")
                elif span is None:
                    span = start, start + len(text)
            if not texts and purpose != "test":
                raise UserError(f"{path}: {qa_place}.answers: empty; leave out questions without an answer")
            text = _get(path, qa, qa_place, "question", str)
            file.questions.append(Question(id_, text, len(file.contexts), tuple(texts), span))
        file.contexts.append(context)
    if not file.questions:
        raise UserError(f"{path}: no question in it; the form is {_FORM}")
    if wrong:
        said = "%s: %d answers that are not at their offset, skipped; the first: %s"
        logger.warning(said, path, len(wrong), wrong[0])
    return file


def _items(path: Path, holder: Any, place: str, key: str) -> Iterator[tuple[Any, str]]:
    """Each item of the list `holder[key]`, and its place in the file."""
    for i, item in enumerate(_get(path, holder, place, key, list)):
        yield item, f"{place}.{key}[{i}]".lstrip(".")


def _get(path: Path, holder: Any, place: str, key: str, kind: Any) -> Any:
    """`holder[key]`, which must be of this kind."""
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        where, wanted = f"{place}.{key}".lstrip("."), _KINDS.get(kind, "a string")
        raise UserError(f"{path}: {where}: {wanted} should be here; the form is {_FORM}")
    return value


def encode_for_answers(tokenizer: Tokenizer, text: str, split_han: bool) -> tuple[list[int], list[Span]]:
    """`Tokenizer.encode_with_offsets`, adapted to answers, which begin and end with whole tokens.

    The span of a token includes the characters after it that normalisation drops (a zero-width space after a
    footnote mark), as the answers of MLQA do. With `split_han` each Han character is a token, because answers
    often begin or end inside a piece of Chinese text (亿美元, 年的).
    """
    ids, spans = tokenizer.encode_with_offsets(text)
    if split_han and _HAS_HAN.search(text):
        ids, spans = _split_han(tokenizer, text, ids, spans)
    if text.isprintable():
        return ids, spans
    dropped = {i for i, character in enumerate(text) if not normalize(character)}
    widened = []
    for start, end in spans:
        while start < end and end in dropped:
            end += 1
        widened.append((start, end))
    return ids, widened


def _split_han(
    tokenizer: Tokenizer, text: str, ids: list[int], spans: list[Span]
) -> tuple[list[int], list[Span]]:
    found: list[tuple[int, Span]] = []
    for id_, token, (start, end) in zip(ids, tokenizer.convert_ids_to_tokens(ids), spans):
        source = text[start:end]
        is_cut_as_it_is = unicodedata.is_normalized("NFKC", source) and normalize(source) == source
        if end - start < 2 or not _HAS_HAN.search(source) or not is_cut_as_it_is:
            found.append((id_, (start, end)))
            continue
        for piece, length in _han_pieces(tokenizer, source, token.startswith("▁")):
            found.append((tokenizer.vocab.get(piece, tokenizer.unk_id), (start, start + length)))
            start += length
    return [id_ for id_, _ in found], [span for _, span in found]


def _han_pieces(tokenizer: Tokenizer, source: str, after_space: bool) -> list[tuple[str, int]]:
    """The pieces for `source`, each Han character apart, and how many of its characters each stands for."""
    first, *others = _PARTS.findall(source)
    pieces: list[tuple[str, int]] = [("▁", 0)] * after_space
    if after_space and f"▁{first}" in tokenizer.vocab:
        pieces = [(f"▁{first}", len(first))]
    else:
        others = [first, *others]
    for part in others:
        known = part in tokenizer.vocab
        pieces += [(part, len(part))] if known else [(character, 1) for character in part]
    return pieces


@dataclass(frozen=True)
class Cut:
    """How inputs are cut.

    UserError: a question of maximum length leaves no room for a context.
    """

    max_seq_len: int  # tokens of an input
    max_query_length: int  # tokens of a question; the rest is left out
    doc_stride: int  # tokens between the starts of two windows, at most as many as fit into one
    split_han: bool = True  # see `encode_for_answers`

    def __post_init__(self) -> None:
        if self.max_seq_len <= self.max_query_length + INPUT_SPECIAL_TOKENS:
            raise UserError(
                f"--max_seq_len {self.max_seq_len} leaves no room for a context beside --max_query_length "
                f"{self.max_query_length} and {INPUT_SPECIAL_TOKENS} special tokens"
            )


class ContextWindow(NamedTuple):
    """A question and a part of its context. All positions are token numbers in the whole context.

    In an overlap, each token belongs to the window whose edge is farther away.
    """

    question_ids: np.ndarray  # int32 [Q]
    context_ids: np.ndarray  # int32 [C]
    start: int  # the first token of the part
    start_range: tuple[int, int]  # (from, to): where an answer from this window may begin
    answer: tuple[int, int]  # (first, last) token, if all of the answer is in this window, else (-1, -1)


class AnswerWindows(Sequence[ContextWindow]):
    """The windows of a file, in the order of its questions; made by `make_windows`.

    A pickle has neither `file` (the contexts and questions) nor `spans` (of each context the character spans
    of its tokens, int32 [tokens, 2]): the reader process, which makes the inputs, does not need them.
    """

    def __init__(
        self, file: QuestionFile, questions: list[np.ndarray], contexts: list[np.ndarray],
        spans: list[np.ndarray], windows: np.ndarray,
    ):  # fmt: skip
        self.file, self.spans = file, spans
        self._questions, self._contexts = questions, contexts  # ids, each int32 [tokens]
        # int32 [windows, 8]: question, context, start, end, own from, own to, first and last answer token
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> ContextWindow:
        question, context, start, end, own_from, own_to, *answer = self._windows[index].tolist()
        part = self._contexts[context][start:end]
        return ContextWindow(self._questions[question], part, start, (own_from, own_to), tuple(answer))

    def of_question(self, number: int) -> range:
        """The windows of a question of the file."""
        column = self._windows[:, 0]
        return range(np.searchsorted(column, number), np.searchsorted(column, number, side="right"))

    def __getstate__(self) -> dict:
        return {**vars(self), "file": None, "spans": None}


def read_windows(
    path: str | os.PathLike, purpose: str, tokenizer: Tokenizer, cut: Cut, keep_all: bool = False
) -> AnswerWindows:
    """Read, check and tokenise a file; see `read_squad`.

    `keep_all` keeps the windows without the answer in a training file too. UserError: as `read_squad`, or
    there is nothing to train on or to predict.
    """
    file = read_squad(path, purpose)
    windows = make_windows(file, tokenizer, cut, keep_all or purpose != "train")
    with_answer = sum(window.answer[0] != NO_ANSWER for window in windows)
    if not windows or (purpose == "train" and not with_answer):
        raise UserError(f"{path}: no text has an answer at its offset, so there is nothing to do with it")
    logger.info(
        "%s: %d questions on %d texts, %d windows%s", path, len(file.questions), len(file.contexts),
        len(windows), f", {with_answer} of them with the answer" if purpose != "test" else "",
    )  # fmt: skip
    return windows


def make_windows(file: QuestionFile, tokenizer: Tokenizer, cut: Cut, keep_all: bool = True) -> AnswerWindows:
    """Tokenise questions and contexts and cut them into windows, or only those that contain the answer."""

    def encode(texts: Sequence[str], what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for text in progress(texts, f"tokenising {what}{file.path}", unit="texts") if file.path else texts:
            ids, spans = encode_for_answers(tokenizer, text, cut.split_han)
            yield np.asarray(ids, np.int32), np.asarray(spans, np.int32).reshape(-1, 2)

    contexts, spans = zip(*encode(file.contexts, ""))
    asked = encode([question.text for question in file.questions], "the questions of ")
    questions = [ids[: cut.max_query_length] for ids, _ in asked]
    windows: list[tuple[int, ...]] = []
    for number, question in enumerate(file.questions):
        answer = None
        if question.span is not None:
            answer = find_tokens(spans[question.context], file.contexts[question.context], question.span)
        room = cut.max_seq_len - len(questions[number]) - INPUT_SPECIAL_TOKENS
        for place in cut_windows(len(contexts[question.context]), room, cut.doc_stride):
            inside = answer is not None and place[0] <= answer[0] and answer[1] < place[1]
            if inside or keep_all:
                found = answer if inside else (NO_ANSWER, NO_ANSWER)
                windows.append((number, question.context, *place, *found))
    places = np.asarray(windows, np.int32).reshape(-1, 8)
    return AnswerWindows(file, questions, list(contexts), list(spans), places)


def cut_windows(length: int, room: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(start, end, own from, own to) of the windows of a context of `length` tokens; see `ContextWindow`.

    `room` tokens of the context fit into a window; `stride` tokens are between two starts.
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
    """The first and the last of the fewest tokens that cover the characters (start, end) of `text`.

    None if no token covers any of them. `spans`: of the tokens, int32 [tokens, 2].
    """
    start, end = span
    start += len(text[start:end]) - len(text[start:end].lstrip())
    end -= len(text[start:end]) - len(text[start:end].rstrip())
    first = bisect_right(spans[:, 1], start)  # the first token that ends after the start
    last = bisect_left(spans[:, 0], end) - 1  # the last token that begins before the end
    return (first, last) if first <= last else None


class AnswerFeature(NamedTuple):
    """One input, and its window."""

    ids: list[int]
    window: ContextWindow


@dataclass(frozen=True)
class AnswerBatch:
    """What one process feeds the model at once. All arrays are int64."""

    input_ids: np.ndarray  # [B, T], padded on the right
    answers: np.ndarray  # [B, 2], the places of the answer's first and last token; -1: none here, no loss
    start_ranges: np.ndarray  # [B, 2], (from, to), the places where an answer may begin
    ends: np.ndarray  # [B], the place behind the context
    shift: np.ndarray  # [B], what makes of a place a token's number in the whole context
    indices: np.ndarray  # [B], the place of each window in the data set
    count: int  # windows of the whole step, over all micro-batches and processes


class EncodeWindows:
    """`reader.batching.EncodeExamples` for `AnswerWindows`. It holds three ids, not the tokenizer."""

    absent = NO_ANSWER  # the place of an answer that is not in the window

    def __init__(self, tokenizer: Tokenizer):
        self.cls_id, self.sep_id, self.pad_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id

    def __call__(self, windows: Sequence[ContextWindow]) -> list[AnswerFeature]:
        ids = (
            [self.cls_id, *one.question_ids.tolist(), self.sep_id, *one.context_ids.tolist(), self.sep_id]
            for one in windows
        )
        return list(map(AnswerFeature, ids, windows))

    def count(self, features: Sequence[AnswerFeature]) -> int:
        return len(features)

    def collate(self, features: Sequence[AnswerFeature], indices: np.ndarray, count: int) -> AnswerBatch:
        windows = [feature.window for feature in features]
        first = np.asarray([len(window.question_ids) + 2 for window in windows], np.int64)  # of the context
        ends = first + [len(window.context_ids) for window in windows]
        shift = np.asarray([window.start for window in windows], np.int64) - first  # [B]
        start_ranges, answers = (
            np.asarray([getattr(window, name) for window in windows], np.int64) - shift[:, None]
            for name in ("start_range", "answer")
        )  # [B, 2]
        answers[[window.answer[0] == NO_ANSWER for window in windows]] = self.absent
        ids = [feature.ids[: end + 1] for feature, end in zip(features, ends)]
        indices = np.asarray(indices, np.int64)
        return AnswerBatch(pad(ids, self.pad_id), answers, start_ranges, ends, shift, indices, count)


class EncodeInOrder(EncodeWindows):
    """The official code's training inputs: in the order of the file, without the answer trained to (0, 0).

    Every input is filled up to `max_seq_len`, so that sorting by length leaves the order alone; `collate`
    takes the padding off again.
    """

    absent = 0

    def __init__(self, tokenizer: Tokenizer, max_seq_len: int):
        super().__init__(tokenizer)
        self.max_seq_len = max_seq_len

    def __call__(self, windows: Sequence[ContextWindow]) -> list[AnswerFeature]:
        filled = [self.pad_id] * self.max_seq_len
        found = super().__call__(windows)
        return [one._replace(ids=(one.ids + filled)[: self.max_seq_len]) for one in found]
