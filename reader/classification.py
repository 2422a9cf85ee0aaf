"""Rows with one text or two and a label, from the official TSV files and other tables."""

import io
import math
import os
from array import array
from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.labels import NO_LABEL, input_hash, normal_label, oddities, split_labels
from reader.tables import in_official_form
from reader.tsv import (
    FileLines,
    FileVersion,
    open_lines,
    parse_header,
    parse_row,
    split_cells,
    without_blank_end,
)
from utils.errors import UserError
from utils.logging import logger

# What the header should be, for the error.
_FORM = "text_a, text_b, label, optional qid"
_COLUMNS = ("text_a", "text_b", "label", "qid")  # others are ignored
_NO_LABEL = -1  # the label of a row whose label is not read


class Example(NamedTuple):
    """One row. `text_b` and `qid` are None without such a column. `label` is -1 if labels are not read.

    In a regression the label is the number that is to be predicted, a float. Where a text may have several
    labels it is a tuple with a 1 or 0 for each label id.
    """

    text_a: str
    text_b: str | None
    label: int | float | tuple[int, ...] = _NO_LABEL
    qid: str | None = None


class Examples(FileLines, Sequence[Example]):
    """The rows of a TSV file; made by `read_classification`, which checks them.

    Args:
        path, version, starts, content: see `FileLines`.
        columns: name -> place of the columns that are read.
        label_map: label -> id; without it labels are ids.
        regression: labels are numbers.
        multi_label: the number of labels, if a text has several; None: it has one.
        labels: every label of the column that is read.
        inputs: `input_hash` of each row, int64 [N]; a worker process does not get them.
    """

    def __init__(
        self,
        path: Path,
        version: FileVersion | None,
        starts: np.ndarray,
        columns: Mapping[str, int],
        label_map: Mapping[str, int] | None,
        regression: bool,
        multi_label: int | None,
        labels: Set[str],
        inputs: np.ndarray,
        content: bytes | None = None,
    ):
        super().__init__(path, version, starts, content)
        self.labels = labels
        self.inputs = inputs
        self._columns = columns
        self._label_map = label_map
        self._regression = regression
        self._multi_label = multi_label

    def __getitem__(self, index: int) -> Example:
        # `read_classification` has checked the line already.
        cells = split_cells(self.line(index).decode("utf-8"))
        row = {name: cells[place] for name, place in self._columns.items()}
        return Example(row["text_a"], row.get("text_b"), self._label(row.get("label")), row.get("qid"))

    def _label(self, label: str | None) -> int | float | tuple[int, ...]:
        """A cell of the label column as `Example.label`; None: the column is not read."""
        if label is None:
            return _NO_LABEL
        if self._regression:
            return float(label)
        if self._multi_label is None:
            return self._id(label)
        ids = {self._id(name) for name in split_labels(label)}
        return tuple(int(id_ in ids) for id_ in range(self._multi_label))

    def _id(self, label: str) -> int:
        label = normal_label(label)
        return int(label) if self._label_map is None else self._label_map[label]

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "inputs": None}


class SomeExamples(Sequence[Example]):
    """Some of the rows of a file. `numbers`: theirs, int64 [N]."""

    def __init__(self, examples: Examples, numbers: np.ndarray):
        self.inputs = examples.inputs[numbers]
        self._examples = examples
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:
        return self._examples[self._numbers[index]]


def read_classification(
    path: str | os.PathLike,
    label_map: Mapping[str, int] | None = None,
    num_labels: int | None = None,
    labels: bool = True,
    regression: bool = False,
    multi_label: bool = False,
) -> Examples:
    """Check a table with the columns text_a, text_b (optional), label, qid (optional); return its rows.

    Other columns are ignored. A byte order mark, Windows line ends and blank lines at the end are accepted.
    Any other table of `reader.tables` is read, too, and kept in memory. Labels are compared in their normal
    form. A warning says if texts have two labels, or one label is nearly alone.

    Args:
        label_map: label -> id; without it the label column contains ids.
        num_labels: without a label map, the ids must be below it. It is needed if a text has several labels.
        labels: False ignores the label column (prediction).
        regression: the label column holds numbers, and may be called score.
        multi_label: the label column holds any number of labels, with commas between them.

    Raises:
        UserError: the file cannot be read, or a line has another form; names the file and the line.
    """
    path = Path(path)
    if label_map is not None:
        label_map = {normal_label(label): id_ for label, id_ in label_map.items()}
    required = ["text_a", "label"] if labels else ["text_a"]
    other = in_official_form(path, labels, regression, multi_label)
    # With the version of a file it shows later whether it was changed.
    opened = open_lines(path) if other is None else nullcontext((io.BytesIO(other.content), None))
    checked_cells: dict[str, int] = {}  # each cell of the label column, checked once -> a number for it
    found: set[str] = set()
    starts = array("q")  # the byte at which each row begins; at last the end of the rows
    inputs = array("q")
    targets = array("q")  # a number for the label of each row
    numbers = array("q")  # the line of each row
    with opened as (file, version):
        first_line = file.readline()
        header = parse_header(first_line, path, required, _FORM, score_is_label=regression)
        columns = {name: place for place, name in enumerate(header) if name in _COLUMNS}
        if not labels:
            columns.pop("label", None)
        place_b = columns.get("text_b")
        position = len(first_line)  # the byte at which the next row begins
        for index, line in enumerate(without_blank_end(file), 1):
            number = index + 1 if other is None else other.lines[index]
            cells = parse_row(line, path, number, header)
            if labels:
                label = cells[columns["label"]]
                if label not in checked_cells:
                    place = f"{path}, line {number}"
                    if regression:
                        _check_number(label, place)
                        names = [label]
                    else:
                        names = split_labels(label) if multi_label else [normal_label(label)]
                        for name in names:
                            _check_label(name, label_map, num_labels, place)
                        found.update(names)
                    checked_cells[label] = hash(tuple(sorted(names)))
                targets.append(checked_cells[label])
            starts.append(position)
            inputs.append(input_hash(cells[columns["text_a"]], None if place_b is None else cells[place_b]))
            numbers.append(number)
            position += len(line)
    if not starts:
        raise UserError(f"{path}: no rows after the header")
    starts.append(position)
    input_hashes = np.asarray(inputs, np.int64)
    if labels and not regression:
        for fault in oddities(input_hashes, np.asarray(targets, np.int64), numbers):
            logger.warning("%s: %s", path, fault)
    return Examples(
        path,
        version,
        np.asarray(starts, np.int64),
        columns,
        label_map,
        regression,
        num_labels if multi_label else None,
        found,
        input_hashes,
        None if other is None else other.content,
    )


def _check_number(label: str, place: str) -> None:
    """Check a label of a regression.

    Raises:
        UserError: it is no finite number; begins with `place`.
    """
    try:
        is_finite = math.isfinite(float(label))
    except ValueError:
        is_finite = False
    if not is_finite:
        raise UserError(f"{place}: the label '{label}' is no number, and --is_regression true needs numbers")


def _check_label(label: str, label_map: Mapping[str, int] | None, num_labels: int | None, place: str) -> None:
    """Check a label of a classification.

    Raises:
        UserError: the label map does not have it, or without a map it is no id; begins with `place`.
    """
    if label_map is not None:
        if label not in label_map:
            none = "; it stands for no label: remove the line" if label.lower() in NO_LABEL else ""
            raise UserError(f"{place}: unknown label '{label}'; the labels are {', '.join(label_map)}{none}")
        return
    is_id = label.isdecimal() and len(label) < 10  # int() refuses thousands of digits
    if is_id and num_labels is not None:
        is_id = int(label) < num_labels
    if not is_id:
        ids = "0 or more" if num_labels is None else f"0 to {num_labels - 1} (--num_labels {num_labels})"
        raise UserError(
            f"{place}: the label is '{label}', but without --label_map_config it must be a number, {ids}"
        )
