"""How ten languages, five of them in a script of their own, say a scene, with the words of `lexicons.yaml`.

All say the same: simple present, a known person or animal ("the man") or an unknown one of a kind ("a
person"), and things that were not mentioned before ("a ball", "3 red balls").
"""

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.sample.scenes import NAMES, SIZES, Scene, is_animal
from utils.config import read_yaml

Lexicon = Mapping[str, Mapping[str, Any]]  # subjects, nouns, attributes, verbs, places, days
# The order of the parts of a sentence. "first" is the place or the day, if it comes first.
STANDARD = "first who verb what place day"
ORDERS = {
    "de": "first verb who day place what",
    "ar": "first verb who what place day",
    "tr": "first who day place what verb",
    "hi": "first who day place what verb",
    "zh": "first who day place verb what",
}


@functools.cache
def lexicon(code: str) -> Lexicon:
    """The words of a language."""
    return read_yaml(Path(__file__).with_name("lexicons.yaml"))[code]


def chinese_words() -> set[str]:
    """Every Chinese word: no space separates them, and the pieces of the vocabulary must not span several."""
    lexicon_zh = lexicon("zh")
    words = {"一"}  # one, the only numeral that is written in Chinese
    for measure_word, noun in lexicon_zh["nouns"].values():
        words |= {measure_word, noun}
    for kind in ("subjects", "attributes", "verbs", "places", "days"):
        words |= set(lexicon_zh[kind].values())
    return words


def say(code: str, scene: Scene) -> str:
    """The sentence of a language, in composed Unicode (NFC).

    In a third of the scenes the place comes first, in another third the day, if they are said, so that the
    position of a word does not tell its role. It depends on the scene, so all translations agree.
    """
    words = lexicon(code)
    who, gender = say_subject(code, scene.subject)
    place = words["places"].get(scene.place)
    day = words["days"].get(scene.day)
    parts = {"first": None, "who": who, "verb": words["verbs"][scene.verb], "place": place, "day": day}
    # The last digit of the number decides the split, so the other digits decide the order.
    other_digits = scene.number // 10
    comes_first = {0: None, 1: "place", 2: "day"}[other_digits % 3]
    if comes_first:
        parts["first"] = parts[comes_first]  # None if the scene does not say it
        parts[comes_first] = None
    if scene.noun:
        parts["what"] = say_thing(code, scene)
    agree(code, scene.verb, gender, parts)
    order = ORDERS.get(code, STANDARD)
    if code == "de" and not parts["first"]:  # in German the verb is always the second part
        order = "who verb day place what"
    present = [parts[name] for name in order.split() if parts.get(name)]
    text = ("" if code == "zh" else " ").join(present)
    end = {"hi": "।", "zh": "。"}.get(code, ".")
    return unicodedata.normalize("NFC", text[0].upper() + text[1:] + end)


def say_subject(code: str, subject: str) -> tuple[str, str | None]:
    """The subject, and its gender if it has one in the language."""
    if subject in NAMES:
        return subject, NAMES[subject]
    entry = lexicon(code)["subjects"][subject]
    if isinstance(entry, str):
        return entry, None
    gender, words = entry
    return words, gender


def agree(code: str, verb: str, gender: str | None, parts: dict[str, str | None]) -> None:
    """Change the parts as the language asks for: agreement in gender, articles of names, comma, spaces."""
    is_feminine = gender == "f"
    if code == "fr":
        if parts["first"]:
            parts["first"] = f"{parts['first']},"
        if verb == "sit" and is_feminine:
            parts["verb"] += "e"
    elif code == "es" and verb == "sit" and is_feminine:
        parts["verb"] = "está sentada"
    elif code == "el" and gender:  # a name; other subjects have their article in the lexicon, and no gender
        article = "η" if is_feminine else "ο"
        parts["who"] = f"{article} {parts['who']}"
    elif code == "ar" and is_feminine:
        parts["verb"] = "ت" + parts["verb"][1:]  # the prefix of the third person, "ي" for masculine
    elif code == "hi":
        parts["verb"] = f"{inflect(parts['verb'], gender, is_plural=False, code='hi')} है"
    elif code == "zh" and gender:  # a name, which has spaces around it, but none at the beginning
        parts["who"] = f" {parts['who']} " if parts["first"] else f"{parts['who']} "


def say_thing(code: str, scene: Scene) -> str:
    """The object, in the case that its verb asks for."""
    words = lexicon(code)
    noun = words["nouns"][scene.noun]
    adjective = words["attributes"].get(scene.attribute)
    if code == "zh":
        measure_word, chinese_noun = noun
        return chinese_thing(scene, measure_word, chinese_noun, adjective)
    if code == "ru":
        return russian_thing(scene, noun, adjective)
    is_plural = scene.count > 1
    if code == "tr":  # a noun after a numeral has no plural ending; "bir" is the article
        return phrase(str(scene.count), adjective, noun) if is_plural else phrase(adjective, "bir", noun)
    *genders, singular, plural = noun  # one gender, or none in English
    gender = genders[0] if genders else None
    if code == "ar" and is_plural:  # plurals of things are feminine
        gender = "f"
    if gender and adjective:
        adjective = inflect(adjective, gender, is_plural, code)
    # A numeral, or an article; None where a language has no article.
    if is_plural:
        determiner = str(scene.count)
    elif code == "en":
        next_word = adjective or singular
        determiner = "an" if next_word[0] in "aeiou" else "a"
    else:
        determiner = words.get("articles", {}).get(gender)
    inflected_noun = plural if is_plural else singular
    # In French only words for sizes stand before the noun.
    is_noun_first = code in ("ar", "es") or (code == "fr" and scene.attribute not in SIZES)
    if is_noun_first:
        return phrase(determiner, inflected_noun, adjective)
    return phrase(determiner, adjective, inflected_noun)


def chinese_thing(scene: Scene, measure_word: str, noun: str, adjective: str | None) -> str:
    """A numeral, a measure word, the adjective and the noun. Spaces stand only around numerals in digits."""
    number = f" {scene.count} " if scene.count > 1 else "一"
    return number + measure_word + (adjective or "") + noun


def inflect(entry: str | Mapping[str, Any], gender: str, is_plural: bool, code: str) -> str:
    """The form of a word for a gender, and for one or several.

    Args:
        entry: a form, or gender -> a form. A form is a word, a stem whose "-" is replaced by an ending, or
            [singular, plural].
    """
    number = 1 if is_plural else 0  # the place in [singular, plural]
    form = entry if isinstance(entry, str) else entry[gender]
    if not isinstance(form, str):
        return form[number]
    if "-" in form:
        ending = lexicon(code)["endings"][gender][number]
        return form.replace("-", ending)
    return form


def russian_thing(scene: Scene, noun: Sequence[str], forms: Sequence[str] | None) -> str:
    """A thing in Russian: without an article, in the accusative, or in the genitive after a numeral.

    Animals have other forms.

    Args:
        noun: gender, accusative, genitive, genitive of the plural.
        forms: of the adjective: for m, f and n, for several feminine things, for several others; None: the
            scene names no attribute.
    """
    gender, accusative, genitive, genitive_plural = noun
    if scene.count == 1:
        number = None
        place_of_form = {"m": 0, "f": 1, "n": 2}[gender]
        noun_in_case = accusative
    elif scene.count > 4 or is_animal(scene.noun):  # the accusative of 3 animals is their genitive
        number = str(scene.count)
        place_of_form = 4
        noun_in_case = genitive_plural
    else:
        number = str(scene.count)
        place_of_form = 3 if gender == "f" else 4
        noun_in_case = genitive
    adjective = forms[place_of_form] if forms else None
    return phrase(number, adjective, noun_in_case)


def phrase(*parts: str | None) -> str:
    """The parts that are not None or empty, with a space between them."""
    return " ".join(filter(None, parts))
