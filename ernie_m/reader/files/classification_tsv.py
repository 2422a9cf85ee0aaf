"""Labeled texts in the official TSV format: each row becomes an `Example` with its label id."""

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from ernie_m.reader.files.official_tsv import (
    OFFICIAL,
    FileLines,
    drop_trailing_blank_lines,
    has_quotes,
    log_quoted_rows,
    open_lines,
    parse_header,
    parse_row,
    split_cells,
)
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.labels import hash_input, is_missing, normalize_label, parse_number
from ernie_m.reader.text_featurizer import Example
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import FileVersion
from ernie_m.utils.logging import logger

EXAMPLE_HEADER = "text_a, text_b, label, optional qid"  # for errors


class ExampleFile(FileLines, Sequence[Example]):
    """The rows of an official TSV file, read on access; created by `read_classification`.

    Args:
        path, version, starts: see `FileLines`.
        columns: name -> index of the columns in use.
        inputs: `hash_input` of each row, int64 [N].
        targets: the label id of each row, int64 [N], or for regression a number, float64 [N]; [0]: without
            labels.
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

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # slices are not supported
        # `read_classification` has validated the line.
        cells = split_cells(self.read_line(index).decode("utf-8"))
        row = {name: cells[column] for name, column in self._columns.items()}
        label = {"label": self.targets[index].item()} if len(self.targets) else {}
        return Example(row["text_a"], row.get("text_b"), qid=row.get("qid"), **label)

    def get_location(self, index: int) -> str:
        """Return the location of a row for messages."""
        return f"line {index + 2}"


def read_classification(
    path: str | os.PathLike,
    label_map: Mapping[str, int] | None = None,
    num_labels: int | None = None,
    labels: bool = True,
    regression: bool = False,
) -> ExampleFile:
    """Read and validate an official TSV file with the columns text_a, text_b, label and qid.

    text_b and qid are optional; other columns are ignored with a warning. A byte order mark, CRLF line
    endings and trailing blank lines are accepted. Labels are normalized.

    Args:
        label_map: label -> id; None: the label column contains ids.
        num_labels: without a label map, the number of labels; ids must be smaller.
        labels: whether to read the label column.
        regression: whether the label column contains numbers.

    Raises:
        UserError: the file cannot be read, or rows are invalid; the message names file and lines.
    """
    path = Path(path)
    required = ["text_a", "label"] if labels else ["text_a"]
    value_of = _parse_number_label if regression else _make_id_parser(label_map, num_labels)
    errors = RowErrors(path, may_skip=False)
    starts = array("q")  # byte offsets of rows
    inputs = array("q")
    targets: array[float] = array("d" if regression else "q")
    quoted = 0
    with open_lines(path) as (file, version):  # the version detects later changes of the file
        first_line = file.readline()
        header = parse_header(first_line, path, required, EXAMPLE_HEADER)
        columns = {name: index for index, name in enumerate(header) if name in OFFICIAL}
        if len(columns) < len(header):  # such as text2, without which pairs are single texts
            logger.warning(
                "%s: ignored columns: %s", path, ", ".join(name for name in header if name not in columns)
            )
        position = len(first_line)  # byte offset of the next row
        for number, line in enumerate(drop_trailing_blank_lines(file), 2):
            starts.append(position)
            position += len(line)
            with errors.record_errors(number):
                cells = parse_row(line, path, number, header)
                if labels:
                    targets.append(value_of(cells[columns["label"]]))
                inputs.append(hash_input(*[cells[columns[name]] for name in OFFICIAL[:2] if name in columns]))
                quoted += has_quotes(cells)
    errors.report(logger.warning)
    log_quoted_rows(path, quoted, len(starts), logger.warning)
    if not starts:
        raise UserError(f"{path}: no rows after the header")
    starts.append(position)
    return ExampleFile(path, version, np.array(starts), columns, np.array(inputs), np.array(targets))


def _parse_number_label(cell: str) -> float:
    """Parse a label as a number, or raise a UserError."""
    value = parse_number(cell)
    if value is None:
        raise UserError(f"invalid label '{cell}' (--is_regression true requires numbers)")
    return value


def _make_id_parser(label_map: Mapping[str, int] | None, num_labels: int | None) -> Callable[[str], int]:
    """Return a function that maps a label to its id, or raises a UserError.

    Args:
        label_map, num_labels: see `read_classification`.
    """
    ids = {normalize_label(label): id_ for label, id_ in (label_map or {}).items()}

    @cache
    def parse_id(cell: str) -> int:
        label = normalize_label(cell)
        if label in ids:
            return ids[label]
        if label_map is not None:
            advice = f"Choose from {', '.join(label_map)}"
            if is_missing(label):
                advice = "It means a missing label; remove the row"
            raise UserError(f"unknown label '{label}'. {advice}")
        is_id = label.isdecimal() and len(label) < 10  # int() rejects thousands of digits
        if not is_id or (num_labels is not None and int(label) >= num_labels):
            most = "or more" if num_labels is None else f"to {num_labels - 1} (--num_labels {num_labels})"
            raise UserError(
                f"invalid label '{label}' (expected a number, 0 {most}, without --label_map_config). Set "
                "--label_map_config, or use ernie-m fit"
            )
        return int(label)

    return parse_id
