"""Ten languages, five of them in a script of their own: how each says a scene.

All languages say the same: simple present, a known person or animal ("the man") or an unknown one of a kind
("a person"), and things that were not mentioned before ("a ball", "3 red balls"). The words are in
lexicons.yaml.
"""

import functools
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scripts.sample import scenes
from scripts.sample.scenes import Scene, Thing

CODES = ("en", "de", "fr", "es", "ru", "el", "tr", "ar", "hi", "zh")


class Parts(NamedTuple):
    """The words of a sentence; None for what is not said. `act` is the concept of the verb."""

    first: str | None
    gender: str | None
    who: str
    act: str
    verb: str
    what: str | None
    place: str | None
    day: str | None


Lexicon = Mapping[str, Mapping[str, Any]]  # subjects, nouns, attributes, verbs, places, days


def realiser(code: str) -> Callable[[Scene], str]:
    """The function that says a scene in one language, in composed Unicode (NFC)."""
    say_thing, words = THINGS[code], lexicon(code)

    def say(scene: Scene) -> str:
        first, place, day = order(scene, words)
        name, gender = scene.subject, scenes.NAMES.get(scene.subject)
        who = name if gender else words["subjects"][name]
        if not isinstance(who, str):
            gender, who = who
        what = scene.thing and say_thing(scene.thing, words)
        parts = Parts(first, gender, who, scene.verb, words["verbs"][scene.verb], what, place, day)
        return unicodedata.normalize("NFC", arrange(code, parts))

    return say


@functools.cache
def lexicon(code: str) -> Lexicon:
    """The words of a language."""
    return yaml.safe_load(Path(__file__).with_name("lexicons.yaml").read_text(encoding="utf-8"))[code]


def chinese_words() -> set[str]:
    """Every Chinese word: no space separates them, and the pieces of the vocabulary must not span several."""
    words = lexicon("zh")
    several = ("subjects", "attributes", "verbs", "places", "days")
    return {"一", *(word for pair in words["nouns"].values() for word in pair)}.union(
        *(words[kind].values() for kind in several)
    )


def order(scene: Scene, words: Lexicon) -> tuple[str | None, str | None, str | None]:
    """What comes first in the sentence, and the place and the day at their usual position; None: not said.

    In a third of the scenes the place comes first, in another third the day, if they are said, so that the
    position of a word does not tell its role. It depends on the scene, so all translations agree.
    """
    place, day = words["places"].get(scene.place), words["days"].get(scene.day)
    first = scenes.number_of(scene) // 10 % 3  # the last digit chooses the split
    if first == 1:
        return place, None, day
    return (day, place, None) if first == 2 else (None, place, day)


def phrase(*parts: str | None) -> str:
    """The parts that are not empty, with a space between them."""
    return " ".join(part for part in parts if part)


# How each language says a thing.


def english_thing(what: Thing, words: Lexicon) -> str:
    singular, plural = words["nouns"][what.noun]
    if what.count > 1:
        return phrase(str(what.count), what.attribute, plural)
    noun = phrase(what.attribute, singular)
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def german_thing(what: Thing, words: Lexicon) -> str:
    """In the accusative; adjectives have other endings after "ein" than after a numeral."""
    gender, singular, plural = words["nouns"][what.noun]
    stem = words["attributes"].get(what.attribute)
    if what.count > 1:
        return phrase(str(what.count), stem and stem + "e", plural)
    article, ending = {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")}[gender]
    return phrase(article, stem and stem + ending, singular)


def romance_thing(what: Thing, words: Lexicon, feminine: str = "una") -> str:
    """Adjectives come after the noun, in French not those of size."""
    gender, singular, plural = words["nouns"][what.noun]
    many, form = what.count > 1, "mf".index(gender)
    adjective = what.attribute and words["attributes"][what.attribute][form] + ("s" if many else "")
    number, noun = str(what.count) if many else ("un", feminine)[form], plural if many else singular
    if feminine == "une" and what.attribute in scenes.SIZES:
        return phrase(number, adjective, noun)
    return phrase(number, noun, adjective)


def russian_thing(what: Thing, words: Lexicon) -> str:
    """No articles; the accusative, or the genitive after a numeral. Animals have other forms."""
    gender, accusative, genitive, genitive_plural = words["nouns"][what.noun]
    forms = words["attributes"].get(what.attribute)
    if what.count == 1:
        return phrase(forms and forms["mfn".index(gender)], accusative)
    if what.count > 4 or scenes.is_animal(what.noun):  # the accusative of 3 animals is their genitive
        return phrase(str(what.count), forms and forms[4], genitive_plural)
    return phrase(str(what.count), forms and forms[3 if gender == "f" else 4], genitive)


def greek_thing(what: Thing, words: Lexicon) -> str:
    """In the accusative. The stress of "small" is on the ending."""
    gender, singular, plural = words["nouns"][what.noun]
    many = what.count > 1
    ending = {"m": ("ο", "ους"), "f": ("η", "ες"), "n": ("ο", "α")}[gender][many]
    if what.attribute == "small":
        ending = {"ο": "ό", "ους": "ούς", "η": "ή", "ες": "ές", "α": "ά"}[ending]
    adjective = what.attribute and words["attributes"][what.attribute] + ending
    article = {"m": "έναν", "f": "μία", "n": "ένα"}[gender]
    return phrase(str(what.count) if many else article, adjective, plural if many else singular)


def turkish_thing(what: Thing, words: Lexicon) -> str:
    """Nouns are singular after numerals, and indefinite objects have no ending."""
    adjective, noun = words["attributes"].get(what.attribute), words["nouns"][what.noun]
    return phrase(adjective, "bir", noun) if what.count == 1 else phrase(str(what.count), adjective, noun)


def arabic_thing(what: Thing, words: Lexicon) -> str:
    """In the written accusative. Plurals of things are feminine."""
    gender, singular, plural = words["nouns"][what.noun]
    forms = words["attributes"].get(what.attribute)
    if what.count == 1:
        return phrase(singular, forms and forms["mf".index(gender)])
    return phrase(str(what.count), plural, forms and forms[1])


def hindi_form(form: str, gender: str, many: bool = False) -> str:
    """-a for a masculine, -e for several, -i for feminines."""
    return form.replace("-", "ी" if gender == "f" else "े" if many else "ा")


def hindi_thing(what: Thing, words: Lexicon) -> str:
    gender, singular, plural = words["nouns"][what.noun]
    many = what.count > 1
    adjective = what.attribute and hindi_form(words["attributes"][what.attribute], gender, many)
    return phrase(str(what.count) if many else "एक", adjective, plural if many else singular)


def chinese_thing(what: Thing, words: Lexicon) -> str:
    """With a measure word; spaces only around names and numerals."""
    measure, noun = words["nouns"][what.noun]
    number = "一" if what.count == 1 else f" {what.count} "
    return number + measure + words["attributes"].get(what.attribute, "") + noun


# How each language arranges a sentence.

STANDARD = "first who verb what place day"
ORDERS = {
    "en": STANDARD, "fr": STANDARD, "es": STANDARD, "ru": STANDARD, "el": STANDARD,
    "de": "first verb who day place what", "ar": "first verb who what place day",
    "tr": "first who day place what verb", "hi": "first who day place what verb",
    "zh": "first who day place verb what",
}  # fmt: skip


def inflected(code: str, p: Parts) -> Parts:
    """The parts with the agreement in gender, the articles of names and the marks of a language."""
    sits, feminine = p.act == "sit", p.gender == "f"
    if code == "fr":
        return p._replace(first=p.first and f"{p.first},", verb=p.verb + "e" * (sits and feminine))
    if code == "es" and sits and feminine:
        return p._replace(verb="está sentada")
    if code == "el" and p.gender:
        return p._replace(who=f"{'η' if feminine else 'ο'} {p.who}")
    if code == "ar" and feminine:
        return p._replace(verb="ت" + p.verb[1:])
    if code == "hi":
        return p._replace(verb=f"{hindi_form(p.verb, p.gender)} है")
    if code == "zh" and p.gender:  # spaces around names
        return p._replace(who=f" {p.who} " if p.first else f"{p.who} ")
    return p


def arrange(code: str, parts: Parts) -> str:
    """The sentence, with a capital at its start and a stop at its end. The German verb is the second part."""
    parts = inflected(code, parts)._asdict()
    order = "who verb day place what" if code == "de" and not parts["first"] else ORDERS[code]
    text = ("" if code == "zh" else " ").join(filter(None, map(parts.get, order.split())))
    return text[0].upper() + text[1:] + {"hi": "।", "zh": "。"}.get(code, ".")


THINGS = {
    "en": english_thing, "de": german_thing, "fr": functools.partial(romance_thing, feminine="une"),
    "es": romance_thing, "ru": russian_thing, "el": greek_thing, "tr": turkish_thing, "ar": arabic_thing,
    "hi": hindi_thing, "zh": chinese_thing,
}  # fmt: skip
