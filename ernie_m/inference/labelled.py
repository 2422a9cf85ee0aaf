"""Tables that are answered; at the end, how many rows have which label, and how right the answers are."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import IO, Any

from ernie_m.finetune.metrics import pearson, spearman
from ernie_m.inference.tasks import InputFile
from ernie_m.reader.files.answered import AnsweredTable
from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.label_cells import split_labels
from ernie_m.reader.files.labels import NO_LABEL, normal_label, number_in
from ernie_m.reader.files.tables import AskedTable, is_marked
from ernie_m.utils.errors import listed


def sureness(answer: Mapping[str, Any]) -> float:
    """The probability that an answer is right; of several labels that all decisions are."""
    probabilities = answer.get("probabilities", {})
    if "labels" in answer:
        return math.prod(max(value, 1 - value) for value in probabilities.values())
    return probabilities[answer["label"]] if probabilities else answer["probability"]


class LabelledRows(InputFile):
    """A table, whose rows come back with their answers.

    Args:
        table: the table, and its columns.
        sorts: whether the rows are written first whose answer the model is least sure of.
    """

    def __init__(self, table: AskedTable, sorts: bool) -> None:
        self._table = table
        self._names = table.table.names
        self._sorts = sorts
        self._rows: list[list[Any]] = []  # the cells of each
        self._predicted: list[list[str]] = []  # the labels of each row, or nothing
        self._numbers: list[float] = []  # or the number of each row
        self._known: set[str] = set()  # the labels of the model
        self._has_several = False  # whether a row may have several labels, or none

    def requests(self, faults: Faults) -> Iterator[tuple[int, list[Any], dict]]:
        return self._table.rows()

    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        """Write the rows as `AnsweredTable` does."""
        table = AnsweredTable(file, self._table.table.form)
        waiting = []
        for request, answer in rows:
            if answer:
                self.add(request.entry, answer)
            if self._sorts:
                waiting.append((request.entry, answer))
            else:
                table.add(self._names, request.entry, answer)
        waiting.sort(key=lambda row: sureness(row[1]) if row[1] else -1)  # a row without an answer is first
        for cells, answer in waiting:
            table.add(self._names, cells, answer)

    def add(self, cells: list[Any], answer: Mapping[str, Any]) -> None:
        self._rows.append(cells)
        self._has_several = "labels" in answer
        labels = answer.get("labels", [answer["label"]] if "label" in answer else [])
        self._predicted.append([normal_label(label) for label in labels])
        self._known.update(map(normal_label, answer.get("probabilities", ())))
        self._numbers += [answer["score"]] if "score" in answer else []

    def summary(self) -> list[str]:
        """Lines: the number of rows and of each label, and if the table has labels how right they are."""
        rows = f"{len(self._rows):,} rows"
        if not self._known:
            return [rows, *(self._correlations() if self._numbers else ())]
        counts = Counter(chain.from_iterable(self._predicted))
        parts = [f"{label} {count:,}" for label, count in counts.most_common()]
        if without := sum(not labels for labels in self._predicted):
            parts.append(f"no label {without:,}")
        return [f"{rows}: {listed(parts)}", *self._accuracy()]

    def _given(self, row: list[Any]) -> set[str] | None:
        """The labels that a row of the table has; None: it is not known which."""
        places = self._table.labels
        if len(places) > 1:
            marks = {normal_label(self._names[place]): is_marked(row[place]) for place in places}
            return None if None in marks.values() else {name for name, is_there in marks.items() if is_there}
        (place,) = places
        cell = row[place]
        if self._has_several:
            return set(map(normal_label, map(str, cell)) if isinstance(cell, list) else split_labels(cell))
        label = normal_label(str(cell))
        return None if label.lower() in ("", *NO_LABEL) else {label}

    def _accuracy(self) -> Iterator[str]:
        """How many of the rows that have labels already got them. Of several labels all must be right."""
        if not self._table.labels:
            return
        labelled = [
            (given, set(predicted))
            for given, predicted in zip(map(self._given, self._rows), self._predicted)
            if given is not None
        ]
        names = listed([f"'{self._names[place]}'" for place in self._table.labels])
        if not any(labels & self._known for labels, _ in labelled):
            yield f"no accuracy: there is no label of the model in {names}"
            return
        right = sum(labels == predicted for labels, predicted in labelled)
        rows = "rows, by the labels" if self._has_several else "rows with a label"
        share = f"{100 * right / len(labelled):.1f} %"
        yield f"accuracy {share}: {right:,} of {len(labelled):,} {rows} in {names}"

    def _correlations(self) -> Iterator[str]:
        """How predicted numbers correlate with the table's, over the rows that have one."""
        given = [number_in(str(row[place])) for row in self._rows for place in self._table.labels[:1]]
        both = [pair for pair in zip(self._numbers, given) if pair[1] is not None]
        if len(both) > 1:
            predicted, numbers = zip(*both)
            correlations = pearson(predicted, numbers), spearman(predicted, numbers)
            line = "Pearson {:.1f} %, Spearman {:.1f} %: of {:,} rows with a number in '{}'"
            yield line.format(*correlations, len(both), self._names[self._table.labels[0]])
