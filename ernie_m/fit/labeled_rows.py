"""Rows with labels of one's own, from tables (`load_dataset`) or from Python (`rows_of`)."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from numbers import Real
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ernie_m.finetune.classifier import Classification, MultiLabelClassification, Regression
from ernie_m.fit.split_rows import join_rows
from ernie_m.model.preprocessing import COLUMNS, GIVEN
from ernie_m.model.tasks import CLASSIFICATION, MULTI_LABEL, REGRESSION
from ernie_m.reader.batching import Example
from ernie_m.reader.files.find_files import NamedFile
from ernie_m.reader.files.labeled_tables import read_labeled
from ernie_m.reader.files.row_errors import MOST_FAULTS
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.labels import (
    ALL_LANGUAGES,
    check_labels,
    input_hash,
    is_mark,
    is_mixed,
    is_no_label,
    is_printed,
    labels_for_none,
    normal_label,
    number_in,
)
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError, listed, shown
from ernie_m.utils.languages import language_group, language_tag
from ernie_m.utils.logging import logger

T = TypeVar("T")
KINDS = (CLASSIFICATION, MULTI_LABEL, REGRESSION)
_NumberedErrors = list[tuple[int, str]]  # the number of a row, and what is wrong with it
_NUMBER = "Write a score with a decimal point and no other mark, as in 0.5 or 1250.5, or remove the row"
_MOST_STEPS = 10  # with more whole numbers it is asked whether they are classes
_MOST_CELLS = 1 << 28  # of rows by labels; a head takes 8 bytes for each
_BETWEEN_LABELS = re.compile(r"[,;|]|(?<=\w)#(?=\w)")  # it is asked whether it is
_MARKS = re.compile(r"[01](\s+[01])+|[01]{3,}")  # zeros and ones, of several labels without names
# A number with three decimals may be a thousand, beside a plain number of 100 or more.
_MAY_BE_THOUSAND, _HUNDREDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}"), 100


class LabeledDataset(NamedTuple):
    """Texts with labels.

    Attributes:
        kind: one of `KINDS`: one label a text, several or none, or a number.
        examples: a text, or a pair, and its label: an id, whether it has each label, or a number.
        names: of the labels, in the order of their ids; of numbers none.
        languages: of each row, str [N], by `language_group`; "": not known.
        groups: int64 [N]; rows of one group are held out together.
        places: where each row stands, for messages.
        given: name of a label -> what a user of Python gave for it.
        columns: the flags that read the same columns of another table -> their values.
    """

    kind: str
    examples: list[Example]
    names: list[str]
    languages: np.ndarray
    groups: np.ndarray
    places: list[str]
    given: dict[str, Any]
    columns: Mapping[str, str]

    @property
    def targets(self) -> np.ndarray:
        """The labels: ids [N], whether each row has each label [N, C], or numbers [N]."""
        return np.array([example.label for example in self.examples])

    @property
    def are_pairs(self) -> bool:
        return self.examples[0].text_b is not None

    @property
    def needs_finetuning(self) -> bool:
        """Whether a head on vectors cannot learn them."""
        return self.are_pairs or self.kind == REGRESSION

    @property
    def inputs(self) -> np.ndarray:
        """`input_hash` of each row, int64 [N]."""
        return np.array([input_hash(*example[:2]) for example in self.examples])

    def kept(self) -> dict[str, Any]:
        """What config.json keeps of them."""
        given = [self.given[name] for name in self.names]
        return ({GIVEN: given} if given != self.names else {}) | (
            {COLUMNS: self.columns} if self.columns else {}
        )

    def some(self, numbers: Sequence[int]) -> "LabeledDataset":
        """The rows with these numbers."""
        return self._replace(
            examples=_at(numbers, self.examples),
            languages=self.languages[numbers],
            groups=self.groups[numbers],
            places=_at(numbers, self.places),
        )

    def task(self, tokenizer: Tokenizer, max_seq_len: int, prompt: str = "") -> Classification:
        if self.kind == REGRESSION:
            return Regression(tokenizer, max_seq_len, self.are_pairs)
        task_class = MultiLabelClassification if self.kind == MULTI_LABEL else Classification
        return task_class(tokenizer, self.names, max_seq_len, prompt=prompt, pairs=self.are_pairs)

    def errors(self) -> list[str]:
        """Why they cannot be scored, in words; none: they can."""
        if len(np.unique(self.groups)) < 2:
            return [f"{self.places[0]}: all rows have the same text or group"]
        errors = []
        targets = self.targets
        for number, name in enumerate(self.names if self.kind == CLASSIFICATION else ()):
            rows = np.flatnonzero(targets == number)
            if len(np.unique(self.groups[rows])) < 2:
                errors.append(f"{self.places[rows[0]]}: the label '{name}' has only one text or group")
        return errors

    def issues(self, learned: "LabeledDataset | None" = None) -> Iterator[str]:
        """What is odd about them, in words. `learned`: those that are learned from, if these are a test."""
        ids = np.unique(self.targets, axis=0, return_inverse=True)[1].reshape(-1)
        labels = () if self.kind == REGRESSION else ids
        trained = None if learned is None else learned.inputs
        yield from check_labels(self.inputs, labels, self.places.__getitem__, trained)
        languages = np.unique(self.languages).tolist()
        if unknown := [name for name in languages if name and not language_tag(name)]:
            yield f"no languages that are known, and each is one of its own: {listed(unknown)}"
        same: dict[str, list[str]] = {}
        for name in self.names if learned is None else ():
            same.setdefault("".join(name.casefold().split()), []).append(f"'{name}'")
        for names in same.values():
            if len(names) > 1:
                yield f"the labels {listed(names)} differ only in case or white space"


def load_dataset(
    files: Sequence[NamedFile],
    options: LabelOptions,
    kind: str | None = None,
    like: LabeledDataset | None = None,
) -> LabeledDataset:
    """Read tables of texts, or of pairs, with labels.

    Args:
        kind: None: several labels if --label names several columns, or there is a --label_separator, numbers
            if the column is called score, and otherwise one label, if it looks like one.
        like: rows whose labels these must have, to be scored.

    Raises:
        UserError: a table cannot be read, or as `rows_of`; names the files and the lines.
    """
    several = kind == MULTI_LABEL or (
        kind is None and bool(options.label_separator or "," in (options.label or ""))
    )
    purpose = "dev" if like else "train"
    tables = [read_labeled(file.path, options, several).meant_for(purpose) for file in files]
    columns = tables[0].columns
    is_score = columns.get("label", "").lower() == "score"
    found = kind or (MULTI_LABEL if several else REGRESSION if is_score else CLASSIFICATION)
    texts, labels, languages, groups, places = [], [], [], [], []
    label_columns = {name for table in tables for name in table.label_columns}
    expected = like.names if like and label_columns else label_columns
    for file, table in zip(files, tables):
        if missing := {*expected}.difference(table.label_columns):
            raise UserError(
                f"{file.path}, line 1: missing column of label {listed(sorted(missing))}. Add it, with 1 "
                "where a text has it, and 0 elsewhere"
            )
        language = "" if file.language == ALL_LANGUAGES else file.language
        for row in table.rows:
            texts.append(row.texts)
            labels.append(row.label)
            languages.append(row.language or language)
            groups.append(row.group)
            places.append(f"{file.path}, line {row.line}")
    rows = rows_of(found, texts, labels, places, languages, groups, like, options.on_error)
    rows = rows._replace(columns=columns)
    unused = () if like else label_columns.difference(rows.names)
    if unused:
        raise UserError(
            f"{files[0].path}, line 1: no row has the label {listed(sorted(unused))}. Add rows with it, or "
            "remove it from --label"
        )
    if (kind, found, like) == (None, CLASSIFICATION, None):
        ask_for_kind(rows)
    return rows


def ask_for_kind(rows: LabeledDataset) -> None:
    """Ask for the kind of labels that may be several, or numbers.

    Raises:
        UserError: the question, with the place of such a label.
    """
    parts_of = [{*filter(None, map(normal_label, _BETWEEN_LABELS.split(name)))} for name in rows.names]
    counts = Counter(chain.from_iterable(parts_of))
    numbers = [number_in(name) for name in rows.names]
    are_whole = all(number is not None and number.is_integer() for number in numbers)
    may_be_numbers = None not in numbers and (rows.are_pairs or len(numbers) > _MOST_STEPS or not are_whole)
    are_marks = all(map(_MARKS.fullmatch, rows.names))
    for id_, (name, parts) in enumerate(zip(rows.names, parts_of)):
        words = {*filter(None, re.split(r"\W+", name))}  # or several labels, as in "a / b", if each is one
        may_be_several = (len(parts) > 1 and any(counts[part] > 1 for part in parts)) or are_marks
        may_be_several |= len(words) > 1 and words <= rows.given.keys()
        if may_be_several or may_be_numbers:
            location = rows.places[rows.targets.tolist().index(id_)]
            raise UserError(
                f"{location}: is '{name}' one label, several labels, or a number that can be compared? "
                f"Give --task {CLASSIFICATION}, {REGRESSION}, or {MULTI_LABEL} (and with it "
                "--label_separator)"
            )


def _refuse_thousands(labels: Sequence[Any], places: Sequence[str]) -> None:
    """Refuse written numbers where "1.000" may be a thousand.

    Raises:
        UserError: the first of them, with its place.
    """
    written = [(label, location) for label, location in zip(labels, places) if isinstance(label, str)]
    largest = max((int(label) for label, _ in written if re.fullmatch(r"\d{1,99}", label)), default=0)
    marked = [
        (label, location) for label, location in written if "." in label and number_in(label) is not None
    ]
    if marked and largest >= _HUNDREDS and all(_MAY_BE_THOUSAND.fullmatch(label) for label, _ in marked):
        (cell, location), *_ = marked
        digits = cell.replace(".", "")
        raise UserError(
            f"{location}: '{cell}' may be {int(digits):,} or {float(cell):g}; write {digits} or "
            f"{float(cell):g}, and the other labels alike"
        )


def rows_of(
    kind: str,
    texts: Sequence[Sequence[str]],
    labels: Sequence[Any],
    places: Sequence[str],
    languages: Sequence[str],
    groups: Sequence[Any],
    like: LabeledDataset | None = None,
    on_error: str | None = None,
) -> LabeledDataset:
    """Read texts, or pairs, with their labels.

    Args:
        labels: a text or a number of each row; of several labels a list of them.
        languages: of each row; "": not known.
        groups: what rows that belong together share; "": nothing.
        like: see `load_dataset`.
        on_error: that of a table: "skip" leaves rows with a fault out, unless all have one.

    Raises:
        UserError: rows have no such label, or others than `like`, single texts stand beside pairs, or all
            labels are the same (names all such rows), or scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401 - it brings scipy, too, and all that follows needs both
    except ImportError as error:
        raise UserError(f"fit requires scikit-learn ({error}): pip install scikit-learn") from error
    width = len(texts[0]) if like is None else 1 + like.are_pairs
    errors: _NumberedErrors = [
        (number, f"{len(row)} texts, but other rows have {width}")
        for number, row in enumerate(texts)
        if len(row) != width
    ]
    names: list[str] = []
    given: dict[str, Any] = {}
    values: list[Any]
    if kind == REGRESSION:
        _refuse_thousands(labels, places)
        values, others = _numbers(labels)
    else:
        of_rows = [list(map(_named, some if kind == MULTI_LABEL else [some])) for some in labels]
        for some in reversed(of_rows):
            given.update(reversed(some))
        none = _labels_for_none(kind, of_rows)
        names = like.names if like else sorted(given.keys() - none)
        if len(names) * len(labels) > _MOST_CELLS:
            raise UserError(
                f"{places[0]}: {len(labels):,} rows with {len(names):,} labels are too many for a "
                "classifier. For so many labels use retrieval: ernie-m train trains on pairs of a text and "
                "its label"
            )
        errors += _type_errors(kind, labels)
        values, others = _ids(kind, of_rows, names, none)
    errors += others
    if errors:
        kept = sorted({*range(len(labels))}.difference(number for number, _ in errors))
        mend = "" if on_error is None else "--on_error skip leaves such rows out"
        skip = bool(kept) and on_error == "skip"
        refuse([f"{places[number]}: {what}" for number, what in errors], mend, skip)
        columns = _at(kept, labels), _at(kept, places), _at(kept, languages), _at(kept, groups)
        return rows_of(kind, _at(kept, texts), *columns, like)
    if kind == MULTI_LABEL and names and all(map(is_mark, names)):
        raise UserError(
            f"{places[0]}: {labels[0]!r} has zeros and ones, or numbers, of labels without names. Give a "
            "list of names, or in a table a column for each label, and set --label A,B,C"
        )
    if like is None and len({*values}) < 2:
        only = f"the label '{names[0]}'" if kind == CLASSIFICATION else "equal labels"
        raise UserError(f"{places[0]}: all {len(values):,} rows have {only}. Add rows with another one")
    if len({*given.values()}) < len(given):
        raise UserError("two labels are equal in Python, such as 1 and True. Use strings")
    examples = [Example(*row, label=value) for row, value in zip(texts, values)]
    keys = [(row, ("text", input_hash(*example[:2]))) for row, example in enumerate(examples)]
    keys += [(row, ("group", group)) for row, group in enumerate(groups) if group not in ("", None)]
    in_groups = join_rows(keys, (), len(examples))
    tags = np.array([*map(language_group, languages)])
    return LabeledDataset(kind, examples, names, tags, in_groups, list(places), given, {})


def _numbers(labels: Sequence[Any]) -> tuple[list[float | None], _NumberedErrors]:
    """The number of each label, None if it has none, and the faults of these."""
    values = [number_in(str(label)) for label in labels]
    return values, [
        (number, f"the label {shown(repr(label))} is no number. {_NUMBER}")
        for number, (label, value) in enumerate(zip(labels, values))
        if value is None
    ]


def _type_errors(kind: str, labels: Sequence[Any]) -> _NumberedErrors:
    """The labels of another type than the others: a text among decimals, names among numbers in a list."""
    errors = []
    decimals = any(isinstance(label, Real) and (number_in(str(label)) or 0) % 1 for label in labels)
    for number, some in enumerate(labels):
        if decimals and isinstance(some, str) and number_in(some) is None:
            errors.append((number, f"'{some}' is not a number, but other labels are decimals. {_NUMBER}"))
        if kind == MULTI_LABEL and is_mixed(some):
            what = "mixes names with numbers or true and false. Give a list of names"
            errors.append((number, f"{shown(some)} {what}"))
    return errors


def _labels_for_none(kind: str, of_rows: Sequence[Sequence[tuple[str, Any]]]) -> set[str]:
    """The names of labels that say that there is none."""
    counts = Counter(name for some in of_rows for name, _ in some)
    return labels_for_none(counts) if kind == CLASSIFICATION else set(filter(is_no_label, counts))


def _ids(
    kind: str, of_rows: Sequence[Sequence[tuple[str, Any]]], names: Sequence[str], none: Collection[str]
) -> tuple[list[Any], _NumberedErrors]:
    """The label of each row, an id or whether it has each label, and the faults of labels that have no id."""
    ids = {name: id_ for id_, name in enumerate(names)}
    mend = "Write another text, or remove the row (of a table by --filter 'COLUMN!=LABEL')"
    errors = []
    for number, some in enumerate(of_rows):
        for name, label in some:
            if (name in none and name not in ids) or is_printed(name):
                what = f"invalid label {label!r} (expected a text, and no word for none). {mend}"
                errors.append((number, what))
            elif name not in ids:
                errors.append((number, f"unknown label '{name}' (trained on: {listed(names)})"))
    has = [{ids.get(name) for name, _ in some} for some in of_rows]
    if kind == CLASSIFICATION:
        return [row.pop() for row in has], errors
    return [tuple(int(id_ in row) for id_ in ids.values()) for row in has], errors


def refuse(errors: Sequence[str], mend: str = "", skip: bool = False) -> None:
    """Raise a UserError of the first of some faults, the number of the others, and what mends them.

    Args:
        skip: whether it is a warning, because what has the faults is left out.
    """
    more = [f"and {len(errors) - MOST_FAULTS:,} more"] if len(errors) > MOST_FAULTS else []
    lines = [*errors[:MOST_FAULTS], *more]
    if lines and not skip:
        raise UserError(*lines, *([mend] if mend else []))
    for line in lines:
        logger.warning("left out: %s", line)


def _at(numbers: Sequence[int], column: Sequence[T]) -> list[T]:
    """The entries of a column in the rows with these numbers."""
    return [column[number] for number in numbers]


def _named(label: Any) -> tuple[str, Any]:
    """The name of a label, "" if it is of no such type, and the label without numpy's type."""
    name = normal_label(str(label)) if isinstance(label, str | Real | np.bool_) else ""
    return name, label.item() if hasattr(label, "item") else label
