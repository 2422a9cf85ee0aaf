"""Questions on texts in the JSON of SQuAD v1.1, which MLQA, XQuAD and TyDi QA GoldP share."""

import json
import logging
import os
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reader.features import pad
from reader.tokenization import Tokenizer, normalize
from utils.errors import UserError
from utils.files import read_json
from utils.logging import progress

logger = logging.getLogger(__name__)

FORM = '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id", "question", "answers"}]}]}]}'
_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number"}


class Question(NamedTuple):
    """One question.

    Attributes:
        id: the key of its prediction.
        text: the question.
        context: the number of its text in `QuestionFile.contexts`.
        answers: the texts of the accepted answers; empty where none were asked for.
        span: (start, end), the characters of the first answer that stands at its offset; None without one.
    """

    id: str
    text: str
    context: int
    answers: tuple[str, ...]
    span: tuple[int, int] | None


@dataclass(frozen=True)
class QuestionFile:
    """The texts and questions of one file, in its order. `path`: None where there is no file."""

    path: Path | None
    contexts: list[str]
    questions: list[Question]


class _Fault:
    """How often something is wrong that does not end the run, and where it was seen first."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def add(self, place: str) -> None:
        self.count += 1
        self.first = self.first or place


def read_squad(path: str | os.PathLike, purpose: str = "train") -> QuestionFile:
    """Read and check a file.

    What can be lived with is counted, and the first case shown in one line of the log: an answer that does
    not stand at its offset (`span` passes over it; its text still counts in scores), an empty context (its
    questions have no span), and in a training file an id that stands twice.

    Args:
        purpose: "train" or "dev", where every question must have an answer, or "test", where answers are
            neither needed nor read.

    Raises:
        UserError: not JSON, or not of this form, with the path of the fault, as in
            `data[3].paragraphs[0].qas[2].answers`; an id that stands twice in a "dev" or "test" file; no
            question at all, or none with a text.
    """
    path = Path(path)
    contexts: list[str] = []
    questions: list[Question] = []
    places: dict[str, str] = {}  # id -> where it stands
    wrong_offsets, empty, repeated = _Fault(), _Fault(), _Fault()
    for place, paragraph in _paragraphs(path, read_json(path, f"the form is {FORM}")):
        context = _field(path, paragraph, "context", str, place)
        if not context.strip():
            empty.add(f"{place}.context")
        for qa_place, qa in _objects(path, paragraph, "qas", place):
            id_ = str(_field(path, qa, "id", (str, int), qa_place))
            if id_ in places:
                where = f"{qa_place}.id: '{id_}' is the id of {places[id_]} too"
                if purpose != "train":
                    raise UserError(f"{path}: {where}; answers are kept by id, so give each its own")
                repeated.add(where)
            places.setdefault(id_, qa_place)
            answers = [] if purpose == "test" else _answers(path, qa, qa_place)
            span = None
            for answer_place, start, text in answers:
                found = context[start : start + len(text)] if start >= 0 else ""
                if not text.strip() or found != text:
                    wrong_offsets.add(f"{answer_place}: '{text}' at {start}, where the context has '{found}'")
                elif span is None:
                    span = start, start + len(text)
            texts = tuple(text for *_, text in answers)
            question = _field(path, qa, "question", str, qa_place)
            questions.append(Question(id_, question, len(contexts), texts, span))
        contexts.append(context)
    if not questions:
        raise UserError(f"{path}: no question in it; the form is {FORM}")
    if empty.count == len(contexts):
        raise UserError(f"{path}: every context is empty ({empty.first} is the first)")
    _report(path, wrong_offsets, "answers that do not stand at their offset, skipped")
    _report(path, empty, "empty contexts, whose questions have no answer")
    _report(path, repeated, "ids that stand twice")
    return QuestionFile(path, contexts, questions)


def _paragraphs(path: Path, value: Any) -> Iterator[tuple[str, dict]]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no object; the form is {FORM}")
    for place, article in _objects(path, value, "data", ""):
        yield from _objects(path, article, "paragraphs", place)


def _answers(path: Path, qa: dict, place: str) -> list[tuple[str, int, str]]:
    """(place, start, text) of each answer; at least one."""
    answers = [
        (where, _field(path, answer, "answer_start", int, where), _field(path, answer, "text", str, where))
        for where, answer in _objects(path, qa, "answers", place)
    ]
    if not answers:
        raise UserError(
            f"{path}: {place}.answers: empty; questions without an answer, as in SQuAD 2.0, must be left out"
        )
    return answers


def _objects(path: Path, holder: dict, key: str, place: str) -> Iterator[tuple[str, dict]]:
    """(place, object) of each item of the list `holder[key]`."""
    for i, item in enumerate(_field(path, holder, key, list, place)):
        where = f"{_join(place, key)}[{i}]"
        if not isinstance(item, dict):
            raise UserError(f"{path}: {where}: {_name(item)} where an object should be; the form is {FORM}")
        yield where, item


def _field(path: Path, holder: dict, key: str, kind: type | tuple[type, ...], place: str) -> Any:
    where = _join(place, key)
    if key not in holder:
        raise UserError(f"{path}: {where}: missing; the form is {FORM}")
    value = holder[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = _KINDS[kind if isinstance(kind, type) else kind[0]]
        raise UserError(f"{path}: {where}: {_name(value)} where {wanted} should be; the form is {FORM}")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{path}: {where}: \\u{ord(value[error.start]):04x} at character {error.start} is one half "
                "of a pair, so no character; remove it"
            ) from error
    return value


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _name(value: Any) -> str:
    return _KINDS.get(type(value), json.dumps(value))


def _report(path: Path, fault: _Fault, what: str) -> None:
    if fault.count:
        logger.warning("%s: %d %s; the first: %s", path, fault.count, what, fault.first)


# Tokens of questions and contexts whose character spans can stand for an answer.

Span = tuple[int, int]

_HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_HAS_HAN = re.compile(_HAN)
_PARTS = re.compile(f"{_HAN}|(?:(?!{_HAN}).)+", re.DOTALL)


def encode_for_answers(tokenizer: Tokenizer, text: str, split_han: bool) -> tuple[list[int], list[Span]]:
    """`Tokenizer.encode_with_offsets`, made for answers, which begin and end with whole tokens.

    The span of a token takes in the characters behind it that normalisation drops (a zero-width space after
    a footnote mark): they belong to what they follow, as they do in MLQA's answers.

    Args:
        split_han: each Han character is a token of its own. Pieces of Chinese text are no words (亿美元,
            年的): answers often begin or end inside of one.

    Returns:
        ids and as many (start, end) character spans of `text`; starts and ends never decrease.
    """
    ids, spans = tokenizer.encode_with_offsets(text)
    if split_han and _HAS_HAN.search(text):
        ids, spans = _split_han(tokenizer, text, ids, spans)
    return ids, _over_dropped(text, spans)


def _split_han(
    tokenizer: Tokenizer, text: str, ids: list[int], spans: list[Span]
) -> tuple[list[int], list[Span]]:
    new_ids: list[int] = []
    new_spans: list[Span] = []
    for id_, token, (start, end) in zip(ids, tokenizer.convert_ids_to_tokens(ids), spans):
        source = text[start:end]
        if end - start < 2 or not _HAS_HAN.search(source) or not _stays_as_it_is(source):
            new_ids.append(id_)
            new_spans.append((start, end))
            continue
        for piece, length in _pieces(tokenizer, source, token.startswith("▁")):
            new_ids.append(tokenizer.vocab.get(piece, tokenizer.unk_id))
            new_spans.append((start, start + length))
            start += length
    return new_ids, new_spans


def _pieces(tokenizer: Tokenizer, source: str, after_space: bool) -> list[tuple[str, int]]:
    """The pieces of the vocabulary for `source`, and how many of its characters each of them stands for."""
    pieces: list[tuple[str, int]] = []
    for part in _PARTS.findall(source):
        if after_space and not pieces:
            if "▁" + part in tokenizer.vocab:
                pieces.append(("▁" + part, len(part)))
                continue
            pieces.append(("▁", 0))
        known = part in tokenizer.vocab
        pieces += [(part, len(part))] if known else [(character, 1) for character in part]
    return pieces


def _stays_as_it_is(source: str) -> bool:
    """Whether the tokenizer cuts `source` itself, and not what normalisation makes of it."""
    return unicodedata.is_normalized("NFKC", source) and normalize(source) == source


def _over_dropped(text: str, spans: list[Span]) -> list[Span]:
    """Each span with the characters behind it that normalisation drops."""
    dropped = set()
    if not text.isprintable():
        dropped = {i for i, character in enumerate(text) if not normalize(character)}
    if not dropped:
        return spans
    widened = []
    for start, end in spans:
        while start < end and end in dropped:
            end += 1
        widened.append((start, end))
    return widened


# Questions with their contexts as model inputs: `[CLS] question [SEP] part of the context [SEP]`.
#
# A context that does not fit is cut into windows that begin every `doc_stride` tokens and overlap. A file is
# tokenised when it is read, a context once for all its questions; kept are arrays of ids and spans.

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
        split_han: see `reader.question_answering.encode_for_answers`.

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
    """Read, check and tokenise a file; see `reader.question_answering.read_squad`.

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


# Windows of questions and contexts as padded arrays.


class AnswerFeature(NamedTuple):
    """One input.

    Attributes:
        ids: `[CLS] question [SEP] context [SEP]`.
        length: how many of them are not padding.
        first: where the context begins in them.
        start: the number of the context's token there.
        own, answer: as in `Window`, but places in `ids`.
    """

    ids: list[int]
    length: int
    first: int
    start: int
    own: tuple[int, int]
    answer: tuple[int, int]


@dataclass(frozen=True)
class AnswerBatch:
    """What one process feeds the model at once.

    Attributes:
        input_ids: int64 [B, T], padded on the right.
        answers: int64 [B, 2], the places of the answer's first and last token; -1: no answer here, no loss.
        own: int64 [B, 2], (from, to), the places where an answer may begin.
        ends: int64 [B], the place behind the context.
        shift: int64 [B], what makes of a place a token's number in the whole context.
        indices: int64 [B], the place of each window in the data set.
        count: windows of the whole step, over all micro-batches and processes.
    """

    input_ids: np.ndarray
    answers: np.ndarray
    own: np.ndarray
    ends: np.ndarray
    shift: np.ndarray
    indices: np.ndarray
    count: int


class EncodeWindows:
    """`reader.features.Encode` for `AnswerWindows`. It holds three ids, not the tokenizer.

    Args:
        multiple: T of a batch is a multiple of it.
    """

    def __init__(self, tokenizer: Tokenizer, multiple: int = 1):
        self.cls_id, self.sep_id, self.pad_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self.multiple = multiple

    def __call__(self, windows: Sequence[Window]) -> list[AnswerFeature]:
        return [self._feature(window) for window in windows]

    def count(self, features: Sequence[AnswerFeature]) -> int:
        return len(features)

    def collate(self, features: Sequence[AnswerFeature], indices: np.ndarray, count: int) -> AnswerBatch:
        return AnswerBatch(
            pad([feature.ids[: feature.length] for feature in features], self.pad_id, self.multiple),
            np.asarray([feature.answer for feature in features], np.int64),
            np.asarray([feature.own for feature in features], np.int64),
            np.asarray([feature.length - 1 for feature in features], np.int64),
            np.asarray([feature.start - feature.first for feature in features], np.int64),
            np.asarray(indices, np.int64),
            count,
        )

    def _feature(self, window: Window) -> AnswerFeature:
        question, context = window.question_ids.tolist(), window.context_ids.tolist()
        ids = [self.cls_id, *question, self.sep_id, *context, self.sep_id]
        first = len(question) + 2
        shift = first - window.start
        own = window.own[0] + shift, window.own[1] + shift
        answer = window.answer
        if answer[0] != NO_ANSWER:
            answer = answer[0] + shift, answer[1] + shift
        return AnswerFeature(ids, len(ids), first, window.start, own, answer)


class EncodeInOrder(EncodeWindows):
    """The official code's training inputs: in the order of the file, without the answer trained to (0, 0).

    Args:
        max_seq_len: every input is filled up to it, so that sorting by length leaves the order alone;
            `collate` takes the padding off again.
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_len: int, multiple: int = 1):
        super().__init__(tokenizer, multiple)
        self.max_seq_len = max_seq_len

    def _feature(self, window: Window) -> AnswerFeature:
        feature = super()._feature(window)
        filled = feature.ids + [self.pad_id] * (self.max_seq_len - feature.length)
        answer = (0, 0) if feature.answer[0] == NO_ANSWER else feature.answer
        return feature._replace(ids=filled, answer=answer)
