"""Readers of extractive question answering data: SQuAD v1.1 JSON, as in MLQA and XQuAD.

JSON lines of Hugging Face's SQuAD data sets, with a question per line, are also supported.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.reader.files.plain_text import split_extensions
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.tables import parse_json_lines
from ernie_m.reader.token_offsets import Span
from ernie_m.utils.errors import UserError, join_items
from ernie_m.utils.files import is_valid_unicode, parse_json, read_bytes, read_json
from ernie_m.utils.logging import logger

_FORM = '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id", "question", "answers"}]}]}]}'
_KINDS = {list: "a list", int: "a whole number"}  # names for errors; any other type is a string


class Question(NamedTuple):
    """A question about a context, with its gold answers."""

    id: str  # the key of its prediction
    text: str
    context: int  # index in `QuestionFile.contexts`
    answers: tuple[str, ...]  # the texts of the gold answers; empty if not read
    span: tuple[int, int] | None  # the character span of the first answer that matches the context


@dataclass(frozen=True)
class QuestionFile:
    """The contexts and questions of a file, in order. `path` is None if they are not from a file."""

    path: Path | None
    contexts: list[str]
    questions: list[Question]


def read_squad(path: str | os.PathLike, purpose: str = "train") -> QuestionFile:
    """Read and validate a file of questions in SQuAD v1.1 format.

    An answer that does not match the context at its offset has no span, but its text is a gold answer. An
    answer whose offset is missing or -1 is located by its text. Questions without an answer (SQuAD v2) are
    skipped. The number of each is logged.

    Args:
        purpose: "train" or "dev" (every question requires an answer), or "test" (answers are not read).

    Raises:
        UserError: the file is not JSON, or has another format (with its location, `data[3].paragraphs[0]`),
            an id is duplicate in a "dev" or "test" file, an answer without an offset occurs more than once
            (with the ids), or there are no questions.
    """
    path = Path(path)
    contexts: list[str] = []
    questions: list[Question] = []
    ids: set[str] = set()
    misplaced: list[str] = []  # descriptions of answers that do not match the context
    found: list[str] = []  # the question id of each answer that was located by search
    unclear: list[str] = []  # the question id of each answer with several matches
    unanswerable = 0
    for context, of_context in _iter_paragraphs(_JsonValue(path, "", _read_json(path))):
        for qa in of_context:
            if purpose != "test" and _is_unanswerable(qa):
                unanswerable += 1
                continue
            id_ = str(qa.get_required("id", str | int))
            if id_ in ids and purpose != "train":
                raise UserError(f"{path}: {qa.location}.id: duplicate id '{id_}'. Make ids unique")
            ids.add(id_)
            answers: list[str] = []
            span = None
            if purpose != "test":
                answers, span = _read_answers(qa, context, misplaced, found, unclear)
            questions.append(Question(id_, qa.get_string("question"), len(contexts), tuple(answers), span))
        contexts.append(context)
    if unclear:
        raise UserError(
            f"{path}: ambiguous answers without answer_start, whose text occurs more than once in the "
            f"context: {join_items([*dict.fromkeys(unclear)])}. Add answer_start, in characters from 0"
        )
    if found:
        logger.info("%s: located %d answers without answer_start by their text", path, len(found))
    if unanswerable:
        line = (
            "%s: skipped %d of %d questions without an answer (SQuAD v2); the model always predicts an answer"
        )
        logger.warning(line, path, unanswerable, unanswerable + len(questions))
    if not questions:
        with_answer = " with an answer" if unanswerable else ""
        raise UserError(f"{path}: no questions{with_answer} (expected {_FORM})")
    blank = sum(not answer.strip() for question in questions for answer in question.answers)
    if blank:
        logger.warning("%s: %d of the answers are blank", path, blank)
    if misplaced:
        logger.warning(
            "%s: ignored the spans of %d answers that do not match the context at answer_start; the first: "
            "%s. Offsets are in characters; if they are in other units (UTF-16), remove answer_start",
            path,
            len(misplaced),
            misplaced[0],
        )
    return QuestionFile(path, contexts, questions)


def _iter_paragraphs(content: "_JsonValue") -> Iterator[tuple[str, Iterable["_JsonValue"]]]:
    """Yield each context with its questions. A row of Hugging Face's data sets has one question."""
    for article in content.iter_items("data"):
        is_row = article.has_key("context") and not article.has_key("paragraphs")
        for paragraph in [article] if is_row else article.iter_items("paragraphs"):
            yield paragraph.get_string("context"), [article] if is_row else paragraph.iter_items("qas")


def _read_json(path: Path) -> Any:
    """Read the JSON value of a file; JSON lines of Hugging Face's data sets become {"data": rows}.

    Raises:
        UserError: a line is not JSON, or the file is compressed; see also `read_json`.
    """
    if split_extensions(path)[1]:
        raise UserError(
            f"{path}: compressed files of questions are not supported. Decompress it, as with gunzip"
        )
    lines = read_bytes(path).splitlines()
    first = parse_json(lines[0]) if lines else None
    if not isinstance(first, dict) or "question" not in first:
        return read_json(path, f"expected {_FORM}")
    errors = RowErrors(path, may_skip=False)
    rows = [row for _, row in parse_json_lines(lines, str(path), errors)]
    errors.report(logger.warning)
    return {"data": rows}


def _is_unanswerable(qa: "_JsonValue") -> bool:
    """Return whether a question is marked as unanswerable, as in SQuAD v2 and derived data sets."""
    value = qa.value if isinstance(qa.value, dict) else {}  # other types are rejected by `required`
    answers = value.get("answers")
    if isinstance(answers, dict):
        answers = answers.get("text") or answers.get("answer_start") or []
    return value.get("is_impossible") is True or answers == []


def _read_answers(
    qa: "_JsonValue", context: str, misplaced: list[str], located: list[str], unclear: list[str]
) -> tuple[list[str], Span | None]:
    """Read the answers to a question: their texts, and the span of the first that matches the context.

    Args:
        misplaced: a list to which descriptions of answers that do not match the context are appended.
        located: a list to which the question ids of answers located by their text are appended.
        unclear: the same for answers without an offset that occur several times.

    Raises:
        UserError: the format of the answers is invalid.
    """
    texts = []
    span = None
    for answer in qa.iter_answers():
        text = answer.get_string("text")
        texts.append(text)
        is_given = answer.value.get("answer_start") not in (None, -1)
        start = answer.get_required("answer_start", int) if is_given else context.find(text)
        if not is_given and start >= 0 and text.strip():
            (unclear if text in context[start + 1 :] else located).append(str(qa.value["id"]))
        # A negative index would count from the end of the context.
        at_offset = context[start : start + len(text)] if start >= 0 else ""
        if text.strip() and at_offset != text:
            misplaced.append(f"{answer.location}: '{text}' at {start}, where the context has '{at_offset}'")
        elif text.strip() and span is None:
            span = (start, start + len(text))
    return texts, span


@dataclass(frozen=True)
class _JsonValue:
    """A value of a JSON file, with its location, such as `data[3].paragraphs[0]`, for errors."""

    path: Path
    location: str
    value: Any

    def get_required(self, key: str, kind: Any) -> Any:
        """Return the value of a required key.

        Args:
            kind: the required type, such as list, or str | int.

        Raises:
            UserError: the key is missing, or its value has the wrong type.
        """
        value = self.value.get(key) if isinstance(self.value, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):  # bool is a subclass of int
            expected = _KINDS.get(kind, "a string")
            raise UserError(
                f"{self.path}: {self._locate(key)}: missing or invalid (expected {expected}, "
                f"in the format {_FORM})"
            )
        return value

    def get_string(self, key: str) -> str:
        """Return the string value of a required key.

        Raises:
            UserError: the string has a lone surrogate, which cannot be written; see also `get_required`.
        """
        text = self.get_required(key, str)
        if not is_valid_unicode(text):
            raise UserError(
                f"{self.path}: {self._locate(key)}: lone surrogate (half of a UTF-16 pair). Remove it"
            )
        return text

    def has_key(self, key: str) -> bool:
        """Return whether the value is an object with this key."""
        return isinstance(self.value, dict) and key in self.value

    def iter_answers(self) -> Iterator["_JsonValue"]:
        """Yield the answers of a question.

        They are a list of objects, or, in Hugging Face's data sets, an object of lists, {"text": [...],
        "answer_start": [...]}.

        Raises:
            UserError: the lists have different lengths; see also `get_required`.
        """
        lists = self.value["answers"] if self.has_key("answers") else None
        if isinstance(lists, dict):
            location = self._locate("answers")
            texts = _JsonValue(self.path, location, lists).get_required("text", list)
            starts = lists.get("answer_start")
            starts = [None] * len(texts) if starts is None else starts
            if not isinstance(starts, list) or len(texts) != len(starts):
                raise UserError(
                    f"{self.path}: {location}: the number of answer_start does not match "
                    f"the {len(texts)} texts"
                )
            answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts)]
            return _JsonValue(self.path, self.location, {"answers": answers}).iter_items("answers")
        return self.iter_items("answers")

    def iter_items(self, key: str) -> Iterator["_JsonValue"]:
        """Yield the items of the list that is the value of a required key.

        Raises:
            UserError: see `get_required`.
        """
        for number, item in enumerate(self.get_required(key, list)):
            yield _JsonValue(self.path, f"{self._locate(key)}[{number}]", item)

    def _locate(self, key: str) -> str:
        """Return the location of a key of this value, such as `data[3].title`."""
        return f"{self.location}.{key}".lstrip(".")
