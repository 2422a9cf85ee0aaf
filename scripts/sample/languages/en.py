"""English: a and an, plural nouns."""

from scripts.sample import concepts
from scripts.sample.languages.common import adjuncts, phrase, sentence
from scripts.sample.scenes import Scene, Thing

PLURALS = {
    "ball": "balls", "doll": "dolls", "toy": "toys", "book": "books", "letter": "letters", "apple": "apples",
    "dog": "dogs", "cat": "cats", "animal": "animals",
}  # fmt: skip
VERBS = {
    "buy": "buys", "sell": "sells", "find": "finds", "lose": "loses", "sit": "sits", "stand": "stands",
    "laugh": "laughs", "cry": "cries",
}  # fmt: skip
PLACES = {"garden": "in the garden", "school": "at school", "market": "at the market"}
DAYS = {"monday": "on Monday", "friday": "on Friday", "sunday": "on Sunday"}


def indefinite(words: str) -> str:
    """With "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def subject(who: str) -> str:
    if who in concepts.NAMES:
        return who
    return indefinite(who) if who in concepts.KINDS else f"the {who}"


def thing(what: Thing) -> str:
    if what.count == 1:
        return indefinite(phrase(what.attribute, what.noun))
    return phrase(str(what.count), what.attribute, PLURALS[what.noun])


def realise(scene: Scene) -> str:
    """Subject, verb, object, place, day; or the place or day first."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    what = scene.thing and thing(scene.thing)
    return sentence(first, subject(scene.subject), VERBS[scene.verb], what, place, day)
