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
    fault_of_text(name, cell)                     what keeps a cell from being a text
    faults.end(logger.warning)                    after the rows: all faults at once, or what is left out

`read_labelled` does this for rows with labels, and `open_asked` for texts that a model is asked about. Where
all flags give numbers, the first line is a row. `LABELS`, `PAIRS`, `WORDS` and `QUESTIONS` are the names that
are known without a flag: part -> names. A cell is a text; in JSON it may be a list or an object, which stays
one until it is known what the column is for.
"""

import csv
import io
import json
import operator
import re
import shlex
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, count, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.label_cells import is_list, labels_for_none, split_labels
from ernie_m.reader.files.labels import normal_label, number_in
from ernie_m.reader.files.odd_text import look_at_text
from ernie_m.reader.files.official_tsv import has_official_names, has_quotes, say_quoted
from ernie_m.reader.files.plain_text import LONGEST_LINE, TextFile, split_name
from ernie_m.reader.files.rows import OF_TABLES, LabelOptions, TableOptions
from ernie_m.utils.errors import UserError, command_words, install_command, listed, printable, shown
from ernie_m.utils.logging import logger

LABELS = {
    "text": ("text", "sentence", "text_a", "sentence1", "premise", "query"),
    "text_b": ("text_b", "sentence2", "hypothesis", "passage"),
    "label": ("label", "labels", "score"),
    "language": ("language",),
    "group": ("group",),
    "split": ("split",),
    "qid": ("qid",),
}
PAIRS = {
    "query": ("query", "anchor", "source"),
    "positive": ("positive", "positives", "pos", "target", "translation", "passage"),
    "negative": ("negative", "negatives", "neg"),  # also negative_1, negative_2, ...
    "label": ("label", "score"),  # which judges the pair
}
WORDS = {"words": ("tokens", "words"), "tags": ("tags", "ner_tags", "ner")}
QUESTIONS = {"question": ("question",), "context": ("context",)}
SPLITS = {
    **dict.fromkeys(("", "train", "training"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
# Cells by which a row has the label of their column, or has it not.
_YES_OR_NO = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}
_ONE_HOT = re.compile(r"\s*\[[01](,?\s+[01]|,[01])*\.?\]\s*")  # also as numpy writes it
# A number with three decimals may be a thousand, beside a plain number of 100 or more.
_MAY_BE_THOUSAND, _HUNDREDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}"), 100
_IN_WORDS = {"text": "the text", "text_b": "the second text", "label": "the label"}
_BETWEEN = {"text": "+", "text_b": "+", "label": ","}  # the columns that a flag names
JSON = (".json", ".jsonl", ".ndjson")
_SHEETS = (".xlsx", ".xlsm", ".xlsb")
_MARKS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
_OF_ENDING = {".csv": ",", ".tsv": "\t"}
_COMPARED = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_HEAD = 1 << 18  # bytes that tell what separates the cells
_HEAD_OBJECTS = 1000  # whose keys are the columns
_LARGEST = 1 << 28  # bytes of a workbook, which is read as a whole


class Form(NamedTuple):
    """How the cells of a table are written.

    Attributes:
        mark: what separates them.
        quoted: whether quotation marks enclose a cell that has the mark, a quotation mark or a line end;
            None: it is asked if a cell begins with one.
        begin: the byte order mark, without which Excel reads no umlauts, or "".
        skipped: the lines before the first row.
    """

    mark: str = ","
    quoted: bool | None = True
    begin: str = "\ufeff"
    skipped: int = 0


class Table(NamedTuple):
    """A table whose header was read.

    Attributes:
        names: of the columns, "" where the header has none; without a header "1", "2", ...
        line: that of the header, or of the first row.
        form: that in which a table of these rows is written.
        sample: the first three rows.
        rows: the line at which each row begins, and a cell for each column.
    """

    path: Path
    names: list[str]
    line: int
    form: Form
    sample: list[list[Any]]
    rows: Iterator[tuple[int, list[Any]]]

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
        return [place for place, name in enumerate(self.names) if name.lower() in names]

    def question(self, what: str, flags: Sequence[str]) -> UserError:
        """The question which columns are meant, with all that is needed to answer it.

        Args:
            what: what is not known.
            flags: those that say it, as "--text COLUMN"; they replace those of the command line.
        """
        lines = []
        for place, name in enumerate(self.names):
            cells = [shown(cells[place])[:40] for cells in self.sample]
            lines.append(f"{name or '(no name)'}: {' | '.join(cells)}")
        words = command_words()
        for flag in {flag.partition(" ")[0] for flag in flags}.intersection(words):
            place = words.index(flag)
            del words[place : place + 2]
        numbers = count(1)
        in_numbers = re.sub("[A-Z]+", lambda _: str(next(numbers)), flags[0])
        return UserError(
            f"{self.path}, line {self.line}: {what} Its columns, and the first cells of each:",
            *lines,
            f"name them: {shlex.join(words)} {' '.join(flags)}",
            f"or give their numbers, as in {in_numbers}, if there is no header",
        )


def open_table(
    path: Path,
    options: TableOptions,
    faults: Faults,
    ragged: bool = False,
    start_of: Callable[[TextFile], tuple[Form, bool]] | None = None,
) -> Table:
    """Open a table and read its header.

    Args:
        faults: receives lines that cannot be read, when `Table.rows` comes to them.
        ragged: whether cells at the end of a row may be missing; they are then None.
        start_of: tells how the cells of a text are written, and whether its first line names the columns;
            None: `form_of` and the options tell it.

    Raises:
        UserError: the file cannot be read, is no table, or it has to be asked how it is written.
    """
    ending = split_name(path)[0]
    has_names = not _are_numbers(options)
    form = Form()
    if ending in _SHEETS:
        rows = _rows_of_sheet(path)
    else:
        if options.encoding is None:
            _refuse_other_encodings(path)
        file = TextFile(str(path), encoding=options.encoding, any_form=ending in JSON)
        if ending in JSON:
            has_names = True
            rows = _rows_of_objects(file, faults)
        else:
            form, has_names = start_of(file) if start_of else (form_of(file, options), has_names)
            lines = islice(file.texts(faults), form.skipped, None)
            rows = records(lines, form, faults, form.skipped + 1)
    return table_of(path, form, has_names, rows, options, faults, ragged)


def table_of(
    path: Path,
    form: Form,
    has_names: bool,
    rows: Iterator[tuple[int, list[Any]]],
    options: TableOptions,
    faults: Faults,
    ragged: bool = False,
) -> Table:
    """A table by its rows, of which the first may have the names; arguments and errors as in `open_table`."""
    line, first = next(rows, (0, None))
    if first is None:
        faults.end(logger.warning)
        raise UserError(f"{path}: no rows in it")
    names = _numbers(len(first))
    if has_names:
        names = [in_one_line(name).strip() for name in first]
        if "_task_hash" in names and not options.only:
            raise UserError(
                f"{path}, line {line}: it is of Prodigy, where answers may be rejected or ignored; say which "
                "rows are meant: --only answer=accept"
            )
    else:
        if _are_numbers(options):
            _refuse_names(path, line, first)
        rows = chain([(line, first)], rows)
    rows = of_width(rows, len(names), line, faults, ragged)
    head = list(islice(rows, 3))
    if not head:
        faults.end(logger.warning)
        raise UserError(f"{path}: has a header and no rows")
    table = Table(path, names, line, form, [cells for _, cells in head], chain(head, rows))
    return table._replace(rows=wanted(table, options.only, faults))


def _numbers(width: int) -> list[str]:
    """What the columns are called without a header."""
    return [str(number) for number in range(1, width + 1)]


def in_one_line(cell: str) -> str:
    """A cell as the official form can hold it, without tabs and line ends."""
    return cell if cell.isprintable() else re.sub(r"[\t\r\n]+", " ", cell)


def fault_of_text(name: str, cell: Any) -> str:
    """What keeps the cell of a column from being a text, or ""."""
    if not isinstance(cell, str):
        kind = {list: "a list", dict: "an object"}.get(type(cell), json.dumps(cell))
        return f"the value of '{name}' is {kind}, and no text"
    return "" if cell.strip() else f"'{name}' is empty"


def _are_numbers(options: TableOptions) -> bool:
    """Whether the flags name columns by their numbers alone, which says that there is no header."""
    flags = ("columns", *LABELS)
    given = ",".join(filter(None, (getattr(options, flag, None) for flag in flags)))
    return re.fullmatch(r"\d+([,+]\d+)*", given) is not None


def _refuse_names(path: Path, line: int, cells: Sequence[str]) -> None:
    """Refuse a first row that has known names, or numbers, where numbers say that there is no header.

    Raises:
        UserError: it has at least two.
    """
    numbers = [cell for cell in cells if cell]
    if len(numbers) > 1 and all(cell in ("", str(n), str(n + 1)) for n, cell in enumerate(cells)):
        raise UserError(
            f"{path}, line {line}: it numbers the columns, as pandas does if they have no names, and is no "
            "row; remove it"
        )
    known = {
        name for parts in (LABELS, PAIRS, WORDS, QUESTIONS) for names in parts.values() for name in names
    }
    found = [cell.strip() for cell in cells if cell.strip().lower() in known]
    if len(found) > 1:
        raise UserError(
            f"{path}, line {line}: numbers of columns say that there is no header, but this line has the "
            f"names {listed(found)}; give names, or remove the line"
        )


def _refuse_other_encodings(path: Path) -> None:
    """Read a file to its end, before anything else of it is looked at.

    Raises:
        UserError: lines are not UTF-8, or have NUL bytes; names them.
    """
    faults = Faults(path, may_skip=False)
    with closing(TextFile(str(path), any_form=True)) as file:
        is_list = split_name(path)[0] in JSON and file.buffer.lstrip().startswith(b"[")
        for _ in () if is_list else file.texts(faults):  # a list may be one line, and is decoded as a whole
            pass
    faults.end(logger.warning)


def of_width(
    rows: Iterator[tuple[int, list[Any]]], width: int, header: int, faults: Faults, ragged: bool
) -> Iterator[tuple[int, list[Any]]]:
    """The rows that have a cell for each column; others are faults."""
    for line, cells in rows:
        if ragged:
            cells = [*cells, *[None] * (width - len(cells))]
        if len(cells) == width:
            yield line, cells
            continue
        what = f"{len(cells)} column{'s' * (len(cells) != 1)}, but line {header} has {width}"
        faults.add(line, what, "mend or remove them; --delimiter says what separates the cells")


def wanted(table: Table, only: str | None, faults: Faults) -> Iterator[tuple[int, list[Any]]]:
    """The rows that --only takes, by a comparison such as label=1 or score>=0.8.

    Raises:
        UserError: it is no comparison, or names no column.
    """
    if only in (None, "all"):
        return table.rows
    match = re.fullmatch(r"(.+?)(!=|>=|<=|=|>|<)(.*)", only)
    if match is None:
        raise UserError(f"--only {only}: give a column and a value, as in label=1 or score>=0.8; or all")
    place, sign, value = table.place(match[1], "--only"), match[2], match[3].strip()
    if sign in _COMPARED:
        try:
            least = float(value)
        except ValueError as error:
            raise UserError(f"--only {only}: {sign} compares with a number, as in score>=0.8") from error

    def rows() -> Iterator[tuple[int, list[Any]]]:
        for line, cells in table.rows:
            if sign in ("=", "!="):
                is_wanted = (normal_label(str(cells[place])) == normal_label(value)) == (sign == "=")
            else:
                try:
                    is_wanted = _COMPARED[sign](float(cells[place]), least)
                except (ValueError, TypeError):
                    name = table.names[place]
                    faults.add(line, f"'{shown(cells[place])}' in '{name}' is no number", "--only needs one")
                    continue
            if is_wanted:
                yield line, cells

    return rows()


def form_of(file: TextFile, options: TableOptions) -> Form:
    """How the cells of a text are written.

    It is the one mark of tab, comma and semicolon that the first line has and with which every row has as
    many cells; of two that of the ending.

    Raises:
        UserError: it has to be asked.
    """
    head = file.head(_HEAD).decode(errors="replace")

    def lines() -> Iterator[str]:
        return islice(io.StringIO(head, newline="\n"), skipped, None)

    skipped = 0
    skipped = next((number for number, line in enumerate(lines()) if line.strip()), 0)
    first = next(lines(), "")
    named_by_excel = re.fullmatch(r'"?sep=(.)"?[,;\t]*\s*', first, re.IGNORECASE)
    if named_by_excel:  # the line says nothing else
        skipped += 1
        first = next(lines(), "")

    def quoted(mark: str) -> bool | None:
        if options.quotes is not None or mark != "\t":
            return options.quotes is not False
        return False if has_official_names(first, ("text_a",)) else None

    def agrees(mark: str) -> bool:
        form = Form(mark, quoted(mark) or False)
        rows = islice(records(lines(), form, unread := Faults("")), 1000)
        widths = {len(cells) for _, cells in rows}
        return len(widths) == 1 and unread.count <= 1  # the last row may be cut here

    if options.delimiter:
        mark = _MARKS.get(options.delimiter, options.delimiter)
        if len(mark) != 1:
            raise UserError(f"--delimiter {mark}: give one character, or tab")
    elif named_by_excel:
        mark = named_by_excel[1]
    else:
        usual = _OF_ENDING.get(split_name(file.path)[0])
        there = [mark for mark in "\t,;" if mark in first]
        found = list(filter(agrees, there)) or there or [usual or "\t"]
        if len(found) > 1 and usual not in found:
            marks = " or ".join(name for name, mark in _MARKS.items() if mark in found and name.isalpha())
            raise UserError(
                f"{file.path}, line {skipped + 1}: what separates its cells? say it: --delimiter {marks}"
            )
        mark = found[0] if len(found) == 1 else usual
    return Form(mark, quoted(mark), file.begin, skipped)


def records(
    lines: Iterator[str], form: Form, faults: Faults, first_line: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """The line at which each row begins, and its cells. Blank lines are left out.

    Args:
        first_line: the number of the first line.

    Raises:
        UserError: a cell begins with a quotation mark, and nothing says what that means.
    """
    if not form.quoted:
        for number, line in enumerate(lines, first_line):
            cells = line.rstrip("\r\n").split(form.mark)
            if form.quoted is None and any(cell.startswith('"') for cell in cells):
                raise UserError(
                    f"{faults.name}, line {number}: a cell begins with a quotation mark; do these enclose "
                    "cells (--quotes true), or are they text (--quotes false)?"
                )
            if any(map(str.strip, cells)):
                yield number, cells
        return
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(lines, delimiter=form.mark, strict=True)
    while True:
        first = reader.line_num + first_line
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # the next row is looked for on the next line
            is_followed = "expected after" in str(error)
            what = "text follows a quotation mark" if is_followed else "nothing closes a quotation mark"
            last = reader.line_num + first_line - 1
            span = f"to line {last}: " if last > first else ""
            faults.add(first, span + what, "within a cell in quotation marks, write each of them twice")
            continue
        if any(map(str.strip, cells)):
            yield first, cells


def _rows_of_objects(file: TextFile, faults: Faults) -> Iterator[tuple[int, list[Any]]]:
    """The keys of the objects in a file, and then a row for each."""
    start = file.buffer.lstrip()
    if re.match(rb'\{\s*"queries"\s*:\s*\{', start):
        raise UserError(
            f"{file.path}, line 1: LlamaIndex' form of queries, corpus and relevant_docs, and no table; in "
            "docs/data.md a line of jq makes pairs of it"
        )
    is_list = start.startswith(b"[")
    objects = _objects_of_list(file, faults) if is_list else _objects_of_lines(file, faults)
    head = list(islice(objects, _HEAD_OBJECTS))
    names = list(dict.fromkeys(name for _, value in head for name in value))  # each once, in their order
    if head:
        yield head[0][0], names
    for line, value in chain(head, objects):
        if new := value.keys() - {*names}:
            what = f"the key '{shown(min(new))}' is new"
            faults.add(line, what, f"one of the first {_HEAD_OBJECTS:,} objects must have each key")
        else:
            yield line, [_cell(value.get(name)) for name in names]


def _objects_of_lines(file: TextFile, faults: Faults) -> Iterator[tuple[int, dict]]:
    """The object on each line, with its number.

    Raises:
        UserError: the first object takes several lines.
    """
    for number, line in enumerate(file.texts(faults), 1):
        if line.isspace():
            continue
        try:
            yield number, _as_object(json.loads(line))
        except (ValueError, RecursionError) as error:
            if line.strip() == "{":
                raise UserError(
                    f"{file.path}, line {number}: an object of several lines, and no table; a table in "
                    "JSON has an object on each line, or is a list of them (jq -c '.KEY[]' takes one out)"
                ) from error
            faults.add(number, f"no JSON object ({error})", 'each line is one such as {"text": "..."}')


def _objects_of_list(file: TextFile, faults: Faults) -> Iterator[tuple[int, dict]]:
    """The objects in a list, each with the line at which it begins.

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
    position = text.index("[") + 1
    line = 1 + text.count("\n", 0, position)
    while True:
        start = re.compile(r"[\s,]*").match(text, position).end()
        line += text.count("\n", position, start)
        if text.startswith("]", start) and not text[start + 1 :].strip():
            return
        try:
            value, position = decode(text, start)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.path}, line {line}: not JSON ({error}); mend it there") from error
        try:
            yield line, _as_object(value)
        except ValueError as error:
            faults.add(line, f"no JSON object ({error})", 'each item is one such as {"text": "..."}')
        line += text.count("\n", start, position)


def _as_object(value: Any) -> dict:
    """A value of JSON that is an object.

    Raises:
        ValueError: it is another one, or has half a character, such as the escape \\ud83d alone.
    """
    if not isinstance(value, dict):
        raise ValueError(f"it is {shown(json.dumps(value))[:40]}")
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _rows_of_sheet(path: Path) -> Iterator[tuple[int, list[str]]]:
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
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > _LARGEST:
            raise UserError(f"{path}: unpacked, it has {size >> 20:,} MiB; save it as .csv")
        workbook = CalamineWorkbook.from_path(path)
        sheets = {
            name: workbook.get_sheet_by_name(name).to_python(skip_empty_area=False)
            for name in workbook.sheet_names
        }
    except (zipfile.BadZipFile, CalamineError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save it as .csv") from error
    names = [name for name, rows in sheets.items() if rows]
    if names[1:]:
        logger.warning("%s: only the sheet '%s' is read, not %s", path, names[0], listed(names[1:]))
    for line, values in enumerate(sheets[names[0]] if names else [], 1):
        cells = [_cell(value) for value in values]
        if any(cells):
            yield line, cells


def _cell(value: Any) -> Any:
    """A value of JSON, or of a sheet, as a cell: text, but for lists and objects."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str | list | dict) else str(value)


class LabelledRow(NamedTuple):
    """A row of a table of labels.

    Attributes:
        texts: one, or two.
        label: in its normal form; or a list of several, or of none.
        language, group, split, qid: "" if the table has no such column; split is train, dev or test.
        line: the number of the line at which it begins.
    """

    texts: list[str]
    label: str | list[str]
    language: str
    group: str
    split: str
    qid: str
    line: int


class LabelledTable(NamedTuple):
    """The rows of a table of labels.

    Attributes:
        columns: the flags that read the same columns -> their values, as {"text": "Subject+Body"}.
        label_columns: the labels that have a column each, in their normal form; none: one has the labels.
    """

    path: Path
    rows: list[LabelledRow]
    columns: dict[str, str]
    label_columns: list[str]

    def with_numbers(self, faults: Faults) -> "LabelledTable":
        """The rows whose label is a finite number.

        Args:
            faults: receives the other rows.

        Raises:
            UserError: as `Faults.end`, no row is left, or "1.000" may be a thousand.
        """
        kept = [row for row in self.rows if number_in(row.label) is not None]
        marked = [row for row in kept if "." in row.label]
        largest = max((int(row.label) for row in kept if row.label.isdecimal()), default=0)
        if marked and largest >= _HUNDREDS and all(_MAY_BE_THOUSAND.fullmatch(row.label) for row in marked):
            cell = marked[0].label
            digits, number = cell.replace(".", ""), float(cell)
            raise UserError(
                f"{self.path}, line {marked[0].line}: '{cell}' may be {int(digits):,} or {number:g}; write "
                f"{digits} or {number}, and the other labels alike"
            )
        for row in self.rows:
            if number_in(row.label) is None:
                mend = "a score has a decimal point and no other mark, as in 0.5 or 1250.5"
                faults.add(row.line, f"the label '{shown(row.label)}' is no number", mend)
        faults.end(logger.warning)
        if not kept:
            raise UserError(f"{self.path}: no rows are left")
        return self._replace(rows=kept)

    def meant_for(self, purpose: str) -> "LabelledTable":
        """The rows for "train", or those for anything else, if the column split has both."""
        meant = [row for row in self.rows if (row.split in ("", "train")) == (purpose == "train")]
        if not meant or len(meant) == len(self.rows):
            return self
        counts = Counter(row.split or "(empty)" for row in self.rows) - Counter(
            row.split or "(empty)" for row in meant
        )
        for split, rows in counts.items():
            logger.warning("%s: %s rows of the split '%s' are left out", self.path, f"{rows:,}", split)
        return self._replace(rows=meant)


def find_columns(
    table: Table,
    options: LabelOptions,
    needed: Collection[str] = ("text", "label"),
    remembered: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, list[int]]:
    """The places of the columns of texts, labels and more: part of `LABELS` -> places, or none.

    A flag names them, or their name is in `LABELS`. With --text, only --text_b gives a second text.

    Args:
        needed: the parts that must be there.
        remembered: values of flags that hold if the table has these columns, and no flag is given.

    Raises:
        UserError: the question for all that is not known.
    """
    options.refuse_others(table.path, "tables of texts", *OF_TABLES, *LABELS)
    found: dict[str, list[int]] = {}
    several = []
    is_text_named = options.text is not None
    for part, names in LABELS.items():
        given = getattr(options, part, None)
        learned = _columns_in(part, remembered.get(part, ""), table)
        if given:
            found[part] = [table.place(name, f"--{part}") for name in _columns_in(part, given, table)]
        elif {*learned} <= {*table.names} - {""} and not (part == "text_b" and options.text):
            found[part] = [table.names.index(name) for name in learned]
            is_text_named |= part == "text"
        else:
            found[part] = [] if part == "text_b" and is_text_named else table.named(names)
            if len(found[part]) > 1 and part == "label" and part not in needed:
                found[part] = []
            elif len(found[part]) > 1:
                several.append(part)
    missing = [part for part in needed if not found[part]]
    if several or missing:
        whats = [
            f"which column is {_IN_WORDS.get(part, f'the {part}')}, "
            + " or ".join(f"'{table.names[place]}'" for place in found[part])
            + "?"
            for part in several
        ]
        whats += [f"which column is {_IN_WORDS.get(part, f'the {part}')}?" for part in missing]
        raise table.question(" ".join(whats), [f"--{part} COLUMN" for part in (*several, *missing)])
    return found


def _columns_in(part: str, flag: str, table: Table) -> list[str]:
    """The names of columns in the value of a flag; a column may have the mark between them in its name."""
    return [flag] if flag in table.names or part not in _BETWEEN else flag.split(_BETWEEN[part])


def read_labelled(path: Path, options: LabelOptions, several: bool = False) -> LabelledTable:
    """Read texts, or pairs of texts, with labels.

    Args:
        several: whether a row may have several, or none: a list of them, or a column for each with 0 and 1.

    Raises:
        UserError: the file cannot be read, it is not known which columns are meant, or rows have faults;
            names the lines.
    """
    faults = Faults(path, options.on_error == "skip")
    table = open_table(path, options, faults)
    found = find_columns(table, options)
    names = [table.names[place] for place in found["label"]]
    if len(names) > 1 and not several:
        raise UserError(f"--label {options.label}: a column for each label is for --task multi-label")
    rows = []
    for line, cells in table.rows:
        with faults.of_line(line):
            rows.append(_labelled_row(table, found, line, cells, several))
    faults.end(logger.warning)
    if several and len(names) == 1:
        rows = _with_lists(path, rows)
    elif not several:
        rows = _without_missing_labels(path, rows)
    if not rows:
        raise UserError(f"{path}: no rows are left")
    _say_what_is_read(table, found, rows)
    label_columns = [normal_label(name) for name in names] if len(names) > 1 else []
    return LabelledTable(path, rows, _named(table, found), label_columns)


def _named(table: Table, found: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The flags that read the same columns of another table: flag -> value; numbers are not kept."""
    if table.names == _numbers(len(table.names)):
        return {}
    return {
        part: _BETWEEN.get(part, ",").join(table.names[place] for place in places)
        for part, places in found.items()
        if places and part != "qid"
    }


def _texts_in(table: Table, found: Mapping[str, Sequence[int]], cells: Sequence[Any]) -> list[str]:
    """The text of a row, or its two texts. Several columns that make a text have a line end between them.

    Raises:
        UserError: a cell is no text, or all of a text are empty.
    """
    texts = []
    for part in ("text", "text_b"):
        faults = [fault_of_text(table.names[place], cells[place]) for place in found[part]]
        if found[part] and (all(faults) or any(not isinstance(cells[place], str) for place in found[part])):
            raise UserError(f"{max(faults)}; write a text there, or remove the line")
        if found[part]:
            texts.append(
                "\n".join(filter(None, (in_one_line(cells[place]).strip() for place in found[part])))
            )
    return texts


def _labelled_row(
    table: Table, found: Mapping[str, Sequence[int]], line: int, cells: Sequence[Any], several: bool
) -> LabelledRow:
    """A row of a table.

    Raises:
        UserError: what is wrong with it, and what mends it.
    """
    texts = _texts_in(table, found, cells)
    place, *others = found["label"]
    if others:
        label = _marked(table, found["label"], cells)
    else:
        label = _label_in(table.names[place], cells[place], several)
    more = {}
    for part in ("language", "group", "split", "qid"):
        cell = cells[found[part][0]] if found[part] else ""
        if not isinstance(cell, str):
            raise UserError(
                f"{fault_of_text(table.names[found[part][0]], cell)}; write a word or a number there"
            )
        more[part] = in_one_line(cell).strip()
    if found["split"]:
        split = SPLITS.get(more["split"].lower())
        if split is None:
            raise UserError(
                f"the split '{shown(more['split'])}' is none of train, dev and test; mend it, or rename the "
                "column if it says something else"
            )
        more["split"] = split
    return LabelledRow(texts, label, **more, line=line)


def _label_in(name: str, cell: Any, several: bool) -> str | list[str]:
    """The label in a cell, or all labels in it, none of them left out yet.

    Raises:
        UserError: it has none, or several.
    """
    if isinstance(cell, dict) or (
        isinstance(cell, list) and any(isinstance(item, list | dict) for item in cell)
    ):
        raise UserError(f"the value of '{name}' has objects in it, and no label; write the label there")
    if several:
        if isinstance(cell, list):
            return [normal_label(str(_cell(item))) for item in cell]
        return re.findall("[01]", cell) if _ONE_HOT.fullmatch(cell) else split_labels(cell)
    if isinstance(cell, list) or is_list(cell):
        raise UserError(
            f"the label {str(cell)[:50]} is a list; --task multi-label takes several labels of a text"
        )
    if not normal_label(cell):
        raise UserError("the label is empty; fill it in, or remove the line")
    return normal_label(cell)


def is_marked(cell: Any) -> bool | None:
    """Whether a cell in a column for one label says that the row has it; None: it says neither."""
    return _YES_OR_NO.get(str(cell).strip().lower())


def _marked(table: Table, places: Sequence[int], cells: Sequence[Any]) -> list[str]:
    """The labels of a row, of columns for one label each.

    Raises:
        UserError: a cell has neither 0 nor 1.
    """
    marks = [is_marked(cells[place]) for place in places]
    if None in marks:
        place = places[marks.index(None)]
        raise UserError(
            f"the column '{table.names[place]}' has '{shown(cells[place])}'; a column for each label has 1 "
            "where a text has it, and 0 elsewhere"
        )
    return [normal_label(table.names[place]) for place, mark in zip(places, marks) if mark]


def _with_lists(path: Path, rows: Sequence[LabelledRow]) -> list[LabelledRow]:
    """The rows, each label of a row once.

    Raises:
        UserError: in every row there are equally many 0 and 1, for labels that have no names here.
    """
    marks = set().union(*(row.label for row in rows))
    if len({len(row.label) for row in rows}) == 1 and marks <= {"0", "1"}:
        raise UserError(
            f"{path}, line {rows[0].line}: the labels of every row are {len(rows[0].label)} times 0 or 1, "
            "and do not name labels; write a column for each label, and name these: --label A,B,C"
        )
    return [row._replace(label=list(dict.fromkeys(filter(None, row.label)))) for row in rows]


def _without_missing_labels(path: Path, rows: list[LabelledRow]) -> list[LabelledRow]:
    """The rows whose label does not stand for none; see `labels_for_none`.

    Raises:
        UserError: no row has one.
    """
    none = labels_for_none(Counter(row.label for row in rows))
    kept = [row for row in rows if row.label not in none]
    names = " or ".join(f"'{label}'" for label in sorted(none))
    if rows and not kept:
        raise UserError(f"{path}, line {rows[0].line}: all labels are {names}, which stands for none")
    if none:
        count = len(rows) - len(kept)
        logger.warning(
            "%s: %s rows left out; their label is %s, which stands for none", path, f"{count:,}", names
        )
    return kept


def _say_what_is_read(table: Table, found: Mapping[str, Sequence[int]], rows: Sequence[LabelledRow]) -> None:
    """Say which columns are read and which not, and what in the texts is odd."""
    read = {place for places in found.values() for place in places}
    others = [printable(name) for place, name in enumerate(table.names) if place not in read and name]
    parts = [
        f"{_IN_WORDS.get(part, part)} is {printable(' and '.join(table.names[place] for place in places))}"
        for part, places in found.items()
        if places
    ]
    logger.info("%s: %s", table.path, "; ".join([*parts, f"not read: {listed(others)}"] if others else parts))
    look_at_text(table.path, [text for row in rows[:1000] for text in row.texts], "", None)
    if not table.form.quoted:
        say_quoted(table.path, sum(has_quotes(row.texts) for row in rows), len(rows), logger.warning)


class AskedTable(NamedTuple):
    """A table of texts that a model is asked about, whose columns are known.

    Attributes:
        texts: what a request calls its text, and a second one -> the places of its columns.
        labels: the places of the columns of labels; none: the table has no labels.
        language: the place of the column of languages; None: there is none.
    """

    table: Table
    texts: dict[str, list[int]]
    labels: list[int]
    language: int | None

    def check(self, pairs: bool | None) -> None:
        """Refuse a table that has not the texts that a model reads. `pairs`: whether two; None: either.

        Raises:
            UserError: the question which columns they are.
        """
        if pairs is not None and len(self.texts) != 1 + pairs:
            reads, flags = ("pairs of texts", "text_b") if pairs else ("single texts", "text")
            names = " and ".join(
                f"'{self.table.names[place]}'" for places in self.texts.values() for place in places
            )
            raise self.table.question(f"the model reads {reads}, and not {names}.", [f"--{flags} COLUMN"])

    def rows(self) -> Iterator[tuple[int, list[Any], dict[str, Any]]]:
        """Each row with its line: its cells, and as a request with its texts, its language and its id.

        No other column is a key of a request: `labels` would be what zero-shot chooses from.
        """
        kept = {name.lower(): place for place, name in enumerate(self.table.names) if name.lower() == "id"}
        for line, cells in self.table.rows:
            request = {key: cells[place] for key, place in kept.items()}
            if self.language is not None:
                request["language"] = cells[self.language]
            for key, places in self.texts.items():
                parts = [cells[place] for place in places]
                are_texts = all(isinstance(part, str) for part in parts)
                request[key] = "\n".join(filter(str.strip, parts)) if are_texts and parts[1:] else parts[0]
            if "text_a" in request:
                request["text"] = request["text_a"]  # what most tasks call it
            yield line, cells, request


def open_asked(
    path: Path,
    options: LabelOptions,
    faults: Faults,
    remembered: Mapping[str, str] = MappingProxyType({}),
    questions: bool = False,
) -> AskedTable:
    """Open a table of texts, or a .txt file with a text on each line.

    Args:
        faults: receives rows that cannot be read.
        remembered: see `find_columns`.
        questions: whether its texts are questions with contexts, which --columns names.

    Raises:
        UserError: the table cannot be read, or it is not known which columns have the texts.
    """
    if split_name(path)[0] == ".txt" and not (options.text or options.columns):
        options.refuse_others(path, "lines of text", "encoding", "on_error")
        return AskedTable(_lines_of_text(path, options, faults), {"text_a": [0]}, [], None)
    table = open_table(path, options, faults)
    if questions:
        options.refuse_others(path, "tables of questions", "columns", *OF_TABLES)
        given = options.columns.split(",") if options.columns else []
        places = [[table.place(name, "--columns")] for name in given]
        places = places or [table.named(names) for names in QUESTIONS.values()]
        if [len(found) for found in places] != [1, 1]:
            raise table.question(
                "which columns are the question and its context?", ["--columns COLUMN,COLUMN"]
            )
        return AskedTable(table, dict(zip(QUESTIONS, places)), [], None)
    found = find_columns(table, options, ("text",), remembered)
    texts = {key: found[part] for key, part in (("text_a", "text"), ("text_b", "text_b")) if found[part]}
    return AskedTable(table, texts, found["label"], *found["language"] or [None])


def read_texts(path: Path, options: LabelOptions) -> list[list[str]]:
    """The text of each row of a table, or its two texts; arguments and errors as of `read_labelled`."""
    faults = Faults(path, options.on_error == "skip")
    asked = open_asked(path, options, faults)
    found = dict(zip(("text", "text_b"), [*asked.texts.values(), []]))
    rows = []
    for line, cells in asked.table.rows:
        with faults.of_line(line):
            rows.append(_texts_in(asked.table, found, cells))
    faults.end(logger.warning)
    return rows


def _lines_of_text(path: Path, options: TableOptions, faults: Faults) -> Table:
    """A file with a text on each line, as a table.

    Raises:
        UserError: its first line has a tab.
    """
    file = TextFile(str(path), encoding=options.encoding)
    if b"\t" in file.buffer.partition(b"\n")[0]:
        raise UserError(
            f"{path}, line 1: a .txt file has a text on each line, and this one has a tab; if it is a table, "
            "name its columns: --text COLUMN"
        )
    rows = ((line, [text.rstrip("\r\n")]) for line, text in enumerate(file.texts(faults), 1) if text.strip())
    return Table(path, ["text"], 1, Form("\t", False, file.begin), [], rows)
