"""Labeled datasets, from tables (`load_dataset`) or from Python (`build_dataset`)."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from numbers import Real
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ernie_m.finetune.classifier import Classification, MultiLabelClassification, Regression
from ernie_m.fit.split_rows import group_rows
from ernie_m.model.pipeline_config import COLUMNS, GIVEN
from ernie_m.model.tasks import CLASSIFICATION, MULTI_LABEL, REGRESSION
from ernie_m.reader.files.find_files import NamedFile
from ernie_m.reader.files.labeled_tables import read_labeled_table
from ernie_m.reader.files.row_errors import MOST_ERRORS
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.labels import (
    ALL_LANGUAGES,
    find_label_issues,
    find_missing_labels,
    has_mixed_types,
    hash_input,
    is_label_score,
    is_missing,
    is_printed_collection,
    normalize_label,
    parse_number,
)
from ernie_m.reader.text_featurizer import UNKNOWN, Example
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError, format_value, join_items
from ernie_m.utils.languages import language_group, language_tag
from ernie_m.utils.logging import logger

T = TypeVar("T")
KINDS = (CLASSIFICATION, MULTI_LABEL, REGRESSION)
_NumberedErrors = list[tuple[int, str]]  # index of a row, and its error
_NUMBER = "Write a score with a decimal point and no other mark, as in 0.5 or 1250.5, or remove the row"
_MOST_STEPS = 10  # more distinct whole numbers than this may be scores: --task is required
_MOST_CELLS = 1 << 28  # rows x labels; a head needs 8 bytes for each
_BETWEEN_LABELS = re.compile(r"[,;|]|(?<=\w)#(?=\w)")  # may separate several labels: --task is required
_MARKS = re.compile(r"[01](\s+[01])+|[01]{3,}")  # multi-hot labels without names
# With labels of 100 or more, a number with three decimals may have a thousands separator.
_MAY_BE_THOUSAND, _HUNDREDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}"), 100


class LabeledDataset(NamedTuple):
    """N labeled texts or pairs of texts.

    Attributes:
        kind: one of `KINDS`: one label per text, any number of labels, or a number.
        examples: the texts with their targets: a label id, a multi-hot tuple, in which a label may be
            `UNKNOWN`, or a number.
        names: the names of the labels, in the order of their ids; empty for regression.
        languages: the language of each row, str [N], from `language_group`; "" if unknown.
        groups: the group of each row, int64 [N]; rows of one group are kept in one fold.
        locations: the location of each row, for messages.
        given: name of a label -> the label as passed to the Python API.
        columns: column options -> values that select the same columns of another table.
    """

    kind: str
    examples: list[Example]
    names: list[str]
    languages: np.ndarray
    groups: np.ndarray
    locations: list[str]
    given: dict[str, Any]
    columns: Mapping[str, str]

    @property
    def targets(self) -> np.ndarray:
        """The targets: label ids [N], a multi-hot matrix [N, C], or numbers [N]."""
        return np.array([example.label for example in self.examples])

    @property
    def are_pairs(self) -> bool:
        """Whether the examples are pairs of texts."""
        return self.examples[0].text_b is not None

    @property
    def needs_finetuning(self) -> bool:
        """Whether full fine-tuning is required, because a head on frozen embeddings is not supported."""
        return self.are_pairs or self.kind == REGRESSION

    @property
    def input_hashes(self) -> np.ndarray:
        """`hash_input` of each row, int64 [N]."""
        return np.array([hash_input(*example[:2]) for example in self.examples])

    def to_settings(self) -> dict[str, Any]:
        """Return the settings of the dataset that are stored in the config.json of a trained model."""
        given = [self.given[name] for name in self.names]
        return ({GIVEN: given} if given != self.names else {}) | (
            {COLUMNS: self.columns} if self.columns else {}
        )

    def select_rows(self, indices: Sequence[int]) -> "LabeledDataset":
        """Return the dataset of the rows at these indices."""
        return self._replace(
            examples=_select_items(indices, self.examples),
            languages=self.languages[indices],
            groups=self.groups[indices],
            locations=_select_items(indices, self.locations),
        )

    def make_task(self, tokenizer: Tokenizer, max_seq_len: int, prompt: str = "") -> Classification:
        """Return the training task of the dataset: its head, loss and tokenization."""
        if self.kind == REGRESSION:
            return Regression(tokenizer, max_seq_len, self.are_pairs)
        task_class = MultiLabelClassification if self.kind == MULTI_LABEL else Classification
        return task_class(tokenizer, self.names, max_seq_len, prompt=prompt, pairs=self.are_pairs)

    def find_split_errors(self) -> list[str]:
        """Return the reasons why the rows cannot be split for an evaluation; [] if they can."""
        if len(np.unique(self.groups)) < 2:
            return [f"{self.locations[0]}: all rows have the same text or group"]
        errors = []
        targets = self.targets
        for number, name in enumerate(self.names if self.kind == CLASSIFICATION else ()):
            rows = np.flatnonzero(targets == number)
            if len(np.unique(self.groups[rows])) < 2:
                similar = [
                    other for other in self.names if other != name and _fold_case(other) == _fold_case(name)
                ]
                hint = f" (did you mean '{similar[0]}'?)" if similar else ""
                location = self.locations[rows[0]]
                errors.append(f"{location}: the label '{name}' has only one text or group{hint}")
        return errors

    def find_issues(self, training: "LabeledDataset | None" = None) -> Iterator[str]:
        """Yield warnings about unknown or conflicting labels, leakage, unknown languages, and similar names.

        Args:
            training: the training rows, if this dataset is the test set.
        """
        targets = self.targets
        missing = int((targets == UNKNOWN).sum()) if self.kind == MULTI_LABEL else 0
        if missing:
            yield f"{missing:,} of {targets.size:,} labels are unknown, and left out of training and scores"
        ids = np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1)
        labels = () if missing or self.kind == REGRESSION else ids
        trained = None if training is None else training.input_hashes
        yield from find_label_issues(self.input_hashes, labels, self.locations.__getitem__, trained)
        languages = np.unique(self.languages).tolist()
        if unknown := [name for name in languages if name and not language_tag(name)]:
            yield f"unknown languages, each treated as a separate one: {join_items(unknown)}"
        same: dict[str, list[str]] = {}
        for name in self.names if training is None else ():
            same.setdefault(_fold_case(name), []).append(f"'{name}'")
        for names in same.values():
            if len(names) > 1:
                yield f"the labels {join_items(names)} differ only in case or white space"


def _fold_case(label: str) -> str:
    """Return a label in folded case, without white space."""
    return "".join(label.casefold().split())


def load_dataset(
    files: Sequence[NamedFile],
    options: LabelOptions,
    kind: str | None = None,
    training_rows: LabeledDataset | None = None,
) -> LabeledDataset:
    """Read tables of labeled texts or pairs into one dataset.

    Args:
        kind: one of `KINDS`; None: multi-label if --label names several columns, --label_separator is set, or
            the first rows have lists of labels, regression if the label column is named score, otherwise
            classification.
        training_rows: set for test data, whose labels must be among those of the training rows.

    Raises:
        UserError: a table cannot be read, or the kind is ambiguous; see also `build_dataset`. The message
            names the file and line.
    """
    several = None if kind is None else kind == MULTI_LABEL
    purpose = "dev" if training_rows else "train"
    tables = []
    for file in files:  # the first file decides
        tables.append(read_labeled_table(file.path, options, several).select_split(purpose))
        several = not isinstance(tables[0].rows[0].label, str)
    columns = tables[0].columns
    has_scores = columns.get("label", "").lower() == "score"
    found = kind or (MULTI_LABEL if several else REGRESSION if has_scores else CLASSIFICATION)
    located = [(file, row) for file, table in zip(files, tables) for row in table.rows]
    rows = build_dataset(
        found,
        [row.texts for _, row in located],
        [row.label for _, row in located],
        [f"{file.path}, line {row.line}" for file, row in located],
        [
            row.language if file.language == ALL_LANGUAGES or not is_missing(row.language) else file.language
            for file, row in located
        ],
        [row.group for _, row in located],
        training_rows,
        options.on_error,
    )
    rows = rows._replace(columns=columns)
    has_columns = training_rows is None and any(table.label_columns for table in tables)
    for name in map(normalize_label, (options.label or "").split(",") if has_columns else ()):
        marks = set(rows.targets[:, rows.names.index(name)].tolist()) if name in rows.names else set()
        if marks in (set(), {1, UNKNOWN}):  # without a 0, a model would learn that every text has the label
            raise UserError(
                f"{files[0].path}, line 1: label column '{name}' is missing or has no {int(not marks)} "
                "(blank is unknown). Add such rows, or remove it from --label"
            )
    if (kind, found, training_rows) == (None, CLASSIFICATION, None):
        reject_ambiguous_labels(rows)
    return rows


def reject_ambiguous_labels(rows: LabeledDataset) -> None:
    """Check that the labels of a classification dataset cannot be read as lists of labels or as scores.

    Raises:
        UserError: a label is ambiguous, and requires --task.
    """
    parts_of = [{*filter(None, map(normalize_label, _BETWEEN_LABELS.split(name)))} for name in rows.names]
    counts = Counter(chain.from_iterable(parts_of))
    numbers = [parse_number(name) for name in rows.names]
    are_whole = all(number is not None and number.is_integer() for number in numbers)
    may_be_numbers = None not in numbers and (rows.are_pairs or len(numbers) > _MOST_STEPS or not are_whole)
    are_marks = all(map(_MARKS.fullmatch, rows.names))
    for id_, (name, parts) in enumerate(zip(rows.names, parts_of)):
        words = {*filter(None, re.split(r"\W+", name))}  # or several labels, as in "a / b", if each is one
        may_be_several = (len(parts) > 1 and any(counts[part] > 1 for part in parts)) or are_marks
        may_be_several |= len(words) > 1 and words <= rows.given.keys()
        if may_be_several or may_be_numbers:
            location = rows.locations[rows.targets.tolist().index(id_)]
            raise UserError(
                f"{location}: ambiguous label '{name}' (one label, several labels, or a score). Set --task "
                f"{CLASSIFICATION}, --task {REGRESSION}, or --task {MULTI_LABEL} with --label_separator"
            )


def _reject_thousands(labels: Sequence[Any], locations: Sequence[str]) -> None:
    """Check that the "." in regression labels, such as "1.000", cannot be a thousands separator.

    Raises:
        UserError: a label is ambiguous; the message names its location.
    """
    written = [(label, location) for label, location in zip(labels, locations) if isinstance(label, str)]
    largest = max((int(label) for label, _ in written if re.fullmatch(r"\d{1,99}", label)), default=0)
    marked = [
        (label, location) for label, location in written if "." in label and parse_number(label) is not None
    ]
    if marked and largest >= _HUNDREDS and all(_MAY_BE_THOUSAND.fullmatch(label) for label, _ in marked):
        (cell, location), *_ = marked
        digits = cell.replace(".", "")
        raise UserError(
            f"{location}: ambiguous number '{cell}' ({int(digits):,} or {float(cell):g}). Write {digits} "
            f"or {float(cell):g}, in the same format as the other labels"
        )


def build_dataset(
    kind: str,
    texts: Sequence[Sequence[str]],
    labels: Sequence[Any],
    locations: Sequence[str],
    languages: Sequence[str],
    groups: Sequence[Any],
    training_rows: LabeledDataset | None = None,
    on_error: str | None = None,
) -> LabeledDataset:
    """Build a dataset from labeled texts or pairs.

    Args:
        kind: one of `KINDS`.
        texts: one or two texts for each row.
        labels: a string or a number for each row; for multi-label classification see `LabeledRow.label`.
        locations: the location of each row, for messages.
        languages: the language of each row, and groups: the group of each row; blank or a placeholder such as
            NA or None if unknown.
        training_rows: see `load_dataset`.
        on_error: "skip": drop invalid rows of a table, unless all are invalid; None: the rows are not from a
            table.

    Raises:
        UserError: a label is missing, has the wrong type, or is not in `training_rows`; single texts are
            mixed with pairs; all labels are equal; no label is known, or of a label only that texts have it;
            or scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401 - requires scipy, which the rest of fit needs as well
    except ImportError as error:
        raise UserError(f"fit requires scikit-learn ({error}): pip install scikit-learn") from error

    def build_rows(rows: Sequence[int], on_error: str | None = None) -> LabeledDataset:
        """Build the dataset of the rows at these indices."""
        return build_dataset(
            kind,
            _select_items(rows, texts),
            _select_items(rows, labels),
            _select_items(rows, locations),
            _select_items(rows, languages),
            _select_items(rows, groups),
            training_rows,
            on_error,
        )

    if unlabeled := [row for row, some in enumerate(labels) if kind == MULTI_LABEL and _is_unlabeled(some)]:
        kept = sorted({*range(len(labels))}.difference(unlabeled))
        what = (
            f"{locations[unlabeled[0]]}: no known label, in {len(unlabeled):,} of {len(labels):,} rows "
            "(blank is unknown; if a text has no label, write [] or 0)"
        )
        raise_errors([what], "Add labels", skip=bool(kept))
        return build_rows(kept, on_error)
    width = len(texts[0]) if training_rows is None else 1 + training_rows.are_pairs
    errors: _NumberedErrors = [
        (number, f"invalid row of {len(row)} texts (expected {width}, as in the other rows)")
        for number, row in enumerate(texts)
        if len(row) != width
    ]
    names: list[str] = []
    given: dict[str, Any] = {}
    values: list[Any]
    if kind == REGRESSION:
        _reject_thousands(labels, locations)
        values, others = _parse_numbers(labels)
    else:
        of_rows = [
            [_normalize_name(label) for label in some if not isinstance(some, dict) or some[label]]
            for some in (labels if kind == MULTI_LABEL else [[label] for label in labels])
        ]
        for some in reversed(of_rows):
            given.update(reversed(some))
        none = _find_missing_labels(kind, of_rows)
        names = training_rows.names if training_rows else sorted(given.keys() - none)
        if len(names) * len(labels) > _MOST_CELLS:
            raise UserError(
                f"{locations[0]}: too many rows x labels for a classifier ({len(labels):,} rows, "
                f"{len(names):,} labels). For so many labels use retrieval: train on pairs of a text and "
                "its label with ernie-m train"
            )
        errors += _find_type_errors(kind, labels)
        values, others = _parse_targets(kind, labels, of_rows, names, none)
    errors += others
    if errors:
        kept = sorted({*range(len(labels))}.difference(number for number, _ in errors))
        fix = "" if on_error is None else "Fix these rows, or set --on_error skip to drop them"
        skip = bool(kept) and on_error == "skip"
        raise_errors([f"{locations[number]}: {what}" for number, what in errors], fix, skip)
        return build_rows(kept)
    if kind == MULTI_LABEL and names and all(map(is_label_score, names)):
        raise UserError(
            f"{locations[0]}: invalid labels {labels[0]!r} (expected label names, got numbers). Give a list "
            "of names, or in a table one column per label, with --label A,B,C"
        )
    if training_rows is None and len({*values}) < 2:
        only = f"the label '{names[0]}'" if kind == CLASSIFICATION else "equal labels"
        raise UserError(f"{locations[0]}: all {len(values):,} rows have {only}. Add rows with another label")
    if len({*given.values()}) < len(given):
        raise UserError("labels: two labels are equal in Python, such as 1 and True. Use strings")
    examples = [Example(*row, label=value) for row, value in zip(texts, values)]
    keys = [(row, ("text", hash_input(*example[:2]))) for row, example in enumerate(examples)]
    keys += [(row, ("group", group)) for row, group in enumerate(groups) if not is_missing(group)]
    in_groups = group_rows(keys, (), len(examples))
    tags = np.array(["" if is_missing(name) else language_group(name) for name in languages])
    return LabeledDataset(kind, examples, names, tags, in_groups, list(locations), given, {})


def _parse_numbers(labels: Sequence[Any]) -> tuple[list[float | None], _NumberedErrors]:
    """Parse the labels as numbers; return None and an error for each label that is not a number."""
    values = [parse_number(str(label)) for label in labels]
    return values, [
        (number, f"invalid label {format_value(repr(label))} (expected a number). {_NUMBER}")
        for number, (label, value) in enumerate(zip(labels, values))
        if value is None
    ]


def _is_unlabeled(labels: Any) -> bool:
    """Return whether all labels of a row of a multi-label dataset are unknown; see `build_dataset`."""
    return all(map(is_missing, labels.values() if isinstance(labels, dict) else [labels]))


def _find_type_errors(kind: str, labels: Sequence[Any]) -> _NumberedErrors:
    """Return the errors of rows whose label is a string among floats, or a list of mixed types."""
    errors = []
    decimals = any(isinstance(label, Real) and (parse_number(str(label)) or 0) % 1 for label in labels)
    for number, some in enumerate(labels):
        if decimals and isinstance(some, str) and parse_number(some) is None:
            errors.append((number, f"invalid label '{some}' (other labels are decimals). {_NUMBER}"))
        if kind == MULTI_LABEL and has_mixed_types(some):
            what = "mixes names with numbers or true and false. Give a list of names"
            errors.append((number, f"{format_value(some)} {what}"))
    return errors


def _find_missing_labels(kind: str, labels_by_row: Sequence[Sequence[tuple[str, Any]]]) -> set[str]:
    """Return the label names that are placeholders for a missing label.

    Args:
        labels_by_row: the names and labels of each row, from `_normalize_name`.
    """
    counts = Counter(name for some in labels_by_row for name, _ in some)
    return find_missing_labels(counts) if kind == CLASSIFICATION else set(filter(is_missing, counts))


def _parse_targets(
    kind: str,
    labels: Sequence[Any],
    labels_by_row: Sequence[Sequence[tuple[str, Any]]],
    names: Sequence[str],
    missing_labels: Collection[str],
) -> tuple[list[Any], _NumberedErrors]:
    """Return the target of each row, a label id or a multi-hot tuple, and the errors of invalid labels.

    Args:
        labels: see `build_dataset`.
        labels_by_row: the names and labels of each row, from `_normalize_name`.
        names: the names of the labels, in the order of their ids.
        missing_labels: placeholders for a missing label.
    """
    ids = {name: id_ for id_, name in enumerate(names)}
    fix = "Rename the label, or remove the row (in a table with --filter 'COLUMN!=LABEL')"
    errors = []
    for number, some in enumerate(labels_by_row):
        for name, label in some:
            if (name in missing_labels and name not in ids) or is_printed_collection(name):
                what = f"invalid label {label!r} (expected a string that does not mean 'none'). {fix}"
                errors.append((number, what))
            elif name not in ids:
                errors.append((number, f"unknown label '{name}' (trained on: {join_items(names)})"))
    has = [{ids.get(name) for name, _ in some} for some in labels_by_row]
    if kind == CLASSIFICATION:
        return [row.pop() for row in has], errors
    marks = [
        [some.get(name) for name in names] if isinstance(some, dict) else [id_ in row for id_ in ids.values()]
        for some, row in zip(labels, has)
    ]
    return [tuple(UNKNOWN if mark is None else int(mark) for mark in row) for row in marks], errors


def raise_errors(errors: Sequence[str], fix: str = "", skip: bool = False) -> None:
    """Raise a UserError with the first errors, the number of further ones, and the fix, if there are errors.

    Args:
        errors: the location and the error of each invalid row.
        skip: whether to log warnings instead, because invalid rows are dropped.
    """
    more = [f"and {len(errors) - MOST_ERRORS:,} more"] if len(errors) > MOST_ERRORS else []
    lines = [*errors[:MOST_ERRORS], *more]
    if lines and not skip:
        raise UserError(*lines, *([fix] if fix else []))
    for line in lines:
        logger.warning("dropped: %s", line)


def _select_items(indices: Sequence[int], column: Sequence[T]) -> list[T]:
    """Return the items of a column at these row indices."""
    return [column[number] for number in indices]


def _normalize_name(label: Any) -> tuple[str, Any]:
    """Return the normalized name of a label, "" if its type is invalid, and the label as a Python value."""
    name = normalize_label(str(label)) if isinstance(label, str | Real | np.bool_) else ""
    return name, label.item() if hasattr(label, "item") else label
