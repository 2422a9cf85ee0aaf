"""The rows of any table: an official TSV file is left as it is, and every other one is read by `tables.py`.

A program that reads and writes tables takes what it needs from here.
"""

from collections.abc import Sequence
from pathlib import Path

from ernie_m.reader.files.official_tsv import decode, official_names, open_lines, split_cells
from ernie_m.reader.files.plain_text import split_name
from ernie_m.reader.files.tables import (
    ADDED,
    AnsweredTable,
    LabelledTable,
    OfficialForm,
    TableForm,
    column_of_texts,
    form_of_table,
    in_official_form,
    is_number,
    is_table,
    place_of,
    read_table,
    rows_of_table,
    separator_of,
)

__all__ = [
    "ADDED",
    "AnsweredTable",
    "LabelledTable",
    "TableForm",
    "column_of_texts",
    "form_of_table",
    "is_number",
    "is_table",
    "place_of",
    "read_table",
    "rows_of",
    "rows_of_table",
    "split_name",
]


def rows_of(
    path: Path,
    labels: bool,
    regression: bool,
    multi_label: bool,
    columns: Sequence[str] = (),
    any_label: bool = False,
) -> OfficialForm | None:
    """A table in the form of the official files; None: it is in this form, and need not be kept in memory.

    Args:
        labels: whether the column of the labels is needed.
        regression: whether they are numbers, for which a column score will do.
        multi_label: see `LabelledTable`.
        columns: see `read_table`.
        any_label: whether it is not known which labels there are. Every table is then read by `read_table`,
            which leaves out rows whose label stands for none.

    Raises:
        UserError: as `read_table`.
    """
    if not (columns or any_label) and separator_of(path) == "tabs" and path.suffix.lower() != ".gz":
        with open_lines(path) as (file, _):
            header = decode(file.readline(), path, 1).removeprefix("\ufeff")
        if {"text_a", *(["label"] if labels else [])} <= {*official_names(split_cells(header), regression)}:
            return None
    return in_official_form(path, labels, regression, multi_label, columns, any_label)
