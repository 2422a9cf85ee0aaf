"""Canonical language tags (en for eng, EN and en_Latn), and the scripts of languages.

languages.tsv has the languages with two-letter codes, and those of FLORES-200, XLM-R, Tatoeba and WikiANN:
the shortest code, other codes and English names, and the ISO 15924 script. The codes come from the BCP 47
registry, but languages that FLORES-200 separates (pes and prs) stay separate; the names come from CLDR. Text
with the code no is nearly always nb, so both are one language.
"""

import re
from pathlib import Path

# Prefix of the Unicode names of a script's letters, by its ISO 15924 code.
_LETTERS = {
    "Arab": "ARABIC", "Armn": "ARMENIAN", "Beng": "BENGALI", "Cyrl": "CYRILLIC", "Deva": "DEVANAGARI",
    "Ethi": "ETHIOPIC", "Geor": "GEORGIAN", "Grek": "GREEK", "Gujr": "GUJARATI", "Guru": "GURMUKHI",
    "Hani": "CJK", "Hans": "CJK", "Hant": "CJK", "Hebr": "HEBREW", "Jpan": "CJK", "Khmr": "KHMER",
    "Knda": "KANNADA", "Kore": "HANGUL", "Laoo": "LAO", "Latn": "LATIN", "Mlym": "MALAYALAM",
    "Mymr": "MYANMAR", "Orya": "ORIYA", "Sinh": "SINHALA", "Taml": "TAMIL", "Telu": "TELUGU",
    "Thai": "THAI", "Tibt": "TIBETAN",
}  # fmt: skip
# Languages with several of these scripts.
SEVERAL = ("az", "bs", "ha", "kk", "ks", "ku", "ky", "mn", "sd", "sh", "sr", "tg", "tk", "tt", "uz")
_ROWS = [line.split("\t") for line in Path(__file__).with_suffix(".tsv").read_text().splitlines()]
_SHORTEST = {code: tag for tag, codes, _ in _ROWS for code in (tag, *codes.split())}
_SCRIPTS = {tag: script for tag, _, script in _ROWS}
_SCRIPT_BY_REGION = {"zh-cn": "zh", "zh-tw": "zh-hant", "zh-hant-tw": "zh-hant"}  # CLDR's likely subtags


def language_tag(name: str) -> str:
    """Return the canonical language tag of a name or code, such as "en" for eng; "" if unknown.

    The tag of cmn_Hant and zh_TW is "zh-hant".
    """
    code, *rest = re.split("[-_]", name.lower())
    language = _SHORTEST.get(code, "")
    if rest[:1] == [_SCRIPTS.get(language, "").lower()]:  # its default script
        del rest[0]
    tag = "-".join([language, *rest]) if language else ""
    return _SCRIPT_BY_REGION.get(tag, tag)


def base_language(name: str) -> str:
    """Return the canonical language code of a name, without script and region; "" if unknown."""
    return language_tag(name).partition("-")[0]


def language_group(name: str) -> str:
    """Return the canonical language tag without region, such as "en" for en_US and English.

    Unknown names are returned unchanged.
    """
    language, *parts = language_tag(name).split("-")
    return "-".join([language or name, *(part for part in parts if len(part) == 4)])  # a script


def expected_script(name: str) -> str:
    """Return the prefix of the Unicode names of letters in a language's script, such as "CYRILLIC".

    "" if the language is unknown, or is written in several scripts.
    """
    tag = base_language(name)
    script = (re.findall(r"[-_]([A-Za-z]{4})\b", name) or [_SCRIPTS.get(tag, "")])[0]
    return "" if tag in SEVERAL and script == _SCRIPTS[tag] else _LETTERS.get(script.title(), "")
