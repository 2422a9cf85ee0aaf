"""The answers of `ernie_m.api.Model`, as a checker sees them."""

from typing import Any, NotRequired, TypedDict


class Remarks(TypedDict, total=False):
    """What any answer may say of its texts: that they were cut to fit, and how many words are unknown."""

    cut: bool
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
    cosine: float
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
