"""A unit's bytes as lines: sentences of documents, or pairs. All that hangs on the form of the input."""

import hashlib
import itertools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pretrain.corpus.files import Unit
from pretrain.corpus.inputs import Source
from utils.errors import UserError

_TRANSLATION_UNIT = re.compile(rb"<tu[\s>].*?</tu>", re.DOTALL)
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_NATIVE_CODE = {
    "bpt",
    "ept",
    "ph",
    "it",
    "ut",
}  # TMX elements that hold mark-up of the source format, not text


@dataclass(frozen=True)
class Reading:
    """How lines are read from a unit.

    Args:
        documents: "line", a document a line, or "blank", documents between blank lines.
        tsv_columns: the two columns of a pair, from 1; None: a line has exactly two.
        skip_bad_utf8: leave out lines that are not UTF-8 instead of stopping.
        score_column: the column of a pair's score, from 1; 0: there is none.
        min_score: pairs with less are left out.
    """

    documents: str
    tsv_columns: tuple[int, int] | None
    skip_bad_utf8: bool
    score_column: int = 0
    min_score: float = 0.0


class Lines(NamedTuple):
    """Lines of a unit, stripped of white space at both ends, none of them empty.

    Args:
        sides: one list of lines, or two lists of equal length in the order of the stream's languages.
        documents: lines of each document, int64 [documents]; each pair counts as one.
        empty: blank lines, or pairs with an empty side.
        bad_utf8: lines or pairs left out for it.
        score: pairs left out for theirs.
    """

    sides: tuple[list[str], ...]
    documents: np.ndarray
    empty: int
    bad_utf8: int
    score: int = 0


def read_lines(unit: Unit, source: Source, languages: tuple[str, ...], reading: Reading) -> Lines:
    """The lines of one unit.

    Args:
        unit: of `source`.
        languages: of the stream: its order of sides.

    Raises:
        UserError: bytes that are not UTF-8, a line with a wrong number of columns or without a score, broken
            XML; with file and line.
    """
    if source.form == "text":
        return _monolingual(unit, source, reading)
    bad = low = 0
    if source.form == "tmx":
        rows = _translation_units(unit, source)
    else:
        decoded = [
            _decode(text, path, unit.first_line, reading) for text, path in zip(unit.texts, source.paths)
        ]
        bad = _count_bad(decoded)
        if source.form == "aligned":
            rows = list(zip(*decoded))
        else:
            rows, low = _columns(decoded[0], unit, source, reading)
    pairs = [
        (first.strip(), second.strip()) for first, second in rows if first is not None and second is not None
    ]
    full = [pair for pair in pairs if pair[0] and pair[1]]
    sides = tuple(list(side) for side in zip(*full)) or ([], [])
    if source.languages != languages:
        sides = sides[::-1]
    return Lines(sides, np.ones(len(full), np.int64), len(pairs) - len(full), bad, low)


def line_hashes(texts: list[str]) -> np.ndarray:
    """A 64-bit hash of each text. uint64 [n]."""
    hashes = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(hashes, "<u8")


def keys(lines: Lines) -> list[str]:
    """What makes a line or a pair the same as another one."""
    return lines.sides[0] if len(lines.sides) == 1 else [f"{a}\t{b}" for a, b in zip(*lines.sides)]


def documents_of(lines: Lines, texts: list[str]) -> list[str]:
    """A text for each line, joined to one for each document."""
    if len(lines.documents) == len(texts):
        return texts
    text = iter(texts)
    return ["\n".join(itertools.islice(text, int(count))) for count in lines.documents]


def _monolingual(unit: Unit, source: Source, reading: Reading) -> Lines:
    decoded = _decode(unit.texts[0], source.paths[0], unit.first_line, reading)
    stripped = [line.strip() for line in decoded if line is not None]
    full = [line for line in stripped if line]
    bad = len(decoded) - len(stripped)
    if reading.documents == "line":
        return Lines((full,), np.ones(len(full), np.int64), len(stripped) - len(full), bad)
    is_text = np.array([bool(line) for line in stripped], bool)
    begins_document = is_text & ~np.concatenate([[False], is_text[:-1]])
    documents = np.bincount(np.cumsum(begins_document)[is_text] - 1)
    return Lines((full,), documents, 0, bad)


def _decode(text: bytes, path: str, first_line: int, reading: Reading) -> list[str | None]:
    """The lines of a text; None where one is not UTF-8 and may be left out."""
    try:
        return text.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        if not reading.skip_bad_utf8:
            line = first_line + text.count(b"\n", 0, error.start)
            raise UserError(
                f"{path}: line {line}: not UTF-8 (byte 0x{text[error.start]:02x}); convert the file, or "
                "leave such "
                "lines out with --skip_bad_utf8 true"
            ) from error
    return [_decode_line(line) for line in text.split(b"\n")[:-1]]


def _decode_line(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


def _count_bad(decoded: list[list[str | None]]) -> int:
    return sum(None in row for row in zip(*decoded)) if any(None in lines for lines in decoded) else 0


def _columns(
    lines: list[str | None], unit: Unit, source: Source, reading: Reading
) -> tuple[list[tuple[str, str]], int]:
    """The two cells of each line that is not blank, and how many lines went for their score."""
    first, second = (column - 1 for column in reading.tsv_columns or (1, 2))
    score = reading.score_column - 1
    fewest = max(first, second, score) + 1
    most = 1 << 30 if reading.tsv_columns else 2
    rows, low = [], 0
    for number, line in enumerate(lines):
        cells = line.split("\t") if line else ()
        if fewest <= len(cells) <= most:
            if score >= 0 and not _score(cells[score], source, unit.first_line + number) >= reading.min_score:
                low += 1
                continue
            rows.append((cells[first], cells[second]))
        elif line and line.strip():
            wanted = f"at least {fewest}" if reading.tsv_columns else "2"
            raise UserError(
                f"{source.paths[0]}: line {unit.first_line + number}: {len(cells)} columns between tabs, "
                f"expected {wanted}; name the columns that hold the pair with --tsv_columns, as in [2, 3]"
            )
    return rows, low


def _score(cell: str, source: Source, line: int) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise UserError(
            f"{source.paths[0]}: line {line}: '{cell[:40]}' is no score; name its column with --score_column"
        ) from error


def _translation_units(unit: Unit, source: Source) -> list[tuple[str, str]]:
    """The two languages' segments of each <tu>; one that lacks a language gives an empty side."""
    (text,) = unit.texts
    rows = []
    for match in _TRANSLATION_UNIT.finditer(text):
        try:
            element = ElementTree.fromstring(match.group().decode())
            segments = [(_language_tag(tuv), tuv.find("seg")) for tuv in element.iter("tuv")]
            rows.append(tuple(_segment(segments, language) for language in source.languages))
        except (ElementTree.ParseError, UnicodeDecodeError, RecursionError) as error:
            line = unit.first_line + text.count(b"\n", 0, match.start())
            raise UserError(
                f"{source.paths[0]}: line {line}: broken <tu>: {error}; mend it or leave it out"
            ) from error
    return rows


def _language_tag(tuv: ElementTree.Element) -> str:
    return (tuv.get(_XML_LANG) or tuv.get("lang") or "").replace("_", "-").lower()


def _segment(segments: list[tuple[str, ElementTree.Element | None]], language: str) -> str:
    """The text of the first segment in a language: en matches en, else en-US, en-GB, ..."""
    wanted = language.replace("_", "-").lower()
    for matches in (str.__eq__, lambda tag, wanted: tag.split("-")[0] == wanted):
        for tag, segment in segments:
            if segment is not None and matches(tag, wanted):
                return " ".join(_text(segment).split())
    return ""


def _text(element: ElementTree.Element) -> str:
    parts = [element.text or ""]
    for child in element:
        if child.tag not in _NATIVE_CODE:
            parts.append(_text(child))
        parts.append(child.tail or "")
    return "".join(parts)
