"""Pairs of texts in every form that is read: which columns of a file hold them, and the rows themselves.

    pairs.tsv, pairs.csv, ...     a row on each line, in any form of `table/`; see `columns_of_pairs`
    pairs.tmx                     a unit of two languages is a row
    en.txt,de.txt                 two aligned files; en-de<=train: train.en and train.de (Moses)

Each file may be packed: .gz, .bz2 or .xz. Before a name, en-de<= names the languages in their order.
"""

import io
import os
import re
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.find_pairs import find_pairs, languages_in_name, languages_of, split_label
from ernie_m.reader.files.odd_text import look_at_text
from ernie_m.reader.files.official_tsv import FileLines, open_lines
from ernie_m.reader.files.plain_text import TextFile, split_name
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.form import Form, in_one_line, open_table, options_of, records
from ernie_m.reader.files.table.pair_columns import Columns, columns_of_pairs
from ernie_m.reader.files.table.words import NEGATIVE, POSITIVE, QUERY
from ernie_m.tokenizer.equal_texts import normal_form
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import unwritable_is_a_user_error
from ernie_m.utils.logging import logger

_DIGITS = re.compile(r"\d+")
_ROWS_FOR_SHIFT = 10_000
_ROWS_SHOWN = 1000  # that tell whether the sides are text
_FEWEST_EQUAL = 5  # rows whose numbers are those of a neighbour, for a warning


def header_of(are_translations: bool, negatives: int = 0) -> list[str]:
    """The names of the columns of pairs, which `columns_of_pairs` reads."""
    sides = ["source", "translation"] if are_translations else [QUERY, POSITIVE]
    return sides + [NEGATIVE] * negatives


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
    return "<=" in text or "," in text or "." in text or os.path.isfile(text)


class PairRows(Sequence[list[str]]):
    """The rows of files of pairs, each a list of its texts: query, positive, negatives.

    All rows are checked when the files are opened. Plain files are read again when a row is asked for; others
    are unpacked to a temporary file.

    Args:
        files: in the notation of `PairFiles.find`.
        options: how a table is read.
        all_splits: whether rows are read that a column says are not for training.

    Attributes:
        paths: of the files.
        with_negatives: the number of rows that have negatives.
        equal: the number of rows whose query and positive are equal.
        are_translations: whether they are translations of each other: the files have languages, in the
            notation or in their name, or are two, or .tmx; or a header says it.
        lines: the number of the line of each row, int64 [N].

    Raises:
        UserError: a file is missing, empty or not UTF-8, has no two columns of texts, a row has an empty text
            or none, or two files have different numbers of lines.
    """

    def __init__(
        self, files: str | os.PathLike, options: TableOptions | None = None, all_splits: bool = False
    ):
        self.name = str(files)
        self.paths, languages = PairFiles.find(self.name)
        path = Path(self.paths[0])
        options = options_of(path, options or TableOptions())
        faults = Faults(path, options.on_error == "skip")
        starts = array("q")  # the byte at which each line begins
        with open_lines(path) as (_, version):  # it shows later whether the file was changed
            is_plain = False
            if len(self.paths) == 1 and split_name(path)[0] != ".tmx":
                table = open_table(path, options, faults, logger.info, ragged=True, starts=starts)
                is_plain = table.is_plain
                self.columns = columns_of_pairs(table, options, languages)
                if all_splits:
                    self.columns = replace(self.columns, split=None)
                self.columns.log(self.name)
                rows = table.rows
            else:
                self.columns = Columns(Form("\t", False), are_translations=True)
                rows = _rows_of_files(self.paths, languages, options.encoding)
            languages = languages or languages_in_name(path)
            self.are_translations = bool(languages) or self.columns.are_translations
            unpacked = self._check(rows, faults, is_plain)
        if unpacked:
            self._lines = unpacked
        else:  # a plain table: `open_table` has filled `starts`, and `_check` has set `self.lines`
            places = np.append(np.asarray(starts, np.int64)[self.lines - 1], version.size)
            self._lines = FileLines(path, version, places)
        sides = zip(*(row[:2] for row in islice(self, _ROWS_SHOWN)))
        for side, language in zip(sides, languages or ("", "")):
            look_at_text(self.name, side, language, options.text_as_it_stands)
        for count, what in (
            (self._not_trained, "{:,} rows that are not for training are left out"),
            (self.equal, "in {:,} of {:,} rows query and positive are equal; nothing is learned from them"),
        ):
            if count:
                logger.warning("%s: %s", self.name, what.format(count, len(self)))
        if is_shifted(self):
            logger.warning(
                "%s: queries have the numbers of the positives of neighbouring rows, not of their own; are "
                "the columns shifted by a row?",
                self.name,
            )

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> list[str]:
        # Behind the row there may be lines that are left out, as what is not UTF-8.
        text = io.StringIO(self._lines.line(index).decode(errors="replace"), newline="\n")
        _, cells = next(records(text, self.columns.form, Faults("")))
        texts, _ = self.columns.texts_of(cells)
        return texts

    def header(self, more_negatives: int = 0) -> list[str]:
        """The names of the columns of these rows with further negatives."""
        return header_of(self.are_translations, len(self.columns.texts) - 2 + more_negatives)

    def _check(
        self, rows: Iterable[tuple[int, list[str]]], faults: Faults, is_plain: bool
    ) -> FileLines | None:
        """Look at all rows. Those of a file that is not plain are written to a temporary one, and returned.

        Raises:
            UserError: a file cannot be read, a row has another form, or none is left.
        """
        lines = array("q")
        starts = array("q", [0])
        self._not_trained = self.with_negatives = self.equal = 0
        with ExitStack() as stack:
            output = None
            if not is_plain:
                descriptor, name = tempfile.mkstemp(prefix="pairs.", suffix=".tsv")
                self._removal = weakref.finalize(self, Path(name).unlink, missing_ok=True)
                stack.enter_context(unwritable_is_a_user_error(name))
                output = stack.enter_context(os.fdopen(descriptor, "wb"))
            for line, cells in rows:
                if not self.columns.is_read(cells):
                    self._not_trained += 1
                    continue
                texts, fault = self.columns.texts_of(cells)
                if fault:
                    mend = "a row is query, positive, and perhaps negatives; mend or remove it"
                    faults.add(line, fault, mend)
                    continue
                self.with_negatives += len(texts) > 2
                self.equal += normal_form(texts[0]) == normal_form(texts[1])
                lines.append(line)
                if output:
                    content = "\t".join(map(in_one_line, texts)).encode() + b"\n"
                    output.write(content)
                    starts.append(starts[-1] + len(content))
        faults.end(logger.warning)
        if not lines:
            raise UserError(f"{self.paths[0]}: has a header and no rows")
        self.lines = np.asarray(lines, np.int64)
        if is_plain:
            return None
        count = len(self.columns.texts)
        self.columns = replace(self.columns, form=Form("\t", False), texts=tuple(range(count)), width=count)
        with open_lines(Path(name)) as (_, version):
            return FileLines(Path(name), version, np.asarray(starts, np.int64))

    def __getstate__(self) -> dict:  # a copy in another process does not remove the temporary file
        return {name: value for name, value in vars(self).items() if name != "_removal"}


def _rows_of_files(
    paths: Sequence[str], languages: Sequence[str], encoding: str | None
) -> Iterator[tuple[int, list[str]]]:
    """The two texts of each line of two aligned files, or of each unit of a .tmx file.

    Raises:
        UserError: a file cannot be read, or the two have different numbers of lines.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(closing(TextFile(path, languages, encoding))) for path in paths]
        faults = Faults(paths[0])
        texts = [file.texts(faults) for file in files]
        if len(files) == 1:
            yield from ((line, text.rstrip("\n").split("\t")) for line, text in enumerate(texts[0], 1))
            return
        try:
            for line, pair in enumerate(zip(*texts, strict=True), 1):
                if any(map(str.strip, pair)):
                    yield line, [text.rstrip("\r\n") for text in pair]
        except ValueError as error:
            raise UserError(
                f"{' and '.join(paths)}: they have different numbers of lines; line i of one must translate "
                "line i of the other"
            ) from error
        faults.end(logger.warning)


def is_shifted(rows: Iterable[Sequence[str]]) -> bool:
    """Whether numbers tell that each query belongs to the positive of the row before, or of the one after.

    Translations have the same numbers: in 15 files at least 30 times as many queries have those of their own
    positive as those of a neighbour's. Where twice as many have a neighbour's, the file is shifted.

    Args:
        rows: query, positive, and perhaps negatives; the first `_ROWS_FOR_SHIFT` are looked at.
    """
    queries = []  # the numbers in each
    positives = []
    for query, positive, *_ in islice(rows, _ROWS_FOR_SHIFT):
        queries.append(sorted(_DIGITS.findall(query)))
        positives.append(sorted(_DIGITS.findall(positive)))

    def agreeing(first: Sequence[list[str]], second: Sequence[list[str]]) -> int:
        """How many have numbers, and the same."""
        return sum(a != [] and a == b for a, b in zip(first, second))

    own = agreeing(queries, positives)
    before = agreeing(queries[1:], positives)
    after = agreeing(queries, positives[1:])
    return max(before, after) >= max(_FEWEST_EQUAL, 2 * own)
