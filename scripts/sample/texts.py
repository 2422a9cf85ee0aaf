"""The three kinds of text as scenes: documents, sentence pairs, inference pairs.

Each item is a function of (seed, language or split, index), so any part can be made alone and in any order.
"""

from dataclasses import replace

import numpy as np

from scripts.sample import scenes
from scripts.sample.languages import CODES
from scripts.sample.nli import LABELS, premise_for
from scripts.sample.scenes import (
    PLAIN,
    RICH,
    SPLITS,
    Scene,
    random_scene,
    random_scene_of,
    random_stream,
    split_of,
)

# The first number of a stream tells the kinds of text apart.
DOCUMENT, PAIR, INFERENCE, RETRIEVAL, ORDER = range(5)


def document(seed: int, language: str, index: int) -> list[Scene]:
    """Two or three sentences about one subject, most of them at one place and on one day.

    A sentence says what else the subject does, or repeats an earlier one with less detail.
    """
    rng = random_stream(seed, DOCUMENT, CODES.index(language), index)
    told = [random_scene_of(rng, RICH, "train")]
    length = int(rng.integers(2, 4))
    while len(told) < length:
        said = told[int(rng.integers(len(told)))]
        scene = _again(rng, said) if rng.random() < 0.5 else _next(rng, told[0])
        if split_of(scene) == "train":
            told.append(scene)
    return told


def _next(rng: np.random.Generator, first: Scene) -> Scene:
    """Something else that the same subject does at the same place and on the same day."""
    scene = random_scene(rng, PLAIN)
    while scenes.is_animal(scene.subject) != scenes.is_animal(first.subject):
        scene = random_scene(rng, PLAIN)
    return replace(scene, subject=first.subject, place=first.place, day=first.day)


def _again(rng: np.random.Generator, scene: Scene) -> Scene:
    """The same scene without some of its details."""

    def keep(value: str | None) -> str | None:
        return value if rng.random() < 0.5 else None

    thing = scene.thing and replace(scene.thing, attribute=keep(scene.thing.attribute))
    return replace(scene, thing=thing, place=keep(scene.place), day=keep(scene.day))


def pair(seed: int, language: str, index: int) -> Scene:
    """The scene that a sentence pair of English and `language` describes."""
    return random_scene_of(random_stream(seed, PAIR, CODES.index(language), index), RICH, "train")


def retrieval(seed: int, index: int) -> Scene:
    """A scene of the test split, said in every language to test finding a translation."""
    return random_scene_of(random_stream(seed, RETRIEVAL, index), RICH, "test")


def inferences(seed: int, split: str, index: int) -> list[tuple[Scene, Scene, str]]:
    """Three (premise, hypothesis, label), one of each label, with one hypothesis; all scenes of the split."""
    rng = random_stream(seed, INFERENCE, SPLITS.index(split), index)
    while True:
        hypothesis = random_scene_of(rng, PLAIN, split)
        premises = [premise_for(rng, hypothesis, label, split) for label in LABELS]
        if None not in premises:
            return [(premise, hypothesis, label) for premise, label in zip(premises, LABELS, strict=True)]


def shuffled_inferences(seed: int, split: str, hypotheses: int) -> list[tuple[Scene, Scene, str]]:
    """The split's pairs, 3 x `hypotheses`, in an order that tells nothing."""
    rows = [row for index in range(hypotheses) for row in inferences(seed, split, index)]
    order = random_stream(seed, ORDER, SPLITS.index(split)).permutation(len(rows))
    return [rows[i] for i in order]
