"""Tables of users: a header that names the columns, and then rows. Nothing about a table is guessed.

    .csv .tsv .txt     cells with one mark between them
    .jsonl .json       objects with a key for each column, one on each line or all in a list
    .xlsx              the first sheet that has rows

Text and JSON may be packed (.gz, .bz2, .xz), and are UTF-8, or UTF-16 with its mark, or in --encoding. What
programs call:

    table = open_table(path, options, faults)     the names of the columns, and the rows, read lazily
    table.place(name, flag)                       the column that a flag names, also by its number
    table.named(names)                            the columns that have one of some names, in any case
    table.question(what, flags)                   the one question, where it is not known which are meant
    text_error(name, cell)                     what keeps a cell from being a text
    faults.end(logger.warning)                    after the rows: all faults at once, or what is left out

Where all flags give numbers, the first line is a row. A cell is a text; in JSON it may be a list or an
object, which stays one until it is known what the column is for.
"""

import csv
import io
import json
import math
import operator
import os
import re
import shlex
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.reader.files.official_tsv import has_official_names, in_one_line
from ernie_m.reader.files.plain_text import (
    LONGEST_LINE,
    OBJECTS,
    SHEET,
    TextFile,
    decoded,
    named_form,
    split_name,
)
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.labels import normal_label
from ernie_m.utils.errors import UserError, command_words, install_command, listed, shown
from ernie_m.utils.files import is_blank
from ernie_m.utils.logging import logger

# The names of columns that are known without a flag: part -> names.
LABELS = {
    "text": ("text", "sentence", "text_a", "sentence1", "premise", "query"),
    "text_b": ("text_b", "sentence2", "hypothesis", "passage"),
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
_ROWS = "a cell has what seems to be rows (if it is a text: --quoting true)"
_NOT_CLOSED = "nothing closes a quotation mark"
# A part of what csv says -> what it means; anything else: _NOT_CLOSED.
_FAULTS = {
    _ROWS: _ROWS,
    "expected after": "text follows a quotation mark",
    "new-line": "a carriage return stands in a cell; remove it, or put the cell in quotation marks",
}
_HEAD = 1 << 18  # bytes that tell what separates the cells
_HEAD_OBJECTS = 1000  # whose keys are the columns
_SAMPLE = 1000  # rows by which columns are judged
_LARGEST = 1 << 28  # bytes of a workbook, which is read as a whole
Row = tuple[int, list[Any]]  # the line at which it begins, and its cells


class Dialect(NamedTuple):
    """How the cells of a table are written.

    Attributes:
        mark: what separates them.
        quoted: whether quotation marks enclose a cell that has the mark, a quotation mark or a line end;
            None: it is asked if a cell begins with one.
        begin: the byte order mark, without which Excel reads no umlauts, or "".
        skipped: the lines before the first row.
        is_sure: whether somebody said `quoted`.
    """

    mark: str = ","
    quoted: bool | None = True
    begin: str = "\ufeff"
    skipped: int = 0
    is_sure: bool = False

    def in_file(self, path: str | os.PathLike) -> "Dialect":
        """The form with the mark that the name of another file says."""
        mark = _OF_ENDING.get(split_name(path)[0], self.mark)
        is_other = (mark == "\t") != (self.mark == "\t")
        return self._replace(mark=mark, quoted=mark != "\t") if is_other else self


class Table(NamedTuple):
    """A table whose header was read.

    Attributes:
        names: of the columns, "" where the header has none; without a header "1", "2", ...
        line: that of the header, or of the first row.
        form: that in which a table of these rows is written.
        sample: the first rows, by which columns are judged.
        rows: the line at which each row begins, and a cell for each column.
    """

    path: Path
    names: list[str]
    line: int
    form: Dialect
    sample: list[list[Any]]
    rows: Iterator[Row]

    @property
    def has_header(self) -> bool:
        return self.names != _numbers(len(self.names))

    def place(self, name: str, flag: str) -> int:
        """The place of the column that a flag names.

        Raises:
            UserError: there is none, or there are several.
        """
        name = in_one_line(name).strip()
        if self.names.count(name) == 1 and name:
            return self.names.index(name)
        what = "several columns have this name." if name in self.names else "no such column."
        raise self.question(f"{flag} {name}: {what}", [f"{flag} COLUMN"])

    def named(self, names: Collection[str]) -> list[int]:
        """The places of the columns that have one of these names, in any case."""
        return [column for column, name in enumerate(self.names) if name.lower() in names]

    def two_columns(self, given: str | None, known: Sequence[Collection[str]], what: str) -> list[int]:
        """The places of two columns, by --columns, or by their names.

        Args:
            given: the value of the flag.
            known: the names of each, in small letters.
            what: the question if it is not known which are meant.

        Raises:
            UserError: it is not known.
        """
        if given:
            found = [[self.place(name, "--columns")] for name in given.split(",")]
        else:
            found = [self.named(names) for names in known]
        if [len(columns) for columns in found] != [1, 1]:
            raise self.question(what, ["--columns COLUMN,COLUMN"])
        return list(chain(*found))

    def question(self, what: str, flags: Sequence[str], *more: str) -> UserError:
        """The question which columns are meant, with all that is needed to answer it.

        Args:
            what: what is not known.
            flags: those that say it, as "--text COLUMN"; they replace those of the command line.
            more: further lines, of other ways.
        """
        lines = [
            f"{name or '(no name)'}: {' | '.join(shown(cells[column])[:40] for cells in self.sample[:3])}"
            for column, name in enumerate(self.names)
        ]
        words = command_words()
        for flag in {flag.partition(" ")[0] for flag in flags}.intersection(words):
            index = words.index(flag)
            del words[index : index + 2]
        numbers = count(1)
        in_numbers = re.sub("[A-Z]+", lambda _: str(next(numbers)), flags[0])
        return UserError(
            f"{self.path}, line {self.line}: {what} Its columns, and the first cells of each:",
            *lines,
            f"name them: {shlex.join(words)} {' '.join(flags)}",
            f"or give their numbers, as in {in_numbers}, if there is no header",
            *more,
        )


def open_table(
    path: Path,
    options: TableOptions,
    errors: RowErrors,
    ragged: bool = False,
    start_of: Callable[[TextFile], tuple[Dialect, bool]] | None = None,
    as_they_stand: bool = False,
) -> Table:
    """Open a table and read its header.

    Args:
        path: "-": standard input.
        errors: receives lines that cannot be read, when `Table.rows` comes to them.
        ragged: whether cells at the end of a row may be missing; they are then None.
        start_of: tells how the cells of a text are written, and whether its first line names the columns;
            None: `sniff_dialect` and the options tell it.
        as_they_stand: whether it is JSON, whatever its name, and its values are cells as they stand, None
            where an object has none; without rows it has no columns.

    Raises:
        UserError: the file cannot be read, is no table, or it has to be asked how it is written.
    """
    named = named_form(path)
    form, has_names = Dialect(), not _are_numbers(options)
    if named == SHEET:
        rows = _read_sheet_rows(path)
    else:
        is_json = as_they_stand or named == OBJECTS
        file = TextFile(str(path), encoding=options.encoding, any_form=is_json)
        path = Path(file.path)
        if is_json:
            cell_of = (lambda value: value) if as_they_stand else as_cell
            rows, has_names = _read_object_rows(file, errors, cell_of), True
        else:
            form, has_names = start_of(file) if start_of else (sniff_dialect(file, options), has_names)
            lines = islice(file.texts(errors), form.skipped, None)
            rows = records(lines, form, errors, form.skipped + 1)
    return make_table(path, form, has_names, rows, options, errors, ragged, may_be_empty=as_they_stand)


def make_table(
    path: Path,
    form: Dialect,
    has_names: bool,
    rows: Iterator[Row],
    options: TableOptions,
    errors: RowErrors,
    ragged: bool = False,
    may_be_empty: bool = False,
) -> Table:
    """A table by its rows, of which the first may have the names; arguments and errors as in `open_table`."""
    line, first = next(rows, (1, []))
    names = [in_one_line(name).strip() for name in first] if has_names else _numbers(len(first))
    if not has_names:
        _reject_names(path, line, first, by_number=_are_numbers(options))
        rows = chain([(line, first)], rows)
    elif "_task_hash" in names and not options.filter:
        raise UserError(
            f"{path}, line {line}: it is of Prodigy, where answers may be rejected or ignored; say which "
            "rows are meant: --filter answer=accept"
        )
    rows = check_width(rows, len(names), line, errors, ragged)
    head = list(islice(rows, _SAMPLE))
    if not head:
        errors.end(logger.warning)
        if not may_be_empty:
            raise UserError(f"{path}: no rows in it")
    table = Table(path, names, line, form, [cells for _, cells in head], chain(head, rows))
    return table._replace(rows=wanted(table, options.filter, errors))


def _numbers(width: int) -> list[str]:
    """What the columns are called without a header."""
    return [str(number) for number in range(1, width + 1)]


def text_error(name: str, cell: Any) -> str:
    """What keeps the cell of a column from being a text, or ""."""
    if not isinstance(cell, str):
        kind = {list: "a list", dict: "an object"}.get(type(cell), json.dumps(cell))
        return f"the value of '{name}' is {kind}, and no text"
    return f"'{name}' is empty" if is_blank(cell) else ""


def _are_numbers(options: TableOptions) -> bool:
    """Whether the flags name columns by their numbers alone, which says that there is no header."""
    given = ",".join(filter(None, (getattr(options, flag, None) for flag in ("columns", *LABELS))))
    return re.fullmatch(r"\d+([,+]\d+)*", given) is not None


def _reject_names(path: Path, line: int, cells: Sequence[str], by_number: bool) -> None:
    """Refuse a first row of known names, or of the numbers that pandas gives columns, where it is a row.

    Raises:
        UserError: it has at least two.
    """
    names = [cell.strip() for cell in cells if cell.strip().lower() in _KNOWN]
    if all(cell in ("", str(column), str(column + 1)) for column, cell in enumerate(cells)):
        names = list(filter(None, cells))
    if by_number and len(names) > 1:
        raise UserError(
            f"{path}, line {line}: numbers of columns say that there is no header, but this line has the "
            f"names {listed(names)}; give names, or remove the line"
        )


def check_width(
    rows: Iterator[Row], width: int, header: int, errors: RowErrors, ragged: bool
) -> Iterator[Row]:
    """The rows that have a cell for each column; others are faults."""
    for line, cells in rows:
        cells = [*cells, *[None] * (width - len(cells))] if ragged else cells
        if len(cells) == width:
            yield line, cells
        else:
            what = f"{len(cells)} column{'s' * (len(cells) != 1)}, but line {header} has {width}"
            errors.add(line, what, "mend or remove them; --delimiter says what separates the cells")


def wanted(table: Table, only: str | None, errors: RowErrors) -> Iterator[Row]:
    """The rows that --filter takes, by a comparison such as label=1 or score>=0.8.

    Raises:
        UserError: it is no comparison, or names no column.
    """
    match = re.fullmatch(r"(.+?)(!=|>=|<=|=|>|<)(.*)", only or "all")
    if match is None and only not in (None, "all"):
        raise UserError(f"--filter {only}: give a column and a value, as in label=1 or score>=0.8; or all")
    if match is None:
        yield from table.rows
        return
    name, sign, value = match.groups()
    column = table.place(name, "--filter")
    key_of = normal_label if sign in ("=", "!=") else float
    try:
        key = key_of(value)
    except ValueError as error:
        raise UserError(f"--filter {only}: {sign} compares with a number, as in score>=0.8") from error
    for line, cells in table.rows:
        try:
            if _COMPARED[sign](key_of(str(as_cell(cells[column]))), key):
                yield line, cells
        except ValueError:
            errors.add(line, f"'{shown(cells[column])}' in '{name}' is no number", "--filter needs one")


def sniff_dialect(file: TextFile, options: TableOptions) -> Dialect:
    """How the cells of a text are written.

    It is the one mark of tab, comma and semicolon that the first line has and with which every row has as
    many cells; of two that of the ending.

    Raises:
        UserError: it has to be asked, or the first line is not UTF-8.
    """
    head = file.head(_HEAD)
    lines = list(io.StringIO(head.decode(errors="replace"), newline="\n"))
    skipped = next((number for number, line in enumerate(lines) if line.strip()), 0)
    named_by_excel = re.fullmatch(
        r'"?sep=(.)"?[,;\t]*\s*', "".join(lines[skipped : skipped + 1]), re.IGNORECASE
    )
    skipped += named_by_excel is not None  # the line says nothing else
    first = "".join(lines[skipped : skipped + 1])
    errors = RowErrors(file.path, may_skip=False)  # without this line the next one would be the header
    decoded(b"".join(islice(io.BytesIO(head), skipped, skipped + 1)), skipped + 1, errors)
    errors.end(logger.warning)

    def quoted(mark: str) -> bool | None:
        if options.quoting is not None or mark != "\t":
            return options.quoting is not False
        return False if has_official_names(first, ("text_a",)) else None

    def agrees(mark: str) -> bool:
        form = Dialect(mark, quoted(mark) or False, is_sure=True)
        rows = islice(records(iter(lines[skipped:]), form, unread := RowErrors("")), 1000)
        return len({len(cells) for _, cells in rows}) == 1 and unread.count <= 1  # the last may be cut here

    given = _MARKS.get(options.delimiter, options.delimiter) or (named_by_excel and named_by_excel[1])
    if given and len(given) != 1:
        raise UserError(f"--delimiter {given}: give one character, or tab")
    usual = _OF_ENDING.get(split_name(file.path)[0])
    there = [mark for mark in "\t,;" if mark in first]
    found = [given] if given else list(filter(agrees, there)) or there or [usual or "\t"]
    if len(found) > 1 and usual not in found:
        marks = " or ".join(name for name, mark in _MARKS.items() if mark in found and name.isalpha())
        raise UserError(
            f"{file.path}, line {skipped + 1}: what separates its cells? say it: --delimiter {marks}"
        )
    mark = found[0] if len(found) == 1 else usual
    return Dialect(mark, quoted(mark), file.begin, skipped, options.quoting is not None)


def records(lines: Iterator[str], form: Dialect, errors: RowErrors, first_line: int = 1) -> Iterator[Row]:
    """The line at which each row begins, and its cells. Blank lines are left out.

    Args:
        first_line: the number of the first line.

    Raises:
        UserError: a cell begins with a quotation mark, and nothing says what that means.
    """
    rows = _quoted_rows if form.quoted else _plain_rows
    for line, cells in rows(lines, form, errors, first_line):
        if any(map(str.strip, cells)):
            yield line, cells


def _plain_rows(lines: Iterator[str], form: Dialect, errors: RowErrors, first_line: int) -> Iterator[Row]:
    for number, line in enumerate(lines, first_line):
        cells = line.rstrip("\r\n").split(form.mark)
        if form.quoted is None and any(cell.startswith('"') for cell in cells):
            raise UserError(
                f"{errors.name}, line {number}: a cell begins with a quotation mark; do these enclose "
                "cells (--quoting true), or are they text (--quoting false)?"
            )
        yield number, cells


def _quoted_rows(lines: Iterator[str], form: Dialect, errors: RowErrors, first_line: int) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(lines, delimiter=form.mark, strict=True)
    while True:
        first = reader.line_num + first_line
        try:
            cells = next(reader)
            if not form.is_sure and "\n" in "".join(cells) and _has_rows(cells, form.mark):
                raise csv.Error(_ROWS)
            yield first, cells
        except StopIteration:
            return
        except csv.Error as error:  # the next row is looked for on the next line
            fault = next((fault for sign, fault in _FAULTS.items() if sign in str(error)), _NOT_CLOSED)
            what, _, mend = fault.partition("; ")
            last = reader.line_num + first_line - 1
            span = f"to line {last}: " if last > first else ""
            errors.add(
                first, span + what, mend or "within a cell in quotation marks, write each of them twice"
            )


def _has_rows(cells: Sequence[str], mark: str) -> bool:
    """Whether a cell has the rest of a row on its first line, whole rows, and the start of one on its last.

    A quotation mark that nothing closes makes such a cell. In writing, a space follows most marks.
    """
    for column, cell in enumerate(cells if cells[1:] else ()):
        lines = [line.split(mark) for line in cell.split("\n")]
        widths = [len(cells) - column, *[len(cells)] * (len(lines) - 2), column + 1]
        starts = [part[:1] for parts in lines for part in parts[1:]]
        if [*map(len, lines)] == widths and not any(map(str.isspace, starts)):
            return True
    return False


def _read_object_rows(file: TextFile, errors: RowErrors, cell_of: Callable[[Any], Any]) -> Iterator[Row]:
    """The keys of the objects in a file, and then a row for each.

    Args:
        cell_of: makes a cell of a value, and of None.

    Raises:
        UserError: it is too large, not JSON throughout, or of LlamaIndex, or a key has all rows in a list.
    """
    start = file.buffer.lstrip()
    if re.match(rb'\{\s*"queries"\s*:\s*\{', start):
        raise UserError(
            f"{file.path}, line 1: LlamaIndex format (queries, corpus, relevant_docs), not a table. "
            "Convert it with examples/to_jsonl.sh llama-index"
        )
    is_list = start.startswith(b"[")
    values = _parse_json_list(file) if is_list else parse_json_lines(file.texts(errors), file.path, errors)
    objects = ((line, value) for line, value in values if is_object(value, line, errors))
    head = list(islice(objects, _HEAD_OBJECTS))
    names = list(dict.fromkeys(name for _, value in head for name in value))  # each once, in their order
    rows = head[0][1][names[0]] if (len(head), len(names)) == (1, 1) else None
    if rows and isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{file.path}, line {head[0][0]}: an object with a list of rows, '{shown(names[0])}'; write the "
            "list alone, or an object on each line (jq -c '.KEY[]')"
        )
    if head:
        yield head[0][0], names
    for line, value in chain(head, objects):
        if new := value.keys() - {*names}:
            what = f"the key '{shown(min(new))}' is new"
            errors.add(line, what, f"one of the first {_HEAD_OBJECTS:,} objects must have each key")
        else:
            yield line, [cell_of(value.get(name)) for name in names]


def is_object(value: Any, line: int, errors: RowErrors) -> bool:
    """Whether a value of JSON is an object that can be written again; otherwise it is a fault."""
    fault = "" if isinstance(value, dict) else f"it is {shown(json.dumps(value))[:40]}"
    try:
        json.dumps(value, ensure_ascii=False).encode()  # not with half a character, such as \\ud83d alone
    except ValueError as error:
        fault = str(error)
    if fault:
        errors.add(line, f"no JSON object ({fault})", 'each is one such as {"text": "..."}')
    return not fault


def parse_json_lines(lines: Iterable[str | bytes], name: str, errors: RowErrors) -> Iterator[tuple[int, Any]]:
    """The JSON value on each line of a file, with its number. Blank lines are left out.

    Raises:
        UserError: the first object takes several lines.
    """
    for number, line in enumerate(lines, 1):
        if line.strip() == "{":
            raise UserError(
                f"{name}, line {number}: an object of several lines, and no table; a table in "
                "JSON has an object on each line, or is a list of them (jq -c '.KEY[]' takes one out)"
            )
        try:
            if line.strip():
                yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            errors.add(number, f"no JSON object ({error})", 'each is one such as {"text": "..."}')


def _parse_json_list(file: TextFile) -> Iterator[tuple[int, Any]]:
    """The values in a list, each with the line at which it begins.

    Raises:
        UserError: it is too large, or is not JSON throughout.
    """
    content = file.rest()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file.path}, line {line}: not UTF-8; save it as UTF-8, or give its encoding, as in --encoding "
            "cp1252"
        ) from error
    decode = json.JSONDecoder().raw_decode
    between = re.compile(r"[\s,]*")
    line = 1
    counted = 0  # the characters whose line ends are counted
    index = between.match(text, text.index("[") + 1).end()
    while not text.startswith("]", index) or text[index + 1 :].strip():
        line += text.count("\n", counted, index)
        counted = index
        try:
            value, end = decode(text, index)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.path}, line {line}: not JSON ({error}); mend it there") from error
        yield line, value
        index = between.match(text, end).end()


def _read_sheet_rows(path: Path) -> Iterator[Row]:
    """The rows of the first sheet of an Excel file that has any.

    Raises:
        UserError: python-calamine is not installed, or the file is damaged or too large.
    """
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        way = install_command("excel")
        raise UserError(f"{path}: an Excel file needs python-calamine: {way}; or save it as .csv") from error
    try:
        size = sum(part.file_size for part in zipfile.ZipFile(path).infolist())
        if size > _LARGEST:
            raise UserError(f"{path}: unpacked, it has {size >> 20:,} MiB; save it as .csv")
        workbook = CalamineWorkbook.from_path(path)
        sheets = [workbook.get_sheet_by_name(name) for name in workbook.sheet_names]
        rows_of = {sheet.name: sheet.to_python(skip_empty_area=False) for sheet in sheets}
    except (zipfile.BadZipFile, CalamineError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save it as .csv") from error
    names = [name for name, rows in rows_of.items() if rows]
    if names[1:]:
        logger.warning("%s: only the sheet '%s' is read, not %s", path, names[0], listed(names[1:]))
    for line, values in enumerate(rows_of[names[0]] if names else [], 1):
        if any(cells := list(map(as_cell, values))):
            yield line, cells


def as_cell(value: Any) -> Any:
    """A value of JSON, or of a sheet, as a cell: text, but for lists and objects."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    is_none = value in (None, math.inf, -math.inf) or value != value  # NaN
    return "" if is_none else value if isinstance(value, str | list | dict) else str(value)
