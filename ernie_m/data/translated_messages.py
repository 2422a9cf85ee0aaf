"""Sentence pairs from the messages of programs: the translations that Python packages carry.

Two forms are read from a wheel: gettext's compiled messages, LANG/LC_MESSAGES/*.mo, whose ids are English,
and JSON files of one folder, en.json and LANG.json, where a text and its translation have the same keys.
"""

import gettext
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ernie_m.reader.files.odd_text import SCRIPT_OF

ENGLISH = "en"
# Language -> what its folders and files are called, the first that is there. Others are called as they are:
# de, or de_DE.
NAMES = {"zh": ("zh-Hans", "zh_Hans", "zh_Hans_CN", "zh_CN", "zh"), "pt": ("pt-BR", "pt_BR", "pt")}
FEWEST_WORDS = 4  # of an English sentence
MOST_CHARACTERS = 400
# The least and the greatest number of characters of a translation for each one of the English sentence.
LENGTHS = (0.45, 2.2)
LENGTHS_OF_CHINESE = (0.12, 0.8)
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+")
_PARAGRAPH = re.compile(r"\n\s*\n|<br\s*/?>|</p>|</li>")
_TAG = re.compile(r"</?(a|b|i|em|strong|p|code|span|ul|ol|li|div|small|u|tt|kbd)\b[^<>]*>", re.IGNORECASE)
_EMPHASIS = re.compile(r"\*\*|__")
# Placeholders, other markup, addresses, paths and commands.
_NO_PROSE = re.compile(r"[<>{}|`~^\\=_*#@$]|\]\(|://|www\.|::|--|%[\w(]|&\w+;|\.\w+/|/\w+/")


def read_messages(wheel: Path, languages: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Language, English and translation of each message of a wheel, in an order that its content decides."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(archive.namelist())
        for language in languages:
            known_as = NAMES.get(language, (language, f"{language}_{language.upper()}"))
            for name in _of_language(names, known_as, "/LC_MESSAGES/"):
                # No public name lists the messages.
                messages = gettext.GNUTranslations(io.BytesIO(archive.read(name)))._catalog
                for key, translation in messages.items():
                    # The id of a plural is a tuple, and that of the header is empty.
                    if key and isinstance(key, str):
                        yield language, key.rpartition("\4")[2], translation  # a context may stand before it
            for name in _of_language(names, known_as, ".json"):
                english_name = f"{name.rpartition('/')[0]}/{ENGLISH}.json"
                if english_name in names:
                    translations = _texts_of(json.loads(archive.read(name)))
                    for key, english in _texts_of(json.loads(archive.read(english_name))).items():
                        if key in translations:
                            yield language, english, translations[key]


def _of_language(names: Sequence[str], known_as: Sequence[str], ending: str) -> list[str]:
    """The files of a language: of one folder, those of the first of its names that is there.

    Args:
        ending: what stands behind the name of the language: ".json" or "/LC_MESSAGES/".
    """
    chosen: dict[str, str] = {}  # the path without the name of the language -> the path
    for known in known_as:
        for name in names:
            before, found, after = name.rpartition(f"/{known}{ending}")
            if found and (after.endswith(".mo") or (not after and ending == ".json")):
                chosen.setdefault(f"{before}/{after}", name)
    return list(chosen.values())


def _texts_of(value: object, path: str = "") -> dict[str, str]:
    """The texts of a JSON value, by the keys that lead to them."""
    if isinstance(value, str):
        return {path: value}
    texts: dict[str, str] = {}
    if isinstance(value, Mapping):
        for key, item in value.items():
            texts |= _texts_of(item, f"{path}/{key}")
    return texts


def sentence_pairs(language: str, english: str, translation: str) -> list[tuple[str, str]]:
    """English and translation of a message, one pair for each paragraph if both have as many; cleaned.

    What has placeholders, markup, another script, other numbers, or is English in both languages is left out.
    """
    sides = [[text for text in _PARAGRAPH.split(side) if text.strip()] for side in (english, translation)]
    if len(sides[0]) != len(sides[1]):
        sides = [[english], [translation]]
    pairs = zip(*(map(_clean, side) for side in sides))
    return [pair for pair in pairs if _are_translations(language, *pair)]


def _clean(text: str) -> str:
    """A text in composed Unicode, without tags, emphasis and repeated blanks."""
    text = _EMPHASIS.sub("", _TAG.sub(" ", unicodedata.normalize("NFC", text)))
    return " ".join(text.replace("\u200b", "").split())


def letters_of(text: str) -> str:
    """The letters of a text, without case. Two texts with the same ones count as equal."""
    return "".join(_WORD.findall(text.casefold()))


def _are_translations(language: str, english: str, translation: str) -> bool:
    """Whether both are prose, of lengths that fit, in their languages, with the same numbers."""
    words = _WORD.findall(english)
    if len(words) < FEWEST_WORDS or len(english) > MOST_CHARACTERS:
        return False
    if _NO_PROSE.search(english) or _NO_PROSE.search(translation):
        return False
    least, most = LENGTHS_OF_CHINESE if language == "zh" else LENGTHS
    if not least < len(translation) / len(english) < most:
        return False
    if sorted(map(int, _NUMBER.findall(english))) != sorted(map(int, _NUMBER.findall(translation))):
        return False
    of_english = {word.lower() for word in words}
    return _is_of(ENGLISH, words, set()) and _is_of(language, _WORD.findall(translation), of_english)


def _is_of(language: str, words: Sequence[str], english: set[str]) -> bool:
    """Whether the words are in the script of a language, and not mostly those of the English sentence."""
    letters = "".join(words)
    script = SCRIPT_OF.get(language, "LATIN")
    in_script = sum(unicodedata.name(letter, "").startswith(script) for letter in letters)
    left = sum(word.lower() in english for word in words)
    return in_script > 0.6 * len(letters) and left <= 0.5 * len(words)
