"""Tables of texts: with labels to learn (`read_labeled`), or to ask a model about (`open_unlabeled`).

A flag names a column, or its name is in `LABELS`. Some files of labels are no tables: tagged words
(`holds_tags`), and questions with answers (`holds_questions`).
"""

import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ernie_m.reader.files.find_files import SPLIT_OF
from ernie_m.reader.files.official_tsv import has_quotes, in_one_line, say_quoted
from ernie_m.reader.files.plain_text import LINES, TAGS, TextFile, named_form, split_name
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import OF_TABLES, LabelOptions, TableOptions
from ernie_m.reader.files.tables import (
    LABELS,
    QUESTIONS,
    WORDS,
    Dialect,
    Row,
    Table,
    as_cell,
    open_table,
    text_error,
)
from ernie_m.reader.files.text_checks import check_text
from ernie_m.reader.labels import (
    is_marked,
    is_mixed,
    is_printed,
    labels_between,
    normal_label,
)
from ernie_m.reader.tag_schemes import JOINT
from ernie_m.utils.errors import UserError, listed, printable, shown
from ernie_m.utils.files import is_blank
from ernie_m.utils.logging import logger

_IN_WORDS = {"text": "the text", "text_b": "the second text", "label": "the label"}
_BETWEEN = {"text": "+", "text_b": "+", "label": ","}  # the columns that a flag names
_TEXTS = {"text", "text_b"}
_TEXT_KEYS = {*_TEXTS, "text_a"}  # what a request calls them
_HEAD = 1 << 16  # bytes by which the kind of a file is known
TAGGED = "if each line is a word with its tag: {}"
Columns = dict[str, list[int]]  # part of `LABELS` -> the places of its columns, or none


class LabeledRow(NamedTuple):
    """A row of a table of labels.

    Attributes:
        texts: one, or two.
        label: in its normal form; or a list of several, or of none.
        language, group, split: "" if the table has no such column; split is train, dev or test.
        line: the number of the line at which it begins.
    """

    texts: list[str]
    label: str | list[str]
    language: str
    group: str
    split: str
    line: int


class LabeledTable(NamedTuple):
    """The rows of a table of labels.

    Attributes:
        columns: the flags that read the same columns -> their values, as {"text": "Subject+Body"}.
        label_columns: the labels that have a column each, in their normal form; none: one has the labels.
    """

    path: Path
    rows: list[LabeledRow]
    columns: dict[str, str]
    label_columns: list[str]

    def meant_for(self, purpose: str) -> "LabeledTable":
        """The rows for "train", or those for anything else, if the column split has both."""
        meant = [row for row in self.rows if (row.split in ("", "train")) == (purpose == "train")]
        if not meant:
            return self
        splits = Counter(row.split or "(empty)" for row in self.rows)
        for split, rows in (splits - Counter(row.split or "(empty)" for row in meant)).items():
            logger.warning("%s: %s rows of the split '%s' are left out", self.path, f"{rows:,}", split)
        return self._replace(rows=meant)


def find_columns(
    table: Table,
    options: LabelOptions,
    needed: Collection[str] = ("text", "label"),
    remembered: Mapping[str, str] = MappingProxyType({}),
    ways: Sequence[str] = (),
) -> Columns:
    """The places of the columns of texts, labels and more.

    A flag names them, or their name is in `LABELS`. With --text, only --text_b gives a second text.

    Args:
        needed: the parts that must be there.
        remembered: values of flags, of the table that a model learned from. They hold where no flag is given;
            a text must have its column.
        ways: what else the table may be, and how that is said.

    Raises:
        UserError: the question for all that is not known.
    """
    form = " ".join(["tables of texts", *map("({})".format, ways)])
    options.reject_others(table.path, form, *OF_TABLES, *LABELS, "label_separator")
    given = {part: flag for part in LABELS if (flag := getattr(options, part, None))}
    learned = {part: flag for part, flag in remembered.items() if not (part == "text_b" and options.text)}
    flags = learned | given
    found: Columns = {}
    for part, names in LABELS.items():
        columns = _columns_in(part, flags[part], table) if part in flags else []
        if part in given or (columns and {*columns} <= {*table.names}):
            found[part] = [table.place(name, f"--{part}") for name in columns]
        else:
            found[part] = [] if columns or (part == "text_b" and "text" in flags) else table.named(names)
    several = [part for part, places in found.items() if part not in flags and len(places) > 1]
    if "label" in several and "label" not in needed:
        several.remove("label")
        found["label"] = []
    needed = {*needed, *_TEXTS.intersection(learned)}
    unclear = several + [part for part in LABELS if part in needed and not found[part]]
    if unclear:
        questions = []
        for part in unclear:
            names = " or ".join(f"'{table.names[column]}'" for column in found[part])
            names = names or f"the model learned from '{learned.get(part)}'" * (part in learned)
            questions.append(
                f"which column is {_IN_WORDS.get(part, f'the {part}')}{', ' * bool(names)}{names}?"
            )
        raise table.question(" ".join(questions), [f"--{part} COLUMN" for part in unclear], *ways)
    return found


def _columns_in(part: str, flag: str, table: Table) -> list[str]:
    """The names of columns in the value of a flag; a column may have the mark between them in its name."""
    return [flag] if flag in table.names or part not in _BETWEEN else flag.split(_BETWEEN[part])


def read_labeled(path: Path, options: LabelOptions, several: bool = False) -> LabeledTable:
    """Read texts, or pairs of texts, with labels.

    Args:
        several: whether a row may have several, or none: in JSON a list of them, in a cell with the mark of
            --label_separator between them, or a column for each with 0 and 1.

    Raises:
        UserError: the file cannot be read, it is not known which columns are meant, or what separates labels,
            or rows have faults; names the lines.
    """
    errors = RowErrors(path, options.on_error == "skip")
    table = open_table(path, options, errors)
    found = find_columns(table, options, ways=[TAGGED.format("--task token-classification")])
    names = [table.names[column] for column in found["label"]]
    if len(names) > 1 and not several:
        raise UserError(f"--label {options.label}: a column for each label is for --task multi-label")
    separator = options.label_separator or None
    if separator and (len(names) > 1 or not several):
        raise UserError(
            f"--label_separator {separator}: it is for --task multi-label with all labels of a text in one "
            "column; leave it out"
        )
    rows = []
    for line, cells in table.rows:
        with errors.of_line(line):
            rows.append(_labeled_row(table, found, line, cells, several))
    errors.end(logger.warning, rows, options.filter)
    if len(names) == 1 and several:
        rows = _with_lists(path, rows, separator)
    _say_what_is_read(table, found, rows)
    columns = {
        part: _BETWEEN.get(part, ",").join(table.names[column] for column in places)
        for part, places in found.items()
        if places and part != "qid" and table.has_header
    }
    columns |= {"label_separator": separator} if separator else {}
    return LabeledTable(path, rows, columns, [normal_label(name) for name in names if names[1:]])


def _texts_in(table: Table, places_of_texts: Sequence[Sequence[int]], cells: Sequence[Any]) -> list[str]:
    """The texts of a row. Several columns that make a text have a line end between them.

    Raises:
        UserError: a cell is no text, or all of a text are empty.
    """
    texts = []
    for columns in filter(None, places_of_texts):
        errors = [text_error(table.names[column], cells[column]) for column in columns]
        if all(errors) or not all(isinstance(cells[column], str) for column in columns):
            raise UserError(f"{max(errors)}; write a text there, or remove the line")
        texts.append("\n".join(filter(None, (in_one_line(cells[column]).strip() for column in columns))))
    return texts


def _labeled_row(table: Table, found: Columns, line: int, cells: Sequence[Any], several: bool) -> LabeledRow:
    """A row of a table.

    Raises:
        UserError: what is wrong with it, and what mends it.
    """
    texts = _texts_in(table, [found["text"], found["text_b"]], cells)
    labels_of = _marked if found["label"][1:] else _labels_in if several else _label_in
    label = labels_of(table, found["label"], cells)
    words = dict.fromkeys(("language", "group", "split"), "")
    for part in words:
        for column in found[part]:  # there is one at most
            if not isinstance(cells[column], str):
                error = text_error(table.names[column], cells[column])
                raise UserError(f"{error}; write a word or a number there")
            words[part] = in_one_line(cells[column]).strip()
    if found["split"]:
        split = words["split"]
        if split.lower() not in SPLIT_OF:
            raise UserError(
                f"the split '{shown(split)}' is none of train, dev and test; mend it, or rename the column "
                "if it says something else"
            )
        words["split"] = SPLIT_OF[split.lower()]
    return LabeledRow(texts, label, **words, line=line)


def _label_in(table: Table, places: Sequence[int], cells: Sequence[Any]) -> str:
    """The label in a cell.

    Raises:
        UserError: it has none, or several.
    """
    label = normal_label(_label_text(table, places, cells[places[0]]))
    if not label:
        raise UserError("the label is empty; fill it in, or remove the line")
    return label


def _labels_in(table: Table, places: Sequence[int], cells: Sequence[Any]) -> str | list[str]:
    """The cell of several labels; of JSON a list of them, each in its normal form.

    Raises:
        UserError: it has objects, or is mixed.
    """
    cell = cells[places[0]]
    if isinstance(cell, list) and is_mixed(cell):
        raise UserError(
            f"'{table.names[places[0]]}' has {shown(cell)[:50]}, names mixed with numbers or true and false; "
            "write a list of the names that the text has"
        )
    if isinstance(cell, list):
        return [normal_label(_label_text(table, places, as_cell(item))) for item in cell]
    return _label_text(table, places, cell)


def _label_text(table: Table, places: Sequence[int], cell: Any) -> str:
    """A cell for labels.

    Raises:
        UserError: it has a list or an object, or one that was printed.
    """
    if not isinstance(cell, str) or is_printed(cell):
        raise UserError(
            f"'{table.names[places[0]]}' has {shown(cell)[:50]}, which is no label; write one there, or for "
            "--task multi-label JSON lines with lists of labels, or a column of 0 and 1 for each label "
            "(spans: examples/spans_to_words.py)"
        )
    return cell


def _marked(table: Table, places: Sequence[int], cells: Sequence[Any]) -> list[str]:
    """The labels of a row, of columns for one label each.

    Raises:
        UserError: a cell has neither 0 nor 1.
    """
    for column in places:
        if is_marked(cells[column]) is None:
            raise UserError(
                f"the column '{table.names[column]}' has '{shown(cells[column])}' (expected 1 where a text "
                "has this label, otherwise 0)"
            )
    return [normal_label(table.names[column]) for column in places if is_marked(cells[column])]


def _with_lists(path: Path, rows: Sequence[LabeledRow], separator: str | None) -> list[LabeledRow]:
    """The rows, each label of a row once.

    Raises:
        UserError: a cell has labels, and it is not known what separates them.
    """
    undivided = [row for row in rows if isinstance(row.label, str) and row.label.strip()]
    if undivided and not separator:
        row = next((row for row in undivided if re.search(r"[^\w\s]", row.label)), undivided[0])
        raise UserError(
            f"{path}, line {row.line}: what separates the labels in '{shown(row.label)}'? Say it, as in "
            "--label_separator ';'; if each cell has one label, give a mark that none has"
        )
    some = (labels_between(row.label, separator) if isinstance(row.label, str) else row.label for row in rows)
    return [row._replace(label=[*dict.fromkeys(filter(None, labels))]) for row, labels in zip(rows, some)]


def _say_what_is_read(table: Table, found: Columns, rows: Sequence[LabeledRow]) -> None:
    """Say which columns are read and which not, and what in the texts is odd."""
    parts = [
        f"{part}: {printable(' + '.join(table.names[column] for column in columns))}"
        for part, columns in found.items()
        if columns
    ]
    read = {column for columns in found.values() for column in columns}
    others = [printable(name) for column, name in enumerate(table.names) if column not in read and name]
    ignored = f"; ignored: {listed(others)}" if others else ""
    logger.info("%s: %s rows (%s%s)", table.path, f"{len(rows):,}", ", ".join(parts), ignored)
    check_text(table.path, [text for row in rows[:1000] for text in row.texts], "", None)
    if not table.form.quoted:
        say_quoted(table.path, sum(has_quotes(row.texts) for row in rows), len(rows), logger.warning)


class UnlabeledTable(NamedTuple):
    """A table of texts that a model is asked about, whose columns are known.

    Attributes:
        texts: what a request calls its text, and a second one -> the places of its columns; none: words of
            JSON stand for them.
        labels: the places of the columns of labels; none: the table has no labels.
        language: the place of the column of languages; none: there is none.
        separator: what separates several labels in a cell; None: nothing.
        are_requests: whether all keys of its objects are those of a request.
    """

    table: Table
    texts: dict[str, list[int]]
    labels: list[int]
    language: list[int]
    separator: str | None = None
    are_requests: bool = False

    def check(self, pairs: bool | None) -> None:
        """Refuse a table that has not the texts that a model reads. `pairs`: whether two; None: either.

        Raises:
            UserError: the question which columns they are.
        """
        if pairs is not None and len(self.texts) not in (0, 1 + pairs):
            reads, flags = ("pairs of texts", "text_b") if pairs else ("single texts", "text")
            names = [f"'{self.table.names[column]}'" for columns in self.texts.values() for column in columns]
            what = f"the model reads {reads}, and not {' and '.join(names)}."
            raise self.table.question(what, [f"--{flags} COLUMN"])

    def rows(self) -> Iterator[tuple[int, list[Any], dict[str, Any]]]:
        """Each row with its line: its cells, and as a request with its texts, its language and its id.

        No other column of a table of cells is a key of a request: `labels` would be what zero-shot chooses
        from.
        """
        kept = {
            column: name if self.are_requests else "id"
            for column, name in enumerate(self.table.names)
            if name.lower() == "id" or (self.are_requests and name not in _TEXT_KEYS)
        }
        for line, cells in self.table.rows:
            request = {key: cells[column] for column, key in kept.items()}
            for column in self.language:  # one at most
                request["language"] = cells[column]
            for key, columns in self.texts.items():
                request[key] = joined([cells[column] for column in columns])
            if "text_a" in request:
                request["text"] = request["text_a"]  # what most tasks call it
            yield line, cells, {key: value for key, value in request.items() if value is not None}


def joined(parts: Sequence[Any]) -> Any:
    """Several cells that make a text, with a line end between them; one cell as it is."""
    are_texts = len(parts) > 1 and all(isinstance(part, str) for part in parts)
    return "\n".join(filter(str.strip, parts)) if are_texts else parts[0]


def open_unlabeled(
    path: Path,
    options: LabelOptions,
    errors: RowErrors,
    remembered: Mapping[str, str] = MappingProxyType({}),
    questions: bool = False,
    parts: Collection[str] = ("text", "text_b", "label", "label_separator", "language"),
    are_requests: bool = False,
    ways: Sequence[str] = (),
) -> UnlabeledTable:
    """Open a table of texts, or a .txt file with a text on each line.

    Args:
        path: "-": standard input, of JSON.
        errors: receives rows that cannot be read.
        remembered: see `find_columns`.
        questions: whether its texts are questions with contexts, which --columns names.
        parts: the flags of columns that are read.
        are_requests: whether it has objects of JSON, which may have the other keys of requests, too.
        ways: see `find_columns`.

    Raises:
        UserError: the table cannot be read, a flag names another part, or it is not known which columns have
            the texts.
    """
    if named_form(path) == LINES and not (options.text or options.columns or are_requests):
        options.reject_others(path, "lines of text", "encoding", "on_error")
        return UnlabeledTable(_read_text_lines(path, options, errors), {"text_a": [0]}, [], [])
    table = open_table(path, options, errors, as_they_stand=are_requests)
    if not table.names:
        return UnlabeledTable(table, {}, [], [], are_requests=True)
    if questions:
        options.reject_others(path, "tables of questions", "columns", *OF_TABLES)
        what = "which columns are the question and its context?"
        question, context = table.two_columns(options.columns, QUESTIONS.values(), what)
        texts = {"question": [question], "context": [context]}
        return UnlabeledTable(table, texts, [], [], are_requests=are_requests)
    form = "JSON lines, not scored as a .csv is," if are_requests else "tables without labels to learn"
    read = {*parts}.difference(("label", "label_separator") if are_requests else ())
    options.reject_others(path, form, *OF_TABLES, *read)
    needed = () if are_requests and table.named(WORDS["words"]) else ("text",)
    found = find_columns(table, options, needed, remembered, ways)
    texts = {key: found[part] for key, part in (("text_a", "text"), ("text_b", "text_b")) if found[part]}
    separator = options.label_separator or remembered.get("label_separator")
    return UnlabeledTable(table, texts, found["label"], found["language"], separator, are_requests)


def read_texts(path: Path, options: LabelOptions) -> list[list[str]]:
    """The text of each row of a table, or its two texts; arguments and errors as of `read_labeled`."""
    errors = RowErrors(path, options.on_error == "skip")
    asked = open_unlabeled(path, options, errors, parts=("text", "text_b"))
    rows = []
    for line, cells in asked.table.rows:
        with errors.of_line(line):
            rows.append(_texts_in(asked.table, [*asked.texts.values()], cells))
    errors.end(logger.warning)
    return rows


def _read_text_lines(path: Path, options: TableOptions, errors: RowErrors) -> Table:
    """A file with a text on each line, as a table.

    Raises:
        UserError: its first line has a tab.
    """
    file = TextFile(str(path), encoding=options.encoding)
    if b"\t" in file.buffer.partition(b"\n")[0]:
        raise UserError(
            f"{path}, line 1: a .txt file has a text on each line, and this one has a tab; if it is a table, "
            "name its columns: --text COLUMN"
        )
    return Table(path, ["text"], 1, Dialect("\t", False, file.begin), [], _without_blank(file, errors))


def _without_blank(file: TextFile, errors: RowErrors) -> Iterator[Row]:
    """The lines of a text as rows; it is said how many are blank."""
    blank = 0
    for line, text in enumerate(file.texts(errors), 1):
        blank += is_blank(text)
        if not is_blank(text):
            yield line, [text.rstrip("\r\n")]
    if blank:
        logger.warning("%s: %s blank lines are left out", file.path, f"{blank:,}")


def holds_tags(path: Path) -> bool:
    """Whether a file has tagged words, by its name, or because it has the official form or lists of JSON."""
    if named_form(path) == TAGS or not split_name(path)[0]:
        return True
    head = _read_head(path)
    if head.lstrip()[:1] in ("{", "["):
        return all(re.search(rf'"({"|".join(names)})"\s*:\s*\[', head) for names in WORDS.values())
    return JOINT in "\n".join(head.split("\n")[:2])


def _read_head(path: Path) -> str:
    """The beginning of a text, unpacked; of a sheet ""."""
    if zipfile.is_zipfile(path):
        return ""
    with closing(TextFile(str(path), any_form=True)) as file:
        return file.start(_HEAD).decode(errors="replace")


def holds_questions(path: Path, whole: bool = False) -> bool:
    """Whether a file has questions with contexts: SQuAD, or, unless it must be `whole`, one on each line."""
    head = _read_head(path)
    keys = "qas" if whole else "qas|question"
    is_json = head.lstrip()[:1] in ("{", "[")
    return is_json and re.search(rf'"({keys})"\s*:', head) is not None and '"context"' in head
