"""What `ernie-m label` says at its end: how many rows have which label, and the share that is right."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from ernie_m.reader.files.labels import labels_for_none, normal_label, split_labels
from ernie_m.utils.errors import listed

_USUAL = ("label", "labels", "gold_label", "target", "class", "category")  # names of a column of labels


class LabelledRows:
    """Collects the rows of a table with their answers."""

    def __init__(self) -> None:
        self._rows: list[Mapping[str, str]] = []  # the name of a column -> the cell
        self._predicted: list[list[str]] = []  # the labels of each row, or nothing
        self._known: set[str] = set()  # the labels of the model
        self._has_several = False  # whether a row may have several labels, or none

    def add(self, cells: Mapping[str, str], answer: Mapping[str, Any]) -> None:
        self._rows.append(cells)
        self._has_several = "labels" in answer
        labels = answer.get("labels", [answer["label"]] if "label" in answer else [])
        self._predicted.append([normal_label(label) for label in labels])
        self._known.update(map(normal_label, answer.get("probabilities", ())))

    def summary(self) -> list[str]:
        """Lines: the number of rows and of each label, and the accuracy if the table has labels."""
        rows = f"{len(self._rows):,} rows"
        if not self._known:
            return [rows]
        counts = Counter(chain.from_iterable(self._predicted))
        parts = [f"{label} {count:,}" for label, count in counts.most_common()]
        if without := sum(not labels for labels in self._predicted):
            parts.append(f"no label {without:,}")
        lines = [f"{rows}: {listed(parts)}"]
        column = self._label_column()
        return lines if column is None else [*lines, self._accuracy(column)]

    def _label_column(self) -> str | None:
        """The column of labels: one of a usual name, or the only one that has just the model's labels."""
        header = list(self._rows[0])
        named = [name for word in _USUAL for name in header if name.strip().lower() == word]
        if named:
            return named[0]
        columns = []
        for name in header:
            counts = Counter(chain.from_iterable(self._labels_of(name)))
            labels = counts.keys() - labels_for_none(counts)
            if labels and labels <= self._known and not name.startswith("predicted_"):
                columns.append(name)
        return columns[0] if len(columns) == 1 else None

    def _labels_of(self, column: str) -> Iterable[Sequence[str]]:
        """The labels of each row in a column, in their normal form; none where the cell is empty."""
        for row in self._rows:
            if self._has_several:
                yield split_labels(row[column])
            else:
                yield list(filter(None, [normal_label(row[column])]))

    def _accuracy(self, column: str) -> str:
        """How many of the rows that have labels in a column got them. Of several labels all must be right."""
        labels_of_rows = list(self._labels_of(column))
        none = labels_for_none(Counter(chain.from_iterable(labels_of_rows)))
        labelled = [
            (set(labels), set(predicted))
            for row, labels, predicted in zip(self._rows, labels_of_rows, self._predicted)
            if row[column].strip() and none.isdisjoint(labels)
        ]
        if not any(labels & self._known for labels, _ in labelled):
            return f"no accuracy: the column '{column}' has no label of the model"
        right = sum(labels == predicted for labels, predicted in labelled)
        percent = 100 * right / len(labelled)
        return f"accuracy {percent:.1f} %: {right:,} of {len(labelled):,} rows with a label in '{column}'"
