"""Questions on texts in the JSON of SQuAD v1.1, which MLQA, XQuAD and TyDi QA GoldP share."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.json_files import read_json

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
