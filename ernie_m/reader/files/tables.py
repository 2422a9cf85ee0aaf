"""Readers of tables in several formats. Ambiguous formats are errors.

    .csv .tsv .txt     cells with a delimiter
    .jsonl .json       objects with a key for each column, one per line or in a list
    .xlsx              the first sheet that has rows

Text and JSON may be compressed (.gz, .bz2, .xz), and are UTF-8, UTF-16 with a byte order mark, or in
--encoding. Usage:

    table = open_table(path, options, errors)     the column names, and the rows, read lazily
    table.find_column(name, flag)                 the index of a column, by name or number
    table.find_known_columns(names)               the indices of columns by known names, case-insensitive
    table.make_column_error(problem, flags)            the error for missing or ambiguous columns
    find_text_error(name, cell)                   the error for a cell that is not a text
    errors.report(logger.warning)                 after the rows: raise all errors, or log dropped rows

If all column options are numbers, there is no header. A cell is a string; in JSON it may also be a list or an
object.
"""

import csv
import io
import json
import math
import operator
import os
import posixpath
import re
import shlex
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from ernie_m.reader.files.annotations import convert_exports
from ernie_m.reader.files.official_tsv import is_official_header, to_single_line
from ernie_m.reader.files.plain_text import (
    LONGEST_LINE,
    OBJECTS,
    SHEET,
    TextFile,
    decode_or_add_error,
    detect_format,
    split_extensions,
)
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.labels import normalize_label
from ernie_m.utils.errors import UserError, format_value, get_command_line, get_install_command, join_items
from ernie_m.utils.files import is_blank, parse_json
from ernie_m.utils.logging import logger

# Column names that are found without an option: part -> names.
LABELS = {
    "text": ("text", "sentence", "text_a", "sentence1", "premise", "query"),
    "text_b": ("text_b", "sentence2", "hypothesis", "hypo", "passage"),
    "label": ("label", "labels", "score"),
    "language": ("language", "lang"),
    "group": ("group",),
    "split": ("split",),
    "qid": ("qid",),
}
PAIRS = {
    "query": ("query", "anchor", "source"),
    "positive": ("positive", "positives", "pos", "target", "translation", "passage"),
    "negative": ("negative", "negatives", "neg"),  # also negative_1, negative_2, ...
}
WORDS = {"words": ("tokens", "words"), "tags": ("tags", "ner_tags", "ner")}
QUESTIONS = {"question": ("question",), "context": ("context",)}
_KNOWN = {name for parts in (LABELS, PAIRS, WORDS, QUESTIONS) for names in parts.values() for name in names}
_MARKS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
_OF_ENDING = {".csv": ",", ".tsv": "\t"}
_COMPARED = {
    "=": operator.eq, "!=": operator.ne,
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_ROWS = "a cell seems to contain rows (if it is a text, set --quoting true)"
_NOT_CLOSED = "unclosed quotation mark"
# Part of an error of csv -> its meaning; otherwise _NOT_CLOSED.
_CSV_ERRORS = {
    _ROWS: _ROWS,
    "expected after": "text after a closing quotation mark",
    "new-line": "carriage return in a cell. Remove it, or enclose the cell in quotation marks",
}
_HEAD = 1 << 18  # bytes to detect the delimiter
_HEAD_OBJECTS = 1000  # objects whose keys define the columns
_SAMPLE = 1000  # rows to check columns
_LARGEST = 1 << 28  # maximum size in bytes of a workbook, which is read into memory
Row = tuple[int, list[Any]]  # its first line number, and its cells


class Dialect(NamedTuple):
    """The dialect of a delimited table.

    Attributes:
        delimiter: the delimiter.
        quoted: whether quotation marks enclose cells with a delimiter, quotation mark or newline; None:
            unknown, so that a cell that begins with a quotation mark is an error.
        byte_order_mark: the byte order mark, which Excel requires for non-ASCII text, or "".
        skipped_lines: the number of lines before the first row.
        is_sure: whether `quoted` was set by an option.
    """

    delimiter: str = ","
    quoted: bool | None = True
    byte_order_mark: str = "\ufeff"
    skipped_lines: int = 0
    is_sure: bool = False

    def adapt_to_file(self, path: str | os.PathLike) -> "Dialect":
        """Return the dialect to write to another file, with the delimiter of its extension."""
        delimiter = _OF_ENDING.get(split_extensions(path)[0], self.delimiter)
        is_other = (delimiter == "\t") != (self.delimiter == "\t")
        return self._replace(delimiter=delimiter, quoted=delimiter != "\t") if is_other else self


class Table(NamedTuple):
    """An open table, whose header has been read.

    Attributes:
        names: the column names, "" for an empty name; without a header "1", "2", ...
        line: the line number of the header, or, without a header, of the first row.
        dialect: the dialect for writing rows of this table.
        sample: the cells of the first rows, to check columns.
        rows: an iterator of the line number and the cells of each row.
    """

    path: Path
    names: list[str]
    line: int
    dialect: Dialect
    sample: list[list[Any]]
    rows: Iterator[Row]

    @property
    def has_header(self) -> bool:
        """Whether the table has a header."""
        return self.names != _make_number_names(len(self.names))

    def find_column(self, name: str, flag: str) -> int:
        """Return the index of the column that an option names.

        Args:
            name: the column name, or number if there is no header.
            flag: the option, for errors.

        Raises:
            UserError: the column is missing or ambiguous.
        """
        name = to_single_line(name).strip()
        if self.names.count(name) == 1 and name:
            return self.names.index(name)
        what = "ambiguous column name." if name in self.names else "no such column."
        raise self.make_column_error(f"{flag} {name}: {what}", [f"{flag} COLUMN"])

    def find_known_columns(self, names: Collection[str]) -> list[int]:
        """Return the indices of the columns with one of the lower-case `names`, ignoring case."""
        return [column for column, name in enumerate(self.names) if name.lower() in names]

    def find_two_columns(
        self, columns_option: str | None, known_names: Sequence[Collection[str]], problem: str
    ) -> list[int]:
        """Return the indices of two columns, by --columns or by known names.

        Args:
            columns_option: the value of --columns; None: by known names.
            known_names: the known names of each column, in lower case.
            problem: the error if the columns are not found.

        Raises:
            UserError: the columns are missing or ambiguous.
        """
        if columns_option:
            found = [[self.find_column(name, "--columns")] for name in columns_option.split(",")]
        else:
            found = [self.find_known_columns(names) for names in known_names]
        if [len(columns) for columns in found] != [1, 1]:
            raise self.make_column_error(problem, ["--columns COLUMN,COLUMN"])
        return list(chain(*found))

    def make_column_error(self, problem: str, flags: Sequence[str], *advice: str) -> UserError:
        """Return the error for missing or ambiguous columns, with all columns and the command to set them.

        Args:
            problem: the error.
            flags: the options to set, such as "--text COLUMN"; they replace those of the command line.
            advice: lines with alternatives.
        """
        lines = [
            f"{name or '(no name)'}: "
            f"{' | '.join(format_value(cells[column])[:40] for cells in self.sample[:3])}"
            for column, name in enumerate(self.names)
        ]
        words = get_command_line()
        for flag in {flag.partition(" ")[0] for flag in flags}.intersection(words):
            index = words.index(flag)
            del words[index : index + 2]
        numbers = count(1)
        in_numbers = re.sub("[A-Z]+", lambda _: str(next(numbers)), flags[0])
        return UserError(
            f"{self.path}, line {self.line}: {problem} Columns, with their first cells:",
            *lines,
            f"Set the columns: {shlex.join(words)} {' '.join(flags)}",
            f"or their numbers if there is no header, as in {in_numbers}",
            *advice,
        )


def open_table(
    path: Path,
    options: TableOptions,
    errors: RowErrors,
    allow_ragged: bool = False,
    detect_dialect: Callable[[TextFile], tuple[Dialect, bool]] | None = None,
    are_requests: bool = False,
) -> Table:
    """Open a table and read its header.

    Args:
        path: the file; "-": standard input.
        errors: collects invalid rows while `Table.rows` is consumed.
        allow_ragged: whether trailing cells may be missing; such cells are None.
        detect_dialect: detects the dialect of a text file, and whether there is a header; None: by
            `sniff_dialect` and the options.
        are_requests: whether the file is JSON regardless of its name, and cells are JSON values, None for
            missing keys; then the file may be empty.

    Raises:
        UserError: the file cannot be read, is not a table, or its dialect is ambiguous.
    """
    named = detect_format(path)
    dialect, has_names = Dialect(), not _are_columns_numbered(options)
    if named == SHEET:
        rows = _read_sheet_rows(path)
    else:
        is_json = are_requests or named == OBJECTS
        file = TextFile(str(path), encoding=options.encoding, allow_json=is_json)
        path = Path(file.path)
        if is_json:
            cell_of = (lambda value: value) if are_requests else to_cell
            rows, has_names = _read_object_rows(file, errors, cell_of, are_requests), True
        else:
            dialect, has_names = (
                detect_dialect(file) if detect_dialect else (sniff_dialect(file, options), has_names)
            )
            lines = islice(file.iter_lines(errors), dialect.skipped_lines, None)
            rows = parse_rows(lines, dialect, errors, dialect.skipped_lines + 1)
    return make_table(
        path, dialect, has_names, rows, options, errors, allow_ragged, may_be_empty=are_requests
    )


def make_table(
    path: Path,
    dialect: Dialect,
    has_names: bool,
    rows: Iterator[Row],
    options: TableOptions,
    errors: RowErrors,
    allow_ragged: bool = False,
    may_be_empty: bool = False,
) -> Table:
    """Build a table from rows.

    Args:
        has_names: whether the first row is the header.
        rows: the line number and the cells of each row.
        may_be_empty: whether the table may have no rows.
        path, dialect, options, errors, allow_ragged: see `Table` and `open_table`.

    Raises:
        UserError: the table has no rows, unexpectedly has a header, or requires --filter.
    """
    line, first = next(rows, (1, []))
    names = [to_single_line(name).strip() for name in first] if has_names else _make_number_names(len(first))
    if not has_names:
        _reject_header(path, line, first, by_number=_are_columns_numbered(options))
        rows = chain([(line, first)], rows)
    rows = check_row_widths(rows, len(names), line, errors, allow_ragged)
    head = list(islice(rows, _SAMPLE))
    if not head:
        errors.report(logger.warning)
        if not may_be_empty:
            raise UserError(f"{path}: no rows")
    table = Table(path, names, line, dialect, [cells for _, cells in head], chain(head, rows))
    return table._replace(rows=filter_rows(table, options.filter, errors))


def _make_number_names(width: int) -> list[str]:
    """Return the column names of a table without a header."""
    return [str(number) for number in range(1, width + 1)]


def find_text_error(name: str, cell: Any) -> str:
    """Return the error of a cell of column `name` that is blank or not a string; "" if the cell is valid."""
    if not isinstance(cell, str):
        kind = {list: "a list", dict: "an object"}.get(type(cell), json.dumps(cell))
        return f"invalid '{name}' (expected a text, got {kind})"
    return f"'{name}' is empty" if is_blank(cell) else ""


def _are_columns_numbered(options: TableOptions) -> bool:
    """Return whether all column options are numbers, which means that there is no header."""
    given = ",".join(filter(None, (getattr(options, flag, None) for flag in ("columns", *LABELS))))
    return re.fullmatch(r"\d+([,+]\d+)*", given) is not None


def _reject_header(path: Path, line: int, cells: Sequence[str], by_number: bool) -> None:
    """Check that the first row is not a header, if columns are given by number.

    Args:
        cells: the cells of the first row.
        by_number: whether columns are given by number; otherwise nothing is checked.

    Raises:
        UserError: at least two cells are known column names, or all are column numbers, as written by pandas.
    """
    names = [cell.strip() for cell in cells if cell.strip().lower() in _KNOWN]
    # An index without a name, in the first column, shifts the numbers.
    if all(cell in ("", *map(str, range(column - 1, column + 2))) for column, cell in enumerate(cells)):
        names = list(filter(None, cells))
    if by_number and len(names) > 1:
        raise UserError(
            f"{path}, line {line}: expected no header, because columns are given by number, but found "
            f"{join_items(names)}. Set columns by name, or remove the line"
        )


def check_row_widths(
    rows: Iterator[Row], width: int, header_line: int, errors: RowErrors, allow_ragged: bool
) -> Iterator[Row]:
    """Yield the rows with `width` cells, and add the others to the errors.

    Args:
        header_line: the line number of the header, for errors.
        allow_ragged: whether missing trailing cells are accepted and become None.
    """
    for line, cells in rows:
        cells = [*cells, *[None] * (width - len(cells))] if allow_ragged else cells
        if len(cells) == width:
            yield line, cells
        else:
            what = (
                f"{len(cells)} column{'s' * (len(cells) != 1)} (expected {width}, as in line {header_line})"
            )
            errors.add(line, what, "Fix or remove these rows, or set --delimiter")


def filter_rows(table: Table, row_filter: str | None, errors: RowErrors) -> Iterator[Row]:
    """Yield the rows of a table that match --filter.

    Args:
        row_filter: the value of --filter, a comparison such as label=1 or score>=0.8; None or "all": all
            rows.

    Raises:
        UserError: the comparison is invalid, or the column is missing.
    """
    match = re.fullmatch(r"(.+?)(!=|>=|<=|=|>|<)(.*)", row_filter or "all")
    if match is None and row_filter not in (None, "all"):
        raise UserError(
            f"invalid --filter {row_filter} (expected a comparison such as label=1 or score>=0.8, or all)"
        )
    if match is None:
        yield from table.rows
        return
    name, sign, value = match.groups()
    column = table.find_column(name, "--filter")
    key_of = normalize_label if sign in ("=", "!=") else float
    try:
        key = key_of(value)
    except ValueError as error:
        raise UserError(
            f"invalid --filter {row_filter} ({sign} requires a number, as in score>=0.8)"
        ) from error
    for line, cells in table.rows:
        try:
            if _COMPARED[sign](key_of(str(to_cell(cells[column]))), key):
                yield line, cells
        except ValueError:
            errors.add(
                line, f"invalid '{name}' '{format_value(cells[column])}' (--filter requires a number)", ""
            )


def sniff_dialect(file: TextFile, options: TableOptions) -> Dialect:
    """Detect the dialect of a delimited table.

    The delimiter is a tab, comma or semicolon that occurs in the first line and with which all rows have the
    same number of cells; if several qualify, the one of the file's extension.

    Raises:
        UserError: the delimiter is ambiguous, the first line is not UTF-8, or the file is in fastText format.
    """
    head = file.peek_lines(_HEAD)
    reject_fasttext(head.decode(errors="replace"), file.path)
    lines = list(io.StringIO(head.decode(errors="replace"), newline="\n"))
    skipped = next((number for number, line in enumerate(lines) if line.strip()), 0)
    named_by_excel = re.fullmatch(
        r'"?sep=(.)"?[,;\t]*\s*', "".join(lines[skipped : skipped + 1]), re.IGNORECASE
    )
    skipped += named_by_excel is not None  # the line has no other content
    first = "".join(lines[skipped : skipped + 1])
    errors = RowErrors(file.path, may_skip=False)  # a dropped line would make the next one the header
    decode_or_add_error(b"".join(islice(io.BytesIO(head), skipped, skipped + 1)), skipped + 1, errors)
    errors.report(logger.warning)

    def detect_quoting(delimiter: str) -> bool | None:
        if options.quoting is not None or delimiter != "\t":
            return options.quoting is not False
        return False if is_official_header(first, ("text_a",)) else None

    def has_equal_widths(delimiter: str) -> bool:
        dialect = Dialect(delimiter, detect_quoting(delimiter) or False, is_sure=True)
        rows = islice(parse_rows(iter(lines[skipped:]), dialect, unread := RowErrors("")), 1000)
        return len({len(cells) for _, cells in rows}) == 1 and unread.count <= 1  # the last may be incomplete

    given = _MARKS.get(options.delimiter, options.delimiter) or (named_by_excel and named_by_excel[1])
    if given and len(given) != 1:
        raise UserError(f"invalid --delimiter {given} (expected one character, or tab)")
    usual = _OF_ENDING.get(split_extensions(file.path)[0])
    there = [mark for mark in "\t,;" if mark in first]
    found = [given] if given else list(filter(has_equal_widths, there)) or there or [usual or "\t"]
    if len(found) > 1 and usual not in found:
        marks = " or ".join(name for name, mark in _MARKS.items() if mark in found and name.isalpha())
        raise UserError(f"{file.path}, line {skipped + 1}: ambiguous delimiter. Set --delimiter {marks}")
    mark = found[0] if len(found) == 1 else usual
    return Dialect(mark, detect_quoting(mark), file.byte_order_mark, skipped, options.quoting is not None)


def reject_fasttext(head: str, path: str | os.PathLike) -> None:
    """Check that a text file is not in fastText format, "__label__LABEL TEXT".

    Args:
        head: the beginning of its content.

    Raises:
        UserError: it is.
    """
    match = re.match(r"\s*__label__\S+ ", head)
    if match:
        line = match[0].count("\n") + 1
        raise UserError(
            f"{path}, line {line}: fastText format. Write LABEL, a tab and TEXT in each "
            "line of a .tsv file, without __label__, and set --label 1 --text 2"
        )


def parse_rows(
    lines: Iterator[str], dialect: Dialect, errors: RowErrors, first_line: int = 1
) -> Iterator[Row]:
    """Yield the line number and the cells of each row of a delimited table, skipping blank lines.

    Args:
        lines: the lines with newlines.
        dialect: the dialect.
        errors: collects invalid rows.
        first_line: the line number of the first line.

    Raises:
        UserError: a cell begins with a quotation mark, and `dialect.quoted` is None.
    """
    rows = _parse_quoted_rows if dialect.quoted else _parse_unquoted_rows
    for line, cells in rows(lines, dialect, errors, first_line):
        if any(map(str.strip, cells)):
            yield line, cells


def _parse_unquoted_rows(
    lines: Iterator[str], dialect: Dialect, errors: RowErrors, first_line: int
) -> Iterator[Row]:
    """Yield the rows of a table without quoting; see `parse_rows`."""
    for number, line in enumerate(lines, first_line):
        cells = line.rstrip("\r\n").split(dialect.delimiter)
        if dialect.quoted is None and any(cell.startswith('"') for cell in cells):
            raise UserError(
                f"{errors.name}, line {number}: ambiguous quotation mark at the start of a cell. Set "
                "--quoting true if quotation marks enclose cells, or --quoting false if they are text"
            )
        yield number, cells


def _parse_quoted_rows(
    lines: Iterator[str], dialect: Dialect, errors: RowErrors, first_line: int
) -> Iterator[Row]:
    """Yield the rows of a table with quoting; see `parse_rows`."""
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(lines, delimiter=dialect.delimiter, strict=True)
    while True:
        first = reader.line_num + first_line
        try:
            cells = next(reader)
            if not dialect.is_sure and "\n" in "".join(cells) and _contains_rows(cells, dialect.delimiter):
                raise csv.Error(_ROWS)
            # A cell with line breaks may contain a line that was not decoded and is blank here.
            if errors.lines.isdisjoint(range(first, reader.line_num + first_line)):
                yield first, cells
        except StopIteration:
            return
        except csv.Error as error:  # continue with the next line
            reason = next((reason for sign, reason in _CSV_ERRORS.items() if sign in str(error)), _NOT_CLOSED)
            what, _, fix = reason.partition(". ")
            last = reader.line_num + first_line - 1
            span = f"to line {last}: " if last > first else ""
            errors.add(first, span + what, fix or "Double quotation marks within a quoted cell")


def _contains_rows(cells: Sequence[str], delimiter: str) -> bool:
    """Return whether a cell contains several rows, as an unclosed quotation mark causes.

    Such a cell has the end of a row, complete rows, and the start of a row. In prose, a space follows most
    delimiters.

    Args:
        delimiter: the delimiter.
    """
    for column, cell in enumerate(cells if cells[1:] else ()):
        lines = [line.split(delimiter) for line in cell.split("\n")]
        widths = [len(cells) - column, *[len(cells)] * (len(lines) - 2), column + 1]
        starts = [part[:1] for parts in lines for part in parts[1:]]
        if [*map(len, lines)] == widths and not any(map(str.isspace, starts)):
            return True
    return False


def _read_object_rows(
    file: TextFile, errors: RowErrors, convert_cell: Callable[[Any], Any], are_requests: bool
) -> Iterator[Row]:
    """Yield the keys of the JSON objects in a file as the header, and then the values of each object.

    Args:
        convert_cell: converts a value, None for a missing key, to a cell.
        are_requests: whether the objects are requests; otherwise they may be an export of another tool.

    Raises:
        UserError: the file is too large, is not JSON, or has all rows in a list of one key.
    """
    start = file.buffer.lstrip()
    if re.match(rb'\{\s*"queries"\s*:\s*\{', start):
        values: Iterable[tuple[int, Any]] = _read_llama_index(file, errors)
    elif start.startswith(b"["):
        values = _parse_json_list(file)
    else:
        values = parse_json_lines(file.iter_lines(errors), file.path, errors)
    objects: Iterator[tuple[int, dict]] = (
        (line, value) for line, value in values if check_is_object(value, line, errors)
    )
    if not are_requests:
        objects = convert_exports(objects, Path(file.path), errors)
    head = list(islice(objects, _HEAD_OBJECTS))
    names = list(dict.fromkeys(name for _, value in head for name in value))  # unique, in order
    rows = head[0][1][names[0]] if (len(head), len(names)) == (1, 1) else None
    if rows and isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{file.path}, line {head[0][0]}: all rows are in the key '{format_value(names[0])}'. Write "
            "only its list, or one object per line"
        )
    if head:
        yield head[0][0], names
    for line, value in chain(head, objects):
        if new := value.keys() - {*names}:
            what = f"unknown key '{format_value(min(new))}'"
            errors.add(line, what, f"Each key must occur in the first {_HEAD_OBJECTS:,} objects")
        else:
            yield line, [convert_cell(value.get(name)) for name in names]


def _read_llama_index(file: TextFile, errors: RowErrors) -> Iterator[tuple[int, dict]]:
    """Yield the pairs of a LlamaIndex data set: line 1, and an object with a query and its documents.

    Args:
        errors: collects queries whose documents are missing.

    Raises:
        UserError: the file is incomplete.
    """
    data = parse_json(file.read_rest())
    if not isinstance(data, dict) or not {"corpus", "relevant_docs"} <= data.keys():
        raise UserError(f"{file.path}: incomplete LlamaIndex data (expected queries, corpus, relevant_docs)")
    for id_, query in data["queries"].items():
        ids = data["relevant_docs"].get(id_, ())
        documents = [data["corpus"].get(document) for document in ids]
        if None in documents or not documents:
            errors.add(1, f"query '{format_value(id_)}': missing documents", "Export the data again")
        else:
            yield 1, {"query": query, "pos": documents}


def check_is_object(value: Any, line: int, errors: RowErrors) -> bool:
    """Return whether a JSON value is an object without lone surrogates; otherwise add an error."""
    reason = "" if isinstance(value, dict) else f"got {format_value(json.dumps(value))[:40]}"
    try:
        json.dumps(value, ensure_ascii=False).encode()  # fails for lone surrogates
    except ValueError as error:
        reason = str(error)
    if reason:
        errors.add(line, f"invalid JSON object ({reason})", 'Write one object per line, as {"text": "..."}')
    return not reason


def parse_json_lines(
    lines: Iterable[str | bytes], file_name: str, errors: RowErrors
) -> Iterator[tuple[int, Any]]:
    """Yield the line number and the value of each line of JSON, skipping blank lines.

    Args:
        file_name: the name of the file, for errors.
        errors: collects lines that are not JSON.

    Raises:
        UserError: an object spans several lines.
    """
    for number, line in enumerate(lines, 1):
        if line.strip() == "{":
            raise UserError(
                f"{file_name}, line {number}: expected one JSON object per line, or a list, got an object of "
                "several lines. Write it in one line, or its rows as a list"
            )
        try:
            if line.strip():
                yield number, json.loads(line, object_pairs_hook=_make_object)
        except (ValueError, RecursionError) as error:
            errors.add(number, f"invalid JSON ({error})", 'Write one object per line, as {"text": "..."}')


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the dict of a JSON object.

    Raises:
        ValueError: a key occurs twice, which would be read as its last value alone.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError(f"duplicate key {Counter(name for name, _ in pairs).most_common(1)[0][0]!r}")
    return value


def _parse_json_list(file: TextFile) -> Iterator[tuple[int, Any]]:
    """Yield the line number and the value of each item of a JSON list.

    Raises:
        UserError: the file is too large, or not JSON.
    """
    content = file.read_rest()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file.path}, line {line}: not UTF-8. Save it as UTF-8, or set --encoding, as "
            "in --encoding cp1252"
        ) from error
    decode = json.JSONDecoder(object_pairs_hook=_make_object).raw_decode
    between = re.compile(r"[\s,]*")
    line = 1
    counted = 0  # newlines are counted up to this character
    index = between.match(text, text.index("[") + 1).end()
    while not text.startswith("]", index) or text[index + 1 :].strip():
        line += text.count("\n", counted, index)
        counted = index
        try:
            value, end = decode(text, index)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.path}, line {line}: invalid JSON ({error}). Fix line {line}") from error
        yield line, value
        index = between.match(text, end).end()


def _read_sheet_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of the first non-empty sheet of an Excel workbook.

    Raises:
        UserError: python-calamine is not installed, or the file is corrupt or too large.
    """
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        way = get_install_command("excel")
        raise UserError(f"{path}: Excel files require python-calamine: {way}. Or save it as .csv") from error
    try:
        size = sum(part.file_size for part in zipfile.ZipFile(path).infolist())
        if size > _LARGEST:
            raise UserError(
                f"{path}: too large, {size >> 20:,} MiB uncompressed (maximum: "
                f"{_LARGEST >> 20:,} MiB). Save it as .csv"
            )
        workbook = CalamineWorkbook.from_path(path)
        sheets = [workbook.get_sheet_by_name(name) for name in workbook.sheet_names]
        rows_by_sheet = {sheet.name: sheet.to_python(skip_empty_area=False) for sheet in sheets}
    except (zipfile.BadZipFile, CalamineError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Save it as .csv") from error
    names = [name for name, rows in rows_by_sheet.items() if rows]
    if names[1:]:
        logger.warning("%s: reading only sheet '%s', ignoring %s", path, names[0], join_items(names[1:]))
    if names and (hidden := _count_hidden_rows(path, names[0])):
        logger.warning("%s: %d hidden rows, as by a filter, are read too", path, hidden)
    for line, values in enumerate(rows_by_sheet[names[0]] if names else [], 1):
        if any(cells := list(map(to_cell, values))):
            yield line, cells


def _count_hidden_rows(path: Path, sheet: str) -> int:
    """Count the hidden rows of a sheet of a .xlsx workbook; 0 in other formats."""
    with zipfile.ZipFile(path) as archive, suppress(KeyError, ValueError, ElementTree.ParseError):
        book, links = (
            ElementTree.fromstring(archive.read(f"xl/{name}"))
            for name in ("workbook.xml", "_rels/workbook.xml.rels")
        )
        part_of_link = {link.get("Id"): link.get("Target", "") for link in links}
        (part,) = (
            part_of_link[value]
            for one in book.findall("{*}sheets/{*}sheet")
            for value in one.attrib.values()
            if one.get("name") == sheet and value in part_of_link
        )
        rows = archive.read(posixpath.join("xl", part).lstrip("/"))  # the part may be absolute
        return len(re.findall(rb"<(?:\w+:)?row\b[^>]* hidden=.(?:1|true).", rows))
    return 0


def to_cell(value: Any) -> Any:
    """Convert a value from JSON or Excel to a string; a list or an object is returned unchanged."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    is_none = value in (None, math.inf, -math.inf) or value != value  # NaN
    return "" if is_none else value if isinstance(value, str | list | dict) else str(value)
