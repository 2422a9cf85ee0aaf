"""SQuAD v1.1 JSON, the format of MLQA, XQuAD and TyDi QA GoldP too."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.files import read_json

logger = logging.getLogger(__name__)

_FORM = '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id", "question", "answers"}]}]}]}'
_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number"}


class Question(NamedTuple):
    """One question.

    Attributes:
        id: the key of its prediction.
        text: the question.
        context: the number of its context in `QuestionFile.contexts`.
        answers: the texts of the accepted answers; empty if they were not read.
        span: (start, end), the characters of the first answer that is at its offset; None if there is none.
    """

    id: str
    text: str
    context: int
    answers: tuple[str, ...]
    span: tuple[int, int] | None


@dataclass(frozen=True)
class QuestionFile:
    """The contexts and questions of one file, in its order. `path` is None if they come from elsewhere."""

    path: Path | None
    contexts: list[str]
    questions: list[Question]


def read_squad(path: str | os.PathLike, purpose: str = "train") -> QuestionFile:
    """Read and check a file.

    Some faults do not stop the run. They are counted, and one line of the log shows the first: an answer that
    is not at its offset (`span` skips it, scores still accept its text), an empty context (its questions have
    no span) and, in a training file, a repeated id.

    Args:
        purpose: "train" or "dev", where every question must have an answer, or "test" (answers are not read).

    Raises:
        UserError: the file is not JSON or not of this form (names the place, as in `data[3].paragraphs[0]`),
            an id is repeated in a "dev" or "test" file, there is no question, or all contexts are empty.
    """
    path = Path(path)
    contexts: list[str] = []
    questions: list[Question] = []
    places: dict[str, str] = {}  # id -> the place of its question
    wrong_offsets: list[str] = []
    empty: list[str] = []
    repeated: list[str] = []
    value = read_json(path, f"the form is {_FORM}")
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no object; the form is {_FORM}")
    articles = _objects(path, value, "data", "")
    paragraphs = (one for where, article in articles for one in _objects(path, article, "paragraphs", where))
    for place, paragraph in paragraphs:
        context = _field(path, paragraph, "context", str, place)
        if not context.strip():
            empty.append(f"{place}.context")
        for qa_place, qa in _objects(path, paragraph, "qas", place):
            id_ = str(_field(path, qa, "id", (str, int), qa_place))
            if id_ in places:
                where = f"{qa_place}.id: '{id_}' is the id of {places[id_]} too"
                if purpose != "train":
                    raise UserError(f"{path}: {where}; answers are kept by id, so give each its own")
                repeated.append(where)
            places.setdefault(id_, qa_place)
            answers = [] if purpose == "test" else _answers(path, qa, qa_place)
            span = None
            for answer_place, start, text in answers:
                found = context[start : start + len(text)] if start >= 0 else ""
                if not text.strip() or found != text:
                    wrong_offsets.append(
                        f"{answer_place}: '{text}' at {start}, where the context has '{found}'"
                    )
                elif span is None:
                    span = start, start + len(text)
            question = _field(path, qa, "question", str, qa_place)
            texts = tuple(text for *_, text in answers)
            questions.append(Question(id_, question, len(contexts), texts, span))
        contexts.append(context)
    if not questions:
        raise UserError(f"{path}: no question in it; the form is {_FORM}")
    if len(empty) == len(contexts):
        raise UserError(f"{path}: every context is empty ({empty[0]} is the first)")
    faults = {
        "answers that are not at their offset, skipped": wrong_offsets,
        "empty contexts, whose questions have no answer": empty,
        "repeated ids": repeated,
    }
    for what, found in faults.items():
        if found:
            logger.warning("%s: %d %s; the first: %s", path, len(found), what, found[0])
    return QuestionFile(path, contexts, questions)


def _answers(path: Path, qa: dict, place: str) -> list[tuple[str, int, str]]:
    """(place, start, text) of each answer."""
    answers = [
        (where, _field(path, answer, "answer_start", int, where), _field(path, answer, "text", str, where))
        for where, answer in _objects(path, qa, "answers", place)
    ]
    if not answers:
        raise UserError(f"{path}: {place}.answers: empty; questions without an answer must be left out")
    return answers


def _objects(path: Path, holder: dict, key: str, place: str) -> Iterator[tuple[str, dict]]:
    """(place, object) of each item of the list `holder[key]`."""
    for i, item in enumerate(_field(path, holder, key, list, place)):
        where = f"{place}.{key}[{i}]".lstrip(".")
        if not isinstance(item, dict):
            raise UserError(f"{path}: {where}: {_name(item)} where an object should be; the form is {_FORM}")
        yield where, item


def _field(path: Path, holder: dict, key: str, kind: type | tuple[type, ...], place: str) -> Any:
    """`holder[key]`, which must be of one of these types and, if it is a string, have a UTF-8 form."""
    where = f"{place}.{key}".lstrip(".")
    if key not in holder:
        raise UserError(f"{path}: {where}: missing; the form is {_FORM}")
    value = holder[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = _KINDS[kind if isinstance(kind, type) else kind[0]]
        raise UserError(f"{path}: {where}: {_name(value)} where {wanted} should be; the form is {_FORM}")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{path}: {where}: character {error.start} is half of a surrogate pair"
            ) from error
    return value


def _name(value: Any) -> str:
    return _KINDS.get(type(value), json.dumps(value))
