"""English: a and an, plural nouns, a day or place that may come first."""

from scripts.sample import concepts
from scripts.sample.languages.common import phrase, sentence
from scripts.sample.scenes import Scene, Thing, number_of

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
    """Subject, verb, object, place, day; in two of three sentences the day or the place comes first.

    Which one hangs on the scene. So place in the sentence does not tell what a word is, as it does not
    across languages.
    """
    place, day = scene.place and PLACES[scene.place], scene.day and DAYS[scene.day]
    said = (subject(scene.subject), VERBS[scene.verb], scene.thing and thing(scene.thing))
    first = ("", "place", "day")[number_of(scene) // 10 % 3]
    if first == "place" and place:
        return sentence(place, *said, day)
    if first == "day" and day:
        return sentence(day, *said, place)
    return sentence(*said, place, day)
