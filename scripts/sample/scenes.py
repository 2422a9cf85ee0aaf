"""Meanings apart from any language, and texts as random meanings: documents, sentence pairs, inference pairs.

A concept is a short English word, for which `lexicons.yaml` has a word in every language. Names and numerals
are written alike in all languages. Each text is a function of (seed, language or split, index).
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
CODES = ("en", "de", "fr", "es", "ru", "el", "tr", "ar", "hi", "zh")
SPLITS = ("train", "dev", "test")
LABELS = ("contradiction", "entailment", "neutral")
DOCUMENT, PAIR, INFERENCE, RETRIEVAL, ORDER = range(5)  # each seeds its own stream of random numbers

NAMES = {"Anna": "f", "Maria": "f", "Tom": "m", "Peter": "m"}  # name -> grammatical gender of the person
PEOPLE = ("man", "woman", "boy", "girl")
ANIMALS = ("dog", "cat")
KINDS = {"person": (*PEOPLE, *NAMES), "animal": ANIMALS, "toy": ("ball", "doll")}  # kind -> its members
KIND_OF = {member: kind for kind, members in KINDS.items() for member in members}
OBJECTS = ("ball", "doll", "book", "letter", "apple", *ANIMALS, "toy", "animal")
SUBJECTS = (*NAMES, *PEOPLE, *ANIMALS, "person", "animal")

COLOURS = ("red", "white", "black")
SIZES = ("big", "small")
ATTRIBUTES = COLOURS + SIZES
ANIMAL_ATTRIBUTES = ("white", "black", *SIZES)
# From 3 on Arabic has a plural (2 is a dual); up to 9 a numeral is one character in every language.
NUMBERS = (3, 4, 5)
DETAIL = {"attribute": 0.4, "place": 0.5, "day": 0.3}  # how often a random scene says what it can leave out
SHARED = 0.75  # how often a premise says what its hypothesis says, for each part of a scene
# Whether the action has an object -> the verbs. Nobody does an action and its opposite at the same moment,
# but who sits may laugh.
VERBS = {True: ("buy", "sell", "find", "lose"), False: ("sit", "stand", "laugh", "cry")}
ANIMAL_VERBS = {True: ("find", "lose"), False: ("sit", "stand")}
OPPOSITES = {"buy": "sell", "find": "lose", "sit": "stand", "laugh": "cry"}
OPPOSITES |= {opposite: verb for verb, opposite in OPPOSITES.items()}
PLACES = ("garden", "school", "market")
DAYS = ("monday", "friday", "sunday")


class Scene(NamedTuple):
    """Who does what, to what, where and on which day, at one moment.

    `subject` is a name, a known person or animal ("the man"), or an unspecified member of a kind ("a
    person"). Only actions with an object have a `noun`: `count` of them (1, or 3 to 5), with one attribute or
    none.
    """

    subject: str
    verb: str
    noun: str | None = None
    count: int = 1
    attribute: str | None = None
    place: str | None = None
    day: str | None = None

    @property
    def number(self) -> int:
        """A number that depends only on the meaning."""
        thing = (self.noun, self.count, self.attribute) if self.noun else None
        meaning = (self.subject, self.verb, thing, self.place, self.day)
        # Not Python's hash, which differs from process to process.
        digest = hashlib.blake2b(repr(meaning).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    @property
    def split(self) -> str:
        """The split that may describe the scene: no text to train on describes a scene of the test set.

        Of 10 meanings 8 are for training.
        """
        last_digit = self.number % 10
        return {0: "dev", 1: "test"}.get(last_digit, "train")


def random_stream(seed: int, *index: int) -> np.random.Generator:
    """The random numbers of one text. `index`: what the stream is for, and which text it is."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *index))))


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options with equal probabilities."""
    return options[int(rng.integers(len(options)))]


def maybe(rng: np.random.Generator, probability: float, options: Sequence[T]) -> T | None:
    """One of the options with this probability, else None."""
    return pick(rng, options) if rng.random() < probability else None


def is_animal(noun: str) -> bool:
    """Whether a subject or object is an animal: what it does and its colours are limited."""
    return noun == "animal" or noun in ANIMALS


def verbs(subject: str, transitive: bool) -> Sequence[str]:
    """What a subject can do, with an object or without."""
    if is_animal(subject):
        return ANIMAL_VERBS[transitive]
    return VERBS[transitive]


def attributes(noun: str) -> Sequence[str]:
    """What an object can be like."""
    return ANIMAL_ATTRIBUTES if is_animal(noun) else ATTRIBUTES


def random_scene(rng: np.random.Generator, split: str = "") -> Scene:
    """A random scene of the split; "": of any."""
    while True:
        subject = pick(rng, SUBJECTS)
        is_transitive = rng.random() < 0.6
        verb = pick(rng, verbs(subject, transitive=is_transitive))
        scene = Scene(subject, verb)
        if is_transitive:
            noun = pick(rng, OBJECTS)
            count = pick(rng, NUMBERS) if rng.random() >= 0.5 else 1
            attribute = maybe(rng, DETAIL["attribute"], attributes(noun))
            scene = scene._replace(noun=noun, count=count, attribute=attribute)
        place = maybe(rng, DETAIL["place"], PLACES)
        scene = scene._replace(place=place, day=maybe(rng, DETAIL["day"], DAYS))
        if not split or scene.split == split:
            return scene


def relation(premise: Scene, hypothesis: Scene) -> str:
    """The label of a pair. As in the inference data sets, both sentences speak of the same moment.

    If the premise is about somebody else, the hypothesis is neutral. Otherwise one conflict makes a
    contradiction; without a conflict, one thing that the premise leaves open makes the hypothesis neutral.
    """
    if not _covers(hypothesis.subject, premise.subject):
        return "neutral"
    relations = {_detail(premise.place, hypothesis.place), _detail(premise.day, hypothesis.day)}
    if premise.verb != hypothesis.verb:
        is_opposite = OPPOSITES[premise.verb] == hypothesis.verb
        relations.add("contradiction" if is_opposite else "neutral")
    if premise.noun and hypothesis.noun:
        relations |= _relations_of_things(premise, hypothesis)
    for label in ("contradiction", "neutral"):
        if label in relations:
            return label
    return "entailment"


def _relations_of_things(premise: Scene, hypothesis: Scene) -> set[str]:
    """The relations of the number, the noun and the attribute of two objects."""
    relations = set()
    if premise.count != hypothesis.count:
        relations.add("contradiction")
    if not _covers(hypothesis.noun, premise.noun):
        premise_is_more_general = _covers(premise.noun, hypothesis.noun)
        relations.add("neutral" if premise_is_more_general else "contradiction")
    only_one_is_a_size = (premise.attribute in SIZES) != (hypothesis.attribute in SIZES)
    if premise.attribute and hypothesis.attribute and only_one_is_a_size:
        relations.add("neutral")  # the other one is a colour, and what is red may be big
    else:
        relations.add(_detail(premise.attribute, hypothesis.attribute))
    return relations


def _covers(general: str, special: str) -> bool:
    """Whether everything that is a `special` is a `general`, too: an animal covers a dog, and itself."""
    return general == special or KIND_OF.get(special) == general


def _detail(premise: str | None, hypothesis: str | None) -> str:
    """The relation of one detail, such as the place; None: the scene leaves it open."""
    if hypothesis is None or premise == hypothesis:
        return "entailment"
    return "neutral" if premise is None else "contradiction"


def premises_for(rng: np.random.Generator, hypothesis: Scene, split: str) -> dict[str, Scene]:
    """Label -> a random scene of the split for which `relation(scene, hypothesis)` is the label.

    The scenes share much of what the hypothesis says, and may have a member where it has a kind. After 50
    draws a label may still lack one: then the hypothesis says so much that hardly any other scene of the
    split says more.
    """
    premises: dict[str, Scene] = {}
    for _ in range(50):
        shared = {}
        for name, concept in hypothesis._asdict().items():
            if concept and rng.random() < SHARED:
                is_member = concept in KINDS and rng.random() < 0.7
                shared[name] = pick(rng, KINDS[concept]) if is_member else concept
        premise = random_scene(rng)._replace(**shared)
        if is_possible(premise) and premise != hypothesis and premise.split == split:
            premises.setdefault(relation(premise, hypothesis), premise)
        if len(premises) == len(LABELS):
            break
    return premises


def is_possible(scene: Scene) -> bool:
    """Whether its parts fit together: no dog laughs, no cat is red, and nobody sits 3 balls."""
    if scene.verb not in verbs(scene.subject, transitive=scene.noun is not None):
        return False
    if scene.noun is None:
        return scene.count == 1 and scene.attribute is None
    return scene.attribute in (None, *attributes(scene.noun))


def document(seed: int, language: str, index: int) -> list[Scene]:
    """Two or three sentences about one subject, at one place and on one day."""
    rng = random_stream(seed, DOCUMENT, CODES.index(language), index)
    first = random_scene(rng, split="train")
    scenes = [first]
    length = int(rng.integers(2, 4))
    while len(scenes) < length:
        other = random_scene(rng)
        scene = other._replace(subject=first.subject, place=first.place, day=first.day)
        if is_possible(scene) and scene.split == "train":
            scenes.append(scene)
    return scenes


def pair(seed: int, language: str, index: int) -> Scene:
    """The scene that a sentence pair of English and `language` describes."""
    rng = random_stream(seed, PAIR, CODES.index(language), index)
    return random_scene(rng, split="train")


def retrieval(seed: int, index: int) -> Scene:
    """A scene of the test split, said in every language to test finding a translation."""
    return random_scene(random_stream(seed, RETRIEVAL, index), split="test")


def inferences(seed: int, split: str, num_hypotheses: int) -> list[tuple[Scene, Scene, str]]:
    """(premise, hypothesis, label), one of each label for each hypothesis, in an order that tells nothing.

    The hypothesis alone says nothing about the label. All scenes are of the split.
    """
    rows = []
    for index in range(num_hypotheses):
        rng = random_stream(seed, INFERENCE, SPLITS.index(split), index)
        premises: dict[str, Scene] = {}
        while len(premises) < len(LABELS):
            hypothesis = random_scene(rng, split)
            premises = premises_for(rng, hypothesis, split)
        for label in LABELS:
            rows.append((premises[label], hypothesis, label))
    order = random_stream(seed, ORDER, SPLITS.index(split)).permutation(len(rows))
    return [rows[i] for i in order]
