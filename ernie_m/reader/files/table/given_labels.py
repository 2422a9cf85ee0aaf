"""The labels and numbers that the cells of a table say, also those by which an answer is scored."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from ernie_m.reader.files.labels import labels_for_none, normal_label, number_in, split_labels
from ernie_m.reader.files.table.words import LABEL, NUMBERS, purpose_of

_USUAL = ("label", "labels", "gold_label", "target", "class", "category")  # names of a column of labels
# Cells by which a row has the label of their column, and by which it has not.
YES = {"1", "1.0", "true", "yes", "y", "x", "✓", "✔", "ja", "j", "wahr", "oui", "vrai", "si", "sí", "evet"}
NO = {"0", "0.0", "false", "no", "n", "nein", "nee", "falsch", "non", "faux", "hayır", ""}
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
# Numbers that may be thousands. With points they are in doubt only beside a plain number of 100 or more.
_MAY_BE_THOUSANDS, _HUNDREDS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}"), 100


class ReadNumbers(NamedTuple):
    """Cells that are read as numbers.

    Attributes:
        cells: with points for decimals.
        values: of each cell; None: it has none.
        unclear: the place of the first cell that may be a thousand; None: there is none.
    """

    cells: list[str]
    values: list[float | None]
    unclear: int | None


def read_numbers(cells: Sequence[str]) -> ReadNumbers:
    """Read the cells of a column. Decimals may have commas, if no cell has a point."""
    cells = [cell.strip() for cell in cells]
    marked = [cell for cell in cells if "." in cell or "," in cell]
    largest = max((number_in(cell) or 0 for cell in cells if cell.isdecimal()), default=0)
    unclear = None
    may_be_thousands = bool(marked) and all(map(_MAY_BE_THOUSANDS.fullmatch, marked))
    if may_be_thousands and (largest >= _HUNDREDS or "," in marked[0]):
        unclear = cells.index(marked[0])
    if all(map(_DECIMAL_COMMA.fullmatch, marked)):
        cells = [cell.replace(",", ".") for cell in cells]
    return ReadNumbers(cells, list(map(number_in, cells)), unclear)


def label_columns(rows: Sequence[Mapping[str, str]], known: Collection[str], several: bool) -> list[str]:
    """The names of the columns of labels: one, or one for each label; none: it is not clear which they are.

    Args:
        rows: the name of a column -> the cell.
        known: the labels of the model in their normal form; none: it predicts numbers.
        several: whether a row may have several, or none.
    """
    header = [name for name in rows[0] if not name.startswith("predicted_")]
    if not known:
        named = [name for name in header if purpose_of(name) in (NUMBERS, LABEL)]
        numbers = named or [name for name in header if not purpose_of(name) and numbers_in(rows, name)]
        return numbers if len(numbers) == 1 else []
    own = [name for name in header if normal_label(name) in known]
    if several and len(own) == len(known):
        return own
    usual = [name for word in _USUAL for name in header if name.strip().lower() == word]
    if usual:
        return usual[:1]
    only = []  # those most of whose labels are the model's
    for name in header:
        counts = Counter(chain.from_iterable(_all_labels(rows, name, several)))
        labels = counts.keys() - labels_for_none(counts)
        if 2 * len(labels & {*known}) > len(labels):
            only.append(name)
    return only if len(only) == 1 else []


def labels_in(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str], known: Collection[str], several: bool
) -> list[list[str] | None]:
    """The labels of each row in their normal form; None: it is not known which it has.

    An empty cell says that a row has none of several labels, and otherwise that its label is not known. So
    does a cell in a column for one label that says neither yes nor no.

    Args:
        columns, known, several: see `label_columns`.
    """
    if several and (len(columns) > 1 or normal_label(columns[0]) in known):
        of_rows = [marked_labels(columns, [row[name] for name in columns]) for row in rows]
        return [None if odd else labels for labels, odd in of_rows]
    labels_of_rows = _all_labels(rows, columns[0], several)
    unknown = labels_for_none(Counter(chain.from_iterable(labels_of_rows)))
    return [
        labels if unknown.isdisjoint(labels) and (labels or several) else None for labels in labels_of_rows
    ]


def numbers_in(rows: Sequence[Mapping[str, str]], column: str) -> list[float | None]:
    """The number of each row; None: its cell is blank. Empty: another cell has none, or may be a thousand."""
    cells, values, unclear = read_numbers([row[column] for row in rows])
    is_clear = unclear is None and all(value is not None or not cell for cell, value in zip(cells, values))
    return values if is_clear else []


def marked_labels(names: Sequence[str], cells: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The labels that a row has, of columns for one label each; and the cells that say neither yes nor no.

    Args:
        names, cells: those of the columns.

    Returns:
        also the name and the cell of each that says neither.
    """
    given = [(name, cell.strip()) for name, cell in zip(names, cells)]
    labels = [normal_label(name) for name, cell in given if cell.lower() in YES]
    return labels, [(name, cell) for name, cell in given if cell.lower() not in YES | NO]


def _all_labels(rows: Sequence[Mapping[str, str]], column: str, several: bool) -> list[list[str]]:
    """The labels of each row in their normal form, those that stand for none included."""
    cells = [row[column] for row in rows]
    if several:
        return list(map(split_labels, cells))
    return [list(filter(None, [normal_label(cell)])) for cell in cells]
