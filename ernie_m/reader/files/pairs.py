"""Pairs of texts in every form that is read: which columns of a file hold them, and the rows themselves.

    pairs.tsv, pairs.csv, ...     a row on each line, in any form of `table/`; see `columns_of_pairs`
    pairs.tmx                     a unit of two languages is a row
    en.txt,de.txt                 two aligned files; en-de<=train: train.en and train.de (Moses)

Each file may be packed: .gz, .bz2 or .xz. Before a name, en-de<= names the languages in their order.
"""

import os
import re
import tempfile
import weakref
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.find_pairs import find_pairs, languages_in_name, languages_of, split_label
from ernie_m.reader.files.official_tsv import FileLines, open_lines
from ernie_m.reader.files.plain_text import TextFile, split_name
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.columns import is_number
from ernie_m.reader.files.table.form import (
    Form,
    OpenedTable,
    Wanted,
    counted,
    in_one_line,
    open_table,
    options_of,
)
from ernie_m.reader.files.table.odd_text import look_at_text
from ernie_m.reader.files.table.words import (
    ALIKE,
    CLASSES,
    EMPTY,
    ID,
    IN_LANGUAGE,
    LABEL,
    LANGUAGE,
    NEGATIVE,
    NOT_READ,
    NUMBERS,
    ONE,
    POSITIVE,
    QUERY,
    SECOND,
    SPLIT,
    TEXT,
    TEXTS,
    VERDICTS,
    purpose_of,
)
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.files import unwritable_is_a_user_error
from ernie_m.utils.logging import logger

_NO_SIDE = (EMPTY, NUMBERS, LANGUAGE, SPLIT, ID, ONE)  # kinds of columns that a name does not make texts
# Those of the words for query and positive that say that the two are translations, beside languages.
_OF_TRANSLATIONS = {"source", "src", "source_sentence", "target", "tgt", "target_sentence", "translation"}
_DIGITS = re.compile(r"\d+")
_FEW_ROWS = 5  # fewer do not tell that a column has one value
_MOST_SAID = 9  # columns that a line names
_ROWS_FOR_SHIFT = 10_000
_ROWS_SHOWN = 1000  # that tell whether the sides are text
_FEWEST_EQUAL = 5  # rows whose numbers are those of a neighbour, for a warning


@dataclass(frozen=True)
class Columns:
    """Which columns of a file of pairs hold the texts.

    Attributes:
        form: how cells are written.
        skipped: the number of lines before the first row: a header, and Excel's sep=;.
        texts: the numbers of the columns, from 0: query, positive, negatives.
        width: the number of columns.
        split: the column that says which rows are for training.
        wanted: which rows are read; None: all.
        left_out: the other columns, for the log.
        are_translations: whether a header says that query and positive are translations of each other.
        chosen: whether the user named the columns.
    """

    form: Form
    skipped: int = 0
    texts: tuple[int, ...] = (0, 1)
    width: int = 2
    split: int | None = None
    wanted: Wanted | None = None
    left_out: str = ""
    are_translations: bool = False
    chosen: bool = False

    def log(self, path: str | os.PathLike) -> None:
        """Say which columns are not read, if there are any."""
        if self.left_out:
            query, positive, *_ = self.texts
            line = "%s: columns %d and %d are the pair; not read: %s"
            logger.info(line, path, query + 1, positive + 1, self.left_out)

    def texts_of(self, cells: Sequence[str]) -> tuple[list[str], str]:
        """The texts of a row without white space at both ends, and what is wrong with it, or ""."""
        texts = [cells[column].strip() for column in self.texts if column < len(cells)]
        # Negatives at the end may be missing; what the user named may have further columns beside it.
        may_be_short = self.chosen or len(self.texts) > 2
        fewest = max(self.texts[:2]) + 1 if may_be_short else self.width
        is_too_long = len(cells) > self.width and not self.chosen
        if len(cells) < fewest or is_too_long:
            return texts, f"{counted(len(cells))}, and others have {self.width}"
        fault = "" if all(texts) else "a text is empty"
        return texts, fault

    def is_read(self, cells: Sequence[str]) -> bool:
        """Whether a row is one to train on."""
        if self.split is None:
            return True
        return len(cells) <= self.split or cells[self.split].strip().lower() in ("", "train", "training")


def columns_of_pairs(table: OpenedTable, options: TableOptions, languages: Sequence[str] = ()) -> Columns:
    """Find the columns of the texts of a table.

    A header names them, or the content tells: columns of numbers, languages, ids or one value have no texts.
    The first column of texts is the query and the second one the positive; without a header further ones are
    negatives.

    Args:
        languages: names of columns in a header, in the order of the texts.

    Raises:
        UserError: there are no two columns of texts, it has to be asked which they are, or another column
            judges the pairs and no `options.only` says which of them are meant.
    """
    if not table.sample:
        raise UserError(f"{table.path}: has a header and no rows")
    kinds = table.kinds
    names = [(name or "").strip().casefold() for name in table.names or [""] * len(kinds)]
    purposes = [purpose_of(name) if name else None for name in names]
    for language, purpose in zip(languages, (QUERY, POSITIVE)):
        if language.casefold() in names:
            purposes[names.index(language.casefold())] = purpose
    if options.columns:
        texts = tuple(table.place(name.strip()) for name in options.columns.split(","))
        if len(set(texts)) < 2 or len(set(texts)) < len(texts):
            raise UserError(
                f"--columns {options.columns}: it names query and positive, two different columns"
            )
    else:
        texts = _sides(table, purposes)
    left_out = [place for place in range(len(kinds)) if place not in texts]
    judges = [place for place in left_out if _judges(table, place, purposes[place])]
    if judges and not options.only:
        place = judges[0]
        name = table.names[place].strip() if table.names else str(place + 1)
        values = sorted({cells[place].strip() for cells in table.sample if len(cells) > place})
        example = f"'{name}>=0.8'" if kinds[place] == NUMBERS else f"'{name}={values[-1]}'"
        raise UserError(
            f"{table.path}, line {table.line}: column {place + 1} judges the pairs "
            f"({listed(values, 3)}); all would be trained on as equals; say which are: --only {example}, or "
            "--only all"
        )
    split = next((place for place in left_out if kinds[place] == SPLIT), None)
    named = {names[place] for place in texts[:2]}
    are_translations = all(name in _OF_TRANSLATIONS or purpose_of(name) == IN_LANGUAGE for name in named)
    takes_all = options.only in (None, "all")
    return Columns(
        form=table.form or Form("\t", False),
        skipped=table.line if table.names else table.line - 1,
        texts=texts,
        width=len(kinds),
        split=split,
        wanted=None if takes_all else Wanted.of(table, options.only),
        left_out=_said(f"column {place + 1} ({kinds[place]})" for place in left_out),
        are_translations=bool(table.names) and are_translations,
        chosen=bool(options.columns),
    )


def _judges(table: OpenedTable, place: int, purpose: str | None) -> bool:
    """Whether a column judges the pairs: by verdicts, or by scores of which some are much lower than others.

    The scores of mined pairs do not, because these are the best of many. Whole numbers without a name may be
    ids.

    Args:
        purpose: what the name of the column says of it; None: nothing, or it has no name.
    """
    kind = table.kinds[place]
    if kind == VERDICTS:
        return purpose in (LABEL, NUMBERS, None)
    is_score_by_name = purpose in (LABEL, NUMBERS) if table.names else purpose is None
    if not is_score_by_name or kind not in (NUMBERS, CLASSES):
        return False
    scores = [cells[place].strip().replace(",", ".") for cells in table.sample if len(cells) > place]
    numbers = [float(score) for score in scores if is_number(score)]
    if not table.names and (len(numbers) < len(scores) or all(map(float.is_integer, numbers))):
        return False
    return not numbers or min(numbers) < max(numbers) / 3


def _sides(table: OpenedTable, purposes: Sequence[str | None]) -> tuple[int, ...]:
    """The places of query, positive and negatives.

    Raises:
        UserError: as `columns_of_pairs`.
    """
    kinds = table.kinds
    if {*kinds} <= {ONE, EMPTY} or len(table.sample) < _FEW_ROWS:  # one row, again and again; or too few
        kinds = [TEXTS if kind == ONE else kind for kind in kinds]
    usable = [place for place, kind in enumerate(kinds) if kind not in _NO_SIDE]
    places_of: dict[str | None, list[int]] = defaultdict(list)  # purpose -> columns
    for place in usable:
        places_of[purposes[place]].append(place)
    queries = places_of[QUERY]
    positives = places_of[POSITIVE]
    negatives = places_of[NEGATIVE]
    if not queries and len(places_of[TEXT]) == 1:
        queries = places_of[TEXT]
    if not positives and len(places_of[SECOND]) == 1:
        positives = places_of[SECOND]
    if not (queries and positives):  # they are the first columns of texts that have no name
        named = (*queries, *positives, *negatives)
        no_texts = (ID, NOT_READ, NUMBERS, LABEL, SPLIT, LANGUAGE)
        texts: list[int] = []
        for kind in (TEXTS, ALIKE, CLASSES):  # few rows, again and again, if there are no others
            texts += [
                place
                for place in usable
                if kinds[place] == kind and place not in named and purposes[place] not in no_texts
            ]
            if len(queries[:1]) + len(positives[:1]) + len(texts) >= 2:
                break
        if not queries:
            queries, texts = texts[:1], texts[1:]
        if not positives:
            positives, texts = texts[:1], texts[1:]
        has_more = {len(cells) for cells in table.sample} != {len(kinds)}  # some rows, as negatives are
        if not table.names and has_more:
            negatives = texts
        elif texts:
            numbers = _said(str(place + 1) for place in sorted(queries + positives + texts))
            raise UserError(
                f"{table.path}, line {table.line}: which columns are the pair, of {numbers}? say it, as in "
                f"--columns {queries[0] + 1},{positives[0] + 1}; negatives may follow"
            )
    if not (queries and positives):
        found = _said(f"column {place + 1}: {kind}" for place, kind in enumerate(kinds))
        raise UserError(
            f"{table.path}, line {table.line}: no two columns of texts ({found}); give query, tab, positive "
            "on each line, or name the columns: --columns 1,2"
        )
    return queries[0], positives[0], *negatives


def _said(columns: Iterable[str]) -> str:
    """What is said of the first columns."""
    columns = list(columns)
    if len(columns) > _MOST_SAID:
        columns = [*columns[:_MOST_SAID], "..."]
    return ", ".join(columns)


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
    looks_like_files = "<=" in text or "," in text or "." in text
    return looks_like_files or os.path.isfile(text)


class PairRows(Sequence[list[str]]):
    """The rows of files of pairs, each a list of its texts: query, positive, negatives.

    All rows are checked when the files are opened. A negative that is the row's own query or positive is left
    out. Plain files are read again when a row is asked for; others are unpacked to a temporary file.

    Args:
        files: in the notation of `PairFiles.find`.
        options: how a table is read.
        all_splits: whether rows are read that a column says are not for training.

    Attributes:
        paths: of the files.
        with_negatives: the number of rows that have negatives.
        own_negatives: the number of negatives that were left out.
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
        else:
            places = np.append(np.asarray(starts, np.int64)[self.lines - 1], version.size)
            self._lines = FileLines(path, version, places)
        sides = zip(*(row[:2] for row in islice(self, _ROWS_SHOWN)))
        for side, language in zip(sides, languages or ("", "")):
            look_at_text(self.name, side, language, options.text_as_it_stands)
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
        cells = self.columns.form.cells(self._lines.line(index).decode())
        texts, _ = self.columns.texts_of(cells)
        return _without_own(texts)

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
        not_trained = self.with_negatives = self.own_negatives = self.equal = 0
        with ExitStack() as stack:
            output = None
            if not is_plain:
                descriptor, name = tempfile.mkstemp(prefix="pairs.", suffix=".tsv")
                self._removal = weakref.finalize(self, Path(name).unlink, missing_ok=True)
                stack.enter_context(unwritable_is_a_user_error(name))
                output = stack.enter_context(os.fdopen(descriptor, "wb"))
            for line, cells in rows:
                if not self.columns.is_read(cells):
                    not_trained += 1
                    continue
                texts, fault = self.columns.texts_of(cells)
                if fault:
                    faults.add(
                        line, fault, "a row is query, positive, and perhaps negatives; mend or remove it"
                    )
                    continue
                row = _without_own(texts)
                self.with_negatives += len(row) > 2
                self.own_negatives += len(texts) - len(row)
                self.equal += row[0] == row[1]
                lines.append(line)
                if output:
                    content = "\t".join(map(in_one_line, texts)).encode() + b"\n"
                    output.write(content)
                    starts.append(starts[-1] + len(content))
        faults.end(logger.warning)
        if not lines:
            raise UserError(f"{self.paths[0]}: has a header and no rows")
        if not_trained:
            logger.warning(
                "%s: %s rows that are not for training are left out", self.name, f"{not_trained:,}"
            )
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


def _without_own(texts: list[str]) -> list[str]:
    """A row, less the negatives that are its own query or positive."""
    pair = texts[:2]
    return pair + [text for text in texts[2:] if text not in pair]
