"""Pairs of texts in every form that is read: which columns of a file hold them, and the rows themselves.

    pairs.tsv, pairs.csv          a row on each line; the columns are found by `find_columns`
    pairs.tmx                     a unit of two languages is a row
    en.txt,de.txt                 two aligned files; en-de<=train: train.en and train.de (Moses)

Each file may be packed: .gz, .bz2 or .xz. Before a name, en-de<= names the languages in their order.
"""

import csv
import os
import re
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie_m.reader.files.find_pairs import find_pairs, languages_in_name, languages_of, split_label
from ernie_m.reader.files.official_tsv import (
    FileLines,
    decode,
    excel_separator,
    open_lines,
    without_blank_end,
)
from ernie_m.reader.files.plain_text import TextFile, split_name
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import unwritable_is_a_user_error
from ernie_m.utils.logging import logger

# What is said of a column. The first three are the names of texts.
QUERY, POSITIVE, NEGATIVE = "query", "positive", "negative"
TEXT, NUMBERS, FEW, NOT_READ = "text", "numbers", "few values", "named otherwise"
# The words of a header. Digits at their ends do not count, except in those that stand here with a digit.
_ROLES = {
    QUERY: "query anchor question source src source_sentence sentence1 text1 text_a sentence_1 text_1",
    POSITIVE: "positive pos answer target tgt translation target_sentence sentence2 text2 text_b sentence_2 "
    "text_2",
    NEGATIVE: "negative neg hard_negative negatives",
    NOT_READ: "id ids idx index line number score margin similarity label lang language licence license "
    "attribution url domain date user username split source_id target_id source_lang target_lang query_id",
    # The languages of the paper's Table 16.
    TEXT: "af ar bg bn de el en es et eu fa fi fr he hi hu it ja jv ka kk ko ml mr nl pt ru sw ta te th tl "
    "tr ur vi zh",
}
_ROLE_OF = {word: role for role, words in _ROLES.items() for word in words.split()}
# A number, a date, or an id of hexadecimal digits.
_NUMBER = re.compile(
    r"[-+#]?[\d.][\d.,:/ _-]*(e[-+]?\d+)?%?|nan|none|null|[\da-f]{8}[\da-f-]{8,}", re.IGNORECASE
)
# Those of the words for query and positive that say that the two are translations, beside languages.
_OF_TRANSLATIONS = {"source", "src", "source_sentence", "target", "tgt", "target_sentence", "translation"}
_DIGITS = re.compile(r"\d+")
_MOST_NUMBERS = 0.9  # the greatest share of numbers in a column of texts
_BEGINNING = 20  # characters of a cell without its digits: the same ones in a licence, a URL, an id
_FEW = 20  # values; a column of texts has more, or in a short file more than a tenth of its rows
_MOST_SAID = 9  # columns that a line names
_ROWS_FOR_SHIFT = 10_000
_FEWEST_EQUAL = 5  # rows whose numbers are those of a neighbour, for a warning
_FEWEST_ROWS = 5  # fewer rows do not tell whether values repeat


class _Column:
    """What the cells of a column have in common; they are seen one after the other."""

    def __init__(self):
        self.count = 0
        self.numbers = 0
        self.values: set[str] = set()  # at most one more than `_FEW`

    def see(self, cell: str) -> None:
        self.count += 1
        self.numbers += _NUMBER.fullmatch(cell) is not None
        if len(self.values) <= _FEW:
            # What has digits is compared by its beginning, so that ids, URLs and licences are one value.
            stem = _DIGITS.sub("", cell)
            self.values.add(stem if stem == cell and "://" not in cell else stem[:_BEGINNING])

    @property
    def kind(self) -> str:
        """TEXT, NUMBERS or FEW."""
        if self.numbers > _MOST_NUMBERS * self.count:
            return NUMBERS
        most = min(_FEW, max(1, self.count // 10))
        return FEW if self.count >= _FEWEST_ROWS and len(self.values) <= most else TEXT


@dataclass(frozen=True)
class Columns:
    """Which columns of a file of pairs hold the texts.

    Attributes:
        delimiter: what separates the cells.
        skipped: the number of lines before the first row: a header, and Excel's sep=;.
        texts: the numbers of the columns, from 0: query, positive, negatives.
        width: the number of columns of the widest row.
        left_out: the others, for the log.
        are_translations: whether a header says that query and positive are translations of each other.
    """

    delimiter: str
    skipped: int
    texts: tuple[int, ...]
    width: int
    left_out: str = ""
    are_translations: bool = False

    def log(self, path: str | os.PathLike) -> None:
        """Say which columns are not read, if there are any."""
        if self.left_out:
            query, positive, *_ = self.texts
            line = "%s: columns %d and %d are the pair; not read: %s"
            logger.info(line, path, query + 1, positive + 1, self.left_out)

    def cells(self, line: str, path: str | os.PathLike, number: int) -> list[str]:
        """The cells of line `number` of a file, without white space at both ends.

        Raises:
            UserError: a quote of a .csv file is not closed on this line.
        """
        return [cell.strip() for cell in _split(line, self.delimiter, path, number)]


def _split(line: str, delimiter: str, path: str | os.PathLike, number: int) -> list[str]:
    line = line.strip("\ufeff\r\n")  # U+FEFF: byte order mark
    if delimiter == "\t":
        return line.split("\t")
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [""])
    except csv.Error as error:
        raise UserError(
            f"{path}, line {number}: a quote is not closed, or text follows it; a text must have no line end"
        ) from error


def find_columns(
    lines: Iterable[str],
    path: str | os.PathLike,
    languages: Sequence[str] = (),
    chosen: Sequence[int] = (),
) -> Columns:
    """Find the columns of the texts in the lines of a file.

    A header names them, or the content tells: a column of numbers, of few values, or of values with digits
    that begin alike (ids, scores, languages, licences) has no texts. The first column of texts is the query
    and the second one the positive; without a header further ones are negatives.

    Args:
        lines: all lines, or enough to judge by; blank ones do not count.
        path: of the file; its name says whether it is .csv.
        languages: names of columns in a header, in the order of the texts.
        chosen: the numbers of the columns, if they are known; then only the header is found.

    Raises:
        UserError: there are no two columns of texts, or a header does not say which they are.
    """
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    number, line = next(numbered, (1, ""))
    # The delimiter, from the name and the first line.
    delimiter = "\t"
    if split_name(path)[0] == ".csv":
        if separator := excel_separator(line):
            delimiter = separator
            number, line = next(numbered, (number, ""))
        elif "\t" not in line:
            delimiter = max(";,", key=line.count)
    first = _split(line, delimiter, path, number)
    # What the cells below the first row have in common.
    columns = [_Column() for _ in first]
    for number_below, line_below in numbered:
        for place, cell in enumerate(_split(line_below, delimiter, path, number_below)):
            if place == len(columns):
                columns.append(_Column())
            columns[place].see(cell.strip())
    # A header has two known names, or a word above numbers.
    roles = [_role(cell, languages) for cell in first]
    header = sum(role is not None for role in roles) >= 2 or any(
        column.count and column.kind == NUMBERS and not _NUMBER.fullmatch(cell.strip() or "0")
        for cell, column in zip(first, columns)
    )
    if not header:
        roles = []
        for cell, column in zip(first, columns):
            column.see(cell.strip())
    kinds = [column.kind for column in columns]
    if TEXT not in kinds:  # few rows, again and again
        kinds = [TEXT if kind == FEW else kind for kind in kinds]
    kinds[: len(roles)] = [role or kind for role, kind in zip(roles, kinds)]
    skipped = number if header else number - 1
    found = Columns(delimiter, skipped, tuple(chosen), len(columns))
    if chosen:
        return found
    found = _choose(kinds, found, header, place=f"{path}, line {number}")
    words = (
        [first[column].strip().strip("\ufeff").casefold() for column in found.texts[:2]] if header else [""]
    )
    named = all(word in _OF_TRANSLATIONS or _ROLE_OF.get(word) == TEXT for word in words)
    return replace(found, are_translations=named)


def _role(cell: str, languages: Sequence[str]) -> str | None:
    """What a cell of a header names; None: nothing that is known."""
    word = cell.strip().strip("\ufeff").casefold()
    for language, role in zip(languages, (QUERY, POSITIVE)):
        if word == language.casefold():
            return role
    return _ROLE_OF.get(word) or _ROLE_OF.get(word.rstrip("0123456789").rstrip("_- "))


def _choose(kinds: list[str], columns: Columns, has_header: bool, place: str) -> Columns:
    """Choose the columns of the texts, given the kind of each column.

    Raises:
        UserError: as `find_columns`; names `place`.
    """
    texts, queries, positives, negatives = (
        [number for number, kind in enumerate(kinds) if kind == named]
        for named in (TEXT, QUERY, POSITIVE, NEGATIVE)
    )
    if not (queries and positives):  # they are the first columns of texts that have no name
        if not queries:
            queries, texts = texts[:1], texts[1:]
        if not positives:
            positives, texts = texts[:1], texts[1:]
        if not has_header:
            negatives = texts
        elif texts:
            numbers = _said(str(number + 1) for number in sorted(queries + positives + texts))
            raise UserError(
                f"{place}: which columns are the pair, of {numbers}? name them here: query, positive"
            )
    if not (queries and positives):
        found = _said(f"column {number + 1}: {kind}" for number, kind in enumerate(kinds))
        if len(kinds) == 1:
            found = "no tab"
        raise UserError(
            f"{place}: no two columns of texts ({found}); give query, tab, positive on each line. If they "
            "are texts, name the columns in a first line: query, tab, positive"
        )
    chosen = (queries[0], positives[0], *negatives)
    others = (f"column {number + 1} ({kind})" for number, kind in enumerate(kinds) if number not in chosen)
    return replace(columns, texts=chosen, left_out=_said(others))


def _said(columns: Iterable[str]) -> str:
    """What is said of the first columns."""
    columns = list(columns)
    return ", ".join([*columns[:_MOST_SAID], *["..."] * (len(columns) > _MOST_SAID)])


def header_of(are_translations: bool, negatives: int = 0) -> list[str]:
    """The names of the columns of pairs, which `find_columns` reads."""
    return [*(("source", "translation") if are_translations else (QUERY, POSITIVE)), *[NEGATIVE] * negatives]


class PairFiles(NamedTuple):
    """Where pairs are: one file with both sides, or two aligned files."""

    paths: tuple[str, ...]
    languages: tuple[str, ...]

    @classmethod
    def find(cls, notation: str) -> "PairFiles":
        """The files of `pairs.tsv`, of `a.txt,b.txt`, or of `en-de<=` and such a path or a Moses prefix.

        Raises:
            UserError: there is no such file, or there are several.
        """
        label, path = split_label(notation)
        languages = () if label is None else languages_of(label, 2)
        sources = find_pairs(path, languages)
        if len(sources) != 1:
            raise UserError(f"{notation}: {len(sources)} files; give one file of pairs")
        return cls(sources[0], languages)


def is_notation(text: str) -> bool:
    """Whether a text names files of pairs, which may be missing, and not a folder."""
    if os.path.isdir(text):
        return False
    looks_like_files = "<=" in text or "," in text or "." in text
    return looks_like_files or os.path.isfile(text)


class PairRows(Sequence[list[str]]):
    """The rows of files of pairs, each a list of its texts: query, positive, negatives.

    All rows are checked when the files are opened. A negative that is the row's own query or positive is left
    out. Plain files are read again when a row is asked for; others are unpacked to a temporary file.

    Args:
        files: in the notation of `PairFiles.find`.

    Attributes:
        paths: of the files.
        with_negatives: the number of rows that have negatives.
        own_negatives: the number of negatives that were left out.
        equal: the number of rows whose query and positive are equal.
        are_translations: whether they are translations of each other: the files have languages, in the
            notation or in their name, or are two, or .tmx; or a header says it.

    Raises:
        UserError: a file is missing, empty or not UTF-8, has no two columns of texts, a row has an empty text
            or none, or two files have different numbers of lines.
    """

    def __init__(self, files: str | os.PathLike):
        self.name = str(files)
        self.paths, languages = PairFiles.find(self.name)
        path = Path(self.paths[0])
        ending, packing = split_name(path)
        is_plain = len(self.paths) == 1 and not packing and ending != ".tmx"
        if is_plain:
            with closing(TextFile(str(path))):  # refuses other forms
                pass
        plain = path if is_plain else self._unpack(languages)
        with open_lines(plain) as (file, version):
            numbered = enumerate(without_blank_end(file), 1)
            self.columns = find_columns(
                (decode(line, path, number) for number, line in numbered), path, languages
            )
            self.columns.log(self.name)
            self.are_translations = bool(
                languages
                or languages_in_name(path)
                or len(self.paths) == 2
                or ending == ".tmx"
                or self.columns.are_translations
            )
            file.seek(0)
            starts = array("q")  # the byte at which each row begins; at last the end of the rows
            end = self.with_negatives = self.own_negatives = self.equal = 0
            for number, line in enumerate(without_blank_end(file), 1):
                if number > self.columns.skipped:
                    starts.append(end)
                    texts = self._texts(line, number)
                    row = _without_own(texts)
                    self.with_negatives += len(row) > 2
                    self.own_negatives += len(texts) - len(row)
                    self.equal += row[0] == row[1]
                end += len(line)
            starts.append(end)
        if len(starts) < 2:
            raise UserError(f"{path}: has a header and no rows")
        self._lines = FileLines(plain, version, np.asarray(starts, np.int64))
        if self.own_negatives:
            logger.info(
                "%s: %d negatives are left out, because they are the query or the positive of their row",
                self.name,
                self.own_negatives,
            )
        if self.equal:
            logger.warning(
                "%s: in %d of %d rows query and positive are equal; nothing is learned from them",
                self.name,
                self.equal,
                len(self),
            )
        if is_shifted(self):
            logger.warning(
                "%s: queries have the numbers of the positives of neighbouring rows, not of their own; are "
                "the columns shifted by a row?",
                self.name,
            )

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> list[str]:
        number = range(len(self))[index] + self.columns.skipped + 1
        return _without_own(self._texts(self._lines.line(index), number))

    def header(self, more_negatives: int = 0) -> list[str]:
        """The names of the columns of these rows with further negatives; none if no name is needed."""
        if not (self.columns.skipped or self.are_translations):
            return []
        return header_of(self.are_translations, len(self.columns.texts) - 2 + more_negatives)

    def _texts(self, line: bytes, number: int) -> list[str]:
        """The texts of a line, query and positive first.

        Raises:
            UserError: there are no two, one is empty, or it is not UTF-8.
        """
        cells = self.columns.cells(decode(line, self.paths[0], number), self.paths[0], number)
        texts = [cells[column] for column in self.columns.texts if column < len(cells)]
        if len(cells) <= max(self.columns.texts[:2]) or not all(texts):
            raise UserError(
                f"{self.paths[0]}, line {number}: give query, tab, positive, and perhaps negatives, or "
                "remove the line"
            )
        return texts

    def _unpack(self, languages: Sequence[str]) -> Path:
        """Write the rows to a temporary file, which is removed with this object.

        Raises:
            UserError: a file cannot be read, or the two have different numbers of lines.
        """
        descriptor, name = tempfile.mkstemp(prefix="pairs.", suffix=".tsv")
        self._removal = weakref.finalize(self, Path(name).unlink, missing_ok=True)
        with ExitStack() as stack:
            stack.enter_context(unwritable_is_a_user_error(name))
            output = stack.enter_context(os.fdopen(descriptor, "wb"))
            files = [stack.enter_context(closing(TextFile(path, languages))) for path in self.paths]
            if len(files) == 1:
                output.writelines(line + b"\n" for line in files[0].lines())
            else:
                output.writelines(_joined(*files))
        return Path(name)

    def __getstate__(self) -> dict:  # a copy in another process does not remove the temporary file
        return {name: value for name, value in vars(self).items() if name != "_removal"}


def _joined(left: TextFile, right: TextFile) -> Iterator[bytes]:
    """Line i of one file, tab, line i of the other. A tab in a text is a space.

    Raises:
        UserError: the files have different numbers of lines.
    """
    lines = [(line.replace(b"\t", b" ") for line in file.lines()) for file in (left, right)]
    try:
        for pair in zip(*lines, strict=True):
            yield b"\t".join(pair) + b"\n"
    except ValueError as error:
        raise UserError(
            f"{left.path} and {right.path}: they have different numbers of lines; line i of one must "
            "translate line i of the other"
        ) from error


def is_shifted(rows: Iterable[Sequence[str]]) -> bool:
    """Whether numbers tell that each query belongs to the positive of the row before, or of the one after.

    In 15 files of translations, at least 30 times as many rows have equal numbers as neighbours have.

    Args:
        rows: query, positive, and perhaps negatives; the first `_ROWS_FOR_SHIFT` are looked at.
    """
    numbers = []
    for query, positive, *_ in islice(rows, _ROWS_FOR_SHIFT):
        numbers.append((sorted(_DIGITS.findall(query)), sorted(_DIGITS.findall(positive))))
    queries, positives = zip(*numbers)
    own, before, after = (
        sum(query != [] and query == positive for query, positive in zip(*sides))
        for sides in ((queries, positives), (queries[1:], positives), (queries, positives[1:]))
    )
    return max(before, after) >= max(_FEWEST_EQUAL, 2 * own)


def _without_own(texts: list[str]) -> list[str]:
    """A row without negatives that are its own query or positive."""
    pair = texts[:2]
    return pair + [text for text in texts[2:] if text not in pair]
