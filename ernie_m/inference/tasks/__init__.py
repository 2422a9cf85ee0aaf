"""Interfaces of predictors and of their input files, and types of predictions; see `predictors.py`."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, ClassVar, NamedTuple, NotRequired, Protocol, TypedDict

from ernie_m.reader.files.plain_text import OBJECTS
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary_coverage import count_unknown_words
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import is_blank, is_valid_unicode

# Key of a request to the server -> (type, default), as in pydantic.
Fields = dict[str, tuple[Any, Any]]
REQUIRED_TEXT = (str, ...)  # ...: no default
OPTIONAL_TEXT = (str | None, None)


class Predictor(Protocol):
    """Protocol of a predictor: a task on a loaded model, which parses requests and predicts batches of them.

    The optional method `check_length` checks limits that apply in the server, but not on the command line.

    Attributes:
        fields: the keys of a request; None: the server does not offer the task.
    """

    fields: ClassVar[Fields | None]

    def parse(self, request: dict) -> Any:
        """Validate a request, and return its content for `predict`.

        Raises:
            UserError: a key is missing, or a value is invalid.
        """

    def predict(self, inputs: list[Any]) -> list[dict]:
        """Return a prediction for each parsed request."""


class InputFile(ABC):
    """An input file of `ernie-m predict`, which is written to the output with predictions added.

    Attributes:
        formats: the supported output formats; see `detect_format`.
    """

    formats: tuple[str, ...] = (OBJECTS,)

    @abstractmethod
    def iter_requests(self, errors: RowErrors) -> Iterator[tuple[int, Any, dict]]:
        """Yield the line number of each request, its entry (data for `write`), and the request.

        Args:
            errors: collects invalid rows.
        """

    @abstractmethod
    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        """Write the content of the file with the predictions.

        Args:
            rows: each `Request` and its prediction, {} without a prediction.
        """

    def format_summary(self) -> list[str]:
        """Return lines with the number of predictions, and the scores if the file has gold labels."""
        return []


class Request(NamedTuple):
    """A parsed request of an input file.

    Attributes:
        entry: the data of the request for `InputFile.write`.
        content: the result of the predictor's `parse`; None: the request is invalid, and skipped.
        id: the id of the request; if it has none, its line number.
    """

    entry: Any
    content: Any
    id: Any = None


def is_text(value: Any) -> bool:
    """Return whether a value is a non-blank string without lone surrogates."""
    return isinstance(value, str) and not is_blank(value) and is_valid_unicode(value)


def read_text_key(request: dict, key: str, optional: bool = False, choices: Sequence[str] = ()) -> str | None:
    """Return the text of a request's key; None if the key is optional and missing.

    Args:
        choices: the valid values; (): any text.

    Raises:
        UserError: the key is missing, or its value is not a text, or is not one of the choices.
    """
    value = request.get(key)
    if value is None and optional:
        return None
    if key not in request:
        raise UserError(f"missing key '{key}' (found: {', '.join(request) or 'none'})")
    if not is_text(value):
        raise UserError(
            f"'{key}': invalid value {json.dumps(value, default=str)[:40]} (expected a text "
            "that is not blank)"
        )
    if choices and value not in choices:
        raise UserError(f"'{key}': invalid choice '{value}' (choose from {', '.join(choices)})")
    return value


def get_flag(request: dict, key: str, default: bool) -> bool:
    """Return the boolean value of a request's key, or the default if the key is missing.

    Raises:
        UserError: the value is not a boolean.
    """
    value = request.get(key, default)
    if not isinstance(value, bool):
        raise UserError(
            f"'{key}': invalid value {json.dumps(value, default=str)[:40]} (expected true or false)"
        )
    return value


def get_caveats(tokenizer: Tokenizer, *texts: str, is_truncated: bool | int = False) -> dict[str, Any]:
    """Return the caveats of a prediction: "truncated", and the number of "unknown_words", if any."""
    count = count_unknown_words(tokenizer, *texts)
    return ({"truncated": True} if is_truncated else {}) | ({"unknown_words": count} if count else {})


def check_length(num_tokens: int, max_tokens: int) -> None:
    """Check that the text of a request, with `num_tokens` tokens, does not exceed `max_tokens` tokens.

    Raises:
        UserError: the text is too long.
    """
    if num_tokens > max_tokens:
        raise UserError(f"'text' has {num_tokens} tokens (maximum: {max_tokens}). Shorten it")


# The return types of `ernie_m.api.Model`.


class Caveats(TypedDict, total=False):
    """Caveats of any prediction.

    Attributes:
        truncated: True if the text was truncated, else absent.
        unknown_words: number of words with an unknown token, or split into five or more single letters;
            absent if 0.
    """

    truncated: bool
    unknown_words: int


class ClassificationPrediction(Caveats):
    """The predicted label of a text, with the probability of each label; labels are as passed to `fit`.

    A multi-label model returns "labels" instead of "label". A model with a single output, such as a
    regression, returns only a "score".

    Attributes:
        label: the most probable label.
        probabilities: label -> probability.
        labels: the predicted labels of a multi-label model.
        score: the output of a model with a single output.
    """

    label: Any
    probabilities: dict[Any, float]
    labels: NotRequired[list[Any]]
    score: NotRequired[float]


class ZeroShotPrediction(Caveats):
    """The most probable of the candidate labels, and the probability of each.

    Attributes:
        label: the most probable label.
        probabilities: candidate label -> probability.
    """

    label: str
    probabilities: dict[str, float]


class Entity(TypedDict):
    """An entity: "text", "start", "end" of a text, or, for a list of words, "words", "first", "last".

    Attributes:
        type: the type of the entity, such as "PER".
        text: the text of the entity.
        start, end: its position in the text, in characters: `text[start:end]`.
        words: the words of the entity.
        first, last: its position in the words: `words[first:last]` of the prediction.
    """

    type: str
    text: NotRequired[str]
    start: NotRequired[int]
    end: NotRequired[int]
    words: NotRequired[list[str]]
    first: NotRequired[int]
    last: NotRequired[int]


class TaggingPrediction(Caveats):
    """The words of a text, the tag of each word, and the entities in order.

    Attributes:
        words: the words.
        tags: the tag of each word.
        entities: the entities that the tags form.
    """

    words: list[str]
    tags: list[str]
    entities: list[Entity]


class AnswerCandidate(TypedDict):
    """A candidate answer: a span of the context.

    Attributes:
        text: the text of the answer.
        start, end: its position in the context, in characters: `context[start:end]`.
        probability: its probability among all candidates.
    """

    text: str
    start: int
    end: int
    probability: float


class AnswerPrediction(Caveats):
    """The best answer to a question, and all candidates; without candidates, "" with start None.

    Attributes:
        answer: the text of the best answer.
        start: its position in the context, in characters.
        probability: its probability among all candidates.
        candidates: the candidates, the best first.
    """

    answer: str
    start: int | None
    probability: float
    candidates: list[AnswerCandidate]


class SearchHit(TypedDict):
    """A search result: a text of the corpus, with its "language" if the corpus specifies languages.

    Attributes:
        line: line of the text in its file, from 1.
        index: index of the text in the corpus, from 0.
        text: the text.
        score: cosine similarity of query and text.
        language: language of the text.
    """

    line: int
    index: int
    text: str
    score: float
    language: NotRequired[str]


class RankedText(Caveats):
    """A ranked text, with its index in the input and its relevance score.

    Attributes:
        index: index of the text in the input, from 0.
        text: the text.
        score: relevance of the text to the query, higher is better.
    """

    index: int
    text: str
    score: float


class TokenPrediction(TypedDict):
    """A token predicted for a [MASK], with its probability.

    Attributes:
        token: the token.
        probability: its probability.
    """

    token: str
    probability: float
