"""The tasks that predict.py, the server and `ernie_m` offer. `make` imports only the module of one task."""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference.loading import LoadedModel
from model.task_names import CLASSIFICATION, ENCODING, QUESTION_ANSWERING, TAGGING, task_named
from utils.errors import UserError

TASKS = ("classify", "tag", "answer", "encode", "search", "fill", "translate-probe")  # on command lines
# A task -> the module and the class that answer it. Only the server offers align and masks.
_CLASSES = {
    CLASSIFICATION: ("finetuned", "ClassifyTexts"),
    TAGGING: ("finetuned", "TagWords"),
    QUESTION_ANSWERING: ("finetuned", "AnswerQuestions"),
    ENCODING: ("encode", "EncodeTexts"),
    "search": ("encode", "SearchCorpus"),
    "align": ("pictures", "CompareTokens"),
    "masks": ("pictures", "DrawMasks"),
    "fill": ("words", "FillMasks"),
    "translate-probe": ("words", "ProbeTranslation"),
}


@dataclass(frozen=True)
class TaskOptions:
    """The options of all tasks.

    Args:
        max_seq_len: longest input (tag, answer: window) in tokens. None: as recorded in training, else what
            the model can read (answer: at most 384, as in the official recipe).
        top_k: most candidates (answer, fill, translate-probe) or sentences (search).
        pooling: "mean", "specials" or "pooled" (encode, search); None: as in training, else "mean".
        layer: a number, "middle" or "top" (encode, search); None: the layer of an exported folder, else as in
            training, else the top.
        corpus: for search, a text file with one sentence a line, or language<=file,language<=file.
    """

    max_seq_len: int | None = None
    top_k: int = 5
    pooling: str | None = None
    layer: str | int | None = None
    corpus: str | None = None


class Answerer(Protocol):
    """A task on a model: it parses requests one by one and answers many at once."""

    def parse(self, request: dict) -> Any:
        """The content of a request. UserError: a key is missing, or a value is wrong."""

    def answer(self, asked: list[Any]) -> list[dict]:
        """An answer for each."""


def make(task: str, model: LoadedModel, options: TaskOptions = TaskOptions()) -> Answerer:
    """The answerer of a task on a model.

    Args:
        task: one of `TASKS`, a name of `model.task_names`, or what only the server offers: align or masks.

    Raises:
        UserError: the model is not for this task, or an option is out of range.
    """
    module, name = _CLASSES[task_named(task)]
    return getattr(importlib.import_module(f"inference.tasks.{module}"), name)(model, options)


def text_of(request: dict, key: str, optional: bool = False, choices: Sequence[str] = ()) -> str | None:
    """The text of a key. UserError: the key is missing, or its value is no text or none of the choices."""
    value = request.get(key)
    if value is None and optional:
        return None
    if key not in request:
        raise UserError(f"no '{key}' in it; it has {', '.join(request) or 'nothing'}")
    whole = isinstance(value, str) and value.encode(errors="ignore").decode() == value  # no half characters
    if not whole or not value.strip():
        raise UserError(f"'{key}' is {json.dumps(value, default=str)[:40]}, but must be a text")
    if choices and value not in choices:
        raise UserError(f"'{key}' is '{value}'; it must be one of {', '.join(choices)}")
    return value


def check_length(key: str, count: int, most: int) -> None:
    """UserError: the text of a key has more than `most` tokens."""
    if count > most:
        raise UserError(f"'{key}' has {count} tokens, at most {most} fit; shorten it")
