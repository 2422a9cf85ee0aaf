"""Input files of `ernie-m predict`, JSON lines and tables, and writing of predictions."""

import csv
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from ernie_m.finetune.metrics import format_score, pearson, spearman
from ernie_m.inference.tasks import InputFile, Predictor, Request
from ernie_m.reader.files.labeled_tables import UnlabeledTable
from ernie_m.reader.files.official_tsv import to_single_line
from ernie_m.reader.files.plain_text import (
    CELLS,
    LINES,
    OBJECTS,
    PACKINGS,
    TextFile,
    detect_format,
    split_extensions,
)
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.tables import Dialect
from ernie_m.reader.labels import (
    is_missing,
    normalize_label,
    parse_boolean,
    parse_label_list,
    parse_number,
    split_labels,
)
from ernie_m.utils.errors import (
    UserError,
    escape_control_characters,
    ignore_broken_pipe,
    join_items,
    open_in_place,
    say,
)
from ernie_m.utils.files import lock_for_writing, translate_write_errors
from ernie_m.utils.logging import logger, show_progress

# Keys of some predictions only. Each always has a column, so that the columns do not depend on the rows.
_OF_SOME_ROWS = ("truncated", "unknown_words")


class JsonLines(InputFile):
    """JSON lines of requests, from a file or from standard input ("-"). Predictions are JSON lines."""

    def __init__(self, table: UnlabeledTable) -> None:
        self._table = table

    def iter_requests(self, errors: RowErrors) -> Iterator[tuple[int, dict, dict]]:
        for line, _, request in self._table.iter_rows():
            yield line, {key: request[key] for key in request if key == "id"}, request

    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        for request, prediction in rows:
            if request.content is not None:
                file.write(json.dumps(request.entry | prediction, ensure_ascii=False) + "\n")


class TableFile(InputFile):
    """A table, written with the predictions as additional columns.

    Args:
        table: the table and its columns.
        is_sorted: whether to write rows in ascending order of confidence.
        output: the name of the output file, which determines its format.
        target_accuracy: an accuracy, for the lowest confidence that reaches it in the summary; None: not set.
    """

    formats = (CELLS, OBJECTS)

    def __init__(
        self, table: UnlabeledTable, is_sorted: bool, output: str = "-", target_accuracy: float | None = None
    ) -> None:
        self._table = table
        self._sorts = is_sorted
        self._target_accuracy = target_accuracy
        dialect = table.table.dialect.adapt_to_file(output)
        self._write = (
            write_objects if detect_format(output) == OBJECTS else partial(write_table, dialect=dialect)
        )
        self._count = 0
        self._known: set[str] = set()  # the labels of the model, normalized
        self._has_several = False  # whether the model is multi-label
        # For each row the known gold labels, None if there are none, the predicted labels and the confidence.
        self._labels: list[tuple[dict[str, bool] | None, list[str], float]] = []
        self._numbers: list[tuple[float | None, float]] = []  # or gold and predicted numbers

    def iter_requests(self, errors: RowErrors) -> Iterator[tuple[int, list[Any], dict]]:
        return self._table.iter_rows()

    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        predicted = (
            (request.entry, self.record_prediction(request.entry, prediction)) for request, prediction in rows
        )
        if self._sorts:  # rows without a prediction come first
            predicted = sorted(predicted, key=lambda row: compute_confidence(row[1]) if row[1] else -1)
        self._write(file, names=self._table.table.names, rows=predicted)

    def record_prediction(self, cells: list[Any], prediction: Mapping[str, Any]) -> Mapping[str, Any]:
        """Record the prediction for a row for the summary, and return the prediction.

        Args:
            cells: the cells of the row, which may include gold labels.
        """
        self._count += bool(prediction)
        self._known.update(map(normalize_label, prediction.get("probabilities", ())))
        self._has_several |= "labels" in prediction
        labels = prediction.get("labels", [prediction["label"]] if "label" in prediction else [])
        if "probabilities" in prediction:
            confidence = compute_confidence(prediction)
            self._labels.append(
                (self._get_gold_labels(cells), list(map(normalize_label, labels)), confidence)
            )
        if "score" in prediction:
            given = [parse_number(str(cells[index])) for index in self._table.labels[:1]]
            self._numbers.append((*given, prediction["score"]) if given else (None, prediction["score"]))
        return prediction

    def _get_gold_labels(self, row: list[Any]) -> dict[str, bool] | None:
        """Return known label -> whether a row has it; None if the row is not labeled."""
        indices = self._table.labels
        if len(indices) > 1:
            names = [normalize_label(self._table.table.names[index]) for index in indices]
            marks = [parse_boolean(row[index]) for index in indices]
            return {name: mark for name, mark in zip(names, marks) if mark is not None} or None
        cell = row[indices[0]] if indices else ""
        if is_missing(cell) and normalize_label(cell) not in self._known:
            return None
        labels = parse_label_list(cell) if self._has_several else [cell]
        labels = split_labels(cell, self._table.separator) if labels is None else map(normalize_label, labels)
        return None if labels is None else dict.fromkeys(self._known, False) | dict.fromkeys(labels, True)

    def format_summary(self) -> list[str]:
        """Return lines with the numbers of rows and labels, and the metrics if the table has gold labels."""
        names = join_items([f"'{self._table.table.names[index]}'" for index in self._table.labels])
        both = [pair for pair in self._numbers if pair[0] is not None]
        counts = Counter(chain.from_iterable(predicted for _, predicted, _ in self._labels))
        parts = [f"{label} {count:,}" for label, count in counts.most_common()]
        if without := sum(not predicted for _, predicted, _ in self._labels):
            parts.append(f"no label {without:,}")
        lines = [f"{self._count:,} rows" + (f": {join_items(parts)}" if parts else "")]
        labeled = [row for row in self._labels if row[0] is not None]
        if len(both) > 1:
            given, predicted = zip(*both)
            scores = [format_score(correlate(predicted, given)) for correlate in (pearson, spearman)]
            line = "Pearson {} %, Spearman {} % ({:,} rows with a number in {})"
            has_score = len({*given}) > 1
            lines.append(
                line.format(*scores, len(both), names) if has_score else f"no score: equal numbers in {names}"
            )
        elif others := {name for given, *_ in labeled for name in given if given[name]} - self._known:
            lines.append(
                f"no accuracy: unknown label '{min(others)}' in {names} "
                f"(trained on: {join_items(sorted(self._known))})"
            )
        elif labeled:
            are_right = [
                all((name in predicted) == has_label for name, has_label in given.items())
                for given, predicted, _ in labeled
            ]
            share = f"{100 * sum(are_right) / len(labeled):.1f} %"
            lines.append(f"accuracy {share}: {sum(are_right):,} of {len(labeled):,} labeled rows ({names})")
            if self._target_accuracy:
                lines.append(_format_threshold([row[2] for row in labeled], are_right, self._target_accuracy))
        elif self._labels and names:
            lines.append(f"no accuracy: no labels in {names}")
        return lines


def _format_threshold(confidences: Sequence[float], are_right: Sequence[bool], target_accuracy: float) -> str:
    """Format the lowest confidence so that predictions of at least this confidence reach an accuracy.

    Args:
        confidences: the confidence of each labeled row.
        are_right: whether its prediction is right.
        target_accuracy: the accuracy, above 0 to 1.
    """
    distinct, indices, counts = np.unique(confidences, return_inverse=True, return_counts=True)
    # The numbers of rows of at least each distinct confidence, from the highest.
    sizes = counts[::-1].cumsum()
    accuracies = np.bincount(indices, are_right)[::-1].cumsum() / sizes
    reached = np.flatnonzero(accuracies >= target_accuracy)
    if not len(reached):
        return f"no probability reaches an accuracy of {100 * target_accuracy:g} %"
    return (
        f"probability >= {distinct[::-1][reached[-1]]}: accuracy {100 * accuracies[reached[-1]]:.1f} % on "
        f"{sizes[reached[-1]]:,} rows"
    )


def compute_confidence(prediction: Mapping[str, Any]) -> float:
    """Return the probability of a prediction; for multi-label, the product over all labels."""
    probabilities = prediction.get("probabilities", {})
    if "labels" in prediction:
        return math.prod(max(value, 1 - value) for value in probabilities.values())
    return probabilities[prediction["label"]] if probabilities else prediction["probability"]


def write_table(
    file: IO[str],
    dialect: Dialect,
    names: Sequence[str],
    rows: Iterable[tuple[Sequence[Any], Mapping[str, Any]]],
) -> None:
    """Write a table with the predictions as additional columns, and a header.

    Columns of earlier predictions in the table are replaced. Without any prediction, nothing is written.

    Args:
        dialect: the dialect of the output.
        names: the column names of the table.
        rows: the cells and the prediction of each row, {} without a prediction.
    """
    file.write(dialect.byte_order_mark)
    rows = iter(rows)
    begin = []  # the rows up to the first prediction
    columns: list[str] = []
    while not columns and (row := next(rows, None)):
        begin.append(row)
        columns = list(_format_prediction(row[1])) if row[1] else []
    if not columns:
        return
    if replaced := [name for name in names if name in columns]:
        logger.warning("replaced columns of earlier predictions: %s", ", ".join(replaced))
    kept = [index for index, name in enumerate(names) if name not in columns]
    quoted = csv.writer(file, delimiter=dialect.delimiter, lineterminator="\n")
    table = (
        (cells, _format_prediction(prediction) if prediction else {})
        for cells, prediction in chain(begin, rows)
    )
    changed = 0  # cells that this format cannot represent exactly
    for cells, added in chain([(names, dict(zip(columns, columns)))], table):
        line = [*(cells[index] for index in kept), *(added.get(column, "") for column in columns)]
        if dialect.quoted:
            quoted.writerow(line)
        else:
            written = [to_single_line(cell).replace(dialect.delimiter, " ") for cell in line]
            changed += sum(cell != was for cell, was in zip(written, line))
            file.write(dialect.delimiter.join(written) + "\n")
    if changed:
        logger.warning(
            "%s cells contain tabs or line breaks, replaced by spaces; .csv keeps them", f"{changed:,}"
        )


def write_objects(
    file: IO[str], names: Sequence[str], rows: Iterable[tuple[Sequence[Any], Mapping[str, Any]]]
) -> None:
    """Write the rows of a table as JSON lines with the predictions added.

    The key of a column without a unique name is the column number, from 1.

    Args:
        names, rows: see `write_table`.
    """
    keys = [name if name and names.count(name) == 1 else str(index) for index, name in enumerate(names, 1)]
    for cells, prediction in rows:
        row = dict(zip([*keys, *(f"predicted_{key}" for key in prediction)], [*cells, *prediction.values()]))
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _format_prediction(prediction: Mapping[str, Any]) -> dict[str, str]:
    """Convert a prediction to cells of a table: column name -> text, with the caveats last.

    For classification, only the probability of the predicted label is included. Labels, which may contain any
    separator, and values other than strings, numbers and lists of strings are written as JSON.
    """
    cells = {}
    for key, value in prediction.items():
        if key == "probabilities" and "label" in prediction:
            cells["probability"] = str(value[prediction["label"]])
        elif key != "labels" and isinstance(value, list) and all(isinstance(item, str) for item in value):
            cells[key] = " ".join(value)
        elif key not in _OF_SOME_ROWS:
            is_plain = isinstance(value, str | int | float)
            cells[key] = str(value) if is_plain else json.dumps(value, ensure_ascii=False)
    cells |= {key: str(prediction.get(key, "")) for key in _OF_SOME_ROWS}
    return {f"predicted_{key}": cell for key, cell in cells.items()}


AT_ONCE = 1024  # requests per batch of predictions


def get_temporary_path(output: Path) -> Path:
    """Return the path of the temporary output file, which is kept after Ctrl-C."""
    return output.with_name(f"{output.name}.part")


def has_objects(path: str) -> bool:
    """Return whether a file contains JSON objects, by its extension or first byte; true for "-"."""
    if path == "-" or detect_format(path) not in ("", LINES):
        return path == "-" or detect_format(path) == OBJECTS
    with closing(TextFile(path, allow_json=True)) as file:
        return file.buffer.lstrip()[:1] == b"{"


def read_requests(file: InputFile, parse_request: Callable[[dict], Any], errors: RowErrors) -> list[Request]:
    """Read and parse all requests of an input file.

    Args:
        parse_request: the method `parse_request` of a predictor.
        errors: collects invalid requests; the content of a skipped request is None.

    Raises:
        UserError: requests are invalid; the message names the lines.
    """
    requests = []
    for number, entry, values in file.iter_requests(errors):
        content = None
        with errors.record_errors(number):
            content = parse_request(values)
        requests.append(Request(entry, content, number if values.get("id") is None else values["id"]))
    errors.report(partial(say, file=sys.stderr))
    return requests


def write_predictions(predictor: Predictor, requests: list[Request], file: InputFile, output: str) -> None:
    """Predict requests, and write the predictions to standard output, or atomically to a file.

    Args:
        output: the path, whose extension determines the format (.trec: see `_write_trec_run`), or "-" for
            standard output.

    Raises:
        UserError: the file cannot be written, its extension is not supported, or it is locked; or the disk of
            standard output is full.
    """
    ending, packing = split_extensions(output)
    if detect_format(output) not in ("", LINES, *file.formats) or ending == ".json":
        formats = join_items([*dict.fromkeys((*file.formats, LINES))])
        raise UserError(
            f"--output {output}: unsupported format {ending} for these predictions (choose from {formats})"
        )
    write = _write_trec_run if ending == ".trec" else file.write
    parts = [requests[first : first + AT_ONCE] for first in range(0, len(requests), AT_ONCE)]
    if output == "-":
        _write_to_stdout(lambda text: write(_predict_parts(predictor, parts, text), text))
        return
    path = Path(os.path.realpath(output))  # resolved, to replace the target of a symbolic link
    parts = show_progress(parts, "predicting", "requests", count_units=len)
    with lock_for_writing(path, "--output"), translate_write_errors(get_temporary_path(path)):
        open_in_place(get_temporary_path(path), "wb").close()  # fails for a link
        with PACKINGS[packing](get_temporary_path(path), "wt", encoding="utf-8") as text:
            write(_predict_parts(predictor, parts, text), text)
        get_temporary_path(path).replace(path)


# Standard output on a terminal: control characters of labels and cells are escaped.
_TERMINAL: Any = SimpleNamespace(
    write=lambda text: sys.stdout.write(escape_control_characters(text, keep="\n\t")),
    flush=lambda: sys.stdout.flush(),
)


def _write_to_stdout(write: Callable[[IO[str]], None]) -> None:
    """Call `write` with standard output in UTF-8; on a terminal, control characters are escaped."""
    sys.stdout.reconfigure(encoding="utf-8")  # independent of the locale
    with translate_write_errors("standard output"), ignore_broken_pipe(sys.stdout):
        write(_TERMINAL if sys.stdout.isatty() else sys.stdout)
        sys.stdout.flush()


def _predict_parts(
    predictor: Predictor, parts: Iterable[list[Request]], file: IO[str]
) -> Iterator[tuple[Request, dict]]:
    """Predict requests part by part, and yield each request with its prediction, {} for a skipped request.

    Args:
        file: the output, which is flushed after each part.
    """
    for part in parts:
        contents = [request.content for request in part if request.content is not None]
        predictions = iter(predictor.predict(contents) if contents else ())
        for request in part:
            yield request, {} if request.content is None else next(predictions)
        file.flush()


def _write_trec_run(rows: Iterable[tuple[Request, dict]], file: IO[str]) -> None:
    """Write hits in the TREC run format, a line per hit: query id, Q0, document id, rank, score, run name.

    A query is identified by its id, or without one by its line number; a document by its line number, or
    LANGUAGE:LINE in a corpus of several languages.

    Raises:
        UserError: an id contains spaces, or is not unique.
    """
    queries = set()
    for number, (request, prediction) in enumerate(rows, 1):
        query = str(request.id)
        if query in queries or len(query.split()) != 1:
            raise UserError(f"request {number}: invalid id {query!r} (expected a unique id without spaces)")
        queries.add(query)
        for rank, hit in enumerate(prediction.get("hits", ()), 1):
            sentence = f"{hit['language']}:{hit['line']}" if "language" in hit else hit["line"]
            file.write(f"{query} Q0 {sentence} {rank} {hit['score']} ernie-m\n")
