"""Readers of text pairs from files of all supported formats.

    en-de.tsv, en-de<=pairs.tsv   two columns of translations; the header is optional
    pairs.csv, pairs.jsonl, ...   a table with a header; see `ernie_m.reader.files.tables`
    pairs.tmx                     one row per translation unit
    pairs.jsonl                   or, as `datasets` writes it, {"translation": {"en": ..., "de": ...}}
    en.txt,de.txt                 two aligned files; en-de<=train: train.en and train.de (Moses)

Files may be compressed: .gz, .bz2 or .xz. The prefix en-de<= specifies the languages in order.
"""

import io
import os
import re
import shlex
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie_m.reader.equal_texts import normalize_text
from ernie_m.reader.files.find_files import (
    SPLIT_OF,
    find_pair_files,
    find_pair_languages,
    parse_languages,
    split_language_prefix,
)
from ernie_m.reader.files.official_tsv import FileLines, open_lines, split_cells, to_single_line
from ernie_m.reader.files.plain_text import TextFile, is_unit_file
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.files.tables import (
    PAIRS,
    Dialect,
    Table,
    find_text_error,
    open_table,
    parse_rows,
    sniff_dialect,
    to_cell,
)
from ernie_m.reader.files.text_checks import check_later_lines, check_text
from ernie_m.reader.labels import parse_boolean, parse_number
from ernie_m.utils.errors import UserError, join_items
from ernie_m.utils.files import translate_write_errors
from ernie_m.utils.logging import logger

_NEGATIVE = re.compile("(negatives?|neg)(_?[0-9]+)?")
_OF_TRANSLATIONS = {"source", "target", "translation"}
# Column names of quality scores; column names that are not, although they may have few numbers; and the
# maximum number of distinct scores, and the largest score.
_VERDICT = re.compile(
    "(.*[_ ]|is|gold)?"
    "(labels?|score|gold|relevan(t|ce|cy)|related(ness)?|similar(ity)?|duplicates?|paraphrases?|match(es)?"
    "|entail(s|ed|ment)|judge?ments?|verdict|grades?|ratings?|correct(ness)?|quality|confidence|probability)"
)
_NO_VERDICT = re.compile(
    "(.*[_ ])?(id|no|nr|number|index|year|month|day|domain|topic|group|fold|page|length)"
)
_MOST_VERDICTS, _LARGEST_VERDICT = 10, 100
_HEAD = 1 << 18  # bytes that include the first line
_ROWS_SHOWN = 1000  # rows to check that the sides are text
_SAMPLES, _ROWS_OF_A_SAMPLE = 16, 100  # samples of later rows to check it
_MANY_LINES = 20  # a longer file in alphabetical order was sorted


def make_header(are_translations: bool, num_negatives: int = 0) -> list[str]:
    """Return the column names that this project writes for pairs, and that `find_pair_columns` recognizes.

    Args:
        are_translations: whether the pairs are translations; otherwise queries and positives.
        num_negatives: the number of columns of negatives.
    """
    sides = ["source", "translation"] if are_translations else ["query", "positive"]
    return sides + ["negative"] * num_negatives


def detect_pair_dialect(
    file: TextFile, options: TableOptions, languages: Sequence[str]
) -> tuple[Dialect, bool]:
    """Detect the dialect of a delimited table of pairs, and whether it has a header.

    A table of two known languages with two columns, or with columns given by number, is a bitext, whose first
    line may be a row. Quotation marks are text in tab-separated bitexts and in files of this project.

    Args:
        languages: the languages of the pairs; (): unknown.
    """
    dialect = sniff_dialect(file, options)
    lines = io.StringIO(file.peek_lines(_HEAD).decode(errors="replace"), newline="\n")
    rows = parse_rows(
        islice(lines, dialect.skipped_lines, None),
        dialect._replace(quoted=dialect.quoted or False),
        RowErrors(""),
    )
    names = [cell.strip().lower() for _, cells in islice(rows, 1) for cell in cells]
    by_number = re.fullmatch(r"\d+(,\d+)*", options.columns or "") is not None
    is_bitext = len(languages) == 2 and (by_number or (len(names) == 2 and not options.columns))
    known = {*PAIRS["query"], *PAIRS["positive"], *map(str.lower, languages)}
    is_own = names[:2] in (make_header(True), make_header(False)) and {*names[2:]} <= {"negative"}
    if dialect.quoted is None and (is_bitext or is_own):
        dialect = dialect._replace(quoted=False)
    return dialect, not by_number and (not is_bitext or {*names} <= known)


class PairColumns(NamedTuple):
    """The columns of a table of pairs.

    Attributes:
        names: the column names of query, positive, and negatives.
        texts: the column indices of query, positive, and negatives.
        split: the indices of the split columns.
    """

    names: Sequence[str]
    texts: Sequence[int]
    split: Sequence[int]

    def is_training_row(self, cells: Sequence[Any]) -> bool:
        """Return whether a row is in the training split; true without a split column."""
        return all(SPLIT_OF.get(str(cells[column]).strip().lower()) == "train" for column in self.split)

    def expand_positives(self, cells: Sequence[Any]) -> list[list[str]]:
        """Expand a row into one row per positive: query, positive and negatives, stripped.

        Trailing negatives may be missing (None), and others empty.

        Raises:
            UserError: the row is invalid.
        """
        missing = [column for column, cell in enumerate(cells) if cell is None]
        if not {*self.texts[2:]}.issuperset(missing):
            found = len(cells) - len(missing)
            raise UserError(f"{found} columns (expected {len(cells)}). Fix or remove the row")
        query, *others = (cells[column] for column in self.texts)
        positives, *negatives = (cell if isinstance(cell, list) else [cell] for cell in others)
        sides = [[query], positives or [""], *(list(filter(None, side)) for side in negatives)]
        errors = [find_text_error(name, text) for name, side in zip(self.names, sides) for text in side]
        if any(errors):
            raise UserError(f"{max(errors)}. Fix or remove the row")
        texts = [text.strip() for side in sides[2:] for text in side]
        return [[query.strip(), text.strip(), *texts] for text in positives]


def find_pair_columns(table: Table, options: TableOptions, languages: Sequence[str]) -> PairColumns:
    """Find the columns of pairs in a table, by --columns or by known names.

    Args:
        languages: language codes that may be column names, in order.

    Raises:
        UserError: the columns are missing or ambiguous, or another one looks like a quality score and
            --filter is not set.
    """
    folded = [name.lower() for name in table.names]
    if options.columns:
        texts = [table.find_column(name, "--columns") for name in options.columns.split(",")]
    elif languages and table.names == ["1", "2"]:  # a bitext without a header
        texts = [0, 1]
    else:
        # A first row of WikiMatrix, which has no header, ends in the languages as the others do.
        columns = {
            name.lower(): column
            for column, name in enumerate(table.names)
            if all(row[column] != name for row in table.sample)
        }
        texts = [columns[name] for name in map(str.lower, languages) if name in columns]
        if len(texts) != 2:
            sides = [table.find_known_columns(PAIRS[part]) for part in ("query", "positive")]
            texts = list(chain(*sides)) if [len(side) for side in sides] == [1, 1] else []
        texts += [column for column, name in enumerate(folded) if texts and _NEGATIVE.fullmatch(name)]
    if len(texts) < 2 or len({*texts}) < len(texts):
        raise table.make_column_error(
            "missing columns of query and positive. (With a quality score, also set --filter COLUMN=VALUE. "
            "If this is not a file of pairs, pass the files of pairs instead of their folder.)",
            ["--columns QUERY,POSITIVE"],
        )
    judges = [
        column for column in range(len(folded)) if column not in texts and _may_be_scores(table, column)
    ]
    if judges and not options.filter:
        name = table.names[judges[0]]
        cells = [str(to_cell(row[judges[0]])) for row in table.sample]
        best = max(filter(None, cells), key=lambda cell: _parse_score(cell) or 0, default="1")
        sign = ">=" if parse_boolean(best) is None and _parse_score(best) is not None else "="
        raise UserError(
            f"{table.path}, line {table.line}: column '{name}' looks like a quality score. Set --filter, "
            f"as in --filter {shlex.quote(name + sign + best)}, or --filter all to train on every pair"
        )
    names = [table.names[column] for column in texts]
    others = [name for column, name in enumerate(table.names) if column not in texts]
    if others:
        logger.info(
            "%s: pairs: %s; ignored columns: %s", table.path, " and ".join(names[:2]), join_items(others)
        )
    return PairColumns(
        names, texts, [column for column in table.find_known_columns(["split"]) if column not in texts]
    )


def _parse_score(cell: object) -> float | None:
    """Parse a cell as a quality score, 1 for true and 0 for false; None if it is not a number."""
    mark = parse_boolean(cell)
    return parse_number(str(cell)) if mark is None else mark


def _may_be_scores(table: Table, column: int) -> bool:
    """Return whether a column may contain quality scores, by its name, or by few distinct numbers."""
    name = table.names[column].lower()
    cells = [row[column] for row in table.sample if row[column]]
    numbers = set(map(_parse_score, cells))
    are_few = 1 < len(numbers) <= min(_MOST_VERDICTS, len(cells) - 1)
    are_verdicts = are_few and all(n is not None and abs(n) <= _LARGEST_VERDICT for n in numbers)
    return bool(_VERDICT.fullmatch(name)) or (are_verdicts and not _NO_VERDICT.fullmatch(name))


def parse_pair_files(notation: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Parse `pairs.tsv` or `a.txt,b.txt` into the paths, and the languages of a prefix `en-de<=`, or ().

    Raises:
        UserError: a file is missing, or there are several.
    """
    label, path = split_language_prefix(notation)
    languages = () if label is None else parse_languages(label, 2)
    sources = find_pair_files(path, languages)
    if len(sources) != 1:
        raise UserError(f"{notation}: expected one file of pairs, got {len(sources)}")
    return sources[0], languages


def is_pair_notation(text: str) -> bool:
    """Return whether a string specifies files of pairs (which may be missing), and not a directory."""
    is_like_one = "<=" in text or "," in text or "." in text or os.path.isfile(text)
    return is_like_one and not os.path.isdir(text)


def reject_sorted_lines(
    path: str | os.PathLike, lines: Sequence[str], skip_text_checks: bool | None = False
) -> None:
    """Check that the lines of an aligned file are not in alphabetical order.

    XTREME's script sorts the English lines of Tatoeba, which are then not translations of the other lines.

    Args:
        skip_text_checks: whether to accept every text (--skip_text_checks).

    Raises:
        UserError: the lines are sorted.
    """
    is_checked = not skip_text_checks and len(lines) > _MANY_LINES and lines[0] < lines[-1]
    if is_checked and all(first <= second for first, second in pairwise(lines)):
        raise UserError(
            f"{path}: lines are sorted (as by XTREME's script), so no longer aligned. Use "
            "LASER/data/tatoeba/v1 instead, or, if the lines are aligned, set --skip_text_checks true"
        )


class PairRows(Sequence[list[str]]):
    """The rows of files of pairs, read on access: query, positive, negatives.

    The constructor validates all rows, and stores them in a temporary file.

    Args:
        files: the files in the notation of `parse_pair_files`.
        options: the options for reading tables.
        all_splits: whether to include rows outside the training split.

    Attributes:
        paths: the paths of the files.
        most_texts: the maximum number of texts of a row.
        with_negatives: the number of rows with negatives.
        equal: the number of rows with equal query and positive.
        are_translations: whether the pairs are translations, as indicated by languages in the notation or
            file name, two aligned files, .tmx, or the header.

    Raises:
        UserError: a file is missing, empty or not UTF-8, its columns are ambiguous, a row has an empty text,
            or two files have different numbers of lines.
    """

    def __init__(
        self, files: str | os.PathLike, options: TableOptions | None = None, all_splits: bool = False
    ):
        self.name = str(files)
        self.paths, languages = parse_pair_files(self.name)
        path = Path(self.paths[0])
        options = options or TableOptions()
        errors = RowErrors(path, options.on_error == "skip")
        languages = languages or find_pair_languages(path)
        self.are_translations = True
        if len(self.paths) == 1 and not is_unit_file(path):
            rows = self._read_table_rows(path, options, languages, all_splits, errors)
        else:
            of_files = ("encoding", "skip_text_checks", "on_error")
            options.reject_unused(self.name, "aligned files, .tmx and translations", *of_files)
            rows = _read_file_rows(self.paths, languages, options.encoding, errors)
        self._lines = self._write_rows(rows, errors, options.filter)
        sides = zip(*(row[:2] for row in islice(self, _ROWS_SHOWN)))
        for number, (side, language) in enumerate(zip(sides, languages or ("", ""))):
            check_text(self.name, side, language, options.skip_text_checks)
            if len(self.paths) == 2:
                reject_sorted_lines(self.paths[number], side, options.skip_text_checks)
        for start in () if options.skip_text_checks else range(0, len(self), len(self) // _SAMPLES + 1):
            rows_of_sample = map(self.__getitem__, range(len(self))[start : start + _ROWS_OF_A_SAMPLE])
            for side in zip(*(row[:2] for row in rows_of_sample)):
                check_later_lines(self.name, enumerate(side, start + 1))
        if self.equal:
            share = f"{self.equal:,} of {len(self):,}"
            line = "%s: query and positive are equal in %s rows, which do not contribute to training"
            logger.warning(line, self.name, share)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> list[str]:
        return split_cells(self._lines.read_line(index).decode())

    def make_header(self, extra_negatives: int = 0) -> list[str]:
        """Return the column names for these rows with `extra_negatives` additional columns of negatives."""
        return make_header(self.are_translations, self.most_texts - 2 + extra_negatives)

    def _read_table_rows(
        self, path: Path, options: TableOptions, languages: Sequence[str], all_splits: bool, errors: RowErrors
    ) -> Iterator[list[str]]:
        """Yield the rows of a table of pairs, and log the number of skipped rows.

        Raises:
            UserError: see `open_table` and `find_pair_columns`.
        """
        start_of = partial(detect_pair_dialect, options=options, languages=languages)
        table = open_table(path, options, errors, allow_ragged=True, detect_dialect=start_of)
        columns = find_pair_columns(table, options, languages)
        self.are_translations = bool(languages) or {*map(str.lower, columns.names[:2])} <= _OF_TRANSLATIONS
        left_out = 0
        for line, cells in table.rows:
            if all_splits or columns.is_training_row(cells):
                with errors.record_errors(line):
                    yield from columns.expand_positives(cells)
            else:
                left_out += 1
        if left_out:
            logger.warning("%s: skipped %s rows outside the training split", path, f"{left_out:,}")

    def _write_rows(self, rows: Iterable[list[str]], errors: RowErrors, row_filter: str | None) -> FileLines:
        """Write all rows to a temporary file, set the counts, and return the lines of the file.

        Args:
            row_filter: the value of --filter; None if not set.

        Raises:
            UserError: a file cannot be read, rows are invalid, or no row is left.
        """
        starts = array("q", [0])
        self.most_texts = self.with_negatives = self.equal = 0
        descriptor, name = tempfile.mkstemp(prefix="pairs.", suffix=".tsv")
        self._removal = weakref.finalize(self, Path(name).unlink, missing_ok=True)
        with translate_write_errors(name), os.fdopen(descriptor, "wb") as output:
            for texts in rows:
                self.most_texts = max(self.most_texts, len(texts))
                self.with_negatives += len(texts) > 2
                self.equal += normalize_text(texts[0]) == normalize_text(texts[1])
                starts.append(
                    starts[-1] + output.write("\t".join(map(to_single_line, texts)).encode() + b"\n")
                )
        errors.report(logger.warning, starts[1:], row_filter)
        with open_lines(Path(name)) as (_, version):
            return FileLines(Path(name), version, np.asarray(starts, np.int64))

    def __getstate__(self) -> dict:  # a copy in another process does not remove the temporary file
        return {name: value for name, value in vars(self).items() if name != "_removal"}


def _read_file_rows(
    paths: Sequence[str], languages: Sequence[str], encoding: str | None, errors: RowErrors
) -> Iterator[list[str]]:
    """Yield the two texts of each line of two aligned files, or of each translation unit of a file.

    Raises:
        UserError: a file cannot be read, or the two have different numbers of lines.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(closing(TextFile(path, languages, encoding))) for path in paths]
        texts = [file.iter_lines(errors) for file in files]
        rows = zip(*texts, strict=True) if len(texts) == 2 else map(split_cells, texts[0])
        try:
            for line, row in enumerate(rows, 1):
                pair = [text.strip() for text in row]
                if all(pair):
                    yield pair
                elif any(pair):
                    errors.add(line, "empty text", "Fix or remove these rows")
        except ValueError as error:
            raise UserError(
                f"{' and '.join(paths)}: different numbers of lines (expected aligned lines)"
            ) from error
