"""Tables of texts that a model is asked about."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.form import OpenedTable, open_table, options_of
from ernie_m.reader.files.table.places import NO_TEXT, find_places, names_of, possible_labels
from ernie_m.reader.files.table.words import ONE, VERDICTS
from ernie_m.utils.errors import UserError, printable
from ernie_m.utils.logging import logger


class AskedTable(NamedTuple):
    """A table of texts that a model is asked about.

    Attributes:
        label_columns: those that --columns names behind the texts.
        rows: each row with its line: its cells by the names of the columns, and as a request. That has the
            texts, and the other columns by their names in small letters.
    """

    label_columns: list[str]
    rows: Iterator[tuple[int, dict[str, str], dict[str, str]]]


def asked_table(
    path: Path,
    options: TableOptions,
    faults: Faults,
    texts: tuple[str, str] = ("text_a", "text_b"),
    pairs: bool | None = None,
    numbers: bool = False,
) -> AskedTable:
    """Open a table of texts without labels, or with labels that are not read.

    Args:
        faults: receives rows that cannot be read.
        texts: what a request calls its text, and a second one.
        pairs: whether the model reads pairs of texts; None: it is not known.
        numbers: whether it predicts numbers.

    Raises:
        UserError: the table cannot be read, or it is not clear which columns have the texts.
    """
    options = options_of(path, options)
    table = open_table(path, options, faults, logger.warning)
    names = [name.strip() for name in names_of(table)]
    if len(set(names)) < len(names):
        raise UserError(f"{path}, line {table.line}: two columns have one name; rename one")
    keys = [name.lower() for name in names]
    if {*texts} <= {*keys} and pairs and not options.columns:
        places, labels = [keys.index(text) for text in texts], []
    else:
        places, labels = _places_of_asked(table, options.columns, pairs, numbers)
    found = [keys[place] for place in places]
    if found != [*texts][: len(places)] and found != ["text"]:
        columns = " and ".join(f"'{printable(names[place])}'" for place in places)
        logger.warning("%s: its texts are in %s", path, columns)
    keys = [f"another {key}" if key in ("text", *texts) else key for key in keys]
    for text, place in zip(texts, places):
        keys[place] = text

    def rows() -> Iterator[tuple[int, dict[str, str], dict[str, str]]]:
        for line, cells in table.rows:
            values = dict(zip(keys, cells))
            if "text_a" in values:
                values["text"] = values["text_a"]  # what most tasks call it
            yield line, dict(zip(names, cells)), values

    return AskedTable([names[place] for place in labels], rows())


def _places_of_asked(
    table: OpenedTable, columns: str | None, pairs: bool | None, numbers: bool
) -> tuple[list[int], list[int]]:
    """The places of the text, or of the two texts; and of the labels that --columns names behind them.

    Raises:
        UserError: as `asked_table`.
    """
    if not columns:
        texts, labels = find_places(table, None, labels=False, regression=numbers)
    else:
        given = [table.place(name.strip()) for name in columns.split(",")]
        count = 1 if pairs is False else 2
        texts, labels = given[:count], given[count:]
        may_be_labels = {*possible_labels(table, multi_label=False, regression=True)}
        if not numbers:
            may_be_labels.update(possible_labels(table, multi_label=False, regression=False))
        if pairs is None and not may_be_labels.isdisjoint(texts[1:]):
            text, label, *_ = columns.split(",")
            raise UserError(
                f"{table.path}, line {table.line}: --columns {columns}: '{label}' looks like the label; "
                f"name the text alone: --columns {shlex.quote(text)}; or call a second text text_b"
            )
    if pairs is not None and len(texts) != 1 + pairs:
        first, *more = (printable(names_of(table)[place]) for place in texts)
        others = (*NO_TEXT, VERDICTS, ONE)
        usable = [name for name, kind in zip(names_of(table), table.kinds) if kind not in others]
        example = shlex.quote(",".join(usable[:2] if len(usable) > 1 else ("query", "passage")))
        reads = f"pairs of texts, and only '{first}' is found; name both columns, as in --columns {example}"
        if more:
            reads = f"single texts, and '{first}' and '{more[0]}' are two; name one: --columns {first}"
        raise UserError(f"{table.path}, line {table.line}: the model reads {reads}")
    return texts, labels
