"""Tables with answers: the rows of a table as they came, each with further cells."""

import csv
import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

from ernie_m.reader.files.tables import Form, in_one_line
from ernie_m.utils.logging import logger

ADDED = "predicted_"  # begins the name of a column that an answer adds
# What only some answers say: whether the text was cut, and how many of its words are unknown. Each has a
# column in any case, so that the columns do not depend on the rows.
_OF_SOME_ROWS = ("cut", "unknown_words")


class AnsweredTable:
    """Writes the rows of a table, each with the cells of an answer.

    Columns of the table that an earlier answer added give way to those of this one.

    Args:
        file: open for text.
        form: of the table as it came.
    """

    def __init__(self, file: IO[str], form: Form):
        file.write(form.begin)
        self._file = file
        self._form = form
        self._columns: list[str] = []  # those of the answers
        self._waiting: list[Sequence[Any]] = []  # rows without an answer before the first answer
        self._kept: list[int] = []  # the places of those of the table

    def add(self, header: Sequence[str], cells: Sequence[Any], answer: Mapping[str, Any]) -> None:
        """Write a row, and before the first one the header. A row may have no answer."""
        if not (answer or self._columns):
            self._waiting.append(cells)
            return
        added = _cells_of_answer(answer) if answer else {}
        if not self._columns:
            self._columns = list(added)
            self._kept = [place for place, name in enumerate(header) if name not in added]
            if replaced := [name for name in header if name in added]:
                logger.warning("columns of an earlier answer are replaced: %s", ", ".join(replaced))
            self._write([*(header[place] for place in self._kept), *self._columns])
            for earlier in self._waiting:
                self.add(header, earlier, {})
        kept = [cells[place] for place in self._kept]
        self._write([*kept, *(added.get(column, "") for column in self._columns)])

    def _write(self, cells: Sequence[Any]) -> None:
        cells = [cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in cells]
        if self._form.quoted:
            csv.writer(self._file, delimiter=self._form.mark, lineterminator="\n").writerow(cells)
        else:
            mark = self._form.mark
            plain = [in_one_line(cell).replace(mark, " ") for cell in cells]
            self._file.write(mark.join(plain) + "\n")


def _cells_of_answer(answer: Mapping[str, Any]) -> dict[str, str]:
    """An answer as cells: name of the column -> text, those of `_OF_SOME_ROWS` last.

    A class has its probability alone. What is neither text, number nor list of texts is JSON.
    """
    cells = {}
    for key, value in answer.items():
        if key in _OF_SOME_ROWS:
            continue
        if key == "probabilities" and "label" in answer:
            cells[f"{ADDED}probability"] = str(value[answer["label"]])
        elif isinstance(value, str | int | float):
            cells[f"{ADDED}{key}"] = str(value)
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            cells[f"{ADDED}{key}"] = (", " if key == "labels" else " ").join(value)
        else:
            cells[f"{ADDED}{key}"] = json.dumps(value, ensure_ascii=False)
    return cells | {f"{ADDED}{key}": str(answer.get(key, "")) for key in _OF_SOME_ROWS}
