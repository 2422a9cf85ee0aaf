"""A labelled file of the user's own: CSV or TSV, with any header, of which some columns are read."""

import csv
import gzip
import re
import shlex
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.classification import split_labels
from reader.tsv import decode, official_names, read_all, refuse_two_columns, split_cells
from utils.errors import UserError

_COLUMNS = {2: ["text_a", "label"], 3: ["text_a", "text_b", "label"]}  # number of columns -> their names


class OwnTable(NamedTuple):
    """What a file holds.

    Attributes:
        columns: text_a, text_b (in pairs), label.
        rows: the cells of each row in the order of `columns`.
        lines: the number of the line at which each row ends.
        has_header: whether the first line names the columns.
        multi_label: whether a row may have several labels, with commas between them, or none.
    """

    columns: Sequence[str]
    rows: list[list[str]]
    lines: list[int]
    has_header: bool
    multi_label: bool

    def labels(self) -> list[list[str]]:
        """The labels of each row: one, unless `multi_label`."""
        return [split_labels(cells[-1]) if self.multi_label else [cells[-1]] for cells in self.rows]

    def part(self, numbers: np.ndarray) -> "OwnTable":
        """The rows with these numbers, int64."""
        rows = [self.rows[number] for number in numbers]
        return self._replace(rows=rows, lines=[self.lines[number] for number in numbers])


def read_own(path: Path, columns: Sequence[str] = (), multi_label: bool = False) -> OwnTable:
    """Read texts or pairs of texts with labels: tab-separated, or a .csv with commas or semicolons.

    `find_columns` finds those of the texts and of the label if there is a header; other columns are left out.
    Without one a row has a text, perhaps a second text, and a label.

    Args:
        columns: their names in the header, if it has others than usual.
        multi_label: see `OwnTable`. A label may then be empty.

    Raises:
        UserError: the file cannot be read or decoded, or a row has another form; names the line.
    """
    rows = list(_read_rows(path))
    while rows and not any(rows[-1][1]):  # blank lines at the end
        rows.pop()
    if not rows:
        raise UserError(f"{path}: no rows in it")
    first_line, first_cells = rows[0]
    for line, cells in rows:
        if len(cells) != len(first_cells):
            raise UserError(
                f"{path}, line {line}: {_counted(cells)}, but line {first_line} has {len(first_cells)}"
            )
    below = [cells for _, cells in rows[1:]]
    places = find_columns(path, first_cells, below, columns)
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
            f"row is a text, perhaps a second text, and a label, with {_separator(path)} between"
        )
    if not rows:
        raise UserError(f"{path}: no rows in it")
    table = OwnTable(_COLUMNS[len(places)], [], [], has_header, multi_label)
    empty = []  # where a cell is
    for line, cells in rows:
        values = [cells[place] for place in places]
        values[-1] = values[-1].strip()  # a space behind a label would make it another label
        needed = values[:-1] if multi_label else values
        empty += [(line, name) for name, value in zip(table.columns, needed) if not value.strip()]
        table.rows.append(values)
        table.lines.append(line)
    if empty:
        line, name = empty[0]
        more = f" (and {len(empty) - 1:,} more cells)" if len(empty) > 1 else ""
        raise UserError(f"{path}, line {line}: the {name} is empty{more}; fill it in, or remove the line")
    _say_what_is_odd(path, first_cells, places, table)
    return table


def _counted(cells: Sequence[str]) -> str:
    return f"{len(cells)} column{'' if len(cells) == 1 else 's'}"


def _separator(path: Path) -> str:
    """What separates the cells of a file, as its name says."""
    return "commas" if ".csv" in path.name.lower() else "tabs"


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row with the number of the line at which it ends.

    Raises:
        UserError: the file cannot be read, unpacked or decoded, or is no CSV; names the line.
    """
    content = read_all(path)
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be unpacked ({error}); copy or download it again") from error
    lines = [decode(line, path, number) for number, line in enumerate(content.split(b"\n"), 1)]
    lines[0] = lines[0].removeprefix("\ufeff")  # byte order mark
    if _separator(path) == "tabs":
        yield from enumerate(map(split_cells, lines), 1)
        return
    # Some programs write ; where , is the decimal point, or tabs. If the first line has several of them, most
    # lines decide.
    marks = [mark for mark in ",;\t" if mark in lines[0]] or [","]
    separator = max(marks, key=lambda mark: sum(mark in line for line in lines))
    reader = csv.reader([f"{line}\n" for line in lines], delimiter=separator, strict=True)
    try:
        for cells in reader:
            # The files that are written have neither tabs nor line ends in a cell.
            yield reader.line_num, [re.sub(r"[\t\r\n]+", " ", cell) for cell in cells]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _say_what_is_odd(path: Path, first: Sequence[str], places: Sequence[int], table: OwnTable) -> None:
    """Print which columns are read and which not, and how many rows have cells in quotation marks.

    Args:
        first: the cells of the first row.
        places: the columns that are read.
    """
    read = [first[place] for place in places]
    if table.has_header and read != table.columns:
        print(f"{path}: {', '.join(f'{name} is {cell}' for name, cell in zip(table.columns, read))}")
    unread = [cell or "(no name)" for place, cell in enumerate(first) if place not in places]
    if unread:
        print(f"{path}: columns not read: {', '.join(unread)}")
    if _separator(path) == "tabs":
        quoted = sum(any(re.fullmatch('".+"', cell) for cell in cells) for cells in table.rows)
        if quoted:
            print(
                f"warning: {path}: {quoted:,} of {len(table.rows):,} rows have a cell in quotation marks. A "
                ".tsv has no quoting, so they stay in the text; if they only enclose cells, save it as .csv"
            )


def find_columns(
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
        return [_place(path, first, name) for name in column_names]
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

    texts = known_texts or [
        place for place, cells in columns if 2 * len(set(cells)) > len(cells) and _has_words(cells)
    ]
    labels = known_label or [place for place in repeating if place not in known_texts]
    if len(labels) != 1 or not (known_texts or len(texts) == 1):
        text_place = texts[0] if texts else 0
        label_place = labels[0] if labels else len(first) - 1
        example = [first[text_place], first[label_place]]
        raise UserError(
            f"{path}, line 1: the text may be {_listed(first, texts)}, the label {_listed(first, labels)}; "
            f"say which, as in --columns {shlex.quote(','.join(example))}"
        )
    return texts + labels


def _place(path: Path, first: Sequence[str], name: str) -> int:
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


def _has_words(cells: Sequence[str]) -> bool:
    """Whether most cells of a column have a letter, which numbers and dates do not."""
    return sum(any(map(str.isalpha, cell)) for cell in cells) > len(cells) / 2


def _listed(first: Sequence[str], places: Sequence[int]) -> str:
    """The names of columns for a message."""
    return " or ".join(f"'{first[place]}'" for place in places) or "in no column"
