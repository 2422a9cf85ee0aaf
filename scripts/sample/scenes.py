"""One sentence's meaning, and seeded random ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TypeVar

import numpy as np

from scripts.sample import concepts

T = TypeVar("T")
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Thing:
    """What an action is done to: `count` of them (1, or 3 to 5), alike in one attribute or in none named."""

    noun: str
    count: int = 1
    attribute: str | None = None


@dataclass(frozen=True)
class Scene:
    """Who does what, to what, where and on which day, at one moment.

    `subject` is a name or a noun; nouns stand for one that is known ("the man"), kinds for an unknown one
    ("a person"). `thing` goes with transitive verbs only.
    """

    subject: str
    verb: str
    thing: Thing | None = None
    place: str | None = None
    day: str | None = None


@dataclass(frozen=True)
class Detail:
    """How often a random scene names each of the things that a sentence can leave out."""

    attribute: float
    place: float
    day: float


RICH = Detail(attribute=0.4, place=0.5, day=0.3)
PLAIN = Detail(attribute=0.35, place=0.4, day=0.25)


def random_stream(seed: int, *index: int) -> np.random.Generator:
    """The random numbers of one item: a function of the seed and the item's place, of nothing else."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *index))))


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, all equally likely."""
    return options[int(rng.integers(len(options)))]


def split_of(scene: Scene) -> str:
    """The split that a scene belongs to, by its meaning alone: 8 of 10 train, 1 dev, 1 test.

    So what is tested on is a scene that no document, sentence pair or training pair describes.
    """
    return ("dev", "test", *["train"] * 8)[number_of(scene) % 10]


def number_of(scene: Scene) -> int:
    """A number that hangs on the scene's meaning alone."""
    digest = hashlib.blake2b(repr(astuple(scene)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def random_subject(rng: np.random.Generator) -> str:
    """A name, a person, an animal or, more rarely, only its kind."""
    draw = rng.random()
    if draw < 0.35:
        return pick(rng, tuple(concepts.NAMES))
    if draw < 0.65:
        return pick(rng, concepts.PEOPLE)
    if draw < 0.8:
        return pick(rng, concepts.ANIMALS)
    return pick(rng, ("person", "animal"))


def can_do(subject: str, verb: str) -> bool:
    """Whether the verb goes with the subject."""
    animal_verbs = concepts.ANIMAL_TRANSITIVE_VERBS + concepts.ANIMAL_INTRANSITIVE_VERBS
    return not concepts.is_animal(subject) or verb in animal_verbs


def random_verb(rng: np.random.Generator, subject: str, transitive: bool) -> str:
    """Something that the subject can do."""
    if concepts.is_animal(subject):
        return pick(
            rng, concepts.ANIMAL_TRANSITIVE_VERBS if transitive else concepts.ANIMAL_INTRANSITIVE_VERBS
        )
    return pick(rng, concepts.TRANSITIVE_VERBS if transitive else concepts.INTRANSITIVE_VERBS)


def random_attribute(rng: np.random.Generator, noun: str) -> str:
    """A colour or size that goes with the noun."""
    return pick(rng, concepts.ANIMAL_ATTRIBUTES if concepts.is_animal(noun) else concepts.ATTRIBUTES)


def random_thing(rng: np.random.Generator, attribute_rate: float) -> Thing:
    """One or several of something."""
    noun = pick(rng, concepts.OBJECTS)
    count = 1 if rng.random() < 0.5 else pick(rng, concepts.NUMBERS)
    attribute = random_attribute(rng, noun) if rng.random() < attribute_rate else None
    return Thing(noun, count, attribute)


def random_scene(rng: np.random.Generator, detail: Detail) -> Scene:
    """A scene of any split."""
    subject = random_subject(rng)
    transitive = rng.random() < (0.4 if concepts.is_animal(subject) else 0.65)
    return Scene(
        subject,
        random_verb(rng, subject, transitive),
        random_thing(rng, detail.attribute) if transitive else None,
        pick(rng, concepts.PLACES) if rng.random() < detail.place else None,
        pick(rng, concepts.DAYS) if rng.random() < detail.day else None,
    )


def random_scene_of(rng: np.random.Generator, detail: Detail, split: str) -> Scene:
    """A scene of the given split."""
    while split_of(scene := random_scene(rng, detail)) != split:
        pass
    return scene
