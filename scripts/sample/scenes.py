"""The meaning of a sentence, apart from any language, and seeded random meanings.

A concept is a short English word that serves as a key. Every language has a word for each, and a test
checks that. Names and numerals are written alike in all languages.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
SPLITS = ("train", "dev", "test")

NAMES = {"Anna": "f", "Maria": "f", "Tom": "m", "Peter": "m"}  # name -> grammatical gender of the person
PEOPLE = ("man", "woman", "boy", "girl")
ANIMALS = ("dog", "cat")
KINDS = {"person": PEOPLE, "animal": ANIMALS, "toy": ("ball", "doll")}  # kind -> what belongs to it
KIND_OF = {member: kind for kind, members in KINDS.items() for member in members}
KIND_OF |= dict.fromkeys(NAMES, "person")

THINGS = ("ball", "doll", "book", "letter", "apple")
OBJECTS = THINGS + ANIMALS + ("toy", "animal")

COLOURS = ("red", "white", "black")
SIZES = ("big", "small")
ATTRIBUTES = COLOURS + SIZES
ANIMAL_ATTRIBUTES = ("white", "black", *SIZES)

# From 3 on Arabic has a plural (2 is a dual); up to 9 a numeral is one character in every language.
NUMBERS = (3, 4, 5)

# Nobody does two actions of one group at the same moment. Actions of different groups of INTRANSITIVE can go
# together: who sits may laugh.
TRANSITIVE = (("buy", "sell"), ("find", "lose"))
INTRANSITIVE = (("sit", "stand"), ("laugh", "cry"))
EXCLUDED_BY = {
    verb: tuple(v for v in group if v != verb) for group in TRANSITIVE + INTRANSITIVE for verb in group
}
TRANSITIVE_VERBS = sum(TRANSITIVE, ())
INTRANSITIVE_VERBS = sum(INTRANSITIVE, ())
ANIMAL_VERBS = {True: ("find", "lose"), False: ("sit", "stand")}  # transitive -> what animals do

PLACES = ("garden", "school", "market")
DAYS = ("monday", "friday", "sunday")


def is_animal(noun: str) -> bool:
    """Whether a subject or object is an animal: what it does and its colours are limited."""
    return noun == "animal" or noun in ANIMALS


@dataclass(frozen=True)
class Thing:
    """The object of an action: `count` of them (1, or 3 to 5), with one attribute or none."""

    noun: str
    count: int = 1
    attribute: str | None = None


@dataclass(frozen=True)
class Scene:
    """Who does what, to what, where and on which day, at one moment.

    `subject` is a name or a noun. A noun is a known person or animal ("the man"), a kind an unknown one ("a
    person"). Only transitive verbs have a `thing`.
    """

    subject: str
    verb: str
    thing: Thing | None = None
    place: str | None = None
    day: str | None = None


class Detail(NamedTuple):
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
    """The split of a scene, which depends only on its meaning: 8 of 10 train, 1 dev, 1 test.

    So no document, sentence pair or training pair describes a scene of the test set.
    """
    return ("dev", "test", *["train"] * 8)[number_of(scene) % 10]


def number_of(scene: Scene) -> int:
    """A number that depends only on the meaning of the scene."""
    digest = hashlib.blake2b(repr(astuple(scene)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def random_subject(rng: np.random.Generator) -> str:
    """A name, a person, an animal or, more rarely, only its kind."""
    draw = rng.random()
    if draw < 0.35:
        return pick(rng, tuple(NAMES))
    if draw < 0.65:
        return pick(rng, PEOPLE)
    if draw < 0.8:
        return pick(rng, ANIMALS)
    return pick(rng, ("person", "animal"))


def can_do(subject: str, verb: str) -> bool:
    """Whether the verb goes with the subject."""
    return not is_animal(subject) or verb in ANIMAL_VERBS[True] + ANIMAL_VERBS[False]


def random_verb(rng: np.random.Generator, subject: str, transitive: bool) -> str:
    """Something that the subject can do."""
    if is_animal(subject):
        return pick(rng, ANIMAL_VERBS[transitive])
    return pick(rng, TRANSITIVE_VERBS if transitive else INTRANSITIVE_VERBS)


def random_attribute(rng: np.random.Generator, noun: str) -> str:
    """A colour or size that goes with the noun."""
    return pick(rng, ANIMAL_ATTRIBUTES if is_animal(noun) else ATTRIBUTES)


def random_thing(rng: np.random.Generator, attribute_rate: float) -> Thing:
    """One or several of something."""
    noun = pick(rng, OBJECTS)
    count = 1 if rng.random() < 0.5 else pick(rng, NUMBERS)
    attribute = random_attribute(rng, noun) if rng.random() < attribute_rate else None
    return Thing(noun, count, attribute)


def random_scene(rng: np.random.Generator, detail: Detail) -> Scene:
    """A scene of any split."""
    subject = random_subject(rng)
    transitive = rng.random() < (0.4 if is_animal(subject) else 0.65)
    return Scene(
        subject,
        random_verb(rng, subject, transitive),
        random_thing(rng, detail.attribute) if transitive else None,
        pick(rng, PLACES) if rng.random() < detail.place else None,
        pick(rng, DAYS) if rng.random() < detail.day else None,
    )


def random_scene_of(rng: np.random.Generator, detail: Detail, split: str) -> Scene:
    """A scene of the given split."""
    while split_of(scene := random_scene(rng, detail)) != split:
        pass
    return scene
