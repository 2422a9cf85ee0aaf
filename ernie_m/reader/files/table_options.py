"""How the tables of users are read: the options that programs share."""

from dataclasses import dataclass, fields
from typing import Literal

from ernie_m.utils.args import option
from ernie_m.utils.errors import UserError

# What every table is read with, beside its columns.
OF_TABLES = ("delimiter", "quotes", "encoding", "only", "on_error")


@dataclass(kw_only=True)
class TableOptions:
    """How to read tables: what their header, their ending and their first line do not say."""

    columns: str | None = None
    """For pairs, tagged words and questions: their columns by name, or by number if there is no header."""

    delimiter: str | None = None
    """For a table: what separates its cells: a character, or tab."""

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

    def refuse_others(self, name: object, form: str, *read: str) -> None:
        """Refuse options that are given, and that a file is not read with.

        Args:
            name: of the file.
            form: what it has, in the plural.
            read: the options that it is read with.

        Raises:
            UserError: there are such options.
        """
        given = [
            f"--{field.name}"
            for field in fields(LabelOptions)
            if field.name not in read and getattr(self, field.name, None) not in (None, field.default)
        ]
        if given:
            raise UserError(f"{name}: {form} are read without {' and '.join(given)}; leave out such options")


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
