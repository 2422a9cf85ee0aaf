"""Tables that are answered; at the end, how many rows have which label, and how right the answers are."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from ernie_m.finetune.metrics import pearson, spearman
from ernie_m.inference.tasks import InputFile
from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.labels import labels_for_none, normal_label, number_in, split_labels
from ernie_m.reader.files.rows import TableOptions, tables
from ernie_m.utils.errors import listed

_USUAL = ("label", "labels", "gold_label", "target", "class", "category")  # names of a column of labels


def sureness(answer: Mapping[str, Any]) -> float:
    """The probability of an answer; of several labels that of the least sure decision."""
    probabilities = answer.get("probabilities", {})
    if "labels" in answer:
        return min(max(value, 1 - value) for value in probabilities.values())
    return probabilities[answer["label"]] if probabilities else answer["probability"]


class LabelledRows(InputFile):
    """A table, whose rows come back with their answers.

    Args:
        options: how it is read.
        held_out: what `fit` kept of its scores; see `ernie_m.finetune.fit.scored.Scored.kept`.
        sorts: whether the rows are written first whose answer the model is least sure of.
    """

    def __init__(self, path: Path, options: TableOptions, held_out: Mapping[str, Any], sorts: bool) -> None:
        self._path = path
        self._options = options
        self._held_out = held_out
        self._sorts = sorts
        self._sureness: list[float] = []  # of each row
        self._rows: list[Mapping[str, str]] = []  # the name of a column -> the cell
        self._predicted: list[list[str]] = []  # the labels of each row, or nothing
        self._numbers: list[float] = []  # or the number of each row
        self._known: set[str] = set()  # the labels of the model
        self._has_several = False  # whether a row may have several labels, or none

    def requests(self, faults: Faults) -> Iterator[tuple[int, dict, dict]]:
        return tables().requests_of(self._path, self._options, faults)

    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        """Write the rows as `AnsweredTable` does."""
        table = tables().answered(file, self._path, self._options)
        waiting = []
        for request, answer in rows:
            if answer:
                self.add(request.id_entry, answer)
            if self._sorts:
                waiting.append((request.id_entry, answer))
            else:
                table.add([*request.id_entry], [*request.id_entry.values()], answer)
        waiting.sort(key=lambda row: sureness(row[1]) if row[1] else -1)  # a row without an answer is first
        for cells, answer in waiting:
            table.add([*cells], [*cells.values()], answer)

    def add(self, cells: Mapping[str, str], answer: Mapping[str, Any]) -> None:
        self._rows.append(cells)
        self._has_several = "labels" in answer
        one_label = [answer["label"]] if "label" in answer else []
        labels = answer["labels"] if self._has_several else one_label
        self._predicted.append([normal_label(label) for label in labels])
        self._known.update(map(normal_label, answer.get("probabilities", ())))
        if self._known:
            self._sureness.append(sureness(answer))
        self._numbers += [answer["score"]] if "score" in answer else []

    def summary(self) -> list[str]:
        """Lines: the number of rows and of each label, how many are not sure, and if the table has labels the
        accuracy, or of numbers the correlation."""
        rows = f"{len(self._rows):,} rows"
        if not self._known:
            return [rows, *(self._correlations() if self._numbers else ())]
        counts = Counter(chain.from_iterable(self._predicted))
        parts = [f"{label} {count:,}" for label, count in counts.most_common()]
        if without := sum(not labels for labels in self._predicted):
            parts.append(f"no label {without:,}")
        lines = [f"{rows}: {listed(parts)}", *self._unsure()]
        column = self._label_column()
        return lines if column is None else [*lines, self._accuracy(column)]

    def _unsure(self) -> Iterator[str]:
        """How many rows are below the probability above which held-out rows were right; by language, too."""
        if "sure_from" not in self._held_out:
            return
        least = self._held_out["sure_from"]
        if least is None:
            yield "no probability is sure: at none were 95 % of the rows right that fit held out"
            return
        is_unsure = np.array(self._sureness) < least
        line = (
            f"{_share(is_unsure)} are below {least:.2f}, the probability above which 95 % were right in fit"
        )
        columns = [name for name in self._rows[0] if tables().purpose_of(name) == tables().LANGUAGE]
        if columns:
            languages = np.array([row[columns[0]].strip() for row in self._rows])
            shares = [f"{name} {_share(is_unsure[languages == name])}" for name in np.unique(languages)]
            line += f" ({', '.join(shares)})"
        learned = self._held_out.get("languages", ())
        if len(learned) < 2:
            line += f"; {', '.join(['they were of one language', *learned])}: in others fewer are right"
        yield line

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
        without_label = labels_for_none(Counter(chain.from_iterable(labels_of_rows)))
        labelled = [
            (set(labels), set(predicted))
            for row, labels, predicted in zip(self._rows, labels_of_rows, self._predicted)
            if row[column].strip() and without_label.isdisjoint(labels)
        ]
        if not any(labels & self._known for labels, _ in labelled):
            return f"no accuracy: the column '{column}' has no label of the model"
        right = sum(labels == predicted for labels, predicted in labelled)
        return (
            f"accuracy {100 * right / len(labelled):.1f} %: {right:,} of {len(labelled):,} rows with a label "
            f"in '{column}'"
        )

    def _correlations(self) -> Iterator[str]:
        """How well predicted numbers go with those of the table, if one column is named as theirs."""
        named = [
            name for name in self._rows[0] if tables().purpose_of(name) in (tables().NUMBERS, tables().LABEL)
        ]
        numbers = [number_in(row[named[0]]) for row in self._rows] if len(named) == 1 else [None]
        if None not in numbers:
            correlations = pearson(self._numbers, numbers), spearman(self._numbers, numbers)
            yield "Pearson {:.1f} %, Spearman {:.1f} %: of the numbers in '{}'".format(*correlations, *named)


def _share(are: np.ndarray) -> str:
    """How many of some rows are so, in words."""
    return f"{are.sum():,} of {len(are):,} rows ({100 * are.mean():.0f} %)"
