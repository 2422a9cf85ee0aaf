"""Command-line options for reading tables, shared by several commands."""

from dataclasses import dataclass, fields
from typing import Literal

from ernie_m.utils.args import option
from ernie_m.utils.errors import UserError

# Commands that read pairs.
_OF_PAIRS = ("train", "prepare", "run_retrieval", "mine_hard_negatives", "build_corpus", "train_vocab")
# Options of every table, in addition to its columns.
OF_TABLES = ("delimiter", "quoting", "encoding", "filter", "on_error")


@dataclass(kw_only=True)
class TableOptions:
    """Options for reading tables of pairs or of texts."""

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
    """Whether to stop at invalid rows before any work is done (stop), or to drop them (skip)."""

    def reject_unused(self, name: object, file_contents: str, *supported: str) -> None:
        """Check that all options that are set apply to the format of a file.

        Args:
            name: the name of the file.
            file_contents: a plural noun for the contents of the file, such as "lines of text".
            supported: the options that apply.

        Raises:
            UserError: an option that does not apply is set.
        """
        given = [
            f"--{field.name}"
            for field in fields(LabelOptions)
            if field.name not in supported and getattr(self, field.name, None) not in (None, field.default)
        ]
        if given:
            raise UserError(
                f"{name}: {file_contents} do not support {' and '.join(given)}. Remove unsupported options"
            )


@dataclass(kw_only=True)
class LabelOptions(TableOptions):
    """Options for reading tables of labeled texts: columns by name, or all by number from 1.

    With numbers, the table has no header. Without an option, a column is found by known names; see
    docs/data.md.
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
