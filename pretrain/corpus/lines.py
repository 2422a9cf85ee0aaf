"""Turns the bytes of a unit into lines: sentences of documents, or sentence pairs."""

import hashlib
import itertools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pretrain.corpus.inputs import TextSource
from pretrain.corpus.units import Unit
from utils.errors import UserError

LONGEST_LINE = 4 << 20  # bytes; the tokens of a line take 35 times as much memory
_TRANSLATION_UNIT = re.compile(rb"<tu[\s>].*?</tu>", re.DOTALL)
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_MARKUP = {"bpt", "ept", "ph", "it", "ut"}  # TMX elements that hold mark-up of the source format, not text


@dataclass(frozen=True)
class TextFormat:
    """How to read lines from a unit; `BuildOptions` describes the fields."""

    documents: str = "line"
    tsv_columns: tuple[int, ...] | list[int] = ()
    score_column: int = 0
    min_score: float = 0.0
    skip_bad_utf8: bool = False


class Lines(NamedTuple):
    """The lines of a unit without white space at both ends. No line is empty.

    Args:
        sides: one list of lines, or two lists of equal length in the order of the stream's languages.
        documents: number of lines of each document, int64 [documents]; each pair is a document.
        empty: number of blank lines, or of pairs with an empty side.
        bad_utf8: number of lines or pairs that were left out because they are not UTF-8.
        score: number of pairs that were left out for their score.
    """

    sides: tuple[list[str], ...]
    documents: np.ndarray
    empty: int
    bad_utf8: int
    score: int = 0

    def keys(self) -> list[str]:
        """One text for each line or pair; equal lines have equal keys."""
        return self.sides[0] if len(self.sides) == 1 else [f"{a}\t{b}" for a, b in zip(*self.sides)]

    def join_documents(self, texts: list[str]) -> list[str]:
        """Join one text per line to one text per document."""
        text = iter(texts)
        return ["\n".join(itertools.islice(text, int(count))) for count in self.documents]


def line_hashes(texts: list[str]) -> np.ndarray:
    """A 64-bit hash of each text. uint64 [texts]."""
    hashes = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(hashes, "<u8")


def read_lines(unit: Unit, source: TextSource, languages: tuple[str, ...], form: TextFormat) -> Lines:
    """The lines of one unit.

    Args:
        unit: a unit of `source`.
        languages: of the stream; they give the order of the sides.

    Raises:
        UserError: bytes that are not UTF-8, a wrong number of columns, a missing score, or broken XML; with
            file and line.
    """
    bad = low = 0
    if source.form == "tmx":
        rows = _translation_units(unit, source)
    else:
        decoded = [_decode(text, path, unit, form) for text, path in zip(unit.texts, source.paths)]
        rows = [row for row in zip(*decoded) if None not in row]
        bad = len(decoded[0]) - len(rows)
        if source.form == "tsv":
            rows, low = _columns(decoded[0], unit, source, form)
    stripped = [tuple(cell.strip() for cell in row) for row in rows]
    full = [row for row in stripped if all(row)]
    sides = tuple(list(side) for side in zip(*full)) or tuple([] for _ in languages)
    if source.languages != languages:
        sides = sides[::-1]
    documents, empty = np.ones(len(full), np.int64), len(stripped) - len(full)
    if source.form == "text" and form.documents == "blank":
        is_text = np.array([bool(line) for (line,) in stripped], bool)
        begins_document = is_text & ~np.concatenate([[False], is_text[:-1]])
        documents, empty = np.bincount(np.cumsum(begins_document)[is_text] - 1), 0
    return Lines(sides, documents, empty, bad, low)


def _decode(text: bytes, path: str, unit: Unit, form: TextFormat) -> list[str | None]:
    """The lines of a text; None for a line that is not UTF-8 and may be left out.

    Raises:
        UserError: a line that is not UTF-8, or is so long that its tokens would fill the memory.
    """
    lines: list[str | None] = []
    if len(text) <= LONGEST_LINE:
        try:
            return text.decode().split("\n")[:-1]
        except UnicodeDecodeError:  # line by line, to find it
            pass
    for number, line in enumerate(text.split(b"\n")[:-1], unit.first_line):
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{path}: line {number}: longer than {LONGEST_LINE >> 20} MiB; break it into lines"
            )
        try:
            lines.append(line.decode())
        except UnicodeDecodeError as error:
            if not form.skip_bad_utf8:
                raise UserError(
                    f"{path}: line {number}: not UTF-8 (byte 0x{line[error.start]:02x}); convert the file, "
                    "or leave such lines out with --skip_bad_utf8 true"
                ) from error
            lines.append(None)
    return lines


def _columns(
    lines: list[str | None], unit: Unit, source: TextSource, form: TextFormat
) -> tuple[list[tuple[str, str]], int]:
    """The two cells of each line that is not blank, and the number of lines with too low a score."""
    first, second = (column - 1 for column in form.tsv_columns or (1, 2))
    score = form.score_column - 1
    fewest = max(first, second, score) + 1
    most = 1 << 30 if form.tsv_columns else 2
    rows, low = [], 0
    for number, line in enumerate(lines, unit.first_line):
        cells = line.split("\t") if line else []
        where = f"{source.paths[0]}: line {number}"
        if not fewest <= len(cells) <= most:
            if not line or not line.strip():
                continue
            wanted = f"at least {fewest}" if form.tsv_columns else "2"
            raise UserError(
                f"{where}: {len(cells)} columns between tabs, expected {wanted}; name the columns that hold "
                "the pair with --tsv_columns, as in [2, 3]"
            )
        try:
            fits = score < 0 or float(cells[score]) >= form.min_score
        except ValueError as error:
            raise UserError(
                f"{where}: '{cells[score][:40]}' is no score; name its column with --score_column"
            ) from error
        if fits:
            rows.append((cells[first], cells[second]))
        low += not fits
    return rows, low


def _translation_units(unit: Unit, source: TextSource) -> list[tuple[str, str]]:
    """The segments of each <tu> in the two languages; empty where a language is missing."""
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
    """The text of the first segment in a language. en matches en first, then en-US, en-GB, ..."""
    wanted = language.replace("_", "-").lower()
    for matches in (str.__eq__, lambda tag, wanted: tag.split("-")[0] == wanted):
        for tag, segment in segments:
            if segment is not None and matches(tag, wanted):
                return " ".join(_text(segment).split())
    return ""


def _text(element: ElementTree.Element) -> str:
    parts = [element.text or ""]
    for child in element:
        parts += ["" if child.tag in _MARKUP else _text(child), child.tail or ""]
    return "".join(parts)
