"""How the tables of users are read: the options that programs share."""

from dataclasses import dataclass, fields
from typing import Literal

from ernie_m.utils.args import option
from ernie_m.utils.errors import UserError

_OF_PAIRS = ("train", "prepare", "run_retrieval", "build_corpus", "train_vocab")  # commands that read pairs
# What every table is read with, beside its columns.
OF_TABLES = ("delimiter", "quoting", "encoding", "filter", "on_error")


@dataclass(kw_only=True)
class TableOptions:
    """How to read tables: what their header, their ending and their first line do not say."""

    columns: str | None = option(None, only=(*_OF_PAIRS, "fit", "predict"))
    """Comma-separated columns of pairs, tagged words or questions, by name, or by number if there is no
    header."""

    delimiter: str | None = None
    """Column delimiter of tables, a character or tab (default: inferred)."""

    quoting: bool | None = None
    """Whether quotation marks enclose cells in tab-separated tables, as pandas and Excel write them."""

    encoding: str | None = None
    """Encoding of the input files, such as cp1252 (default: UTF-8, or UTF-16 with a byte order mark)."""

    filter: str | None = None
    """Rows of a table to use, as in label=1, label!=0 or score>=0.8, or all."""

    skip_text_checks: bool = option(False, free=True, only=_OF_PAIRS)
    """Whether to skip the checks that find line numbers, ids, tags and HTML in text."""

    on_error: Literal["stop", "skip"] = "stop"
    """Whether to stop at invalid rows before any work is done (stop), or to leave them out (skip)."""

    def reject_others(self, name: object, form: str, *read: str) -> None:
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
    """Column of the text, or several that are joined into one text, as in Subject+Body."""

    text_b: str | None = None
    """Column of the second text of a pair."""

    label: str | None = option(None, only=("fit", "predict"))
    """Column of the label, or a column of 0 and 1 for each of several labels, as in A,B,C."""

    label_separator: str | None = option(None, only=("fit", "predict"))
    """Separator of several labels in one cell, such as a semicolon."""

    language: str | None = option(None, only=("fit", "predict"))
    """Column of the language."""

    group: str | None = option(None, only=("fit",))
    """Column of the group; rows of one group are never split between training and evaluation."""

    split: str | None = option(None, only=("fit",))
    """Column of the split (train, dev or test)."""
