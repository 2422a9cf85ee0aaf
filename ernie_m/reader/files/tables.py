"""Tables of labelled texts as people have them: CSV or TSV, compressed or not, with any header or none."""

import csv
import gzip
import io
import json
import os
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ernie_m.reader.files.labels import is_list, labels_for_none, normal_label, split_labels
from ernie_m.reader.files.official_tsv import (
    decode,
    excel_separator,
    official_names,
    read_all,
    refuse_two_columns,
    split_cells,
)
from ernie_m.reader.files.plain_text import split_name
from ernie_m.utils.errors import UserError, printable
from ernie_m.utils.logging import logger

_ENDINGS = (".tsv", ".csv", ".tsv.gz", ".csv.gz")
_MOST_PACKED = 200  # times: text is packed to a fifth, and nothing but one character to a thousandth
_NEVER_PACKED = 1 << 26  # bytes that may be unpacked in any case
# A column of such a name is no label, if another may be.
LANGUAGE_COLUMNS = ("language", "lang", "locale")
# Rows with one value in a column of such a name belong together. XNLI has several pairs of one prompt.
ID_COLUMNS = (
    "group",
    "group_id",
    "doc_id",
    "document_id",
    "promptid",
    "pairid",
    "sentence_id",
    "text_id",
    "id",
)
_IN_WORDS = {"text_a": "the text", "text_b": "the second text", "label": "the label"}
# The beginnings of what `_guess` says.
_TEXT = ("the text may be", "no column looks like texts")
_LABEL = ("the label may be", "no column looks like labels")
ADDED = "predicted_"  # begins the name of a column that an answer adds
# What only some answers say: whether the text was cut, and how many of its words are unknown. Each has a
# column in any case, so that the columns do not depend on the rows.
_OF_SOME_ROWS = ("cut", "unknown_words")
_COLUMNS = {2: ["text_a", "label"], 3: ["text_a", "text_b", "label"]}  # number of columns -> their names


class LabelledTable(NamedTuple):
    """What a file holds.

    Attributes:
        columns: text_a, text_b (in pairs), label.
        rows: the cells of each row in the order of `columns`.
        lines: the number of the line at which each row ends.
        has_header: whether the first line names the columns.
        multi_label: whether a row may have several labels, with commas between them, or none.
        languages: the language of each row, if one more column is named so; otherwise none.
        ids: the id of each row, from the first of `ID_COLUMNS` that is there, has several ids, repeats one,
            and does not only number the labels; otherwise none.
    """

    columns: Sequence[str]
    rows: list[list[str]]
    lines: list[int]
    has_header: bool
    multi_label: bool
    languages: list[str]
    ids: list[str]

    def labels(self) -> list[list[str]]:
        """The labels of each row: one, unless `multi_label`."""
        return [split_labels(cells[-1]) if self.multi_label else [cells[-1]] for cells in self.rows]

    def part(self, numbers: np.ndarray) -> "LabelledTable":
        """The rows with these numbers, int64."""
        columns = (self.rows, self.lines, self.languages, self.ids)
        rows, lines, languages, ids = ([column[number] for number in numbers if column] for column in columns)
        return self._replace(rows=rows, lines=lines, languages=languages, ids=ids)


def is_table(path: str | os.PathLike) -> bool:
    """Whether the name of a file says that it is a table of this kind."""
    return str(path).lower().endswith(_ENDINGS)


class OfficialForm(NamedTuple):
    """A table in the form of the official TSV files.

    Attributes:
        content: its header and its rows, UTF-8.
        lines: the number of the line in the table at which each line of `content` ends.
    """

    content: bytes
    lines: list[int]


def in_official_form(
    path: Path,
    labels: bool,
    regression: bool,
    multi_label: bool,
    columns: Sequence[str] = (),
    any_label: bool = False,
) -> OfficialForm:
    """A table in the form of the official files, in memory; arguments and errors as in `rows_of`."""
    names_needed = {"text_a", "label"} if labels else {"text_a"}
    rows = rows_of_table(path)
    if columns or any_label or (rows and not names_needed <= {*official_names(rows[0][1], regression)}):
        if labels and not regression:
            table = read_table(path, columns, multi_label, say=logger.warning)
            rows = [(1, list(table.columns)), *zip(table.lines, table.rows)]
        elif columns and rows:
            _check_widths(path, rows)
            names = _COLUMNS[len(columns)] if labels else _COLUMNS[len(columns)][:-1]
            places = [place_of(path, rows[0][1], name) for name in columns[: len(names)]]
            rows = [(1, names), *((line, [cells[place] for place in places]) for line, cells in rows[1:])]
        elif not labels:
            place = column_of_texts(path, rows)
            rows = [(1, ["text_a"]), *((line, [cells[place]]) for line, cells in rows[1:])]
    lines = ["\t".join(in_one_line(cell) for cell in cells) for _, cells in rows]
    return OfficialForm("\n".join([*lines, ""]).encode(), [line for line, _ in rows])


def read_table(
    path: Path,
    columns: Sequence[str] = (),
    multi_label: bool = False,
    say: Callable[[str], None] = print,
) -> LabelledTable:
    """Read texts or pairs of texts with labels: tab-separated, or a .csv with commas or semicolons.

    If there is a header, `find_text_and_label` finds the columns, and others are left out. Without one a row
    has a text, perhaps a second text, and a label. Rows whose label says that they have none
    (`labels_for_none`) are left out.

    Args:
        columns: their names in the header, if it has others than usual.
        multi_label: see `LabelledTable`. A label may then be empty.
        say: is told what was read and left out.

    Raises:
        UserError: the file cannot be read or decoded, or a row has another form; names the line.
    """
    rows = rows_of_table(path)
    if not rows:
        raise UserError(f"{path}: no rows in it")
    _check_widths(path, rows)
    first_line, first_cells = rows[0]
    below = [cells for _, cells in rows[1:]]
    places = find_text_and_label(path, first_cells, below, columns)
    has_header = places is not None
    if has_header:
        rows.pop(0)
    else:
        places = list(range(len(first_cells)))
        if len(places) > 2 and [cells[0] for _, cells in rows] == list(map(str, range(len(rows)))):
            places.pop(0)  # the index of pandas
    if len(places) not in _COLUMNS:
        raise UserError(
            f"{path}, line {first_line}: {_counted(first_cells)}, and no header with text_a and label; a "
            f"row is a text, perhaps a second text, and a label, with {separator_of(path)} between"
        )
    if not rows:
        raise UserError(f"{path}: no rows in it")
    known = _language_and_id(first_cells, places, rows) if has_header else (None, None)
    languages, ids = (
        [in_one_line(cells[place]).strip() for _, cells in rows if place is not None] for place in known
    )
    table = LabelledTable(_COLUMNS[len(places)], [], [], has_header, multi_label, languages, ids)
    empty = []  # where a cell is
    for line, cells in rows:
        values = [in_one_line(cells[place]) for place in places]
        values[-1] = _label_cell(values[-1], multi_label, f"{path}, line {line}")
        needed = values[:-1] if multi_label else values
        empty += [(line, name) for name, value in zip(table.columns, needed) if not value.strip()]
        table.rows.append(values)
        table.lines.append(line)
    if empty:
        line, name = empty[0]
        more = f" (and {len(empty) - 1:,} more cells)" if len(empty) > 1 else ""
        raise UserError(f"{path}, line {line}: the {name} is empty{more}; fill it in, or remove the line")
    _say_what_is_odd(path, first_cells, places, known, table, say)
    return _without_missing_labels(path, table, say)


def _language_and_id(
    header: Sequence[str], places: Sequence[int], rows: Sequence[tuple[int, Sequence[str]]]
) -> tuple[int | None, int | None]:
    """The places of the columns that become `languages` and `ids` of a `LabelledTable`; None: there is none.

    Args:
        places: those of the texts and the label.
    """
    others: dict[str, int] = {}  # the name of a column in small letters -> its place
    for place, name in enumerate(header):
        if place not in places:
            others.setdefault(name.strip().lower(), place)
    language = next((place for name, place in others.items() if name in LANGUAGE_COLUMNS), None)
    for place in (others[name] for name in ID_COLUMNS if name in others):
        ids = [cells[place].strip() for _, cells in rows]
        given = [id_ for id_ in ids if id_]
        with_labels = {(id_, cells[places[-1]]) for id_, (_, cells) in zip(ids, rows)}
        numbers_labels = len(with_labels) == len(set(ids)) == len({label for _, label in with_labels})
        if 1 < len(set(given)) < len(given) and not numbers_labels:
            return language, place
    return language, None


def _check_widths(path: Path, rows: Sequence[tuple[int, Sequence[str]]]) -> None:
    """Check that all rows have as many cells as the first one.

    Raises:
        UserError: a row has another number; names the line.
    """
    first_line, first_cells = rows[0]
    for line, cells in rows:
        if len(cells) != len(first_cells):
            raise UserError(
                f"{path}, line {line}: {_counted(cells)}, but line {first_line} has {len(first_cells)}"
            )


def _label_cell(cell: str, multi_label: bool, place: str) -> str:
    """A cell of the label column with its labels in their normal form.

    Raises:
        UserError: it is a list where a row has one label, or has a label with a comma; begins with `place`.
    """
    if not multi_label:
        if is_list(cell):
            raise UserError(
                f"{place}: the label {cell[:50]} is a list; --multi_label true takes several labels of a text"
            )
        return normal_label(cell)
    labels = split_labels(cell)
    for label in labels:
        if re.search("[,;]", label):
            raise UserError(f"{place}: the label '{label[:50]}' has the mark that stands between labels")
    return ", ".join(labels)


def _without_missing_labels(path: Path, table: LabelledTable, say: Callable[[str], None]) -> LabelledTable:
    """The rows of a table that have a label.

    Raises:
        UserError: none has.
    """
    labels = table.labels()
    none = labels_for_none(Counter(chain.from_iterable(labels)))
    if not none:
        return table
    kept = [number for number, labels_of_row in enumerate(labels) if none.isdisjoint(labels_of_row)]
    names = " or ".join(f"'{label}'" for label in sorted(none))
    if not kept:
        raise UserError(f"{path}, line {table.lines[0]}: all labels are {names}, which stands for none")
    say(f"{path}: {len(labels) - len(kept):,} rows left out; their label is {names}, which stands for none")
    return table.part(np.array(kept))


def _counted(cells: Sequence[str]) -> str:
    return f"{len(cells)} column{'' if len(cells) == 1 else 's'}"


def separator_of(path: Path) -> str:
    """What separates the cells of a file, as its name says."""
    return "commas" if split_name(path)[0] == ".csv" else "tabs"


def in_one_line(cell: str) -> str:
    """A cell as the official form can hold it, without tabs and line ends."""
    return re.sub(r"[\t\r\n]+", " ", cell)


def rows_of_table(path: Path) -> list[tuple[int, list[str]]]:
    """Each row of a table, its header too: the number of the line at which it ends, and its cells.

    Blank lines at its end are left out.

    Raises:
        UserError: the file cannot be read, unpacked or decoded, or is no CSV; names the line.
    """
    lines, form = _lines_and_form(path)
    rows = list(_rows(path, lines, form.mark))
    while rows and not any(rows[-1][1]):
        rows.pop()
    return rows


class TableForm(NamedTuple):
    """How a table is written.

    Attributes:
        mark: what separates cells: a tab, comma or semicolon.
        begin: the byte order mark, without which Excel reads no umlauts, or "".
    """

    mark: str
    begin: str


class AnsweredTable:
    """Writes the rows of a table, each with the cells of an answer.

    Columns of the table that an earlier answer added give way to those of this one.

    Args:
        file: open for text.
        form: of the table as it came. Between tabs nothing is quoted.
    """

    def __init__(self, file: IO[str], form: TableForm):
        file.write(form.begin)
        self._file = file
        self._mark = form.mark
        self._columns: list[str] = []  # those of the answers
        self._kept: list[int] = []  # the places of those of the table

    def add(self, header: Sequence[str], cells: Sequence[str], answer: Mapping[str, Any]) -> None:
        """Write a row, and before the first one the header."""
        added = _cells_of_answer(answer)
        if not self._columns:
            self._columns = list(added)
            self._kept = [place for place, name in enumerate(header) if name not in added]
            if replaced := [name for name in header if name in added]:
                logger.warning("columns of an earlier answer are replaced: %s", ", ".join(replaced))
            self._write([*(header[place] for place in self._kept), *self._columns])
        kept = [cells[place] for place in self._kept]
        self._write([*kept, *(added.get(column, "") for column in self._columns)])

    def _write(self, cells: Sequence[str]) -> None:
        if self._mark == "\t":
            self._file.write("\t".join(map(in_one_line, cells)) + "\n")
        else:
            csv.writer(self._file, delimiter=self._mark, lineterminator="\n").writerow(cells)


def _cells_of_answer(answer: Mapping[str, Any]) -> dict[str, str]:
    """An answer as cells: name of the column -> text, those of `_OF_SOME_ROWS` last.

    A class has its probability alone. What is neither text, number nor list of texts is JSON.
    """
    cells = {}
    for key, value in answer.items():
        if key in _OF_SOME_ROWS:
            continue
        if key == "probabilities" and "label" in answer:
            cells[f"{ADDED}probability"] = str(value[answer["label"]])
        elif isinstance(value, str | int | float):
            cells[f"{ADDED}{key}"] = str(value)
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            cells[f"{ADDED}{key}"] = (", " if key == "labels" else " ").join(value)
        else:
            cells[f"{ADDED}{key}"] = json.dumps(value, ensure_ascii=False)
    return cells | {f"{ADDED}{key}": str(answer.get(key, "")) for key in _OF_SOME_ROWS}


def form_of_table(path: Path) -> TableForm:
    """How a table is written, so that another one can be written alike."""
    return _lines_and_form(path)[1]


def _lines_and_form(path: Path) -> tuple[list[str], TableForm]:
    """The lines of a table, and how it is written.

    A line "sep=;", which Excel takes from the first line, becomes blank.
    """
    content = read_all(path)
    if path.suffix.lower() == ".gz":
        content = _unpacked(content, path)
    lines = [decode(line, path, number) for number, line in enumerate(content.split(b"\n"), 1)]
    begin = "\ufeff" if lines[0].startswith("\ufeff") else ""
    lines[0] = lines[0].removeprefix(begin)
    if separator := excel_separator(lines[0]):
        lines[0] = ""
        return lines, TableForm(separator, begin)
    if separator_of(path) == "tabs":
        return lines, TableForm("\t", begin)
    # Some programs write ; where , is the decimal point, or tabs. If the first line has several of them, most
    # lines decide.
    marks = [mark for mark in ",;\t" if mark in lines[0]] or [","]
    counts = {mark: sum(mark in line for line in lines) for mark in marks}  # mark -> lines that have it
    return lines, TableForm(max(counts, key=counts.__getitem__), begin)


def _unpacked(content: bytes, path: Path) -> bytes:
    """What a .gz file holds.

    Raises:
        UserError: it is damaged, or made to fill the memory.
    """
    most = max(_NEVER_PACKED, _MOST_PACKED * len(content))
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); copy or download it again") from error
    if len(unpacked) > most:
        raise UserError(f"{path}: {len(content):,} bytes unpack to more than {most:,}, which no text does")
    return unpacked


def _rows(path: Path, lines: list[str], mark: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of `rows_of_table`."""
    first = 0 if lines[0] else 1  # the line of Excel
    if separator_of(path) == "tabs" and mark == "\t":
        rows = [split_cells(line) for line in lines[first:]]
        if not _is_quoted(rows):
            yield from enumerate(rows, first + 1)
            return
    reader = csv.reader([f"{line}\n" for line in lines[first:]], delimiter=mark, strict=True)
    try:
        for cells in reader:
            yield reader.line_num + first, cells
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num + first}: not CSV ({error})") from error


def _is_quoted(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the cells of a .tsv are in quotation marks: every one of a column below the first row."""
    below = [cells for cells in rows[1:] if any(cells)]
    columns = zip(*below)
    return any(all(re.fullmatch('".+"', cell) for cell in column) for column in columns)


def _say_what_is_odd(
    path: Path,
    first: Sequence[str],
    places: Sequence[int],
    known: Sequence[int | None],
    table: LabelledTable,
    say: Callable[[str], None],
) -> None:
    """Say which columns are read and which not, and how many rows have cells in quotation marks.

    Args:
        first: the cells of the first row.
        places: the columns of the texts and the label.
        known: those of the language and the id.
    """
    read = [first[place] for place in places]
    if table.has_header and read != table.columns:
        names = (f"{_IN_WORDS[name]} is {printable(cell)}" for name, cell in zip(table.columns, read))
        say(f"{path}: {', '.join(names)}")
    others = [place for place in range(len(first)) if place not in places and place not in known]
    if others:
        unread = (printable(first[place]) or "(no name)" for place in others)
        say(f"{path}: columns not read: {', '.join(unread)}")
    if separator_of(path) == "tabs":
        quoted = sum(any(re.fullmatch('".+"', cell) for cell in cells) for cells in table.rows)
        if quoted:
            say(
                f"warning: {path}: {quoted:,} of {len(table.rows):,} rows have a cell in quotation marks. A "
                ".tsv has no quoting, so they stay in the text; if they only enclose cells, save it as .csv"
            )


def column_of_texts(
    path: Path, rows: Sequence[tuple[int, Sequence[str]]], way_out: str = "name it text_a"
) -> int:
    """The place of the texts below a header with other names than usual: the one column of many words.

    Args:
        rows: those of `rows_of_table`.
        way_out: the end of an error: what a user can do.

    Raises:
        UserError: it is not clear which column it is, or a row has another number of cells.
    """
    _check_widths(path, rows)
    (line, header), *below = rows
    columns = list(zip(*(cells for _, cells in below)))
    places = [place for place, cells in enumerate(columns) if _are_texts(cells)]
    if len(places) != 1:
        guess = _guess(header, places, *_TEXT)
        raise UserError(f"{path}, line {line}: no column text_a in the header; {guess}; {way_out}")
    logger.warning("%s: its texts are in the column '%s'", path, printable(header[places[0]]))
    return places[0]


def _are_texts(cells: Sequence[str]) -> bool:
    """Whether the cells of a column rarely repeat, and most have a letter, which numbers and dates do not."""
    with_letters = sum(any(map(str.isalpha, cell)) for cell in cells)
    return 2 * len(set(cells)) > len(cells) and 2 * with_letters > len(cells)


def find_text_and_label(
    path: Path, first: Sequence[str], rows: Sequence[Sequence[str]], column_names: Sequence[str] = ()
) -> list[int] | None:
    """The places of the text, perhaps a second text, and the label; None: the first row is no header.

    A header may have the names that `official_names` knows. Otherwise the label is the column whose values
    repeat, and the text that of words which rarely do; where several could be meant, the user has to say it.

    Args:
        first: the cells of the first row.
        rows: those of the others, as many in each.
        column_names: the names of the columns in this order; none: they are to be found.

    Raises:
        UserError: the header does not have the wanted columns, or it is not clear which are meant.
    """
    if column_names:
        return [place_of(path, first, name) for name in column_names]
    names = official_names(first)
    known_texts = [names.index(name) for name in ("text_a", "text_b") if name in names]
    known_label = [names.index("label")] if "label" in names else []
    if "text_a" in names and known_label:
        refuse_two_columns(first, names, path)
        return known_texts + known_label

    columns = list(enumerate(zip(*rows)))  # (place, the cells below the first)
    repeating = [place for place, cells in columns if 1 < len(set(cells)) <= len(cells) / 2]
    is_header = bool(known_texts or known_label)
    for place, cells in columns:  # a word above numbers is the name of a column
        is_header |= all(map(is_number, cells)) and not is_number(first[place])
    if repeating and not any(first[place] in columns[place][1] for place in repeating):
        is_header = True  # each value of a label is in several rows
    if not is_header:
        return None

    texts = known_texts or [place for place, cells in columns if _are_texts(cells)]
    labels = known_label or [place for place in repeating if place not in known_texts]
    if len(labels) > 1:
        no_labels = (*LANGUAGE_COLUMNS, *ID_COLUMNS)
        labels = [place for place in labels if first[place].strip().lower() not in no_labels]
    if len(labels) != 1 or not (known_texts or len(texts) == 1):
        text = first[texts[0]] if texts else "TEXT"
        label = first[labels[0]] if labels else "LABEL"
        example = shlex.quote(f"{text},{label}")
        guesses = f"{_guess(first, texts, *_TEXT)}, and {_guess(first, labels, *_LABEL)}"
        raise UserError(f"{path}, line 1: {guesses}; say which, as in --columns {example}")
    return texts + labels


def place_of(path: Path, first: Sequence[str], name: str) -> int:
    """The place of a column that --columns names.

    Raises:
        UserError: the header does not have it.
    """
    stripped = [cell.strip() for cell in first]
    if name not in stripped:
        raise UserError(f"{path}, line 1: --columns {name}: no such column; there are {', '.join(stripped)}")
    return stripped.index(name)


def is_number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+([.,]\d+)?", cell.strip()) is not None


def _guess(first: Sequence[str], places: Sequence[int], known: str, unknown: str) -> str:
    """Which columns may be meant, for a message that begins with `known`; or `unknown`, if none may."""
    names = " or ".join(f"'{first[place]}'" for place in places)
    return f"{known} {names}" if names else unknown
