"""Read tables of texts: labeled (`read_labeled_table`), or as input of a model (`open_unlabeled_table`).

Columns are set by options, or found by the names in `LABELS`. Files of tagged words (`is_tagged_file`) and of
questions with answers (`is_question_file`) are not tables.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ernie_m.reader.files.annotations import SPAN
from ernie_m.reader.files.find_files import SPLIT_OF
from ernie_m.reader.files.official_tsv import has_quotes, log_quoted_rows, to_single_line
from ernie_m.reader.files.plain_text import LINES, TAGS, TextFile, detect_format, split_extensions
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import OF_TABLES, LabelOptions, TableOptions
from ernie_m.reader.files.tables import (
    LABELS,
    QUESTIONS,
    WORDS,
    Dialect,
    Row,
    Table,
    find_text_error,
    open_table,
    reject_fasttext,
    to_cell,
)
from ernie_m.reader.files.text_checks import check_text
from ernie_m.reader.labels import (
    has_mixed_types,
    is_missing,
    is_printed_collection,
    normalize_label,
    parse_boolean,
    parse_label_list,
    split_labels,
)
from ernie_m.reader.tag_schemes import JOINT
from ernie_m.utils.errors import UserError, escape_control_characters, format_value, join_items
from ernie_m.utils.files import is_blank
from ernie_m.utils.logging import logger

_IN_WORDS = {"text": "the text", "text_b": "the second text", "label": "the label"}
_BETWEEN = {"text": "+", "text_b": "+", "label": ","}  # separators of columns in an option
_TEXTS = {"text", "text_b"}
_TEXT_KEYS = {*_TEXTS, "text_a"}  # their keys in a request
_HEAD = 1 << 16  # bytes to detect the kind of a file
TAGGED = "If each line is a word with its tag, set {}"
_ASKED = (
    'For questions, write JSON lines: {"id": "1", "question": "...", "context": "...", '
    '"answers": {"text": ["..."]}}'
)
_ANNOTATED = 'For spans, write JSON lines: {"text": "...", "label": [[START, END, "LABEL"]]}'
Columns = dict[str, list[int]]  # part of `LABELS` -> the indices of its columns


class LabeledRow(NamedTuple):
    """A row of a labeled table.

    Attributes:
        texts: the text, or the two texts of a pair.
        label: the normalized label; for multi-label classification a list of all labels, a dict of label ->
            whether the text has it, None if unknown, or None if the row is not labeled.
        language, group, split: the values of these columns, "" without a column; the split is train, dev or
            test.
        line: the line number of the row's first line.
    """

    texts: list[str]
    label: str | list[str] | dict[str, bool | None] | None
    language: str
    group: str
    split: str
    line: int


class LabeledTable(NamedTuple):
    """A labeled table.

    Attributes:
        columns: column options -> values that select the same columns, such as {"text": "Subject+Body"}.
        label_columns: the normalized labels that have a 0/1 column each, possibly not all of --label; empty:
            a single label column.
    """

    path: Path
    rows: list[LabeledRow]
    columns: dict[str, str]
    label_columns: list[str]

    def select_split(self, purpose: str) -> "LabeledTable":
        """Return the table with only the training rows ("train") or the other rows ("dev").

        The table is returned unchanged if it has no such rows.
        """
        meant = [row for row in self.rows if (row.split in ("", "train")) == (purpose == "train")]
        if not meant:
            return self
        splits = Counter(row.split for row in self.rows)
        for split, rows in (splits - Counter(row.split for row in meant)).items():
            logger.warning("%s: skipped %s rows of the split '%s'", self.path, f"{rows:,}", split)
        return self._replace(rows=meant)


def find_columns(
    table: Table,
    options: LabelOptions,
    required: Collection[str] = ("text", "label"),
    trained_columns: Mapping[str, str] = MappingProxyType({}),
    alternatives: Sequence[str] = (),
) -> Columns:
    """Find the columns of texts, labels, languages, ... by options or by the names in `LABELS`.

    With --text, a second text requires --text_b.

    Args:
        required: the keys of `LABELS` whose columns are required.
        trained_columns: the column options of a model's training table, used for options that are not set;
            the text columns are required.
        alternatives: alternatives for the error, such as `TAGGED`.

    Raises:
        UserError: columns are missing or ambiguous.
    """
    format_name = " ".join(["tables of texts", *map("({})".format, alternatives)])
    options.reject_unused(table.path, format_name, *OF_TABLES, *LABELS, "label_separator")
    given = {part: flag for part in LABELS if (flag := getattr(options, part, None))}
    remembered_options = {
        part: flag for part, flag in trained_columns.items() if not (part == "text_b" and options.text)
    }
    flags = remembered_options | given
    found: Columns = {}
    for part, names in LABELS.items():
        columns = _parse_column_option(part, flags[part], table) if part in flags else []
        present = [name for name in columns if to_single_line(name).strip() in table.names]
        if part == "label" and len(present) > 1:  # whether texts have the other labels is unknown
            columns = present
        if part in given or (columns and {*columns} <= {*table.names}):
            found[part] = [table.find_column(name, f"--{part}") for name in columns]
        else:
            found[part] = (
                [] if columns or (part == "text_b" and "text" in flags) else table.find_known_columns(names)
            )
    several = [part for part, indices in found.items() if part not in flags and len(indices) > 1]
    if "label" in several and "label" not in required:
        several.remove("label")
        found["label"] = []
    required = {*required, *_TEXTS.intersection(remembered_options)}
    unclear = several + [part for part in LABELS if part in required and not found[part]]
    if unclear:
        questions = []
        for part in unclear:
            names = " or ".join(f"'{table.names[column]}'" for column in found[part])
            names = names or f"trained on '{remembered_options.get(part)}'" * (part in remembered_options)
            questions.append(
                "missing or ambiguous column of "
                f"{_IN_WORDS.get(part, f'the {part}')}{f' ({names})' * bool(names)}."
            )
        raise table.make_column_error(
            " ".join(questions), [f"--{part} COLUMN" for part in unclear], *alternatives
        )
    return found


def _parse_column_option(option: str, flag: str, table: Table) -> list[str]:
    """Split the value of a column option into column names, unless the value itself is a column name.

    Args:
        option: the key of `LABELS`, which determines the separator.
        flag: the value of the option.
    """
    return [flag] if flag in table.names or option not in _BETWEEN else flag.split(_BETWEEN[option])


def read_labeled_table(path: Path, options: LabelOptions, multi_label: bool | None = None) -> LabeledTable:
    """Read a table of labeled texts or pairs.

    Args:
        multi_label: whether rows have several labels: a list in JSON, a cell with --label_separator, or a 0/1
            column per label; None: if the options or the first rows say so.

    Raises:
        UserError: the file cannot be read, columns or the label separator are ambiguous, or rows are invalid;
            the message names the lines.
    """
    errors = RowErrors(path, options.on_error == "skip")
    table = open_table(path, options, errors)
    found = find_columns(table, options, alternatives=_list_other_formats(table))
    names = [table.names[column] for column in found["label"]]
    separator = options.label_separator or None
    if multi_label is None:
        has_lists = any(parse_label_list(cells[found["label"][0]]) for cells in table.sample)
        multi_label = bool(separator or names[1:]) or has_lists
    if len(names) > 1 and not multi_label:
        raise UserError(f"--label {options.label}: a column for each label requires --task multi-label")
    if separator and (len(names) > 1 or not multi_label):
        raise UserError(
            f"--label_separator {separator} requires --task multi-label with a single label column. Remove it"
        )
    rows = []
    for line, cells in table.rows:
        with errors.record_errors(line):
            rows.append(_parse_labeled_row(table, found, line, cells, multi_label))
    errors.report(logger.warning, rows, options.filter)
    if len(names) == 1 and multi_label:
        rows = _split_label_cells(path, rows, separator)
    _log_columns(table, found, rows)
    columns = {
        part: _BETWEEN.get(part, ",").join(table.names[column] for column in indices)
        for part, indices in found.items()
        if indices and part != "qid" and table.has_header
    }
    columns |= {"label_separator": separator} if separator else {}
    return LabeledTable(path, rows, columns, [normalize_label(name) for name in names if names[1:]])


def _list_other_formats(table: Table) -> list[str]:
    """Return how to write other data that a table without columns of texts and labels may contain."""
    formats = [TAGGED.format("--task token-classification")]
    if all(map(table.find_known_columns, QUESTIONS.values())):
        formats.append(_ASKED)
    if any(isinstance(cell, list | dict) for cells in table.sample for cell in cells):
        formats.append(_ANNOTATED)
    return formats


def _get_texts(table: Table, text_columns: Sequence[Sequence[int]], cells: Sequence[Any]) -> list[str]:
    """Return the texts of a row; the columns of a text are joined by line breaks.

    Args:
        text_columns: the column indices of each text.

    Raises:
        UserError: a cell is not a text, or all cells of a text are empty.
    """
    texts = []
    for columns in filter(None, text_columns):
        errors = [find_text_error(table.names[column], cells[column]) for column in columns]
        if all(errors) or not all(isinstance(cells[column], str) for column in columns):
            raise UserError(f"{max(errors)}. Add a text, or remove the row")
        texts.append("\n".join(filter(None, (to_single_line(cells[column]).strip() for column in columns))))
    return texts


def _parse_labeled_row(
    table: Table, columns: Columns, line: int, cells: Sequence[Any], multi_label: bool
) -> LabeledRow:
    """Parse a row of a labeled table; see `read_labeled_table`.

    Args:
        columns: the columns, from `find_columns`.

    Raises:
        UserError: the row is invalid.
    """
    texts = _get_texts(table, [columns["text"], columns["text_b"]], cells)
    labels_of = _get_multi_hot_labels if columns["label"][1:] else _get_labels if multi_label else _get_label
    label: Any = labels_of(table, columns["label"], cells)
    words = dict.fromkeys(("language", "group", "split"), "")
    for part in words:
        for column in columns[part]:  # at most one
            if not isinstance(cells[column], str):
                error = find_text_error(table.names[column], cells[column])
                raise UserError(f"{error}. Write a word or a number")
            words[part] = to_single_line(cells[column]).strip()
    if columns["split"]:
        split = words["split"]
        if split.lower() not in SPLIT_OF:
            raise UserError(
                f"invalid split '{format_value(split)}' (choose from train, dev, test). Fix "
                "it, or rename the column"
            )
        words["split"] = SPLIT_OF[split.lower()]
    return LabeledRow(texts, label, **words, line=line)


def _get_label(table: Table, indices: Sequence[int], cells: Sequence[Any]) -> str:
    """Return the normalized label of a row in a single-label table.

    Raises:
        UserError: the label is empty or invalid.
    """
    label = normalize_label(_get_label_text(table, indices, cells[indices[0]]))
    if not label:
        raise UserError("empty label. Add a label, or remove the row")
    return label


def _get_labels(table: Table, indices: Sequence[int], cells: Sequence[Any]) -> str | list[str]:
    """Return the labels of a row in a multi-label table: a normalized JSON list, or the unchanged cell.

    Raises:
        UserError: the list has objects, or mixed types.
    """
    cell = cells[indices[0]]
    labels = parse_label_list(cell)
    if labels is None:
        return _get_label_text(table, indices, cell)
    if has_mixed_types(labels):
        raise UserError(
            f"invalid '{table.names[indices[0]]}' {format_value(cell)[:50]} (expected a list of label "
            "names, got mixed types). Write a list of the labels of the text"
        )
    return [normalize_label(_get_label_text(table, indices, to_cell(item))) for item in labels]


def _get_label_text(table: Table, indices: Sequence[int], cell: Any) -> str:
    """Return a label cell, which must be a string.

    Raises:
        UserError: the cell is a list or an object, or a printed list or object.
    """
    if not isinstance(cell, str) or is_printed_collection(cell):
        raise UserError(
            f"invalid label {format_value(cell)[:50]} in '{table.names[indices[0]]}' (expected a single "
            "label). For --task multi-label use JSON lines with lists of labels, or a 0/1 column per label"
        )
    return cell


def _get_multi_hot_labels(
    table: Table, indices: Sequence[int], cells: Sequence[Any]
) -> dict[str, bool | None]:
    """Return label -> whether a row has it, None if unknown, in a table with a 0/1 column per label.

    Raises:
        UserError: a cell is neither 0 nor 1, nor a missing value.
    """
    for column in indices:
        if parse_boolean(cells[column]) is None and not is_missing(cells[column]):
            raise UserError(
                f"invalid '{format_value(cells[column])}' in label column '{table.names[column]}' "
                "(expected 1 for texts with this label, 0 for others, or a blank cell if unknown)"
            )
    return {normalize_label(table.names[column]): parse_boolean(cells[column]) for column in indices}


def _split_label_cells(path: Path, rows: Sequence[LabeledRow], separator: str | None) -> list[LabeledRow]:
    """Return the rows with their label cells split into lists of labels, or None if blank.

    Raises:
        UserError: a cell has labels, but the label separator is not set.
    """
    undivided = [row for row in rows if isinstance(row.label, str) and row.label.strip()]
    if undivided and not separator:
        row = next((row for row in undivided if re.search(r"[^\w\s]", row.label)), undivided[0])
        raise UserError(
            f"{path}, line {row.line}: ambiguous labels '{format_value(row.label)}'. Set "
            "--label_separator, as in "
            "--label_separator ';' (for one label per cell, a character that does not occur)"
        )
    return [
        row._replace(label=split_labels(row.label, separator)) if isinstance(row.label, str) else row
        for row in rows
    ]


def _log_columns(table: Table, found: Columns, rows: Sequence[LabeledRow]) -> None:
    """Log the number of rows, the columns in use and the ignored ones, and warnings about the texts."""
    parts = [
        f"{part}: {escape_control_characters(' + '.join(table.names[column] for column in columns))}"
        for part, columns in found.items()
        if columns
    ]
    read = {column for columns in found.values() for column in columns}
    others = [
        escape_control_characters(name)
        for column, name in enumerate(table.names)
        if column not in read and name
    ]
    ignored = f"; ignored: {join_items(others)}" if others else ""
    logger.info("%s: %s rows (%s%s)", table.path, f"{len(rows):,}", ", ".join(parts), ignored)
    check_text(table.path, [text for row in rows[:1000] for text in row.texts], "", None)
    if not table.dialect.quoted:
        log_quoted_rows(table.path, sum(has_quotes(row.texts) for row in rows), len(rows), logger.warning)


class UnlabeledTable(NamedTuple):
    """A table of texts as input of a model, with its columns.

    Attributes:
        texts: text key of a request -> the indices of its columns; empty for JSON with lists of words.
        labels: the indices of the label columns; empty without labels.
        language: the index of the language column; empty without one.
        separator: the separator of several labels in a cell; None: a cell is a single label.
        are_requests: whether the rows are JSON requests, as sent to the server.
    """

    table: Table
    texts: dict[str, list[int]]
    labels: list[int]
    language: list[int]
    separator: str | None = None
    are_requests: bool = False

    def check_text_columns(self, are_pairs: bool | None) -> None:
        """Check that the table has the number of text columns that the model expects.

        Args:
            are_pairs: whether the model expects pairs of texts; None: single texts or pairs.

        Raises:
            UserError: the number of text columns is wrong.
        """
        if are_pairs is not None and len(self.texts) not in (0, 1 + are_pairs):
            reads, flags = ("pairs of texts", "text_b") if are_pairs else ("single texts", "text")
            names = [f"'{self.table.names[column]}'" for columns in self.texts.values() for column in columns]
            what = f"the model expects {reads}, got {' and '.join(names)}."
            raise self.table.make_column_error(what, [f"--{flags} COLUMN"])

    def iter_rows(self) -> Iterator[tuple[int, list[Any], dict[str, Any]]]:
        """Yield the line number, the cells and the request of each row.

        A request has the texts, the language and the id. Other columns of a table are not in the request,
        because a `labels` column would be read as the candidate labels of zero-shot classification.
        """
        kept = {
            column: name if self.are_requests else "id"
            for column, name in enumerate(self.table.names)
            if name.lower() == "id" or (self.are_requests and name not in _TEXT_KEYS)
        }
        for line, cells in self.table.rows:
            request = {key: cells[column] for column, key in kept.items()}
            for column in self.language:  # at most one
                request["language"] = cells[column]
            for key, columns in self.texts.items():
                request[key] = join_cells([cells[column] for column in columns])
            if "text_a" in request:
                request["text"] = request["text_a"]  # the key of most tasks
            yield line, cells, {key: value for key, value in request.items() if value is not None}


def join_cells(cells: Sequence[Any]) -> Any:
    """Join the cells of a text with line breaks; a single cell is returned unchanged."""
    are_texts = len(cells) > 1 and all(isinstance(part, str) for part in cells)
    return "\n".join(filter(str.strip, cells)) if are_texts else cells[0]


def open_unlabeled_table(
    path: Path,
    options: LabelOptions,
    errors: RowErrors,
    trained_columns: Mapping[str, str] = MappingProxyType({}),
    are_questions: bool = False,
    supported_options: Collection[str] = ("text", "text_b", "label", "label_separator", "language"),
    are_requests: bool = False,
    alternatives: Sequence[str] = (),
) -> UnlabeledTable:
    """Open a table of texts as input of a model, or a .txt file with one text per line.

    Args:
        path: the file; "-": JSON on standard input.
        errors: collects invalid rows.
        trained_columns, alternatives: see `find_columns`.
        are_questions: whether the table has questions and contexts, in the columns of --columns.
        supported_options: the column options that apply.
        are_requests: whether the file contains JSON requests, which may have other keys, and the text in
            `text` instead of the columns in `trained_columns`.

    Raises:
        UserError: the table cannot be read, an option does not apply, or text columns are missing or
            ambiguous.
    """
    if detect_format(path) == LINES and not (options.text or options.columns or are_requests):
        options.reject_unused(path, "lines of text", "encoding", "on_error")
        return UnlabeledTable(_read_text_lines(path, options, errors), {"text_a": [0]}, [], [])
    table = open_table(path, options, errors, are_requests=are_requests)
    if not table.names:
        return UnlabeledTable(table, {}, [], [], are_requests=True)
    if are_questions:
        options.reject_unused(path, "tables of questions", "columns", *OF_TABLES)
        what = "missing columns of question and context."
        question, context = table.find_two_columns(options.columns, QUESTIONS.values(), what)
        texts = {"question": [question], "context": [context]}
        return UnlabeledTable(table, texts, [], [], are_requests=are_requests)
    form = "JSON lines, not scored as a .csv is," if are_requests else "tables to predict"
    read = {*supported_options}.difference(("label", "label_separator") if are_requests else ())
    options.reject_unused(path, form, *OF_TABLES, *read)
    needed = () if are_requests and table.find_known_columns(WORDS["words"]) else ("text",)
    has_key_only = (
        are_requests
        and bool(_TEXT_KEYS.intersection(table.names))
        and not {*_parse_column_option("text", trained_columns.get("text", ""), table)} <= {*table.names}
    )
    found = find_columns(table, options, needed, {} if has_key_only else trained_columns, alternatives)
    texts = {key: found[part] for key, part in (("text_a", "text"), ("text_b", "text_b")) if found[part]}
    separator = options.label_separator or trained_columns.get("label_separator")
    return UnlabeledTable(table, texts, found["label"], found["language"], separator, are_requests)


def read_texts(path: Path, options: LabelOptions) -> list[list[str]]:
    """Read the text or the two texts of each row of a table; labels are ignored.

    Raises:
        UserError: the file cannot be read, text columns are ambiguous, or rows are invalid.
    """
    errors = RowErrors(path, options.on_error == "skip")
    asked = open_unlabeled_table(path, options, errors, supported_options=("text", "text_b"))
    rows = []
    for line, cells in asked.table.rows:
        with errors.record_errors(line):
            rows.append(_get_texts(asked.table, [*asked.texts.values()], cells))
    errors.report(logger.warning)
    return rows


def _read_text_lines(path: Path, options: TableOptions, errors: RowErrors) -> Table:
    """Open a text file with one text per line as a table with the column "text".

    Raises:
        UserError: the first line contains a tab.
    """
    file = TextFile(str(path), encoding=options.encoding)
    reject_fasttext(file.peek(_HEAD).decode(errors="replace"), path)
    if b"\t" in file.buffer.partition(b"\n")[0]:
        raise UserError(
            f"{path}, line 1: unexpected tab in a .txt file (expected one text per line). If it is a "
            "table, set --text COLUMN"
        )
    return Table(
        path, ["text"], 1, Dialect("\t", False, file.byte_order_mark), [], _iter_nonblank_lines(file, errors)
    )


def _iter_nonblank_lines(file: TextFile, errors: RowErrors) -> Iterator[Row]:
    """Yield the non-blank lines of a text file as rows, and log the number of blank lines."""
    blank = 0
    for line, text in enumerate(file.iter_lines(errors), 1):
        if is_blank(text):
            blank += 1
        else:
            yield line, [text.rstrip("\r\n")]
    if blank:
        logger.warning("%s: skipped %s blank lines", file.path, f"{blank:,}")


def is_tagged_file(path: Path) -> bool:
    """Return whether a file contains tagged words, by its extension, U+0002, or lists of tags in JSON.

    A file without an extension contains tagged words, a pipe a table. Spans of
    annotation tools are read as tagged words.
    """
    if detect_format(path) == TAGS or not (split_extensions(path)[0] or path.is_fifo()):
        return True
    head = _read_head(path)
    if head.lstrip()[:1] in ("{", "["):
        has_lists = (re.search(rf'"({"|".join(names)})"\s*:\s*\[', head) for names in WORDS.values())
        return all(has_lists) or SPAN.search(head) is not None
    return JOINT in "\n".join(head.split("\n")[:2])


def _read_head(path: Path) -> str:
    """Read the beginning of a decompressed text file; "" for an Excel workbook."""
    if not path.is_fifo() and zipfile.is_zipfile(path):
        return ""
    with closing(TextFile(str(path), allow_json=True)) as file:
        return file.peek(_HEAD).decode(errors="replace")


def is_question_file(path: Path, squad_only: bool = False) -> bool:
    """Return whether a file contains questions with contexts in JSON.

    Args:
        squad_only: whether the file must be SQuAD JSON; otherwise it may also have a question per line.
    """
    head = _read_head(path)
    keys = "qas" if squad_only else "qas|question"
    is_json = head.lstrip()[:1] in ("{", "[")
    return is_json and re.search(rf'"({keys})"\s*:', head) is not None and '"context"' in head
