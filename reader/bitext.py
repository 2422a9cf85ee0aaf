"""Plain text, a sentence a line, and bitexts: two such files whose lines translate each other.

A retrieval set of several languages is a folder in one of two forms, line i of one file translating line i of
the other:

    de-en.de, de-en.en                              XTREME's names
    tatoeba.deu-eng.deu, tatoeba.deu-eng.eng        the public files of Tatoeba (LASER)
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.classification import Example
from utils.errors import UserError

BATCH_TOKENS = 4096  # padded, in one forward pass
WINDOW_TEXTS = 16384  # texts that are encoded at once: enough to find many of equal length
# XTREME's code of each of the 36 languages of Tatoeba -> the code in the public file names. The order is that
# of the paper's Table 16.
TATOEBA = {
    "af": "afr", "ar": "ara", "bg": "bul", "bn": "ben", "de": "deu", "el": "ell", "es": "spa", "et": "est",
    "eu": "eus", "fa": "pes", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun", "id": "ind",
    "it": "ita", "ja": "jpn", "jv": "jav", "ka": "kat", "kk": "kaz", "ko": "kor", "ml": "mal", "mr": "mar",
    "nl": "nld", "pt": "por", "ru": "rus", "sw": "swh", "ta": "tam", "te": "tel", "th": "tha", "tl": "tgl",
    "tr": "tur", "ur": "urd", "vi": "vie", "zh": "cmn",
}  # fmt: skip


class Sentences(Sequence[Example]):
    """The lines of a text file, read where they lie: a line costs 8 bytes of memory. Can be pickled.

    Raises:
        UserError: no such file, or an empty one; on reading a line: not UTF-8.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).absolute()
        try:
            with open(self.path, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise UserError(f"{path}: the file is empty; give one with a sentence a line")
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"{path}: cannot read it ({error.strerror})") from error
        ends = [0]
        while ends[-1] < len(self._bytes):
            ends.append(self._bytes.find(b"\n", ends[-1]) + 1 or len(self._bytes))
        self._ends = np.asarray(ends, np.int64)  # [lines + 1]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {len(self)} in {self.path}")
        line = self._bytes[self._ends[index] : self._ends[index + 1]]
        try:
            return Example(line.decode("utf-8").strip("\ufeff\r\n"), None, -1, None)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}, line {index + 1}: not UTF-8; convert the file to UTF-8") from error

    def __reduce__(self):
        return type(self), (self.path,)

    def texts(self) -> list[str]:
        """All lines."""
        return [example.text_a for example in self]


class Bitext(NamedTuple):
    """A language's sentences and their English (or other) translations, line by line."""

    language: str
    sentences: list[str]
    translations: list[str]


class EncodedTexts(NamedTuple):
    """The ids of some texts, one text after the other: int32 [sum of lengths]; lengths: int64 [texts]."""

    ids: np.ndarray
    lengths: np.ndarray

    def sentences(self) -> list[np.ndarray]:
        """The ids of each text."""
        return np.split(self.ids, np.cumsum(self.lengths)[:-1])


def encode_in_windows(
    texts: Sequence, encode: Callable[[list], list], size: int = WINDOW_TEXTS
) -> Iterator[EncodedTexts]:
    """Encode texts in order, `size` at a time, so that memory does not grow with their number.

    Args:
        encode: texts -> features, each with `.ids`; see `reader.features.EncodeExamples`.
    """
    for start in range(0, len(texts), size):
        features = encode([texts[i] for i in range(start, min(start + size, len(texts)))])
        lengths = np.array([len(feature.ids) for feature in features], np.int64)
        yield EncodedTexts(
            np.concatenate([np.asarray(feature.ids, np.int32) for feature in features]), lengths
        )


def read_bitext(language: str, path: str | os.PathLike, translations: str | os.PathLike) -> Bitext:
    """Two files of the same number of lines.

    Raises:
        UserError: a file that cannot be read, an empty one, bad UTF-8, unequal numbers of lines.
    """
    sides = Sentences(path), Sentences(translations)
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{path} has {len(sides[0]):,} lines and {translations} {len(sides[1]):,}: line i of one must "
            "translate line i of the other"
        )
    return Bitext(language, sides[0].texts(), sides[1].texts())


def read_bitexts(folder: str | os.PathLike, languages: Sequence[str] = ()) -> list[Bitext]:
    """The bitexts of a folder in either form.

    Args:
        languages: XTREME's codes; none: all that are there, in the order of the paper's Table 16.

    Raises:
        UserError: no bitext there, a language that is not there, or as `read_bitext`.
    """
    folder, names = Path(folder), {}
    for language, long in TATOEBA.items():
        if (folder / f"tatoeba.{long}-eng.{long}").is_file():
            names[language] = f"tatoeba.{long}-eng.{long}", f"tatoeba.{long}-eng.eng"
    found = {name for path in folder.glob("*-en.*") if (name := path.name.split("-en.")[0]) != "en"}
    found = {name for name in found if (folder / f"{name}-en.{name}").is_file()}  # and not notes-en.txt
    names |= {name: (f"{name}-en.{name}", f"{name}-en.en") for name in sorted(found)}
    order = [name for name in TATOEBA if name in names]
    order += [name for name in names if name not in TATOEBA]
    if not order:
        raise UserError(
            f"{folder}: no files <language>-en.<language> or tatoeba.<lan>-eng.<lan> there; "
            "scripts/data/prepare_tatoeba.py makes them"
        )
    if absent := [language for language in languages if language not in names]:
        raise UserError(f"{folder}: no {', '.join(absent)} there; it has {', '.join(order)}")
    return [read_bitext(name, *(folder / file for file in names[name])) for name in languages or order]


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Rows of similar length together, so that little is spent on pads: shortest batches first.

    Args:
        batch_tokens: most padded tokens (rows x longest) of a batch; a longer row stands alone.
    """
    batches: list[list[int]] = []
    for row in np.argsort(np.asarray(lengths), kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * lengths[row] > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches
