"""Rows with one text or two and a label, from the official TSV files and other tables."""

import io
import os
from array import array
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from ernie_m.reader.batching import Example
from ernie_m.reader.files.labels import (
    NO_LABEL,
    check_label_columns,
    input_hash,
    normal_label,
    number_in,
    split_labels,
)
from ernie_m.reader.files.official_tsv import (
    OFFICIAL,
    FileLines,
    FileVersion,
    has_quotes,
    open_lines,
    parse_header,
    parse_row,
    say_quoted,
    split_cells,
    without_blank_end,
)
from ernie_m.reader.files.rows import TableOptions, faults_of, rows_of, tables
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

# What the header should be, for the error.
_FORM = "text_a, text_b, label, optional qid"


class Examples(FileLines, Sequence[Example]):
    """The rows of a table; made by `read_classification`, which checks them.

    Args:
        path, version, starts, content: see `FileLines`.
        header: the cells of the first line, if the file is read as it is.
        columns: name -> place of the columns that are read.
        labels: what the cells of the label column are; None: they are not read.
        inputs: `input_hash` of each row, int64 [N]; a worker process does not get them.
        targets: a number for the labels of each row, int64 [N], likewise; [0]: there are none.
        lines: the number of the line of each row, int64 [N], likewise.
        options: how the table is read.
        label_columns: see `LabelledTable`.
    """

    def __init__(
        self,
        path: Path,
        version: FileVersion,
        starts: np.ndarray,
        header: Sequence[str],
        columns: Mapping[str, int],
        labels: "_Labels | None",
        inputs: np.ndarray,
        targets: np.ndarray,
        content: bytes | None,
        lines: np.ndarray,
        options: TableOptions,
        label_columns: Sequence[str],
    ):
        super().__init__(path, version, starts, content)
        self.inputs = inputs
        self.targets = targets
        self.options = options
        self._lines = lines
        self._header = header
        self._columns = columns
        self._labels = labels
        self._label_columns = label_columns

    def __getitem__(self, index: int) -> Example:
        # `read_classification` has checked the line already.
        cells = split_cells(self.line(index).decode("utf-8"))
        row = {name: cells[place] for name, place in self._columns.items()}
        texts = (row["text_a"], row.get("text_b"))
        if self._labels is None:
            return Example(*texts, qid=row.get("qid"))
        return Example(*texts, self._labels.value(row["label"]), row.get("qid"))

    @property
    def labels_of(self) -> Mapping[int, Sequence[str]]:
        """A number in `targets` -> the labels of such rows, in their normal form."""
        return {} if self._labels is None else self._labels.labels_of

    @property
    def labels(self) -> Set[str]:
        """Every label of the column that is read."""
        return set().union(*self.labels_of.values())

    def place(self, index: int) -> str:
        """Where a row stands, for messages."""
        return f"line {self._lines[index]}"

    def number(self, ids: Mapping[str, int]) -> None:
        """Give the labels of a file that was read with `any_label` their ids, label -> id."""
        self._labels.number(ids)

    def check_label_columns(self, labels: Sequence[str]) -> None:
        """Refuse a table with a column for each label that has none for some of these; a UserError."""
        check_label_columns(self.path, self._label_columns, map(normal_label, labels))

    @property
    def is_official(self) -> bool:
        """Whether the file has the layout of the official scripts and nothing else."""
        return self._content is None and {*self._header} <= {*OFFICIAL}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The names of the columns, and all cells of each row, as the file has them.

        Raises:
            UserError: the file was changed.
        """
        names, rows = tables().names_and_rows(self.path, self.options)
        with open_lines(self.path) as (file, _):
            self._check_version(file)
        cells_of_line = dict(rows)
        return names, [cells_of_line[line] for line in self._lines.tolist()]

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "inputs": None, "targets": None, "_lines": None}


class SomeExamples(Sequence[Example]):
    """Some of the rows of a file, or of several, which are counted one after the other.

    Args:
        numbers: those of the rows, int64 [N].
    """

    def __init__(self, files: Sequence[Examples], numbers: np.ndarray):
        self.inputs = np.concatenate([file.inputs for file in files])[numbers]
        targets = np.concatenate([file.targets for file in files])
        self.targets = targets[numbers] if len(targets) else targets
        self.labels_of = {target: labels for file in files for target, labels in file.labels_of.items()}
        self._files = files
        self._numbers = numbers
        self._ends = np.cumsum([len(file) for file in files])

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:
        file, row = self._locate(index)
        return file[row]

    def place(self, index: int) -> str:
        """Where a row stands, for messages."""
        file, row = self._locate(index)
        return file.place(row) if len(self._files) == 1 else f"{file.path.name}, {file.place(row)}"

    def _locate(self, index: int) -> tuple[Examples, int]:
        """The file of a row, and the number of the row in it."""
        number = self._numbers[index]
        place = np.searchsorted(self._ends, number, side="right")
        file = self._files[place]
        return file, number - (self._ends[place] - len(file))


class _Labels:
    """Checks the cells of a label column, and gives their values.

    Args:
        label_map, num_labels, regression, multi_label, any_label: as of `read_classification`.

    Attributes:
        labels_of: a number that `check` returned -> the labels of such cells; in a regression none.
    """

    def __init__(
        self,
        label_map: Mapping[str, int] | None,
        num_labels: int | None,
        regression: bool,
        multi_label: bool,
        any_label: bool,
    ):
        self.labels_of: dict[int, list[str]] = {}
        self._ids = None
        if label_map is not None:
            self._ids = {normal_label(label): id_ for label, id_ in label_map.items()}
        self._num_labels = num_labels
        self._regression = regression
        self._multi_label = multi_label
        self._any_label = any_label
        self._checked: dict[str, int] = {}  # cell -> a number that is equal for equal labels

    def check(self, cell: str, place: str) -> int:
        """Check a cell; return a number that is equal for cells with the same labels.

        Raises:
            UserError: it has no number, or a label that is not known; begins with `place`.
        """
        if cell not in self._checked:
            if self._regression:
                _check_number(cell, place)
                self._checked[cell] = 0
                return 0
            names = self._names(cell)
            if not self._any_label:
                for name in names:
                    _check_label(name, self._ids, self._num_labels, place)
            self._checked[cell] = hash(tuple(sorted(names)))
            self.labels_of[self._checked[cell]] = names
        return self._checked[cell]

    def number(self, ids: Mapping[str, int]) -> None:
        """Give the labels their ids, label -> id."""
        self._ids = dict(ids)
        self._num_labels = len(ids)

    def value(self, cell: str) -> int | float | tuple[int, ...]:
        """A cell as `Example.label`."""
        if self._regression:
            return float(cell)
        ids = [int(name) if self._ids is None else self._ids[name] for name in self._names(cell)]
        if self._multi_label:
            return tuple(int(id_ in ids) for id_ in range(self._num_labels))
        return ids[0]

    def _names(self, cell: str) -> list[str]:
        return split_labels(cell) if self._multi_label else [normal_label(cell)]


def read_classification(
    path: str | os.PathLike,
    label_map: Mapping[str, int] | None = None,
    num_labels: int | None = None,
    labels: bool = True,
    regression: bool = False,
    multi_label: bool = False,
    options: TableOptions | None = None,
    any_label: bool = False,
    purpose: str = "",
) -> Examples:
    """Check a table with the columns text_a, text_b (optional), label, qid (optional); return its rows.

    Other columns are ignored. A byte order mark, Windows line ends and blank lines at the end are accepted.
    Any other table is read, too, and kept in memory. Labels are compared in their normal form.

    Args:
        label_map: label -> id; without it the label column contains ids.
        num_labels: without a label map, the ids must be below it. It is needed if a text has several labels.
        labels: False ignores the label column (prediction).
        regression: the label column holds numbers, and may be called score.
        multi_label: the label column holds any number of labels, with commas between them.
        options: how a table in another form is read.
        any_label: every label is accepted. Their ids follow their order in the alphabet, until
            `Examples.number` gives them others.
        purpose: see `rows_of`.

    Raises:
        UserError: the file cannot be read, or a line has another form; names the file and the line.
    """
    path = Path(path)
    options = options or TableOptions()
    required = ["text_a", "label"] if labels else ["text_a"]
    label_column = _Labels(label_map, num_labels, regression, multi_label, any_label) if labels else None
    faults = faults_of(path, options)
    starts = array("q")  # the byte at which each row begins; at last the end of the rows
    inputs = array("q")
    targets = array("q")  # a number for the labels of each row, equal for equal labels
    line_numbers = array("q")  # the number of the line of each row
    quoted = 0
    with open_lines(path) as (opened, version):  # the version shows later whether the file was changed
        # None: the file is in the official form itself.
        converted = rows_of(path, options, labels, regression, multi_label, any_label, purpose)
        file = opened if converted is None else io.BytesIO(converted.content)
        first_line = file.readline()
        header = parse_header(first_line, path, required, _FORM)
        columns = {name: place for place, name in enumerate(header) if name in OFFICIAL}
        place_b = columns.get("text_b")
        position = len(first_line)  # the byte at which the next row begins
        for index, line in enumerate(without_blank_end(file), 1):
            number = index + 1 if converted is None else converted.lines[index]
            start = position
            position += len(line)
            try:
                cells = parse_row(line, path, number, header)
                if label_column:
                    target = label_column.check(cells[columns["label"]], f"{path}, line {number}")
            except UserError as error:
                faults.note(number, error)
                continue
            if label_column and not regression:
                targets.append(target)
            starts.append(start)
            text_b = None if place_b is None else cells[place_b]
            inputs.append(input_hash(cells[columns["text_a"]], text_b))
            line_numbers.append(number)
            quoted += has_quotes(cells)
    faults.end(logger.warning)
    if converted is None:  # otherwise it is said where the table is read
        say_quoted(path, quoted, len(starts), logger.warning)
    if not starts:
        raise UserError(f"{path}: no rows after the header")
    starts.append(position)
    if any_label:
        found = set().union(*label_column.labels_of.values())
        label_column.number({label: id_ for id_, label in enumerate(sorted(found))})
    return Examples(
        path,
        version,
        np.asarray(starts, np.int64),
        split_cells(first_line.decode("utf-8").removeprefix("\ufeff")),
        columns,
        label_column,
        np.asarray(inputs, np.int64),
        np.asarray(targets, np.int64),
        None if converted is None else converted.content,
        np.asarray(line_numbers, np.int64),
        options,
        [] if converted is None else converted.label_columns,
    )


def _check_number(label: str, place: str) -> None:
    """Check a label of a regression.

    Raises:
        UserError: it is no finite number; begins with `place`.
    """
    if number_in(label) is None:
        raise UserError(f"{place}: the label '{label}' is no number, and --is_regression true needs numbers")


def _check_label(label: str, label_map: Mapping[str, int] | None, num_labels: int | None, place: str) -> None:
    """Check a label of a classification.

    Raises:
        UserError: the label map does not have it, or without a map it is no id. The message begins with
            `place`.
    """
    if label_map is not None:
        if label not in label_map:
            labels = ", ".join(label_map)
            advice = "; it stands for no label: remove the line" if label.lower() in NO_LABEL else ""
            raise UserError(f"{place}: unknown label '{label}'; the labels are {labels}{advice}")
        return
    is_id = label.isdecimal() and len(label) < 10  # int() refuses thousands of digits
    if is_id and num_labels is not None:
        is_id = int(label) < num_labels
    if not is_id:
        ids = "0 or more" if num_labels is None else f"0 to {num_labels - 1} (--num_labels {num_labels})"
        raise UserError(
            f"{place}: the label is '{label}', but without --label_map_config it must be a number, {ids}"
        )
