"""How ten languages, five of them in a script of their own, say a scene, with the words of `lexicons.yaml`.

All say the same: simple present, a known person or animal ("the man") or an unknown one of a kind ("a
person"), and things that were not mentioned before ("a ball", "3 red balls").
"""

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.sample.scenes import NAMES, SIZES, Scene, is_animal

Lexicon = Mapping[str, Mapping[str, Any]]  # subjects, nouns, attributes, verbs, places, days
STANDARD = "first who verb what place day"
ORDERS = {
    "de": "first verb who day place what", "ar": "first verb who what place day",
    "tr": "first who day place what verb", "hi": "first who day place what verb",
    "zh": "first who day place verb what",
}  # fmt: skip


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


def say(code: str, scene: Scene) -> str:
    """The sentence of a language, in composed Unicode (NFC).

    In a third of the scenes the place comes first, in another third the day, if they are said, so that the
    position of a word does not tell its role. It depends on the scene, so all translations agree.
    """
    words, gender = lexicon(code), NAMES.get(scene.subject)
    who = scene.subject if gender else words["subjects"][scene.subject]
    if not isinstance(who, str):
        gender, who = who
    third, place, day = scene.number // 10 % 3, words["places"].get(scene.place), words["days"].get(scene.day)
    parts = {"first": {1: place, 2: day}.get(third), "who": who, "verb": words["verbs"][scene.verb]}
    parts |= {"place": None if third == 1 else place, "day": None if third == 2 else day}
    if scene.noun:
        parts["what"] = say_thing(code, scene)
    agree(code, scene.verb, gender, parts)
    order = ORDERS.get(code, STANDARD)
    if code == "de" and not parts["first"]:  # the verb is the second part
        order = "who verb day place what"
    text = ("" if code == "zh" else " ").join(filter(None, map(parts.get, order.split())))
    return unicodedata.normalize("NFC", text[0].upper() + text[1:] + {"hi": "।", "zh": "。"}.get(code, "."))


def agree(code: str, verb: str, gender: str | None, parts: dict[str, str | None]) -> None:
    """Put in the agreement in gender, the articles of names and the marks of a language."""
    feminine = gender == "f"
    if code == "fr":
        parts["first"] = parts["first"] and f"{parts['first']},"
        parts["verb"] += "e" * (verb == "sit" and feminine)
    elif code == "es" and verb == "sit" and feminine:
        parts["verb"] = "está sentada"
    elif code == "el" and gender:
        parts["who"] = f"{'η' if feminine else 'ο'} {parts['who']}"
    elif code == "ar" and feminine:
        parts["verb"] = "ت" + parts["verb"][1:]
    elif code == "hi":
        parts["verb"] = f"{inflect(parts['verb'], gender, False, 'hi')} है"
    elif code == "zh" and gender:  # spaces around names
        parts["who"] = f" {parts['who']} " if parts["first"] else f"{parts['who']} "


def say_thing(code: str, scene: Scene) -> str:
    """The object, in the case that its verb asks for."""
    words, many = lexicon(code), scene.count > 1
    noun, adjective = words["nouns"][scene.noun], words["attributes"].get(scene.attribute)
    number = str(scene.count)
    if code == "zh":  # with a measure word; spaces only around numerals
        return (f" {number} " if many else "一") + noun[0] + (adjective or "") + noun[1]
    if code == "ru":
        return russian_thing(scene, noun, adjective)
    if code == "tr":
        return phrase(number, adjective, noun) if many else phrase(adjective, "bir", noun)
    *gender, singular, plural = noun
    if gender:
        gender = "f" if code == "ar" and many else gender[0]  # Arabic plurals of things are feminine
        adjective = adjective and inflect(adjective, gender, many, code)
    if not many and code == "en":
        number = "an" if (adjective or singular)[0] in "aeiou" else "a"
    elif not many:
        number = words.get("articles", {}).get(gender)
    said = [adjective, plural if many else singular]
    if code in ("ar", "es") or (code == "fr" and scene.attribute not in SIZES):
        said.reverse()
    return phrase(number, *said)


def inflect(entry: str | Mapping[str, Any], gender: str, many: bool, code: str) -> str:
    """The form of a word for a gender, and for one or several; see `lexicons.yaml`."""
    form = entry if isinstance(entry, str) else entry[gender]
    if isinstance(form, str):
        return form.replace("-", lexicon(code)["endings"][gender][many]) if "-" in form else form
    return form[many]


def russian_thing(scene: Scene, noun: Sequence[str], forms: Sequence[str] | None) -> str:
    """No articles; the accusative, or the genitive after a numeral. Animals have other forms."""
    gender, accusative, genitive, genitive_plural = noun
    if scene.count == 1:
        return phrase(forms and forms["mfn".index(gender)], accusative)
    if scene.count > 4 or is_animal(scene.noun):  # the accusative of 3 animals is their genitive
        return phrase(str(scene.count), forms and forms[4], genitive_plural)
    return phrase(str(scene.count), forms and forms[3 if gender == "f" else 4], genitive)


def phrase(*parts: str | None) -> str:
    """The parts that are said, with a space between them."""
    return " ".join(filter(None, parts))
