"""Does one scene follow from another? And scenes from which a given one follows, or does not.

As in the inference data sets, both sentences speak of the same moment, a subject is at one place and does one
thing, and a number is exact. Each hypothesis gets three premises, one for each label, so that the hypothesis
alone says nothing about the label.
"""

from dataclasses import replace

import numpy as np

from scripts.sample import scenes
from scripts.sample.scenes import (
    RICH,
    Scene,
    can_do,
    pick,
    random_attribute,
    random_subject,
    random_verb,
    split_of,
)

Changes = dict[str, object]
THING_FIELDS = ("noun", "count", "attribute")
LABELS = ("contradiction", "entailment", "neutral")


def relation(premise: Scene, hypothesis: Scene) -> str:
    """The label of a pair: one of `LABELS`.

    If the premise is about somebody else, the hypothesis is neutral. Otherwise one conflict makes a
    contradiction; without a conflict, one thing that the premise leaves open makes the hypothesis neutral.
    """
    if not _covers(hypothesis.subject, premise.subject):
        return "neutral"
    found = {
        _verb(premise.verb, hypothesis.verb),
        _detail(premise.place, hypothesis.place),
        _detail(premise.day, hypothesis.day),
    }
    if premise.thing and hypothesis.thing:
        found.add(_noun(premise.thing.noun, hypothesis.thing.noun))
        found.add(_attribute(premise.thing.attribute, hypothesis.thing.attribute))
        found.add("entailment" if premise.thing.count == hypothesis.thing.count else "contradiction")
    return next(label for label in ("contradiction", "neutral", "entailment") if label in found)


def _covers(general: str, special: str) -> bool:
    return general == special or scenes.KIND_OF.get(special) == general


def _verb(premise: str, hypothesis: str) -> str:
    if premise == hypothesis:
        return "entailment"
    # Who sits may laugh.
    return "contradiction" if premise in scenes.EXCLUDED_BY[hypothesis] else "neutral"


def _noun(premise: str, hypothesis: str) -> str:
    if _covers(hypothesis, premise):
        return "entailment"
    return "neutral" if _covers(premise, hypothesis) else "contradiction"


def _attribute(premise: str | None, hypothesis: str | None) -> str:
    if premise and hypothesis and (premise in scenes.SIZES) != (hypothesis in scenes.SIZES):
        return "neutral"  # what is red may be big
    return _detail(premise, hypothesis)


def _detail(premise: str | None, hypothesis: str | None) -> str:
    if hypothesis is None or premise == hypothesis:
        return "entailment"
    return "neutral" if premise is None else "contradiction"


def premise_for(rng: np.random.Generator, hypothesis: Scene, label: str, split: str) -> Scene | None:
    """A random scene of the split for which `relation(scene, hypothesis)` is `label`.

    None after 100 draws: the hypothesis says so much that hardly any other scene of the split says more.
    """
    changes = {"contradiction": _conflicts, "neutral": _openings}.get(label)
    for _ in range(100):
        premise = _entailing(rng, hypothesis)
        if changes:
            premise = _changed(rng, premise, changes(rng, hypothesis))
        # Two changes may not fit together (a dog that laughs; a conflict about somebody else).
        possible = can_do(premise.subject, premise.verb) and premise != hypothesis
        if possible and split_of(premise) == split and relation(premise, hypothesis) == label:
            return premise
    return None


def _changed(rng: np.random.Generator, premise: Scene, options: Changes) -> Scene:
    """The premise with one or more of the changes. Changes of `THING_FIELDS` apply to its thing."""
    number = 1 + int(rng.binomial(len(options) - 1, 0.5))
    keys = [list(options)[i] for i in rng.permutation(len(options))[:number]]
    of_thing = {key: options[key] for key in keys if key in THING_FIELDS}
    of_scene = {key: options[key] for key in keys if key not in THING_FIELDS}
    thing = replace(premise.thing, **of_thing) if of_thing else premise.thing
    return replace(premise, thing=thing, **of_scene)


def _entailing(rng: np.random.Generator, scene: Scene) -> Scene:
    """A scene that says at least as much: a kind may become a member, and details may be added."""
    subject = scene.subject
    if subject == "person" and rng.random() < 0.7:
        subject = pick(rng, scenes.PEOPLE + tuple(scenes.NAMES))
    elif subject == "animal" and rng.random() < 0.7:
        subject = pick(rng, scenes.ANIMALS)
    thing = scene.thing
    if thing:
        noun, attribute = thing.noun, thing.attribute
        if noun in scenes.KINDS and rng.random() < 0.7:
            noun = pick(rng, scenes.KINDS[noun])
        if attribute is None and rng.random() < RICH.attribute:
            attribute = random_attribute(rng, noun)
        thing = replace(thing, noun=noun, attribute=attribute)
    place, day = scene.place, scene.day
    if place is None and rng.random() < RICH.place:
        place = pick(rng, scenes.PLACES)
    if day is None and rng.random() < RICH.day:
        day = pick(rng, scenes.DAYS)
    return Scene(subject, scene.verb, thing, place, day)


def _other(rng: np.random.Generator, options: tuple, present: object) -> object:
    return pick(rng, [option for option in options if option != present])


def _conflicts(rng: np.random.Generator, hypothesis: Scene) -> Changes:
    """Changes of an entailing premise, each of which the hypothesis contradicts."""
    changes: Changes = {}
    if hypothesis.place:
        changes["place"] = _other(rng, scenes.PLACES, hypothesis.place)
    if hypothesis.day:
        changes["day"] = _other(rng, scenes.DAYS, hypothesis.day)
    thing = hypothesis.thing
    if thing and thing.count > 1:
        changes["count"] = _other(rng, scenes.NUMBERS, thing.count)
    if thing and thing.attribute:
        family = scenes.SIZES if thing.attribute in scenes.SIZES else scenes.COLOURS
        if scenes.is_animal(thing.noun):
            family = [attribute for attribute in family if attribute in scenes.ANIMAL_ATTRIBUTES]
        changes["attribute"] = _other(rng, family, thing.attribute)
    if thing and thing.noun in scenes.KIND_OF:
        changes["noun"] = _other(rng, scenes.KINDS[scenes.KIND_OF[thing.noun]], thing.noun)
    if not changes or rng.random() < 0.5:
        changes["verb"] = pick(rng, scenes.EXCLUDED_BY[hypothesis.verb])
    return changes


def _openings(rng: np.random.Generator, hypothesis: Scene) -> Changes:
    """Changes of an entailing premise, each of which leaves the hypothesis open."""
    changes: Changes = {}
    if hypothesis.place:
        changes["place"] = None
    if hypothesis.day:
        changes["day"] = None
    thing = hypothesis.thing
    if thing is None:
        changes["verb"] = random_verb(rng, hypothesis.subject, transitive=False)
    if thing and thing.noun in scenes.KIND_OF:
        changes["noun"] = scenes.KIND_OF[thing.noun]
    if thing and thing.attribute:
        changes["attribute"] = None if rng.random() < 0.7 else random_attribute(rng, thing.noun)
    if not changes or rng.random() < 0.3:
        kind = scenes.KIND_OF.get(hypothesis.subject)
        changes["subject"] = kind if kind and rng.random() < 0.5 else random_subject(rng)
    return changes
