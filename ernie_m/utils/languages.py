"""Which language a name says: en, eng, EN and en_Latn are one; and the script that it is written in.

languages.tsv has the languages with two letters, and those of FLORES-200, XLM-R, Tatoeba and WikiANN: the
shortest code, the other codes and English names, and the script by ISO 15924. The codes were made of the
registry of BCP 47, but what FLORES-200 tells apart is apart (pes and prs); the names are those of CLDR. Text
that is called no is nearly all nb, so they are one.
"""

import re
from pathlib import Path

# How Unicode begins the names of the letters of a script, by its code in ISO 15924.
_LETTERS = {
    "Arab": "ARABIC", "Armn": "ARMENIAN", "Beng": "BENGALI", "Cyrl": "CYRILLIC", "Deva": "DEVANAGARI",
    "Ethi": "ETHIOPIC", "Geor": "GEORGIAN", "Grek": "GREEK", "Gujr": "GUJARATI", "Guru": "GURMUKHI",
    "Hani": "CJK", "Hans": "CJK", "Hant": "CJK", "Hebr": "HEBREW", "Jpan": "CJK", "Khmr": "KHMER",
    "Knda": "KANNADA", "Kore": "HANGUL", "Laoo": "LAO", "Latn": "LATIN", "Mlym": "MALAYALAM",
    "Mymr": "MYANMAR", "Orya": "ORIYA", "Sinh": "SINHALA", "Taml": "TAMIL", "Telu": "TELUGU",
    "Thai": "THAI", "Tibt": "TIBETAN",
}  # fmt: skip
# Languages that are written in several of these.
SEVERAL = ("az", "bs", "ha", "kk", "ks", "ku", "ky", "mn", "sd", "sh", "sr", "tg", "tk", "tt", "uz")
_ROWS = [line.split("\t") for line in Path(__file__).with_suffix(".tsv").read_text().splitlines()]
_SHORTEST = {code: tag for tag, codes, _ in _ROWS for code in (tag, *codes.split())}
_SCRIPTS = {tag: script for tag, _, script in _ROWS}
_SCRIPT_BY_REGION = {"zh-cn": "zh", "zh-tw": "zh-hant", "zh-hant-tw": "zh-hant"}  # CLDR's likely subtags


def language_tag(name: str) -> str:
    """Return the one tag of a language: "en" for eng, "zh-hant" for cmn_Hant and zh_TW.

    "" if it is not known.
    """
    code, *rest = re.split("[-_]", name.lower())
    language = _SHORTEST.get(code, "")
    if rest[:1] == [_SCRIPTS.get(language, "").lower()]:  # the script that it has anyway
        del rest[0]
    tag = "-".join([language, *rest]) if language else ""
    return _SCRIPT_BY_REGION.get(tag, tag)


def common_language(name: str) -> str:
    """Return the language alone; "" if it is not known."""
    return language_tag(name).partition("-")[0]


def language_group(name: str) -> str:
    """Return the language without its region, as "en" for en_US and English.

    A name that is not known as it is.
    """
    language, *parts = language_tag(name).split("-")
    return "-".join([language or name, *(part for part in parts if len(part) == 4)])  # a script


def expected_script(name: str) -> str:
    """How the names of a language's letters begin in Unicode, such as "CYRILLIC"; "" if it is not known."""
    tag = common_language(name)
    script = (re.findall(r"[-_]([A-Za-z]{4})\b", name) or [_SCRIPTS.get(tag, "")])[0]
    return "" if tag in SEVERAL and script == _SCRIPTS[tag] else _LETTERS.get(script.title(), "")
