"""Rows with one text or two and a label, from the official TSV files."""

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from ernie_m.reader.batching import Example
from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.labels import NO_LABEL, input_hash, normal_label, number_in
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
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

# What the header should be, for the error.
_FORM = "text_a, text_b, label, optional qid"
_OTHERS = "only the official form is read here; ernie-m fit learns from any other table"


class Examples(FileLines, Sequence[Example]):
    """The rows of an official file; made by `read_classification`, which checks them.

    Args:
        path, version, starts: see `FileLines`.
        columns: name -> place of the columns that are read.
        inputs: `input_hash` of each row, int64 [N].
        targets: the label of each row: ids, int64 [N], or numbers, float64 [N]; [0]: labels are not read.
    """

    def __init__(
        self,
        path: Path,
        version: FileVersion,
        starts: np.ndarray,
        columns: Mapping[str, int],
        inputs: np.ndarray,
        targets: np.ndarray,
    ):
        super().__init__(path, version, starts)
        self.inputs = inputs
        self.targets = targets
        self._columns = columns

    def __getitem__(self, index: int) -> Example:
        # `read_classification` has checked the line already.
        cells = split_cells(self.line(index).decode("utf-8"))
        row = {name: cells[place] for name, place in self._columns.items()}
        label = {"label": self.targets[index].item()} if len(self.targets) else {}
        return Example(row["text_a"], row.get("text_b"), qid=row.get("qid"), **label)

    def place(self, index: int) -> str:
        """Where a row stands, for messages."""
        return f"line {index + 2}"


def read_classification(
    path: str | os.PathLike,
    label_map: Mapping[str, int] | None = None,
    num_labels: int | None = None,
    labels: bool = True,
    regression: bool = False,
) -> Examples:
    """Check a table with the columns text_a, text_b (optional), label, qid (optional); return its rows.

    Other columns are ignored. A byte order mark, Windows line ends and blank lines at the end are accepted.
    Labels are compared in their normal form.

    Args:
        label_map: label -> id; without it the label column contains ids.
        num_labels: without a label map, the ids must be below it.
        labels: False ignores the label column (prediction).
        regression: the label column holds numbers.

    Raises:
        UserError: the file cannot be read, or lines have another form; names the file and all such lines.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder; {_OTHERS}")
    required = ["text_a", "label"] if labels else ["text_a"]
    value_of = _numbers() if regression else _ids(label_map, num_labels)
    faults = Faults(path, may_skip=False)
    starts = array("q")  # the byte at which each row begins; at last the end of the rows
    inputs = array("q")
    targets = array("d" if regression else "q")
    quoted = 0
    with open_lines(path) as (file, version):  # the version shows later whether the file was changed
        first_line = file.readline()
        try:
            header = parse_header(first_line, path, required, _FORM)
        except UserError as error:
            raise UserError(f"{error}; {_OTHERS}") from error
        columns = {name: place for place, name in enumerate(header) if name in OFFICIAL}
        place_b = columns.get("text_b")
        position = len(first_line)  # the byte at which the next row begins
        for number, line in enumerate(without_blank_end(file), 2):
            starts.append(position)
            position += len(line)
            with faults.of_line(number):
                cells = parse_row(line, path, number, header)
                if labels:
                    targets.append(value_of(cells[columns["label"]]))
                inputs.append(
                    input_hash(cells[columns["text_a"]], None if place_b is None else cells[place_b])
                )
                quoted += has_quotes(cells)
    faults.end(logger.warning)
    say_quoted(path, quoted, len(starts), logger.warning)
    if not starts:
        raise UserError(f"{path}: no rows after the header")
    starts.append(position)
    return Examples(path, version, np.array(starts), columns, np.array(inputs), np.array(targets))


def _numbers() -> Callable[[str], float]:
    """A cell of the label column -> its number. It raises a UserError if there is none."""

    def number(cell: str) -> float:
        value = number_in(cell)
        if value is None:
            raise UserError(f"the label '{cell}' is no number; --is_regression true needs numbers")
        return value

    return number


def _ids(label_map: Mapping[str, int] | None, num_labels: int | None) -> Callable[[str], int]:
    """A cell of the label column -> its id. It raises a UserError if that is not known.

    Args:
        label_map, num_labels: as of `read_classification`.
    """
    ids = {normal_label(label): id_ for label, id_ in (label_map or {}).items()}

    @cache
    def id_of(cell: str) -> int:
        label = normal_label(cell)
        if label in ids:
            return ids[label]
        if label_map is not None:
            advice = f"the labels are {', '.join(label_map)}"
            if label.lower() in NO_LABEL:
                advice = "it stands for no label: remove the line"
            raise UserError(f"unknown label '{label}'; {advice}")
        is_id = label.isdecimal() and len(label) < 10  # int() refuses thousands of digits
        if not is_id or (num_labels is not None and int(label) >= num_labels):
            most = "or more" if num_labels is None else f"to {num_labels - 1} (--num_labels {num_labels})"
            raise UserError(
                f"the label is '{label}'; without --label_map_config it must be a number, 0 {most}; "
                "ernie-m fit takes labels of any name"
            )
        return int(label)

    return id_of
