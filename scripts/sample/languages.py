"""How ten languages, five of them in a script of their own, say a scene, with the words of `lexicons.yaml`.

All say the same: simple present, a known person or animal ("the man") or an unknown one of a kind ("a
person"), and things that were not mentioned before ("a ball", "3 red balls").
"""

import functools
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_m.utils.yaml_files import read_yaml
from scripts.sample.scenes import NAMES, Scene

SPARE_SPACE = re.compile(" +(?=[ .।])")  # before a space and before the end of a sentence


@functools.cache
def lexicon(code: str) -> Mapping[str, Mapping[str, Any]]:
    """The words of a language."""
    return read_yaml(Path(__file__).with_name("lexicons.yaml"))[code]


def chinese_words() -> set[str]:
    """Every Chinese word: no space separates them, and the pieces of the vocabulary must not span several."""
    lexicon_zh = lexicon("zh")
    words = {*lexicon_zh["words"], *(noun for _, noun, _ in lexicon_zh["nouns"].values())}
    for kind in ("subjects", "verbs", "places", "days"):
        words |= set(lexicon_zh[kind].values())
    return words


def say(code: str, scene: Scene) -> str:
    """The sentence of a language, in composed Unicode (NFC).

    In a third of the scenes the place comes first, in another third the day, if they are said, so that the
    position of a word does not tell its role. The order depends on the scene, so all translations agree.
    """
    words = lexicon(code)
    subject = scene.subject
    verbs = words["verbs"]
    if NAMES.get(subject) == "f" or subject in words.get("feminine_subjects", ()):
        verbs = verbs | words.get("feminine_verbs", {})
    if subject in NAMES:
        who = words["names"][NAMES[subject]].replace("~", subject) if "names" in words else subject
    else:
        who = words["subjects"][subject]
    # A part that the scene does not say is empty.
    parts = {
        "first": "",
        "who": who,
        "verb": verbs[scene.verb],
        "what": say_thing(words, scene) if scene.noun else "",
        "place": words["places"].get(scene.place, ""),
        "day": words["days"].get(scene.day, ""),
    }
    # The last digit of the number decides the split, so the other digits decide the order.
    other_digits = scene.number // 10
    comes_first = {0: None, 1: "place", 2: "day"}[other_digits % 3]
    if comes_first:
        parts["first"] = parts[comes_first]
        parts[comes_first] = ""
    sentence = words["sentences"][1 if parts["first"] else 0]
    text = SPARE_SPACE.sub("", sentence.format(**parts)).strip()
    return unicodedata.normalize("NFC", text[0].upper() + text[1:])


def say_thing(words: Mapping[str, Mapping[str, Any]], scene: Scene) -> str:
    """The object, in the case that its verb asks for."""
    noun_class, *forms = words["nouns"][scene.noun]
    # Some languages have another form for 5 than for 3 and 4. It is the last one, in the others the plural.
    form = {1: 0, 3: 1, 4: 1, 5: -1}[scene.count]
    thing = words["things"][noun_class][scene.attribute or "plain"][form]
    return thing.replace("#", str(scene.count)).replace("~", forms[form])
