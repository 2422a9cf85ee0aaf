"""Read the files that `fit` learns from: tables of labelled texts, tagged words, questions with answers.

What a file holds says which of them it is. Where it could be two, the user is asked for --task.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

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
from ernie_m.reader.check_labels import several_in
from ernie_m.reader.files.faults import MOST_FAULTS
from ernie_m.reader.files.labels import check_label_columns, number_in
from ernie_m.reader.files.own_files import LabelledFile, holds_questions, holds_tags
from ernie_m.reader.files.rows import LabelOptions, faults_of
from ernie_m.reader.files.tables import LabelledTable, read_labelled
from ernie_m.utils.errors import UserError, say

_MOST_STEPS = 10  # more different numbers are no steps of a scale
_IN_WORDS = {1: "single texts", 2: "pairs of texts"}
_OF_TABLES = {CLASSES: Classes, LABELS: SeveralLabels, SCORE: Numbers}


def read_units(
    files: Sequence[LabelledFile],
    options: LabelOptions,
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
    files: Sequence[LabelledFile], options: LabelOptions, task: str | None, like: Units | None
) -> Units:
    """What files hold, unchecked; see `read_units`."""
    if task is None and holds_questions(files[0].path):
        task = ANSWERS
    elif task is None and (options.columns or holds_tags(files[0].path)):
        task = TAGS
    if task in (TAGS, ANSWERS):
        module = import_module(
            f"ernie_m.finetune.fit.{'tags' if task == TAGS else 'answers'}"
        )  # here, because tables do not need it
        return module.read(files, options, like) if task == TAGS else module.read(files)
    read = []
    for file in files:
        table = read_labelled(file.path, options, several=task == LABELS)
        read.append(table.meant_for("test" if like else "train"))
    task = task or (SCORE if _are_scores(read) else CLASSES)
    if task == SCORE:
        read = [table.with_numbers(faults_of(table.path, options)) for table in read]
    return _units_of_tables(files, read, task, like)


def _are_scores(read: Sequence[LabelledTable]) -> bool:
    """Whether the labels of tables are numbers of which one may be more than another; else they are classes.

    Raises:
        UserError: they may be both, or several labels of a text.
    """
    places: dict[str, str] = {}  # label -> where it stands first
    for table in read:
        for row in table.rows:
            places.setdefault(row.label, f"{table.path}, line {row.line}")
    several = several_in(places)
    if several:
        raise UserError(
            f"{places[several]}: the label '{several}' may be several; give --task multi-label if it is, "
            "or --task classification if it is one"
        )
    numbers = list(map(number_in, places))
    values = {*numbers}
    if None in values or len(values) < 2:
        return False
    are_whole = all(value.is_integer() for value in values)
    is_pair = len(read[0].rows[0].texts) == 2
    if are_whole and len(values) <= _MOST_STEPS and not is_pair:  # as stars
        return False
    if not are_whole and len(values) > _MOST_STEPS:
        say(f"{read[0].path}: the labels are numbers, and a number is learned (--task regression)")
        return True
    raise UserError(
        f"{read[0].path}: the labels are {len(values):,} different numbers; give --task regression if one "
        "may be more than another, as how well a text answers a query, or --task classification"
    )


def _units_of_tables(
    files: Sequence[LabelledFile], tables: Sequence[LabelledTable], task: str, like: Units | None
) -> Units:
    """The rows of tables; see `read_units`."""
    texts = len(like.inputs()[0] if like else tables[0].rows[0].texts)  # of each row: one, or a pair
    for file, table in zip(files, tables):
        has = len(table.rows[0].texts)
        if has != texts:
            learned = "what is learned" if like else files[0].path
            raise UserError(f"{file.path}: has {_IN_WORDS[has]}, but {learned} has {_IN_WORDS[texts]}")
    inputs = [row.texts for table in tables for row in table.rows]
    labels: list[Any] = [row.label for table in tables for row in table.rows]
    if task == LABELS:
        expected = like.names if like else SeveralLabels.names_of(labels)
        for file, table in zip(files, tables):
            check_label_columns(file.path, table.label_columns, expected)
    # Of each row of all tables. A table without the column has the language of its file, and no ids.
    languages, ids, places = [], [], []
    for file, table in zip(files, tables):
        is_in_table = any(row.language for row in table.rows)
        languages += [row.language if is_in_table else language_of(file) for row in table.rows]
        ids += [row.group for row in table.rows]
        name = f"{file.path}, " if len(files) > 1 else ""
        places += [f"{name}line {row.line}" for row in table.rows]
    known = {
        "languages": languages if any(languages) else [],
        "ids": ids if any(ids) else [],
        "places": places,
        "columns": tables[0].columns,
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
