"""Does one scene follow from another? And scenes from which a given one follows, or does not.

The reading is that of the inference data sets: both sentences speak of the same moment, at which a
subject is at one place, does one thing, and a number is exact.

A data set is made from hypotheses: each hypothesis gets three premises, one per label, so the hypothesis
alone says nothing about the label.
"""

from dataclasses import replace

import numpy as np

from scripts.sample import concepts
from scripts.sample.scenes import (
    RICH,
    Scene,
    Thing,
    can_do,
    pick,
    random_attribute,
    random_companion,
    random_subject,
    random_verb,
    split_of,
)

LABELS = ("contradiction", "entailment", "neutral")


def relation(premise: Scene, hypothesis: Scene) -> str:
    """What the premise says of the hypothesis: one of `LABELS`.

    What somebody else does is open. Else one conflict makes a contradiction; failing that, one thing the
    premise leaves open makes it neutral.

    Raises:
        ValueError: the reading above does not settle it (one against several, or different actions on things).
    """
    if not _covers(hypothesis.subject, premise.subject):
        return "neutral"
    found = {
        _verb(premise.verb, hypothesis.verb),
        _thing(premise.thing, hypothesis.thing),
        _adjunct(premise.companion, hypothesis.companion, otherwise="neutral"),
        _adjunct(premise.place, hypothesis.place, otherwise="contradiction"),
        _adjunct(premise.day, hypothesis.day, otherwise="contradiction"),
    }
    return next(label for label in ("contradiction", "neutral", "entailment") if label in found)


def _covers(general: str, special: str) -> bool:
    return general == special or concepts.KIND_OF.get(special) == general


def _verb(premise: str, hypothesis: str) -> str:
    if premise == hypothesis:
        return "entailment"
    if premise in concepts.EXCLUDED_BY[hypothesis]:
        return "contradiction"
    if premise in concepts.INTRANSITIVE_VERBS and hypothesis in concepts.INTRANSITIVE_VERBS:
        return "neutral"  # who sits may laugh
    raise ValueError(f"'{premise}' leaves open whether '{hypothesis}' is meant of the same action")


def _thing(premise: Thing | None, hypothesis: Thing | None) -> str:
    if premise is None or hypothesis is None:
        return "entailment"
    found = {_noun(premise.noun, hypothesis.noun), _attribute(premise.attribute, hypothesis.attribute)}
    if premise.count != hypothesis.count:
        if 1 in (premise.count, hypothesis.count):
            raise ValueError("who buys three also buys one: not an exact number")
        found.add("contradiction")
    return next(label for label in ("contradiction", "neutral", "entailment") if label in found)


def _noun(premise: str, hypothesis: str) -> str:
    if _covers(hypothesis, premise):
        return "entailment"
    if _covers(premise, hypothesis):
        return "neutral"
    if concepts.KIND_OF.get(premise) == concepts.KIND_OF.get(hypothesis) is not None:
        return "contradiction"
    raise ValueError(f"'{premise}' and '{hypothesis}' are of different kinds")


def _attribute(premise: str | None, hypothesis: str | None) -> str:
    if hypothesis is None or premise == hypothesis:
        return "entailment"
    if premise is None or (premise in concepts.SIZES) != (hypothesis in concepts.SIZES):
        return "neutral"  # what is red may be big
    return "contradiction"


def _adjunct(premise: str | None, hypothesis: str | None, otherwise: str) -> str:
    if hypothesis is None or premise == hypothesis:
        return "entailment"
    return "neutral" if premise is None else otherwise


def premise_for(rng: np.random.Generator, hypothesis: Scene, label: str, split: str) -> Scene | None:
    """A random scene of the split of which `relation(scene, hypothesis)` is `label`.

    None after many draws: the hypothesis says so much that hardly any other scene of the split says more.
    """
    for _ in range(100):
        premise = _entailing(rng, hypothesis)
        if label == "contradiction":
            premise = pick(rng, _conflicts(rng, premise, hypothesis))
        elif label == "neutral":
            premise = pick(rng, _openings(rng, premise, hypothesis))
        # A change may be undone by another part (only the name of the companion left, say): draw again.
        if split_of(premise) == split and premise != hypothesis and relation(premise, hypothesis) == label:
            return premise
    return None


def _entailing(rng: np.random.Generator, scene: Scene) -> Scene:
    """A scene that says at least as much: kinds may become members, what was left out may be named."""
    subject = scene.subject
    if subject == "person" and rng.random() < 0.7:
        subject = pick(rng, concepts.PEOPLE + tuple(concepts.NAMES))
    elif subject == "animal" and rng.random() < 0.7:
        subject = pick(rng, concepts.ANIMALS)
    thing = scene.thing
    if thing is not None:
        noun = pick(rng, concepts.KINDS[thing.noun]) if thing.noun in concepts.KINDS and rng.random() < 0.7 else thing.noun
        attribute = thing.attribute
        if attribute is None and rng.random() < RICH.attribute:
            attribute = random_attribute(rng, noun)
        thing = replace(thing, noun=noun, attribute=attribute)
    companion, place, day = scene.companion, scene.place, scene.day
    if companion is None and rng.random() < RICH.companion:
        companion = random_companion(rng, subject)
    if place is None and rng.random() < RICH.place:
        place = pick(rng, concepts.PLACES)
    if day is None and rng.random() < RICH.day:
        day = pick(rng, concepts.DAYS)
    return Scene(subject, scene.verb, thing, companion, place, day)


def _other(rng: np.random.Generator, options: tuple, present: object) -> object:
    return pick(rng, [option for option in options if option != present])


def _conflicts(rng: np.random.Generator, premise: Scene, hypothesis: Scene) -> list[Scene]:
    """`premise`, each time with one thing changed that the hypothesis then contradicts."""
    changed = [replace(premise, verb=pick(rng, concepts.EXCLUDED_BY[premise.verb]))]
    if hypothesis.place:
        changed.append(replace(premise, place=_other(rng, concepts.PLACES, premise.place)))
    if hypothesis.day:
        changed.append(replace(premise, day=_other(rng, concepts.DAYS, premise.day)))
    thing = hypothesis.thing
    if thing is None:
        return changed
    if thing.count > 1:
        changed.append(replace(premise, thing=replace(premise.thing, count=_other(rng, concepts.NUMBERS, thing.count))))
    if thing.attribute:
        family = concepts.SIZES if thing.attribute in concepts.SIZES else concepts.COLOURS
        if concepts.is_animal(thing.noun):
            family = tuple(a for a in family if a in concepts.ANIMAL_ATTRIBUTES)
        attribute = _other(rng, family, thing.attribute)
        changed.append(replace(premise, thing=replace(premise.thing, attribute=attribute)))
    if thing.noun in concepts.KIND_OF:
        noun = _other(rng, concepts.KINDS[concepts.KIND_OF[thing.noun]], thing.noun)
        changed.append(replace(premise, thing=replace(premise.thing, noun=noun)))
    return changed


def _openings(rng: np.random.Generator, premise: Scene, hypothesis: Scene) -> list[Scene]:
    """`premise`, each time with one thing changed that leaves the hypothesis open."""
    subject = random_subject(rng)
    while not can_do(subject, premise.verb) or subject == premise.companion:
        subject = random_subject(rng)
    changed = [replace(premise, subject=subject)]
    if hypothesis.subject in concepts.KIND_OF:
        changed.append(replace(premise, subject=concepts.KIND_OF[hypothesis.subject]))
    if hypothesis.companion:
        changed.append(replace(premise, companion=None))
        changed.append(replace(premise, companion=random_companion(rng, premise.subject)))
    if hypothesis.place:
        changed.append(replace(premise, place=None))
    if hypothesis.day:
        changed.append(replace(premise, day=None))
    thing = hypothesis.thing
    if thing is None:
        changed.append(replace(premise, verb=random_verb(rng, premise.subject, transitive=False)))
        return changed
    if thing.noun in concepts.KIND_OF:
        changed.append(replace(premise, thing=replace(premise.thing, noun=concepts.KIND_OF[thing.noun])))
    if thing.attribute:
        changed.append(replace(premise, thing=replace(premise.thing, attribute=None)))
        changed.append(replace(premise, thing=replace(premise.thing, attribute=random_attribute(rng, thing.noun))))
    return changed
