"""The files that `ernie-m predict` reads requests from, and the same files with their answers.

They are JSON lines, tables, tagged words, and questions.
"""

import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from ernie_m.finetune.metrics import pearson, spearman
from ernie_m.inference.tasks import InputFile, Predictor, Request
from ernie_m.reader.files.labeled_tables import UnlabeledTable
from ernie_m.reader.files.official_tsv import in_one_line
from ernie_m.reader.files.plain_text import CELLS, LINES, OBJECTS, PACKINGS, TextFile, named_form, split_name
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.tables import Dialect
from ernie_m.reader.labels import is_marked, is_no_label, labels_between, normal_label, number_in
from ernie_m.utils.errors import UserError, listed, printable, reader_may_leave, say
from ernie_m.utils.files import lock_writer, translate_write_errors
from ernie_m.utils.logging import logger, progress

# What only some answers say: whether the text was cut, and how many of its words are unknown. Each has a
# column in any case, so that the columns do not depend on the rows.
_OF_SOME_ROWS = ("truncated", "unknown_words")


class JsonLines(InputFile):
    """A table of JSON objects, each of them a request, "-": standard input; the answers are JSON lines."""

    def __init__(self, table: UnlabeledTable) -> None:
        self._table = table

    def requests(self, errors: RowErrors) -> Iterator[tuple[int, dict, dict]]:
        for line, _, request in self._table.rows():
            yield line, {key: request[key] for key in request if key == "id"}, request

    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        for request, answer in rows:
            if request.content is not None:
                file.write(json.dumps(request.entry | answer, ensure_ascii=False) + "\n")


class LabeledRows(InputFile):
    """A table, whose rows come back with their answers.

    Args:
        table: the table, and its columns.
        sorts: whether the rows are written first whose answer the model is least sure of.
        output: the name of the file of the answers, which says their form.
    """

    forms = (CELLS, OBJECTS)

    def __init__(self, table: UnlabeledTable, sorts: bool, output: str = "-") -> None:
        self._table = table
        self._sorts = sorts
        form = table.table.form.in_file(output)
        self._write = write_objects if named_form(output) == OBJECTS else partial(write_table, form=form)
        self._count = 0
        self._known: set[str] = set()  # the labels of the model
        self._has_several = False  # whether a row may have several labels, or none
        # Of each row the labels that the table has, None if that is not known, and those that are predicted.
        self._labels: list[tuple[set[str] | None, list[str]]] = []
        self._numbers: list[tuple[float | None, float]] = []  # or the numbers

    def requests(self, errors: RowErrors) -> Iterator[tuple[int, list[Any], dict]]:
        return self._table.rows()

    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        answered = ((request.entry, self.add(request.entry, answer)) for request, answer in rows)
        if self._sorts:  # a row without an answer is first
            answered = sorted(answered, key=lambda row: confidence(row[1]) if row[1] else -1)
        self._write(file, names=self._table.table.names, rows=answered)

    def add(self, cells: list[Any], answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Count an answer, and return it."""
        self._count += bool(answer)
        self._known.update(map(normal_label, answer.get("probabilities", ())))
        self._has_several |= "labels" in answer
        labels = answer.get("labels", [answer["label"]] if "label" in answer else [])
        if "probabilities" in answer:
            self._labels.append((self._given(cells), [normal_label(label) for label in labels]))
        if "score" in answer:
            given = [number_in(str(cells[index])) for index in self._table.labels[:1]]
            self._numbers.append((*given, answer["score"]) if given else (None, answer["score"]))
        return answer

    def _given(self, row: list[Any]) -> set[str] | None:
        """The labels that a row of the table has; None: it is not known which."""
        indices = self._table.labels
        if len(indices) > 1:
            marks = {normal_label(self._table.table.names[index]): is_marked(row[index]) for index in indices}
            return None if None in marks.values() else {name for name, is_there in marks.items() if is_there}
        cell = row[indices[0]] if indices else ""
        if self._has_several:
            return set(labels_between(cell, self._table.separator))
        label = normal_label(cell)
        return None if is_no_label(label) and label not in self._known else {label}

    def summary(self) -> list[str]:
        """Lines: the number of rows and of each label, and if the table has labels how right they are."""
        names = listed([f"'{self._table.table.names[index]}'" for index in self._table.labels])
        both = [pair for pair in self._numbers if pair[0] is not None]
        counts = Counter(chain.from_iterable(predicted for _, predicted in self._labels))
        parts = [f"{label} {count:,}" for label, count in counts.most_common()]
        if without := sum(not predicted for _, predicted in self._labels):
            parts.append(f"no label {without:,}")
        lines = [f"{self._count:,} rows" + (f": {listed(parts)}" if parts else "")]
        labeled = [(given, predicted) for given, predicted in self._labels if given is not None]
        if len(both) > 1:
            given, predicted = zip(*both)
            line = "Pearson {:.1f} %, Spearman {:.1f} %: of {:,} rows with a number in {}"
            lines.append(line.format(pearson(predicted, given), spearman(predicted, given), len(both), names))
        elif others := set().union(*(given for given, _ in labeled)) - self._known:  # as in `rows_of`
            lines.append(f"no accuracy: '{min(others)}' in {names} was not learned")
        elif labeled:
            right = sum(given == set(predicted) for given, predicted in labeled)
            rows = "rows, by the labels" if self._has_several else "rows with a label"
            share = f"{100 * right / len(labeled):.1f} %"
            lines.append(f"accuracy {share}: {right:,} of {len(labeled):,} {rows} in {names}")
        return lines


def confidence(answer: Mapping[str, Any]) -> float:
    """The probability that an answer is right; of several labels that all decisions are."""
    probabilities = answer.get("probabilities", {})
    if "labels" in answer:
        return math.prod(max(value, 1 - value) for value in probabilities.values())
    return probabilities[answer["label"]] if probabilities else answer["probability"]


def write_table(
    file: IO[str],
    form: Dialect,
    names: Sequence[str],
    rows: Iterable[tuple[Sequence[Any], Mapping[str, Any]]],
) -> None:
    """Write the rows of a table, each with the cells of its answer, from the first answer on below a header.

    Columns of the table that an earlier answer added give way to those of this one.

    Args:
        names: of the columns of the table.
        rows: the cells of each, and its answer, {}: none.
    """
    file.write(form.begin)
    rows = iter(rows)
    begin = []  # the rows up to the first answer
    columns: list[str] = []
    while not columns and (row := next(rows, None)):
        begin.append(row)
        columns = list(_prediction_cells(row[1])) if row[1] else []
    if not columns:
        return
    if replaced := [name for name in names if name in columns]:
        logger.warning("columns of an earlier answer are replaced: %s", ", ".join(replaced))
    kept = [index for index, name in enumerate(names) if name not in columns]
    quoted = csv.writer(file, delimiter=form.mark, lineterminator="\n")
    table = ((cells, _prediction_cells(answer) if answer else {}) for cells, answer in chain(begin, rows))
    changed = 0  # cells that this form cannot hold as they are
    for cells, added in chain([(names, dict(zip(columns, columns)))], table):
        line = [*(cells[index] for index in kept), *(added.get(column, "") for column in columns)]
        if form.quoted:
            quoted.writerow(line)
        else:
            written = [in_one_line(cell).replace(form.mark, " ") for cell in line]
            changed += sum(cell != was for cell, was in zip(written, line))
            file.write(form.mark.join(written) + "\n")
    if changed:
        logger.warning("%s cells have tabs or line ends, written as spaces; .csv keeps them", f"{changed:,}")


def write_objects(
    file: IO[str], names: Sequence[str], rows: Iterable[tuple[Sequence[Any], Mapping[str, Any]]]
) -> None:
    """Write the rows of a table as JSON lines, each with its answer; arguments as of `write_table`.

    A column without a name of its own has its number.
    """
    keys = [name if name and names.count(name) == 1 else str(index) for index, name in enumerate(names, 1)]
    for cells, answer in rows:
        row = dict(zip([*keys, *(f"predicted_{key}" for key in answer)], [*cells, *answer.values()]))
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _prediction_cells(answer: Mapping[str, Any]) -> dict[str, str]:
    """An answer as cells: name of the column -> text, those of `_OF_SOME_ROWS` last.

    A class has its probability alone. What is neither text, number nor list of texts is JSON.
    """
    cells = {}
    for key, value in answer.items():
        if key == "probabilities" and "label" in answer:
            cells["probability"] = str(value[answer["label"]])
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            cells[key] = (", " if key == "labels" else " ").join(value)
        elif key not in _OF_SOME_ROWS:
            is_plain = isinstance(value, str | int | float)
            cells[key] = str(value) if is_plain else json.dumps(value, ensure_ascii=False)
    cells |= {key: str(answer.get(key, "")) for key in _OF_SOME_ROWS}
    return {f"predicted_{key}": cell for key, cell in cells.items()}


AT_ONCE = 1024  # requests that are answered together


def unfinished(output: Path) -> Path:
    """The file in which the answers are until all are written; it stays after Ctrl-C."""
    return output.with_name(f"{output.name}.part")


def has_objects(path: str) -> bool:
    """Whether a file has JSON objects, as its name or its first byte says; "-" has."""
    if path == "-" or named_form(path) not in ("", LINES):
        return path == "-" or named_form(path) == OBJECTS
    with closing(TextFile(path, any_form=True)) as file:
        return file.buffer.lstrip()[:1] == b"{"


def read_requests(file: InputFile, parse: Callable[[dict], Any], errors: RowErrors) -> list[Request]:
    """Read and parse all requests of a file.

    Args:
        errors: receives what is wrong; such a request, if it may be, has no content.

    Raises:
        UserError: requests are wrong; names the lines.
    """
    requests = []
    for number, entry, values in file.requests(errors):
        content = None
        with errors.of_line(number):
            content = parse(values)
        requests.append(Request(entry, content, number if values.get("id") is None else values["id"]))
    errors.end(partial(say, file=sys.stderr))
    return requests


def write_answers(predictor: Predictor, requests: list[Request], file: InputFile, output: str) -> None:
    """Answer requests into a file, which appears when all are written, or to "-", standard output.

    Args:
        output: its ending says its form; .trec has the hits of searches, see `_write_run`.

    Raises:
        UserError: the file cannot be written, or not in the form of its name, or another command is writing
            it; standard output is a file on a full disk.
    """
    ending, packing = split_name(output)
    if named_form(output) not in ("", LINES, *file.forms) or ending == ".json":
        forms = listed([*dict.fromkeys((*file.forms, LINES))])
        raise UserError(f"--output {output}: these answers cannot be written as {ending}, but as {forms}")
    write = _write_run if ending == ".trec" else file.write
    parts = [requests[first : first + AT_ONCE] for first in range(0, len(requests), AT_ONCE)]
    if output == "-":
        _write_to_stdout(lambda text: write(_answered(predictor, parts, text), text))
        return
    path = Path(output).resolve()  # because a link stays: what it leads to is replaced
    parts = progress(parts, "predicting", "requests", size=len)
    with lock_writer(path, "--output"), translate_write_errors(unfinished(path)):
        with PACKINGS[packing](unfinished(path), "wt", encoding="utf-8") as text:
            write(_answered(predictor, parts, text), text)
        unfinished(path).replace(path)


# Standard output, where it is a terminal: control characters of labels and cells are escaped.
_TERMINAL: Any = SimpleNamespace(
    write=lambda text: sys.stdout.write(printable(text, keep="\n\t")), flush=lambda: sys.stdout.flush()
)


def _write_to_stdout(write: Callable[[IO[str]], None]) -> None:
    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale
    with translate_write_errors("standard output"), reader_may_leave(sys.stdout):
        write(_TERMINAL if sys.stdout.isatty() else sys.stdout)
        sys.stdout.flush()


def _answered(
    predictor: Predictor, parts: Iterable[list[Request]], file: IO[str]
) -> Iterator[tuple[Request, dict]]:
    """Yield each request with its answer, {} if it has no content; a part is answered at a time.

    Args:
        file: what is written of them, which is flushed after each part.
    """
    for part in parts:
        contents = [request.content for request in part if request.content is not None]
        answers = iter(predictor.answer(contents) if contents else ())
        for request in part:
            yield request, {} if request.content is None else next(answers)
        file.flush()


def _write_run(rows: Iterable[tuple[Request, dict]], file: IO[str]) -> None:
    """Write a line in the form of TREC for each hit: query, Q0, sentence, rank, cosine, name of the run.

    A query is its id, or its line. A sentence is its line, in a corpus of several languages
    de:LINE.

    Raises:
        UserError: an id has spaces, or several queries have it.
    """
    queries = set()
    for number, (request, answer) in enumerate(rows, 1):
        query = str(request.id)
        if query in queries or len(query.split()) != 1:
            raise UserError(f"request {number}: its id, {query!r}, must be a single word that no other has")
        queries.add(query)
        for rank, hit in enumerate(answer.get("hits", ()), 1):
            sentence = f"{hit['language']}:{hit['line']}" if "language" in hit else hit["line"]
            file.write(f"{query} Q0 {sentence} {rank} {hit['score']} ernie-m\n")
