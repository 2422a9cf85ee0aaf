"""The form of a table, by what is in the file: the marks and quotes of its cells, and its header."""

import csv
import operator
import re
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.labels import normal_label
from ernie_m.reader.files.official_tsv import has_official_names
from ernie_m.reader.files.plain_text import LONGEST_LINE, TextFile, split_name
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.columns import columns_of, counted, has_header, kind_of, place_of
from ernie_m.reader.files.table.objects import rows_of_objects, rows_of_sheet
from ernie_m.reader.files.table.words import CLASSES, NUMBERS, ONE, VERDICTS, purpose_of
from ernie_m.utils.errors import UserError, shown

MARKS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", " ||| ": "three bars"}
_NAMES_OF_MARKS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|"}
_HEAD = 1000  # rows that tell the mark
_HEAD_LINES = 4000
_SAMPLE = 10_000  # rows that tell what a column holds
_LONGEST_CELL = 2000  # lines
_COMPARED = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_CELL_IN_QUOTES = re.compile(r'(?:^|\t)"((?:[^"]|"")*)"(?=\t|\r?$)', re.MULTILINE)
_FIRST_QUOTE = re.compile(r'(?:^|\t)"', re.MULTILINE)


class Form(NamedTuple):
    """How the cells of a table are written.

    Attributes:
        mark: what separates cells.
        quoted: whether quotation marks enclose a cell that has the mark, a quotation mark or a line end.
        begin: the byte order mark, without which Excel reads no umlauts, or "".
        escape: what stands before a quotation mark within quotation marks, if it is not written twice.
        skipped: the lines before the first row.
    """

    mark: str
    quoted: bool
    escape: str | None = None
    begin: str = ""
    skipped: int = 0


class OpenedTable(NamedTuple):
    """A table whose head was read.

    Attributes:
        form: None for JSON and Excel.
        names: those of the columns; None: there is no header.
        line: the first row's, or the header's.
        kinds: of the columns.
        sample: the first rows, without the header.
        rows: the line at which each row begins, and its cells; as many as there are columns, unless `ragged`.
        is_plain: whether the bytes of the file are text in UTF-8, with cells.
        wanted: which rows --only takes; `rows` and `sample` have no others. None: all.
    """

    path: Path
    form: Form | None
    names: list[str] | None
    line: int
    kinds: list[str]
    sample: list[list[str]]
    rows: Iterator[tuple[int, list[str]]]
    is_plain: bool = False
    wanted: "Wanted | None" = None

    @property
    def purposes(self) -> list[str | None]:
        """What the columns are for, by their names; None: nothing that is known, or they have no name."""
        return [purpose_of(name) for name in self.names or [""] * len(self.kinds)]

    @property
    def folded(self) -> list[str]:
        """The names of the columns in small letters; none: there is no header."""
        return [name.strip().lower() for name in self.names or ()]

    def place(self, name: str, flag: str = "--columns") -> int:
        """The place of a column that an option names, by its name or its number from 1.

        Raises:
            UserError: there is none.
        """
        names = [cell.strip() for cell in self.names or ()]
        return place_of(name, names, len(self.kinds), f"{self.path}, line {self.line}: {flag}")

    def called(self, places: Iterable[int]) -> str:
        """The names of columns for a message, or their numbers."""
        names = (f"'{shown(self.names[place])}'" if self.names else str(place + 1) for place in places)
        return " or ".join(names)


def options_of(path: Path, options: TableOptions) -> TableOptions:
    """The options for one file, without the names of files."""
    values = {field.name: getattr(options, field.name) for field in fields(TableOptions)}
    for name in ("columns", "delimiter", "encoding", "only"):
        file, equals, rest = (values[name] or "").partition("=")
        if equals and re.search(r"[^.]\.\w+$", file):  # a file has an ending, as in dev.csv=review,stars
            values[name] = rest if file == path.name else None
    return TableOptions(**values)


def open_table(
    path: Path,
    options: TableOptions,
    faults: Faults,
    say: Callable[[str], None],
    ragged: bool = False,
    starts: array | None = None,
) -> OpenedTable:
    """Open a table, and find its form, its header and what its columns hold.

    Args:
        options: those of `path` alone are taken.
        faults: receives lines that cannot be read, when `OpenedTable.rows` comes to them.
        say: is told the first row, if it might be taken for a header, and which sheets are not read.
        ragged: whether a row may have fewer cells than others, or more.
        starts: receives the byte at which each line begins, if the file is plain.

    Raises:
        UserError: the file cannot be read, is no table, or it has to be asked how it is written.
    """
    sheet = rows_of_sheet(path, say)
    if sheet:
        return table_of(path, None, False, sheet, options, faults, say, ragged)
    file = TextFile(str(path), encoding=options.encoding, any_form=True)
    objects = rows_of_objects(file, faults)
    if objects:
        is_named, rows = objects
        return table_of(path, None, is_named, rows, options, faults, say, ragged)
    form, is_official, rows = rows_of_lines(
        path, file.texts(faults, starts if file.is_plain else None), options, faults
    )
    form = form._replace(begin=file.begin)
    table = table_of(path, form, is_official, rows, options, faults, say, ragged)
    return table._replace(is_plain=file.is_plain)


def rows_of_lines(
    path: Path, lines: Iterator[str], options: TableOptions, faults: Faults
) -> tuple[Form, bool, Iterator[tuple[int, list[str]]]]:
    """The form of lines with cells, whether it is the official one, and each row with its line.

    Raises:
        UserError: all lines are blank, or it has to be asked what separates the cells.
    """
    not_blank = ((number, line) for number, line in enumerate(lines) if not line.isspace())
    skipped, first = next(not_blank, (0, ""))
    if not first:
        raise UserError(f"{path}: no rows in it")
    head = [first, *islice(lines, _HEAD_LINES - 1)]
    is_official = has_official_names(first, ("text_a",))  # nothing is asked about such a file
    form = Form("\t", False) if is_official else find_form(head, path, options.delimiter)
    if _excel_separator(first):  # this line only says what separates the cells
        head = head[1:]
        skipped += 1
    form = form._replace(skipped=skipped)
    return form, is_official, records(chain(head, lines), form, faults, skipped + 1)


def table_of(
    path: Path,
    form: Form | None,
    is_named: bool,
    rows: Iterator[tuple[int, list[str]]],
    options: TableOptions,
    faults: Faults,
    say: Callable[[str], None],
    ragged: bool,
) -> OpenedTable:
    """What the first rows tell; arguments and errors as in `open_table`.

    Args:
        is_named: whether the first row is known to name the columns.
    """
    line, first_cells = next(rows, (0, None))
    if first_cells is None:
        faults.end(say)
        raise UserError(f"{path}: no rows in it")
    sample = list(islice(rows, _SAMPLE))
    next_widths = [len(cells) for _, cells in sample[:2]]
    if len(first_cells) == 1 and len(sample) > 2 and next_widths[0] == next_widths[1] > 1:
        say(f"{path}, line {line}: left out, as a title: {shown(first_cells[0])}")
        line, first_cells = sample.pop(0)
    # R writes no name above its row names, which all differ.
    row_names = {cells[0] for _, cells in sample if len(cells) == len(first_cells) + 1}
    if not is_named and len(row_names) == len(sample) > 1:
        first_cells = ["", *first_cells]
    widths = Counter(len(cells) for _, cells in sample)
    width = len(first_cells)
    usual, count = widths.most_common(1)[0] if widths else (width, 0)
    if ragged and sample:
        # As many columns as more than a tenth of the rows have.
        widest_first = sorted(widths.elements(), reverse=True)
        width = max(usual, widest_first[len(sample) // 10])
    elif width not in widths and count > 1:
        raise UserError(f"{path}, line {line}: {counted(width)}, but the next lines have {usual}")
    whole = [cells for _, cells in sample]
    if not ragged or widths[width] >= 0.8 * len(sample):  # rows of another width are damaged
        whole = [cells for cells in whole if len(cells) == width]
    columns = columns_of(whole, width)
    kinds = [kind_of(cells) for cells in columns]
    head = [*first_cells, *[""] * (width - len(first_cells))][:width]
    rows = chain(sample, rows)
    names = head
    if not (is_named or has_header(path, (line, head), columns, kinds, options.header, say)):
        names = None
        rows = chain([(line, first_cells)], rows)
        whole = [first_cells, *whole]
        kinds = [kind_of([cell.strip(), *cells]) for cell, cells in zip(head, columns)]
    if not ragged:
        rows = _of_width(rows, width, line, faults)
    if not whole:
        list(rows)  # so that `faults` has all of them
        faults.end(say)
        raise UserError(f"{path}: has a header and no rows")
    table = OpenedTable(path, form, names, line, kinds, whole, rows)
    wanted = Wanted.of(table, options.only)
    if wanted is None:
        return table
    # Only some of the rows, which tell anew what the columns hold.
    sample = [cells for cells in whole if wanted.takes(cells)] or whole
    kinds = [kind_of(cells) for cells in columns_of(sample, width)]
    rows = ((number, cells) for number, cells in rows if wanted.takes(cells))
    return table._replace(sample=sample, kinds=kinds, rows=rows, wanted=wanted)


class Wanted(NamedTuple):
    """Which rows --only takes: those whose cell at `place` is, or compares with, a value."""

    place: int
    sign: str
    value: str

    @classmethod
    def of(cls, table: OpenedTable, only: str | None) -> "Wanted | None":
        """Those of a comparison such as label=1 or score>=0.8; None: all.

        Raises:
            UserError: it is no comparison, or names no column of the table.
        """
        if only in (None, "all"):
            return None
        match = re.fullmatch(r"(.+?)(!=|>=|<=|=|>|<)(.*)", only)
        if match is None:
            raise UserError(f"--only {only}: give a column and a value, as in label=1 or score>=0.8; or all")
        place = table.place(match[1].strip(), "--only")
        if match[2] in _COMPARED and table.kinds[place] not in (NUMBERS, CLASSES, VERDICTS, ONE):
            raise UserError(
                f"{table.path}, line {table.line}: --only {only}: there are no numbers in this column"
            )
        return cls(place, match[2], match[3].strip())

    def takes(self, cells: Sequence[str]) -> bool:
        cell = cells[self.place].strip() if self.place < len(cells) else ""
        if self.sign in ("=", "!="):
            is_equal = normal_label(cell) == normal_label(self.value)
            return is_equal if self.sign == "=" else not is_equal
        try:
            return _COMPARED[self.sign](float(cell.replace(",", ".")), float(self.value))
        except ValueError:
            return False


def in_one_line(cell: str) -> str:
    """A cell as the official form can hold it, without tabs and line ends."""
    return cell if cell.isprintable() else re.sub(r"[\t\r\n]+", " ", cell)


def _of_width(rows: Iterable, width: int, first_line: int, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """The rows with this number of cells; others are faults, but for blank ones at the end."""
    for row in rows:
        line, cells = row
        if len(cells) == width:
            yield row
        else:
            faults.add(
                line, f"{counted(len(cells))}, but line {first_line} has {width}", "mend or remove them"
            )


def find_form(head: Sequence[str], path: Path, delimiter: str | None = None) -> Form:
    """How cells are written, by the first lines of a file.

    It is the mark with which nearly all rows have as many cells as the others, outside quotation marks;
    a tab first. With none, each line is one cell.

    Args:
        delimiter: the mark, or "tab", if it is known; "none": each line is one cell.

    Raises:
        UserError: it is not clear which mark it is.
    """
    mark = _excel_separator(head[0]) or _NAMES_OF_MARKS.get(delimiter, delimiter)  # a mark is its own name
    if mark == "none":
        return Form("\t", False)
    if mark:
        if len(mark) != 1:
            raise UserError(f"--delimiter {delimiter}: give one character, tab, or none")
        return Form(mark, _is_quoted(head) if mark == "\t" else True)
    text = "".join(head)
    is_doubled = re.search(r'(?<![\\,;\t|\n])""(?![,;\t|\r\n])', text)
    escape = "\\" if '\\"' in text and not is_doubled else None
    shares = {}  # form -> the share of rows of another width
    forms = [Form("\t", _is_quoted(head), escape), *(Form(mark, True, escape) for mark in ",;|")]
    if " ||| " in head[0]:
        forms = [Form(" ||| ", False)]
    for form in forms:
        form, share = _share_of_misfits(head, form)
        if share is not None:
            shares[form] = share
    # A tab comes first, then what fits every row, then what fits nearly all.
    found = [form for form in shares if form.mark == "\t"]
    found = found or [form for form, share in shares.items() if share == 0]
    found = found or list(shares)
    all_commas_are_decimal = not re.search(r"(?<!\d),|,(?!\d)", text)  # between digits
    if len(found) > 1 and all_commas_are_decimal:
        found = [form for form in found if form.mark != ","]
    if len(found) > 1:
        marks = " or ".join(MARKS[form.mark] for form in found)
        flags = " or ".join(f"--delimiter '{form.mark}'" for form in found)
        raise UserError(f"{path}: its cells may be separated by {marks}; say which: {flags}")
    if found:
        return found[0]
    # No form serves, so each line is a cell. But if the first line and at least half of all have a mark, they
    # were meant to be cells.
    for mark, marks in MARKS.items():
        widths = [line.count(mark) + 1 for line in head]
        if widths[0] > 1 and 2 * widths.count(1) <= len(head) > 1:
            usual = Counter(widths).most_common(1)[0][0]
            odd = next((number for number, width in enumerate(widths) if width != usual), 0)
            raise UserError(
                f"{path}, line {odd + 1}: {counted(widths[odd])} between {marks}, and most lines have {usual}"
                f"; put cells with {marks} into quotation marks; --delimiter none takes each line for a text"
            )
    faults = Faults("")
    is_one_cell = {len(cells) for _, cells in records(head, Form(",", True), faults)} == {1}
    is_csv = split_name(path)[0] == ".csv" or any(line.startswith('"') for line in head)
    return Form(",", True) if is_csv and is_one_cell and not faults.count else Form("\t", False)


def _excel_separator(line: str) -> str:
    """The mark that the first line of a file names for Excel, as in "sep=;"; "" for another line."""
    # A program that reads the line as an ordinary row may save it in quotes, and with a separator for each
    # empty cell up to the width of the table, as in `"sep=;",,`.
    match = re.fullmatch('"?sep=(.)"?[,;\t]*', line.strip("\ufeff\r\n"), re.IGNORECASE)
    return match[1] if match else ""


def _share_of_misfits(head: Sequence[str], form: Form) -> tuple[Form, float | None]:
    """The share of rows of another width than most; None if the form does not serve.

    The form that is returned has no quotes if several are not closed, which are text. Between tabs only the
    rows count that have no tab: further cells may be missing there.
    """
    faults = Faults("")
    rows = list(islice(records(head, form, faults), _HEAD))
    unclosed = faults.count
    if len(head) == _HEAD_LINES and unclosed:
        unclosed -= 1  # the last row may go on after the head
    if unclosed > 2 and form.quoted:
        return _share_of_misfits(head, Form(form.mark, False))
    if not rows:
        return form, None
    doubled = (form.escape or '"') + '"'

    def is_cut(line: int, cells: list[str]) -> bool:
        """Whether a mark within quotation marks has cut a cell in two.

        Each part then has one of the two quotation marks. One that is text would be doubled in the line.
        """
        text = "".join(head[line - 1 : line + 8])  # a row may go over several lines
        return any(cell.count('"') % 2 and cell.replace('"', doubled) not in text for cell in cells)

    widths = Counter(len(cells) for line, cells in rows if not (form.quoted and is_cut(line, cells)))
    usual = max(widths, key=widths.__getitem__, default=1)
    fitting = widths.total() - widths[1] if form.mark == "\t" else widths[usual]
    misfits = len(rows) - fitting
    most = max(1, len(rows) // 10) if len(rows) >= 4 else 0  # misfits in a form that serves
    has_cells = usual > 1 or (form.mark == "\t" and fitting > 0)
    serves = has_cells and misfits <= most and unclosed <= max(2, most)
    return form, (misfits / len(rows) if serves else None)


def _is_quoted(head: Sequence[str]) -> bool:
    """Whether quotation marks enclose cells between tabs, where most programs take them for text.

    They do if nearly every cell that begins with one ends with one and needs them, or each row has such
    cells.
    """
    text = "".join(head)
    begun = len(_FIRST_QUOTE.findall(text))
    if not begun:
        return False
    cells = _CELL_IN_QUOTES.findall(text)
    # A cell needs quotation marks if it has a doubled one, a tab or a line end in it. Text with both tabs
    # and line ends is not one cell: it is several rows between two lone quotation marks.
    needed = sum('""' in cell or ("\t" in cell) != ("\n" in cell) for cell in cells)
    most_lone = max(1, begun // 10)
    most_need_them = needed > 0 and begun - needed <= most_lone
    are_in_each_row = len(cells) >= max(0.9 * (len(head) - 1), begun - most_lone, 1)
    return most_need_them or are_in_each_row


def records(
    lines: Iterable[str], form: Form, faults: Faults, first: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line at which each row begins, and its cells. Blank lines are left out.

    Args:
        lines: with their line ends.
        faults: receives the line where a quotation mark is not closed, or text follows it; the next line is
            then taken for a new row.
        first: the number of the first line.
    """
    if not form.quoted:
        blank = f"{form.mark} \t\r\n"
        for number, line in enumerate(lines, first):
            if line.strip(blank):
                yield number, line.rstrip("\r\n").split(form.mark)
        return
    csv.field_size_limit(LONGEST_LINE)
    taken: list[str] = []  # the lines of this row
    again: deque[str] = deque()  # lines to be read again, after a fault
    source = iter(lines)

    def feed() -> Iterator[str]:
        """What the reader of cells reads: first the lines to be read again, then those of `source`."""
        while True:
            line = again.popleft() if again else next(source, None)
            if line is None:
                return
            taken.append(line)
            if len(taken) > _LONGEST_CELL:
                raise csv.Error("its quotation mark is not closed")
            yield line

    while True:
        try:
            reader = csv.reader(
                feed(), delimiter=form.mark, doublequote=not form.escape, escapechar=form.escape, strict=True
            )
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield first, cells
                first += len(taken)
                taken.clear()
            return
        except csv.Error as error:
            # Besides the error of `feed`, the reader raises "'<mark>' expected after '"'", and at the end of
            # the file "unexpected end of data".
            what = "nothing closes a quotation mark"
            if "expected after" in str(error):
                what = "text follows a quotation mark"
            faults.add(first, what, "within a cell in quotation marks, write each of them twice")
            again.extendleft(reversed(taken[1:]))
            first += 1
            taken.clear()
