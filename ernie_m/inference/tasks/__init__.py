"""What predict, the server and `ernie_m` can be asked for (`ernie_m.model.tasks.TASKS`), and the answers.

`make_predictor` and `training_file` import only the file that they need.
"""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, NotRequired, Protocol, TypedDict

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.model.tasks import TASKS
from ernie_m.reader.files.plain_text import OBJECTS
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary_coverage import count_unknown_words
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import is_blank, is_whole_text

# The keys of a request to the server -> (type, default) of each, as pydantic takes them.
Fields = dict[str, tuple[Any, Any]]
REQUIRED_TEXT = (str, ...)  # the ellipsis: there is no default
OPTIONAL_TEXT = (str | None, None)


class Predictor(Protocol):
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


class InputFile(ABC):
    """A file of requests, which is written again with their answers: a table, or a file of training data.

    Attributes:
        forms: those in which the answers are written, if the name of their file says one; see `named_form`.
    """

    forms: tuple[str, ...] = (OBJECTS,)

    @abstractmethod
    def requests(self, errors: RowErrors) -> Iterator[tuple[int, Any, dict]]:
        """Yield the line of each request, what `write` needs of it, and the request.

        Args:
            errors: receives what cannot be read.
        """

    @abstractmethod
    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        """Write the answers.

        Args:
            rows: each request, with what `requests` gave for `write`, and its answer, {} if it has none.
        """

    def summary(self) -> list[str]:
        """Lines: how much was answered, and how well, if the file says what is right."""
        return []


class Request(NamedTuple):
    """A request that was read.

    Attributes:
        entry: what `InputFile.write` needs of it.
        content: what the predictor's `parse` made of it; None: it is wrong, and left out.
        id: its id, or its line.
    """

    entry: Any
    content: Any
    id: Any = None


def make_predictor(
    task: str, model: LoadedModel, options: PredictionOptions = PredictionOptions()
) -> Predictor:
    """The predictor of a prediction on a model.

    Args:
        task: one of `ernie_m.model.tasks.TASKS`.

    Raises:
        UserError: the model is not for this, or an option is out of range.
    """
    return _class_named(TASKS[task].predictor)(model, options)


def training_file(task: str, path: Path, options: TableOptions, predictor: Predictor) -> InputFile | None:
    """A file in the form of a task's training data; None: it is another one, or the task has no such form.

    Raises:
        UserError: it cannot be read.
    """
    name = TASKS[task].training_file
    return _class_named(name).of(path, options, predictor) if name else None


def _class_named(location: str) -> Any:
    """A class by the names of its file in this folder and of itself."""
    file, name = location.split(".")
    return getattr(importlib.import_module(f"{__name__}.{file}"), name)


def is_text(value: Any) -> bool:
    """Whether a value is a text that is not blank, without half characters."""
    return isinstance(value, str) and not is_blank(value) and is_whole_text(value)


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


def get_flag(request: dict, key: str, default: bool) -> bool:
    """The value of a key that is true or false.

    Raises:
        UserError: it is something else.
    """
    value = request.get(key, default)
    if not isinstance(value, bool):
        raise UserError(f"'{key}' is {json.dumps(value, default=str)[:40]}; it must be true or false")
    return value


def remarks(tokenizer: Tokenizer, *texts: str, cut: int = False) -> dict[str, Any]:
    """What an answer says of its texts: "truncated" if they were, and the number of "unknown_words"."""
    count = count_unknown_words(tokenizer, *texts)
    return ({"truncated": True} if cut else {}) | ({"unknown_words": count} if count else {})


def check_length(count: int, most: int) -> None:
    """Refuse the text of a request that has `count` tokens, more than `most`.

    Raises:
        UserError: there are more.
    """
    if count > most:
        raise UserError(f"'text' has {count} tokens, at most {most} fit; shorten it")


# The answers of `ernie_m.api.Model`, as a checker sees them.


class Remarks(TypedDict, total=False):
    """What any answer may say of its texts: that they were cut to fit, and how many words are unknown."""

    truncated: bool
    unknown_words: int


class Prediction(Remarks):
    """The label of a text, with the probability of each; labels are as they were given to `fit`.

    A model for several labels a text answers "labels" in the place of "label", and one with a single output,
    such as a regression, nothing but a "score".
    """

    label: Any
    probabilities: dict[Any, float]
    labels: NotRequired[list[Any]]
    score: NotRequired[float]


class Choice(Remarks):
    """The likeliest of the labels that were asked about, and the probability of each."""

    label: str
    probabilities: dict[str, float]


class Entity(TypedDict):
    """An entity: of a text "text", "start" and "end", in characters; of words "words", "first" and "last"."""

    type: str
    text: NotRequired[str]
    start: NotRequired[int]
    end: NotRequired[int]
    words: NotRequired[list[str]]
    first: NotRequired[int]
    last: NotRequired[int]


class Tagged(Remarks):
    """Words, a tag for each, and the entities in their order."""

    words: list[str]
    tags: list[str]
    entities: list[Entity]


class Candidate(TypedDict):
    """A place of the context that may be the answer, in characters."""

    text: str
    start: int
    end: int
    probability: float


class Answer(Remarks):
    """The best candidate; without any the answer is "" and begins nowhere."""

    answer: str
    start: int | None
    probability: float
    candidates: list[Candidate]


class Hit(TypedDict):
    """A text of a corpus that was found; "language" if the corpus names languages."""

    line: int
    index: int
    text: str
    score: float
    language: NotRequired[str]


class Ranked(Remarks):
    """A text, its index, and how well it answers the query."""

    index: int
    text: str
    score: float


class Filling(TypedDict):
    """A token that may stand at a mask."""

    token: str
    probability: float
