"""Tables of labelled texts, and what else programs take of tables."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ernie_m.reader.check_labels import several_in
from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.labels import is_list, labels_for_none, normal_label, number_in, split_labels
from ernie_m.reader.files.official_tsv import has_quotes, say_quoted
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.answered import AnsweredTable
from ernie_m.reader.files.table.asked import asked_table as asked_table
from ernie_m.reader.files.table.form import Form, OpenedTable, in_one_line, open_table, options_of
from ernie_m.reader.files.table.given_labels import label_columns as label_columns
from ernie_m.reader.files.table.given_labels import labels_in as labels_in
from ernie_m.reader.files.table.given_labels import marked_labels, read_numbers
from ernie_m.reader.files.table.given_labels import numbers_in as numbers_in
from ernie_m.reader.files.table.places import find_places, names_of
from ernie_m.reader.files.table.words import ID_NAMES, LANGUAGE, SPLIT
from ernie_m.reader.files.table.words import purpose_of as purpose_of
from ernie_m.utils.errors import UserError, printable, say, shown
from ernie_m.utils.logging import logger

_SCORE = "a score has a decimal point and no other mark, as in 0.5 or 1250.5"
_MOST_STEPS = 10  # more different numbers are no steps of a scale
_YES_AND_NO = "a column for each label has 1 (or x) where a text has it, and 0 (or nothing) elsewhere"
_IN_WORDS = {"text_a": "the text", "text_b": "the second text", "label": "the label"}


class LabelledTable(NamedTuple):
    """What a file holds.

    Attributes:
        columns: text_a, text_b (in pairs), label.
        rows: the cells of each row in the order of `columns`.
        lines: the number of the line at which each row begins.
        multi_label: whether a row may have several labels, with commas between them, or none.
        languages: the language of each row, if one more column has them; otherwise none.
        ids: the id of each row, from the first of `ID_NAMES` that is there, has several ids, repeats one,
            and does not only number the labels; otherwise none.
        qids: the cell of each row in a column qid, if there is one.
        splits: what each row is for, as in train, dev, test, if a column says it.
        label_columns: the labels that have a column each, with 0 and 1; none: one column has the labels.
    """

    columns: Sequence[str]
    rows: list[list[str]]
    lines: list[int]
    multi_label: bool
    languages: list[str]
    ids: list[str]
    qids: list[str]
    splits: list[str]
    label_columns: list[str]

    def labels(self) -> list[list[str]]:
        """The labels of each row: one, unless `multi_label`."""
        return [split_labels(cells[-1]) if self.multi_label else [cells[-1]] for cells in self.rows]

    def part(self, numbers: np.ndarray) -> "LabelledTable":
        """The rows with these numbers, int64."""
        names = ("rows", "lines", "languages", "ids", "qids", "splits")
        columns = {name: getattr(self, name) for name in names if getattr(self, name)}  # that are there
        parts = {name: [column[number] for number in numbers] for name, column in columns.items()}
        return self._replace(**parts)

    def with_numbers(self, faults: Faults) -> "LabelledTable":
        """The rows whose label is a finite number. Decimals may have commas, if none has a point.

        Args:
            faults: receives the other rows.

        Raises:
            UserError: as `Faults.end`, no row is left, or "1.000" may be a thousand.
        """
        cells, values, unclear = read_numbers([row[-1] for row in self.rows])
        if unclear is not None:
            cell = self.rows[unclear][-1]
            digits, number = re.sub("[.,]", "", cell), float(cell.replace(",", "."))
            raise UserError(
                f"{faults.name}, line {self.lines[unclear]}: '{cell}' may be {int(digits):,} or {number:g}; "
                f"write {digits} or {number}, and the other labels alike"
            )
        are_numbers = [value is not None for value in values]
        for line, cell, is_number in zip(self.lines, cells, are_numbers):
            if not is_number:
                mend = "write 0.85 or 85 for 85 %, alike in all rows" if "%" in cell else _SCORE
                faults.add(line, f"the label '{cell}' is no number", mend)
        faults.end(logger.warning)
        if not any(are_numbers):
            raise UserError(f"{faults.name}: no rows are left")
        rows = [[*row[:-1], cell] for row, cell in zip(self.rows, cells)]
        return self._replace(rows=rows).part(np.flatnonzero(are_numbers))

    def meant_for(self, purpose: str, say: Callable[[str], None], path: Path) -> "LabelledTable":
        """The rows for "train", or the others, if a column says which these are."""
        splits = [split.lower() for split in self.splits]
        is_for_training = np.array([split[:5] in ("", "train") for split in splits], bool)
        is_meant = is_for_training if purpose == "train" else ~is_for_training
        if not purpose or not is_meant.any() or is_meant.all():
            return self
        counts = Counter(split for split, is_one in zip(splits, is_meant) if not is_one)
        for split, count in counts.items():
            say(f"{path}: {count:,} rows of the split '{split}' are left out")
        return self.part(np.flatnonzero(is_meant))


def answered(file: IO[str], path: Path, options: TableOptions) -> AnsweredTable:
    """What writes the rows of a table with answers: as it is, and as .csv where it is JSON or a sheet."""
    form = open_table(path, options_of(path, options), Faults(path), logger.debug).form
    return AnsweredTable(file, form or Form(",", True, "\ufeff"))


def are_scores(paths: Sequence[Path], read: Sequence[LabelledTable]) -> bool:
    """Whether the labels of tables are numbers of which one may be more than another; else they are classes.

    Raises:
        UserError: they may be both, or several labels of a text.
    """
    places: dict[str, str] = {}  # label -> where it stands first
    for path, table in zip(paths, read):
        for line, cells in zip(table.lines, table.rows):
            places.setdefault(cells[-1], f"{path}, line {line}")
    no_numbers = [label for label in places if number_in(label) is None]
    may_be_decimals = all(number_in(label.replace(",", ".")) is not None for label in no_numbers)
    several = several_in(places)
    if no_numbers and may_be_decimals:
        several = several or no_numbers[0]
    if several:
        score = ", or --task regression if it is a number" if may_be_decimals else ""
        raise UserError(
            f"{places[several]}: the label '{several}' may be several; give --task multi-label if it is, or "
            f"--task classification if it is one{score}"
        )
    values = set() if no_numbers else {float(label) for label in places}
    if len(values) < 2:
        return False
    are_whole = all(value.is_integer() for value in values)
    is_pair = len(read[0].columns) == 3
    if are_whole and len(values) <= _MOST_STEPS and not is_pair:  # as stars
        return False
    if not are_whole and len(values) > _MOST_STEPS:
        say(f"{paths[0]}: the labels are numbers, and a number is learned (--task regression)")
        return True
    raise UserError(
        f"{paths[0]}: the labels are {len(values):,} different numbers; give --task regression if one may be "
        "more than another, as how well a text answers a query, or --task classification if each is a class"
    )


def read_table(
    path: Path,
    options: TableOptions | None = None,
    multi_label: bool = False,
    say: Callable[[str], None] = say,
    labels: bool = True,
    regression: bool = False,
    any_label: bool = True,
) -> LabelledTable:
    """Read texts or pairs of texts with labels from a table of any form.

    Names, or else the cells, tell which columns these are; others are left out. So are rows whose label says
    that they have none (`labels_for_none`).

    Args:
        multi_label: see `LabelledTable`. A label may then be empty.
        say: is told what was read and left out.
        labels: whether the column of the labels is needed.
        regression: whether they are numbers.
        any_label: whether it is not known which labels there are. A row whose label stands for none is then
            left out.

    Raises:
        UserError: the file cannot be read, or it is not clear which columns are meant; or some rows have
            another form; names the lines.
    """
    options = options_of(path, options or TableOptions())
    faults = Faults(path, options.on_error == "skip")
    opened = open_table(path, options, faults, say)
    chosen = options.columns
    if chosen and not labels and "," in chosen:
        chosen = chosen.rpartition(",")[0]  # the last one is that of the labels
    texts, label_places = find_places(opened, chosen, labels, multi_label, regression)
    label_columns = [opened.names[place] for place in label_places] if len(label_places) > 1 else []
    for name in label_columns:
        if len(split_labels(name)) != 1:
            raise UserError(
                f"{path}, line {opened.line}: the label '{name}' has a mark that stands between labels; "
                "rename the column"
            )
    places = [*texts, *label_places]
    others = [place for place in range(len(opened.kinds)) if place not in places]
    purposes, kinds = opened.purposes, opened.kinds
    # The name of a column says that it has languages; without names its cells do.
    signs = purposes if opened.names else kinds
    language = next((place for place in others if signs[place] == LANGUAGE), None)
    splits = [place for place in others if kinds[place] == SPLIT and purposes[place] in (SPLIT, None)]
    split = splits[0] if splits else None
    columns = ["text_a", "text_b"][: len(texts)] + (["label"] if labels else [])
    rows, lines = [], []
    names = opened.names
    of_labels = {normal_label(cells[place]) for place in label_places[:1] for cells in opened.sample}
    may_be_none = not regression and several_in(of_labels) is not None
    all_cells = []  # of the rows that are read
    for line, cells in opened.rows:
        values = [in_one_line(cells[place]) for place in texts]
        empty = [name for name, value in zip(columns, values) if not value.strip()]
        if labels and not empty:
            cell, what, mend = _labels_in(cells, names, label_places, multi_label)
            if what:
                faults.add(line, what, mend)
                continue
            if not cell and not multi_label:
                empty = ["label"]
            values.append(in_one_line(cell))
        if empty:
            mend = "fill it in, or remove the line"
            if may_be_none and empty == ["label"]:
                mend += "; or give --multi_label true (to fit: --task multi-label), if one may have none"
            faults.add(line, f"{_IN_WORDS[empty[0]]} is empty", mend)
            continue
        rows.append(values)
        lines.append(line)
        all_cells.append(cells)
    faults.end(say)
    if not rows:
        raise UserError(f"{path}: no rows are left")
    id_place = _place_of_ids(opened.folded, places, all_cells, rows)
    qid_place = names.index("qid") if names and "qid" in names else None
    table = LabelledTable(
        columns,
        rows,
        lines,
        multi_label,
        languages=_of_column(all_cells, language),
        ids=_of_column(all_cells, id_place),
        qids=_of_column(all_cells, qid_place),
        splits=_of_column(all_cells, split),
        label_columns=[normal_label(name) for name in label_columns],
    )
    _say_what_is_read(opened, places, (language, id_place, qid_place, split), table, say)
    return _without_missing_labels(path, table, say) if labels and any_label and not regression else table


def _of_column(rows: Sequence[Sequence[str]], place: int | None) -> list[str]:
    """The cells of a column; none if the table has no such column."""
    return [] if place is None else [in_one_line(cells[place]).strip() for cells in rows]


def _place_of_ids(
    names: Sequence[str], places: Sequence[int], rows: list[list[str]], read: list[list[str]]
) -> int | None:
    """The place of the column that becomes `LabelledTable.ids`: some rows share an id."""
    for name in ID_NAMES:
        found = [place for place, other in enumerate(names) if other == name and place not in places]
        if not found:
            continue
        place = found[0]
        ids = [cells[place].strip() for cells in rows]
        given = [id_ for id_ in ids if id_]
        labels = [values[-1] for values in read]
        # Such a column has one id for each label, and one label for each id.
        numbers_labels = len(set(zip(ids, labels))) == len(set(ids)) == len(set(labels))
        if 1 < len(set(given)) < len(given) and not numbers_labels:
            return place
    return None


def _labels_in(
    cells: Sequence[str], names: Sequence[str] | None, places: Sequence[int], multi_label: bool
) -> tuple[str, str, str]:
    """The label, or labels, of a row in their normal form; what is wrong with them, or ""; what mends it."""
    cell = cells[places[0]]
    if len(places) > 1:  # a column for each label
        labels, odd = marked_labels([names[place] for place in places], [cells[place] for place in places])
        what = f"the column '{odd[0][0]}' has '{shown(odd[0][1])}'" if odd else ""
        return ", ".join(labels), what, _YES_AND_NO
    if not multi_label:
        what = f"the label {cell[:50]} is a list" if is_list(cell) else ""
        return normal_label(cell), what, "--multi_label true takes several labels of a text"
    labels = split_labels(cell)
    odd = [label for label in labels if re.search("[,;]", label)]
    what = f"the label '{odd[0][:50]}' has the mark that stands between labels" if odd else ""
    return ", ".join(labels), what, "write it without this mark"


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


def _say_what_is_read(
    opened: OpenedTable,
    places: Sequence[int],
    known: Sequence[int | None],
    table: LabelledTable,
    say: Callable[[str], None],
) -> None:
    """Say which columns are read and which not, and how many rows have cells in quotation marks.

    Args:
        places: the columns of the texts and the label.
        known: those of the language, the split and the id.
    """
    path = opened.path
    names = names_of(opened)
    read = [names[place] for place in places]
    # What the columns are is plain if they have the official names, or no names and nothing beside them.
    has_choice = opened.names or len(names) > len(places)
    if has_choice and read != table.columns:
        said = [f"{_IN_WORDS[column]} is {printable(name)}" for column, name in zip(table.columns, read)]
        if table.label_columns:
            *others, last = map(printable, read[len(said) - 1 :])
            said[-1] = f"the labels are {', '.join(others)} and {last}"
        say(f"{path}: {', '.join(said)}")
    others = [place for place in range(len(names)) if place not in places and place not in known]
    if others:
        unread = (printable(names[place]) or "(no name)" for place in others)
        say(f"{path}: columns not read: {', '.join(unread)}")
    if opened.form and not opened.form.quoted:
        say_quoted(path, sum(map(has_quotes, table.rows)), len(table.rows), say)
