"""Read the files that `fit` learns from: tables of labelled texts, tagged words, questions with answers.

What a file holds says which of them it is. Where it could be two, the user is asked for --task.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ernie_m.finetune.fit.units import (
    ANSWERS,
    CLASSES,
    LABELS,
    SCORE,
    TAGS,
    Classes,
    Numbers,
    SeveralLabels,
    Units,
    language_of,
)
from ernie_m.reader.files.faults import MOST_FAULTS
from ernie_m.reader.files.labels import check_label_columns
from ernie_m.reader.files.own_files import LabelledFile, holds_questions, holds_tags
from ernie_m.reader.files.rows import TableOptions, faults_of, tables
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.logging import logger

if TYPE_CHECKING:
    from ernie_m.reader.files.rows import LabelledTable

_IN_WORDS = {1: "single texts", 2: "pairs of texts"}
_OF_TABLES = {CLASSES: Classes, LABELS: SeveralLabels, SCORE: Numbers}


def read_units(
    files: Sequence[LabelledFile],
    options: TableOptions,
    task: str | None = None,
    like: Units | None = None,
) -> Units:
    """Read files of one kind, and check what they hold.

    Args:
        files: a file in one language each, or in several.
        options: how tables are read.
        task: what is learned; None: what the files say.
        like: units whose labels, or tags, these must have, to be scored.

    Raises:
        UserError: a file cannot be read, it is not clear what is to be learned, or nothing could be; names
            the file, and the lines.
    """
    units = _read(files, options, like.kind if like else task, like)
    if like is None:  # a test need not be enough to learn from
        units.check(str(files[0].path))
    return units


def _read(
    files: Sequence[LabelledFile], options: TableOptions, task: str | None, like: Units | None
) -> Units:
    """What files hold, unchecked; see `read_units`."""
    if task is None and holds_questions(files[0].path):
        task = ANSWERS
    elif task is None and not options.columns and holds_tags(files[0].path, spans=True):
        task = TAGS
    if task in (TAGS, ANSWERS):
        module = import_module(
            f"ernie_m.finetune.fit.{'tags' if task == TAGS else 'answers'}"
        )  # here, because tables do not need it
        return module.read(files, options, like) if task == TAGS else module.read(files)
    try:
        read = _read_tables(files, options, task, like)
    except UserError as error:
        if task is not None:
            raise
        try:  # a column such as score or relevance
            read = _read_tables(files, options, SCORE, like)
        except UserError as of_numbers:
            if str(of_numbers) == str(error):
                raise error from None
            raise UserError(str(error), f"with --task {SCORE}: {of_numbers}") from None
        task = SCORE
    task = task or (SCORE if tables().are_scores([file.path for file in files], read) else CLASSES)
    if task == SCORE:
        read = [table.with_numbers(faults_of(file.path, options)) for file, table in zip(files, read)]
    return _units_of_tables(files, read, task, like)


def _read_tables(
    files: Sequence[LabelledFile], options: TableOptions, task: str | None, like: Units | None
) -> "list[LabelledTable]":
    """The tables of files that are no others; see `read_units`."""
    tell = logger.info if like else say
    purpose = "test" if like else "train"
    read = []
    for file in files:
        table = tables().read_table(file.path, options, task == LABELS, tell, regression=task == SCORE)
        read.append(table.meant_for(purpose, tell, file.path))
    return read


def _units_of_tables(
    files: Sequence[LabelledFile], tables: "Sequence[LabelledTable]", task: str, like: Units | None
) -> Units:
    """The rows of tables; see `read_units`."""
    texts = len(like.inputs()[0] if like else tables[0].rows[0][:-1])  # of each row: one, or a pair
    for file, table in zip(files, tables):
        if len(table.columns) != texts + 1:
            learned = "what is learned" if like else files[0].path
            raise UserError(
                f"{file.path}: has {_IN_WORDS[len(table.columns) - 1]}, but {learned} has {_IN_WORDS[texts]}"
            )
    inputs = [cells[:-1] for table in tables for cells in table.rows]
    labels: list[Any] = [cells[-1] for table in tables for cells in table.rows]
    if task == LABELS:
        labels = [names for table in tables for names in table.labels()]
        expected = like.names if like else SeveralLabels.names_of(labels)
        for file, table in zip(files, tables):
            check_label_columns(file.path, table.label_columns, expected)
    # Of each row of all tables. A table without the column has the language of its file, and no ids.
    languages, ids, places = [], [], []
    for file, table in zip(files, tables):
        languages += table.languages or [language_of(file)] * len(table.rows)
        ids += table.ids or [""] * len(table.rows)
        name = f"{file.path}, " if len(files) > 1 else ""
        places += [f"{name}line {line}" for line in table.lines]
    known = {
        "languages": languages if any(languages) else [],
        "ids": ids if any(ids) else [],
        "places": places,
    }
    if like is not None:
        unknown = [
            f"{place}: the model has not learned the label '{name}'"
            for place, label in zip(places, labels)
            for name in sorted(_OF_TABLES[task].names_of([label]).difference(like.names))
        ]
        if unknown:
            raise UserError(f"{files[0].path}, {unknown[0]}", *unknown[1:MOST_FAULTS])
        return _OF_TABLES[task].of(inputs, labels, names=like.names, **known)
    return _OF_TABLES[task].of(inputs, labels, **known)
