"""The rows of any table: an official TSV file is left as it is, and every other one is read by `table/`.

A program that reads and writes tables takes what it needs from here. What is behind is imported when a
table is read that is not in the official form.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from ernie_m.utils.options import option

if TYPE_CHECKING:
    from ernie_m.reader.files.faults import Faults
    from ernie_m.reader.files.table.labelled import LabelledTable as LabelledTable


@dataclass(kw_only=True)
class TableOptions:
    """How to read tables. Each is found out where it is not given.

    A value holds for every table of a command, or, as NAME=VALUE, for the file of this name alone.
    """

    columns: str | None = None
    """For a table: the columns to read, by their names in the header or their numbers, as in review,stars."""

    header: bool | None = None
    """For a table: whether its first line names the columns."""

    delimiter: str | None = None
    """For a table: what separates its cells: a character, tab, or none where each line is one text."""

    quotes: bool | None = None
    """For a table with tabs: whether quotation marks enclose cells, as pandas and Excel write them."""

    encoding: str | None = None
    """For a table: its encoding, as in cp1252, if it is neither UTF-8 nor UTF-16 with its mark."""

    only: str | None = None
    """For a table: which rows to read, as in label=1, label!=0 or score>=0.8; all: every one."""

    text_as_it_stands: bool = option(False, free=True)
    """For text and pairs: whether numbers, ids or tags before most lines, and HTML are text."""

    on_error: Literal["stop", "skip"] = "stop"
    """Whether faulty rows end the command before anything is done, or are left out."""


@dataclass(kw_only=True)
class LabelOptions(TableOptions):
    """How to read tables of texts with labels: columns by their names, or all by their numbers from 1.

    Numbers say that there is no header. Without a flag, a column is known by its name; see docs/data.md.
    """

    text: str | None = None
    """For a table: the column of the text. Subject+Body: several, which make one text."""

    text_b: str | None = None
    """For a table of pairs: the column of the second text."""

    label: str | None = None
    """For a table: the column of the label; A,B,C: a column for each of several labels, with 0 and 1."""

    language: str | None = None
    """For a table: the column of the language of each row."""

    group: str | None = None
    """For a table: the column that tells which rows belong together, and are held out together."""

    split: str | None = None
    """For a table: the column that says train, dev or test."""


def faults_of(path: Path, options: TableOptions) -> "Faults":
    """What collects the faults of a file."""
    from ernie_m.reader.files.faults import Faults

    return Faults(path, options.on_error == "skip")


def tables() -> ModuleType:
    """The module that reads and writes every table that is not in the official form."""
    from ernie_m.reader.files.table import labelled

    return labelled
