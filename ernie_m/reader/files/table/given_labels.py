"""The labels that a table has already, by which what a model says of its rows is scored."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain

from ernie_m.reader.files.labels import labels_for_none, normal_label, number_in, split_labels
from ernie_m.reader.files.table.words import LABEL, NUMBERS, purpose_of

_USUAL = ("label", "labels", "gold_label", "target", "class", "category")  # names of a column of labels
# What says that a row has the label of a column.
YES = {"1", "1.0", "true", "yes", "y", "x", "ja", "oui", "si", "sí", "evet"}


def label_columns(rows: Sequence[Mapping[str, str]], known: Collection[str], several: bool) -> list[str]:
    """The names of the columns of labels: one, or one for each label; none: it is not clear which they are.

    Args:
        rows: the name of a column -> the cell.
        known: the labels of the model in their normal form; none: it predicts numbers.
        several: whether a row may have several, or none.
    """
    header = [name for name in rows[0] if not name.startswith("predicted_")]
    if not known:
        numbers = [name for name in header if purpose_of(name) in (NUMBERS, LABEL)]
        return numbers if len(numbers) == 1 else []
    own = [name for name in header if normal_label(name) in known]
    if several and len(own) == len(known):
        return own
    usual = [name for word in _USUAL for name in header if name.strip().lower() == word]
    if usual:
        return usual[:1]
    only = []  # those that have just labels of the model
    for name in header:
        counts = Counter(chain.from_iterable(_all_labels(rows, [name], several)))
        labels = counts.keys() - labels_for_none(counts)
        if labels and labels <= {*known}:
            only.append(name)
    return only if len(only) == 1 else []


def labels_in(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str], several: bool
) -> list[list[str] | None]:
    """The labels of each row in their normal form; None: it is not known which it has.

    An empty cell says that a row has none of several labels, and otherwise that its label is not known.
    """
    labels_of_rows = _all_labels(rows, columns, several)
    unknown = labels_for_none(Counter(chain.from_iterable(labels_of_rows)))
    return [
        labels if unknown.isdisjoint(labels) and (labels or several) else None for labels in labels_of_rows
    ]


def numbers_in(rows: Sequence[Mapping[str, str]], column: str) -> list[float]:
    """The number of each row; none: a cell has no number. Decimals may have commas, if none has a point."""
    cells = [row[column] for row in rows]
    if not any("." in cell for cell in cells):
        cells = [cell.replace(",", ".") for cell in cells]
    numbers = [number_in(cell) for cell in cells]
    return [] if None in numbers else numbers


def _all_labels(rows: Sequence[Mapping[str, str]], columns: Sequence[str], several: bool) -> list[list[str]]:
    if len(columns) > 1:
        return [[normal_label(name) for name in columns if row[name].strip().lower() in YES] for row in rows]
    cells = [row[columns[0]] for row in rows]
    if several:
        return list(map(split_labels, cells))
    return [list(filter(None, [normal_label(cell)])) for cell in cells]
