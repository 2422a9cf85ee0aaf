"""Tables of the user's own: --train_set of run_classifier.py is a folder of them, or one without --dev_set.

A folder holds train.en.tsv, dev.en.tsv, dev.de.csv, test.de.tsv.gz, ... All training files are trained on,
the dev files select the best step, and the test files are reported at it. Without a dev file, some of the
training rows are held out. Their rows may have numbers, or several labels.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie_m.finetune.base_task import SupervisedTask
from ernie_m.finetune.flags import ClassifierFlags
from ernie_m.finetune.prediction import TaskFile
from ernie_m.finetune.tasks.classification import Classification
from ernie_m.finetune.tasks.multi_label import MultiLabelClassification
from ernie_m.finetune.tasks.regression import Regression
from ernie_m.reader.check_labels import FEW_ROWS, check_labels, count_labels
from ernie_m.reader.classification import Examples, SomeExamples
from ernie_m.reader.files.own_files import find_tables
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger
from ernie_m.utils.text_tables import in_columns

_SEED = 1  # for the draw of the rows that are held out


class OwnTables(NamedTuple):
    """What a run reads.

    Attributes:
        paths: the training files.
        train_set: their rows, but for those that are held out.
        dev_files: the dev files or the rows that are held out, then the test files.
    """

    paths: list[Path]
    train_set: SomeExamples
    dev_files: list[TaskFile]


def task_of_other_labels(flags: ClassifierFlags) -> type[Classification]:
    """The task of rows that have a number (--is_regression true), or any number of labels (--multi_label)."""
    return Regression if flags.is_regression else MultiLabelClassification


def read_own_tables(task: Classification, flags: ClassifierFlags) -> OwnTables:
    """Find, read and check the tables of --train_set.

    Raises:
        UserError: there is no training file, a file is malformed, or two do not belong together.
    """
    source = Path(flags.train_set)
    files = find_tables(source, Path(flags.checkpoints))
    train_files = [file for file in files if file.split == "train"]  # they come first
    tables = task.read_tables([file.path for file in train_files])
    dev_files = []
    if flags.do_val and not flags.dev_set:
        for path, split, language in files[len(train_files) :]:  # dev, then test
            pattern = f"{source}/{split}.%s"
            dev_files.append(TaskFile(pattern, language, path, task.read(path, "dev")))

    # Hold rows out if no dev file selects a step.
    is_held_out = [np.zeros(len(table), bool) for table in tables]
    if flags.do_val and not flags.dev_set and not any(file.split == "dev" for file in files):
        is_held_out = rows_to_hold_out(tables, task.labels, flags.dev_share)
        pattern = f"held out of {source}"
        held_out = []
        for file, table, is_row_held_out in zip(train_files, tables, is_held_out):
            if is_row_held_out.any():
                rows = SomeExamples([table], np.flatnonzero(is_row_held_out))
                held_out.append(TaskFile(pattern, file.language, file.path, rows))
        if not held_out:
            raise UserError(
                f"{source}: too few rows to hold some out; add a dev file, or train without one: "
                "--do_val false --do_test false"
            )
        dev_files = held_out + dev_files
    train_set = SomeExamples(tables, np.flatnonzero(~np.concatenate(is_held_out)))
    return OwnTables([file.path for file in train_files], train_set, dev_files)


def rows_to_hold_out(tables: Sequence[Examples], labels: Sequence[str], share: float) -> list[np.ndarray]:
    """Choose dev rows from each table: a share of the texts of each label, at least one.

    Rows with the same text stay together. A label with fewer than `FEW_ROWS` texts stays with the training
    rows. Files whose rows are translations of each other are divided at the same rows.

    Returns:
        for each table whether a row is held out, bool [N].
    """
    counts: Counter[str] = Counter()
    for table in tables:
        counts.update(count_labels(table.targets, table.labels_of))
    # In the order of the ids, so that the draw is the same whatever the labels are called.
    places = Counter({label: place for place, label in enumerate(labels)})
    held_out = []
    for table in tables:
        # Each text counts once, with the rarest label of its first row; "": it has none.
        _, first_rows, text_of_row = np.unique(table.inputs, return_index=True, return_inverse=True)
        texts_of: dict[str, list[int]] = {}  # label -> numbers of texts
        for text in np.argsort(first_rows).tolist():  # in the order of the file
            names: Sequence[str] = ()
            if len(table.targets):
                target = table.targets[first_rows[text]]
                names = table.labels_of[target]
            by_id = sorted(names, key=places.__getitem__)  # so that the first of equally rare ones is taken
            rarest = min(by_id, key=counts.__getitem__, default="")
            texts_of.setdefault(rarest, []).append(text)
        random = np.random.Generator(np.random.Philox(_SEED))
        chosen: list[int] = []
        for label in sorted(texts_of, key=places.__getitem__):
            texts = texts_of[label]
            if len(texts) >= FEW_ROWS:
                count = max(1, round(share * len(texts)))
                chosen += random.choice(texts, count, replace=False).tolist()
        held_out.append(np.isin(text_of_row, chosen))
    return held_out


def check_rows(
    task: SupervisedTask,
    name: str,
    train_set: Sequence[Any],
    dev_files: Sequence[TaskFile],
    test_files: Sequence[TaskFile],
) -> None:
    """Warn of what is odd about the rows of a run, or cut, and log how often each label occurs.

    Args:
        name: what the rows to train on are called.
        train_set: these; none: nothing is trained.
    """
    counts: dict[str, Counter[str]] = {}  # column of a table -> label -> number of rows
    has_labels = isinstance(task, Classification)
    for path, data in [(name, train_set), *((file.path, file.data) for file in (*dev_files, *test_files))]:
        if data:
            task.warn_of_texts(path, data)
    trained = task.inputs(train_set) if train_set and (has_labels or dev_files or test_files) else None
    if has_labels and train_set and len(train_set.targets):
        counts["train"] = count_labels(train_set.targets, train_set.labels_of)
        for file in dev_files:
            column = counts.setdefault(file.pattern, Counter())
            column.update(count_labels(file.data.targets, file.data.labels_of))
        lines = [["label", *counts]]
        for label in task.labels:
            lines.append([label, *(f"{column[label]:,}" for column in counts.values())])
        logger.info(f"labels\n{in_columns(lines)}")
        selecting = counts[dev_files[0].pattern] if dev_files else None
        faults = check_labels(
            trained, train_set.targets, train_set.place, counts["train"], selecting, task.labels
        )
        for fault in faults:
            logger.warning("%s: %s", name, fault)
    for file in (*dev_files, *test_files):
        rows = (file.data.targets, file.data.place) if has_labels else ((), str)
        for fault in check_labels(task.inputs(file.data), *rows, trained_inputs=trained):
            logger.warning("%s: %s", file.path, fault)
