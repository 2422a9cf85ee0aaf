"""Files of questions and their contexts: SQuAD v1.1 JSON, as MLQA and XQuAD have it too.

A file may also have a row of Hugging Face's data sets on each line.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.reader.files.plain_text import split_name
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.tables import parse_json_lines
from ernie_m.reader.token_offsets import Span
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.files import is_whole_text, parse_json, read_bytes, read_json
from ernie_m.utils.logging import logger

_FORM = '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id", "question", "answers"}]}]}]}'
_KINDS = {list: "a list", int: "a whole number"}  # in words, for errors; any other kind is a string


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
    the log counts such answers and shows the first. An answer whose offset is missing, or -1, is looked for;
    another line counts those. One more counts the questions without an answer, as SQuAD v2 has them, which
    are left out.

    Args:
        purpose: "train" or "dev", where every question must have an answer, or "test" (answers are not read).

    Raises:
        UserError: the file is not JSON or not of this form (names the place, as in `data[3].paragraphs[0]`),
            an id is repeated in a "dev" or "test" file, an answer without an offset is in its context more
            than once (names the ids), or there is no question.
    """
    path = Path(path)
    contexts: list[str] = []
    questions: list[Question] = []
    ids: set[str] = set()
    misplaced: list[str] = []  # descriptions of answers that are not at their offsets
    found: list[str] = []  # the ids of questions with an answer without an offset, for each such answer
    unclear: list[str] = []  # the ids of questions with one that is there more than once
    unanswerable = 0
    for context, of_context in _paragraphs(_JsonValue(path, "", _content(path))):
        for qa in of_context:
            if purpose != "test" and _is_unanswerable(qa):
                unanswerable += 1
                continue
            id_ = str(qa.required("id", str | int))
            if id_ in ids and purpose != "train":
                raise UserError(f"{path}: {qa.place}.id: '{id_}' occurs twice; answers are kept by id")
            ids.add(id_)
            answers: list[str] = []
            span = None
            if purpose != "test":
                answers, span = _read_answers(qa, context, misplaced, found, unclear)
            questions.append(Question(id_, qa.string("question"), len(contexts), tuple(answers), span))
        contexts.append(context)
    if unclear:
        raise UserError(
            f"{path}: answers without answer_start whose text is in the context more than once: "
            f"{listed([*dict.fromkeys(unclear)])}; write where they begin, in characters from 0"
        )
    if found:
        logger.info("%s: answers without answer_start that are in the context once: %d", path, len(found))
    if unanswerable:
        line = (
            "%s: %d of %d questions are left out: they have no answer (SQuAD v2); the model always gives one"
        )
        logger.warning(line, path, unanswerable, unanswerable + len(questions))
    if not questions:
        with_answer = " with an answer" if unanswerable else ""
        raise UserError(f"{path}: no question{with_answer} in it; the form is {_FORM}")
    if misplaced:
        logger.warning(
            "%s: answers that are not at their offset, so their places are not learned: %d; the first: %s. "
            "Offsets are in characters; if they are in something else (UTF-16 units), leave answer_start out",
            path,
            len(misplaced),
            misplaced[0],
        )
    return QuestionFile(path, contexts, questions)


def _paragraphs(content: "_JsonValue") -> Iterator[tuple[str, Iterable["_JsonValue"]]]:
    """Each context, and its questions. A row of Hugging Face's data sets has a context and one question."""
    for article in content.items("data"):
        is_row = article.has("context") and not article.has("paragraphs")
        for paragraph in [article] if is_row else article.items("paragraphs"):
            yield paragraph.string("context"), [article] if is_row else paragraph.items("qas")


def _content(path: Path) -> Any:
    """The JSON value of a file; of one with a row of Hugging Face's data sets on each line, {"data": rows}.

    Raises:
        UserError: as `read_json`, or a line is not JSON, or the file is packed.
    """
    if split_name(path)[1]:
        raise UserError(f"{path}: questions are not read from a packed file; unpack it, as gunzip does")
    lines = read_bytes(path).splitlines()
    first = parse_json(lines[0]) if lines else None
    if not isinstance(first, dict) or "question" not in first:
        return read_json(path, f"the form is {_FORM}")
    errors = RowErrors(path, may_skip=False)
    rows = [row for _, row in parse_json_lines(lines, str(path), errors)]
    errors.end(logger.warning)
    return {"data": rows}


def _is_unanswerable(qa: "_JsonValue") -> bool:
    """Whether a question says that its context has no answer, as in SQuAD v2 and in what is made of it."""
    value = qa.value if isinstance(qa.value, dict) else {}  # what it is instead is said where it is read
    answers = value.get("answers")
    if isinstance(answers, dict):
        answers = answers.get("text") or answers.get("answer_start") or []
    return value.get("is_impossible") is True or answers == []


def _read_answers(
    qa: "_JsonValue", context: str, misplaced: list[str], found: list[str], unclear: list[str]
) -> tuple[list[str], Span | None]:
    """The texts of the answers to a question, and the characters of the first that is at its offset.

    Args:
        misplaced: a description of each answer that is not at its offset is added.
        found, unclear: for each answer without an offset that is in the context, once or more often, the id
            of the question is added.

    Raises:
        UserError: the answers have another form.
    """
    texts = []
    span = None
    for answer in qa.answers():
        text = answer.string("text")
        texts.append(text)
        is_given = answer.value.get("answer_start") not in (None, -1)
        start = answer.required("answer_start", int) if is_given else context.find(text)
        if not is_given and start >= 0 and text.strip():
            (unclear if text in context[start + 1 :] else found).append(str(qa.value["id"]))
        # A negative index would count from the end of the context.
        at_offset = context[start : start + len(text)] if start >= 0 else ""
        if not text.strip() or at_offset != text:
            misplaced.append(f"{answer.place}: '{text}' at {start}, where the context has '{at_offset}'")
        elif span is None:
            span = (start, start + len(text))
    return texts, span


@dataclass(frozen=True)
class _JsonValue:
    """A value of a JSON file, and its place there, such as `data[3].paragraphs[0]`, for errors."""

    path: Path
    place: str
    value: Any

    def required(self, key: str, kind: Any) -> Any:
        """The value of a key.

        Args:
            kind: the type that it must have; for a string or a number, str | int.

        Raises:
            UserError: there is no such key, or its value is not of this kind.
        """
        value = self.value.get(key) if isinstance(self.value, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):  # to Python a bool is an int
            expected = _KINDS.get(kind, "a string")
            raise UserError(
                f"{self.path}: {self._locate(key)}: {expected} should be here; the form is {_FORM}"
            )
        return value

    def string(self, key: str) -> str:
        """The text of a key.

        Raises:
            UserError: as `required`, or the text has half a character (a lone surrogate), which cannot be
                written.
        """
        text = self.required(key, str)
        if not is_whole_text(text):
            raise UserError(f"{self.path}: {self._locate(key)}: it has half a character; remove it")
        return text

    def has(self, key: str) -> bool:
        """Whether it is an object with this key."""
        return isinstance(self.value, dict) and key in self.value

    def answers(self) -> Iterator["_JsonValue"]:
        """The answers of a question: a list of objects, or as Hugging Face's data sets have them an object of
        lists, {"text": [...], "answer_start": [...]}.

        Raises:
            UserError: as `required`, or these lists are of different lengths.
        """
        lists = self.value["answers"] if self.has("answers") else None
        if isinstance(lists, dict):
            location = self._locate("answers")
            texts = _JsonValue(self.path, location, lists).required("text", list)
            starts = lists.get("answer_start")
            starts = [None] * len(texts) if starts is None else starts
            if not isinstance(starts, list) or len(texts) != len(starts):
                raise UserError(f"{self.path}: {location}: {len(texts)} texts, and not as many answer_start")
            answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts)]
            return _JsonValue(self.path, self.place, {"answers": answers}).items("answers")
        return self.items("answers")

    def items(self, key: str) -> Iterator["_JsonValue"]:
        """The items of the list of a key.

        Raises:
            UserError: as `required`.
        """
        for number, item in enumerate(self.required(key, list)):
            yield _JsonValue(self.path, f"{self._locate(key)}[{number}]", item)

    def _locate(self, key: str) -> str:
        """The place of a key; that of the whole file is "", so its keys have no dot before them."""
        return f"{self.place}.{key}".lstrip(".")
