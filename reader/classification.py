"""Rows with one text or two and a label, from the official TSV files."""

import mmap
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.tsv import FileLines, map_bytes, parse_header, parse_row
from utils.errors import UserError

_COLUMNS = "text_a, text_b, label, optional qid"


class Example(NamedTuple):
    """One row. `text_b`, `qid`: None without such a column. `label`: the id, or -1 if labels are not read."""

    text_a: str
    text_b: str | None
    label: int = -1
    qid: str | None = None


class Examples(FileLines, Sequence[Example]):
    """The rows of a TSV file; made by `read_classification`, which checks them."""

    def __init__(
        self, path: Path, data: mmap.mmap, starts: np.ndarray, columns: dict[str, int],
        label_map: dict[str, int] | None,
    ):  # fmt: skip
        super().__init__(path, data, starts)
        self._columns, self._label_map = columns, label_map

    def __getitem__(self, index: int) -> Example:
        cells = self.line(index).decode("utf-8").rstrip("\r\n").split("\t")
        found = {name: cells[column] for name, column in self._columns.items()}
        label = found.get("label", "-1")
        label_id = self._label_map[label] if self._label_map and "label" in found else int(label)
        return Example(found["text_a"], found.get("text_b"), label_id, found.get("qid"))


def read_classification(
    path: str | os.PathLike, label_map: dict[str, int] | None = None, num_labels: int | None = None,
    labels: bool = True,
) -> Examples:  # fmt: skip
    """Check a TSV file with the columns text_a, text_b (optional), label, qid (optional); return its rows.

    Other columns are ignored. A byte order mark, Windows line ends and blank lines at the end are accepted.

    Args:
        label_map: label -> id; without it the label column contains ids.
        num_labels: without a label map, the ids must be below it.
        labels: False ignores the label column (prediction).

    Raises:
        UserError: the file cannot be read, or a line has another form; names the file and the line.
    """
    path = Path(path)
    data = map_bytes(path)
    position = data.find(b"\n") + 1 or len(data)
    header = parse_header(data[:position], path, ["text_a", *["label"] * labels], _COLUMNS)
    wanted = ("text_a", "text_b", "qid", *["label"] * labels)
    columns = {name: i for i, name in enumerate(header) if name in wanted}
    end = len(data)
    while end and data[end - 1] in b"\r\n":
        end -= 1
    known: set[str] = set()
    starts = array("q")
    while position < end:
        number = len(starts) + 2
        line_end = data.find(b"\n", position) + 1 or len(data)
        cells = parse_row(data[position:line_end], path, number, header)
        if labels and (label := cells[columns["label"]]) not in known:
            _check_label(label, label_map, num_labels, f"{path}, line {number}")
            known.add(label)
        starts.append(position)
        position = line_end
    if not starts:
        raise UserError(f"{path}: no rows after the header")
    starts.append(position)
    return Examples(path, data, np.asarray(starts, np.int64), columns, label_map)


def _check_label(label: str, label_map: dict[str, int] | None, num_labels: int | None, where: str) -> None:
    if label_map is not None:
        if label not in label_map:
            raise UserError(f"{where}: unknown label '{label}'; the label map has {', '.join(label_map)}")
    elif not (label.isdecimal() and len(label) < 10) or (num_labels is not None and int(label) >= num_labels):
        limit = "" if num_labels is None else f" below {num_labels} (--num_labels)"
        raise UserError(f"{where}: the label '{label}' is no id{limit}; name labels with --label_map_config")
