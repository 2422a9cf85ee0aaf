"""Plain text, one sentence per line, and bitexts: two such files in which line i translates line i.

A retrieval set of several languages is a folder in one of two forms:

    de-en.de, de-en.en                              XTREME's names, but not the files that its script sorts
    tatoeba.deu-eng.deu, tatoeba.deu-eng.eng        the public files of Tatoeba (LASER)
"""

import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.classification import Example
from reader.tsv import FileLines, decode, map_bytes
from utils.errors import UserError

# XTREME's codes of the 36 languages of Tatoeba -> the codes in the public file names, in the order of the
# paper's Table 16.
TATOEBA = {
    "af": "afr", "ar": "ara", "bg": "bul", "bn": "ben", "de": "deu", "el": "ell", "es": "spa", "et": "est",
    "eu": "eus", "fa": "pes", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun", "id": "ind",
    "it": "ita", "ja": "jpn", "jv": "jav", "ka": "kat", "kk": "kaz", "ko": "kor", "ml": "mal", "mr": "mar",
    "nl": "nld", "pt": "por", "ru": "rus", "sw": "swh", "ta": "tam", "te": "tel", "th": "tha", "tl": "tgl",
    "tr": "tur", "ur": "urd", "vi": "vie", "zh": "cmn",
}  # fmt: skip


class Sentences(FileLines, Sequence[Example]):
    """The lines of a text file.

    UserError: the file is missing or empty; when a line is read: it is not UTF-8.
    """

    def __init__(self, path: str | os.PathLike):
        data, starts = map_bytes(Path(path)), array("q", [0])
        while starts[-1] < len(data):
            starts.append(data.find(b"\n", starts[-1]) + 1 or len(data))
        super().__init__(Path(path), data, np.asarray(starts, np.int64))

    def __getitem__(self, index: int) -> Example:
        return Example(decode(self.line(index), self.path, index + 1).strip("\ufeff\r\n"), None)

    def texts(self) -> list[str]:
        """All lines."""
        return [example.text_a for example in self]


class Bitext(NamedTuple):
    """Sentences of a language and their translations into English (or another language), line by line."""

    language: str
    sentences: list[str]
    translations: list[str]


def read_bitext(language: str, path: str | os.PathLike, translations: str | os.PathLike) -> Bitext:
    """Read two files with the same number of lines.

    UserError: a file is missing, empty or not UTF-8, the numbers of lines differ, or the second is sorted.
    """
    sides = Sentences(path), Sentences(translations)
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{path} has {len(sides[0]):,} lines and {translations} {len(sides[1]):,}: line i of one must "
            "translate line i of the other"
        )
    english = sides[1].texts()
    if len(english) > 20 and english == sorted(english):
        raise UserError(f"{translations}: sorted, as by XTREME's script; give LASER/data/tatoeba/v1 instead")
    return Bitext(language, sides[0].texts(), english)


def read_bitexts(folder: str | os.PathLike, languages: Sequence[str] = ()) -> list[Bitext]:
    """The bitexts of a folder in either form; without `languages` all, in the order of the paper's Table 16.

    UserError: the folder has no bitext, or not that of a language, or as `read_bitext`.
    """
    folder, names = Path(folder), {}
    for language, long in TATOEBA.items():
        if (folder / f"tatoeba.{long}-eng.{long}").is_file():
            names[language] = f"tatoeba.{long}-eng.{long}", f"tatoeba.{long}-eng.eng"
    found = {path.name.split("-en.")[0] for path in folder.glob("*-en.*")} - {"en"}
    found = {name for name in found if (folder / f"{name}-en.{name}").is_file()}  # and not notes-en.txt
    names |= {name: (f"{name}-en.{name}", f"{name}-en.en") for name in sorted(found)}
    order = [*(name for name in TATOEBA if name in names), *(name for name in names if name not in TATOEBA)]
    if not order:
        raise UserError(
            f"{folder}: no files <language>-en.<language> or tatoeba.<lan>-eng.<lan> there; name "
            "LASER/data/tatoeba/v1"
        )
    if absent := [language for language in languages if language not in names]:
        raise UserError(f"{folder}: no {', '.join(absent)} there; it has {', '.join(order)}")
    return [read_bitext(name, *(folder / file for file in names[name])) for name in languages or order]
