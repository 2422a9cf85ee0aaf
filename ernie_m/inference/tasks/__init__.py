"""What ernie-m predict, the server and `ernie_m` can be asked for (`ernie_m.model.tasks.TASKS`).

`make_answerer` imports only the file that it needs.
"""

import importlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Protocol

from ernie_m.inference.load import LoadedModel
from ernie_m.model.conventions import NEITHER, TextKind
from ernie_m.model.tasks import TASKS
from ernie_m.reader.coverage import count_unknown_words
from ernie_m.reader.files.faults import Faults
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import is_whole_text
from ernie_m.vectors.pooling import POOLINGS

# The keys of a request to the server -> (type, default) of each, as pydantic takes them.
Fields = dict[str, tuple[Any, Any]]
REQUIRED_TEXT = (str, ...)  # the ellipsis: there is no default
OPTIONAL_TEXT = (str | None, None)


def is_whole(value: Any) -> bool:
    """Whether a value is an int. True and False are not meant, although they are ints in Python."""
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class PredictionOptions:
    """The options of all predictions.

    Args:
        max_seq_len: longest input (of words and questions: window) in tokens. None: as recorded in training,
            else what the model can read (of questions at most 384, as in the official recipe).
        top_k: most candidates (question-answering, fill-mask) or sentences (search).
        pooling: one of `ernie_m.vectors.pooling.POOLINGS` (embedding, search); None: as the model's files
            say, else "mean".
        layer: a number, "middle" or "top" (embedding, search); None: the layer of an exported folder, else as
            in training, else the top.
        corpus: for search, a text file with one sentence a line, or language<=file,language<=file; or the
            sentences themselves.
        index: for search, a folder with the vectors of the corpus. It is made of `corpus` if it is not there.
        centre: whether vectors are without the mean of their language (embedding, search); None: in search
            if the model has the means for its pooling, otherwise not.
        normalize: whether vectors have length 1 (embedding); None: as the model's files say, else not.
        kind: what the texts of embedding are, which decides their prompt (`Reading.prompt`).
        prompt: the name of the model's prompt that is put before a text (embedding, and the texts that
            search looks for); "": none; None: that of the kind.
        labels: the labels of zero-shot requests that name none: a list, or a text with commas between them.
        template: the template of zero-shot requests that have none: a sentence with {} where a label goes.
        several: whether several labels can be true in zero-shot requests that do not say it.
        given_labels: whether a classifier answers with labels as a user of Python gave them.

    Raises:
        UserError: a value is of another type, or is none of those that are accepted.
    """

    max_seq_len: int | None = None
    top_k: int = 5
    pooling: str | None = None
    layer: str | int | None = None
    corpus: str | tuple[str, ...] | None = None
    index: str | os.PathLike | None = None
    centre: bool | None = None
    normalize: bool | None = None
    kind: TextKind = NEITHER
    prompt: str | None = None
    labels: str | tuple[str, ...] | None = None
    template: str = "This example is {}."
    several: bool = False
    given_labels: bool = False

    def __post_init__(self) -> None:
        if not (self.max_seq_len is None or is_whole(self.max_seq_len)):
            raise UserError(f"max_seq_len {self.max_seq_len!r}: it must be a whole number")
        if not is_whole(self.top_k) or self.top_k < 1:
            raise UserError(f"top_k {self.top_k!r}: it must be a whole number, at least 1")
        if self.pooling not in (None, *POOLINGS):
            raise UserError(f"pooling {self.pooling!r}: it must be one of {', '.join(POOLINGS)}")
        if not (self.layer is None or isinstance(self.layer, str) or is_whole(self.layer)):
            raise UserError(f"layer {self.layer!r}: it must be a whole number, middle or top")
        for name in ("centre", "normalize"):
            if getattr(self, name) not in (None, False, True):
                raise UserError(f"{name} {getattr(self, name)!r}: it must be true or false")
        if not (self.prompt is None or isinstance(self.prompt, str)):
            raise UserError(f"prompt {self.prompt!r}: it must be the name of a prompt")


class Answerer(Protocol):
    """One prediction on one model: it parses requests one by one and answers many at once.

    Where the server has bounds that the command line has not, there is also a method `check_length`.

    Attributes:
        fields: None: the server does not offer it.
    """

    fields: ClassVar[Fields | None]

    def parse(self, request: dict) -> Any:
        """Check a request and return its content.

        Raises:
            UserError: a key is missing, or a value is wrong.
        """

    def answer(self, inputs: list[Any]) -> list[dict]:
        """Return an answer for each parsed request."""


class InputFile(Protocol):
    """A file of requests that comes back with their answers: a table, or one in the form of training data."""

    def requests(self, faults: Faults) -> Iterator[tuple[int, dict, dict]]:
        """Yield the line of each request, what `write` needs of it, and the request.

        Args:
            faults: receives what cannot be read.
        """

    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        """Write the answers.

        Args:
            rows: each request, with what `requests` gave for `write`, and its answer, {} if it has none.
        """

    def summary(self) -> list[str]:
        """Lines: how much was answered, and how well, if the file says what is right."""


def make_answerer(
    task: str, model: LoadedModel, options: PredictionOptions = PredictionOptions()
) -> Answerer:
    """The answerer of a prediction on a model.

    Args:
        task: one of `ernie_m.model.tasks.TASKS`.

    Raises:
        UserError: the model is not for this, or an option is out of range.
    """
    file, name = TASKS[task].predictor.split(".")
    answerer_class = getattr(importlib.import_module(f"{__name__}.{file}"), name)
    return answerer_class(model, options)


def is_text(value: Any) -> bool:
    """Whether a value is a text that is not blank, without half characters."""
    return isinstance(value, str) and bool(value.strip()) and is_whole_text(value)


def text_of(request: dict, key: str, optional: bool = False, choices: Sequence[str] = ()) -> str | None:
    """The text of a key; None if it is optional and absent.

    Raises:
        UserError: the key is missing, or its value is no text or none of the choices.
    """
    value = request.get(key)
    if value is None and optional:
        return None
    if key not in request:
        raise UserError(f"there is no '{key}' in it; it has {', '.join(request) or 'nothing'}")
    if not is_text(value):
        raise UserError(f"'{key}' is {json.dumps(value, default=str)[:40]}, but must be a text")
    if choices and value not in choices:
        raise UserError(f"'{key}' is '{value}'; it must be one of {', '.join(choices)}")
    return value


def flag_of(request: dict, key: str, default: bool) -> bool:
    """The value of a key that is true or false.

    Raises:
        UserError: it is something else.
    """
    value = request.get(key, default)
    if not isinstance(value, bool):
        raise UserError(f"'{key}' is {json.dumps(value, default=str)[:40]}; it must be true or false")
    return value


def remarks(tokenizer: Tokenizer, *texts: str, cut: int = False) -> dict[str, Any]:
    """What an answer says of its texts: "cut" if they were cut to fit, and the number of "unknown_words"."""
    count = count_unknown_words(tokenizer, *texts)
    return ({"cut": True} if cut else {}) | ({"unknown_words": count} if count else {})


def check_length(key: str, count: int, most: int) -> None:
    """Refuse the text of a key that has more than `most` tokens.

    Args:
        count: the number of its tokens.

    Raises:
        UserError: there are more.
    """
    if count > most:
        raise UserError(f"'{key}' has {count} tokens, at most {most} fit; shorten it")
