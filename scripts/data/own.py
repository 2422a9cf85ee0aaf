"""Labelled texts of the user's own, in the layout that scripts/base/own.sh reads: ./data/own.

The sources hold train.en.tsv, dev.en.tsv, dev.de.tsv, test.de.tsv, ... Each line has a text, perhaps a second
text, and a label, with tabs between.

train/train.en.tsv, dev/dev.de.tsv, ...    the same rows below a header
train/train.all.tsv                        those of all training files, if there are several
label_map.json                             the labels in alphabetical order
lang_map.json                              the languages that have a dev file
test/lang_map.json                         those that have a test file
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from reader.bitext import Sentences
from reader.task_files import write_places
from scripts.data.sources import files_in
from utils.errors import UserError
from utils.files import atomic_file
from utils.tables import in_columns

SPLITS = ("train", "dev", "test")
_FILE_NAME = re.compile(r"(?P<split>train|dev|test)[.-](?P<language>[a-z]{2})\.tsv")
_COLUMNS = {2: ("text_a", "label"), 3: ("text_a", "text_b", "label")}  # number of columns -> their names
_MOST_NAMES = 10  # that are printed of files that are not read


class OwnFile(NamedTuple):
    """An input file."""

    path: Path
    split: str
    language: str

    def target(self, output: Path) -> Path:
        """The file that is written for it."""
        return output / self.split / f"{self.split}.{self.language}.tsv"


class OwnTable(NamedTuple):
    """What a file holds.

    Attributes:
        columns: their names.
        rows: the cells of each line except the header.
        first_line: the number of the line of the first row.
    """

    columns: Sequence[str]
    rows: list[list[str]]
    first_line: int

    def labels(self) -> list[str]:
        """The label of each row."""
        return [cells[-1] for cells in self.rows]


def prepare_own(sources: Sequence[Path], output: Path) -> None:
    """Check all files of the sources, then write them, and print what they have.

    Raises:
        UserError: there is no training file, a file is malformed, or `output` has files of other sources.
    """
    files = find_files(sources, output)
    refuse_earlier_files(output, files)
    tables = {file: read_own(file.path) for file in files}
    check_columns(tables)
    labels = sorted(labels_of_training(tables))
    check_labels(tables, labels)
    for file, table in tables.items():
        write_rows(file.target(output), [table])
    training = [table for file, table in tables.items() if file.split == "train"]
    if len(training) > 1:
        write_rows(output / "train" / "train.all.tsv", training)
    write_places(output / "label_map.json", labels)
    write_language_maps(output, files)
    print("", table_of_files(tables), "", table_of_labels(tables, labels), "", sep="\n")
    print(f"--num_labels is {len(labels)}", f"written to {output}", sep="\n")
    if not any(file.split == "dev" for file in files):
        print(
            "no dev file: add --do_val false to sh scripts/base/own.sh; the model is then output/own/step_<n>"
        )


def find_files(sources: Sequence[Path], output: Path) -> list[OwnFile]:
    """The files in the sources whose names are known, by split and language; English is first.

    Files below `output` are passed over. Files that are not used are named on the console.

    Raises:
        UserError: a source does not exist, or there is no training file.
    """
    files: dict[tuple[str, str], OwnFile] = {}  # (split, language) -> file
    unread = []
    for source in sources:
        for path in files_in(source, output):
            match = _FILE_NAME.fullmatch(path.name)
            if not match:
                unread.append(str(path))
                continue
            split = match["split"]
            language = match["language"]
            if (split, language) in files:
                print(f"not used: {path}; {split} {language} is {files[split, language].path}")
            else:
                files[split, language] = OwnFile(path, split, language)
    if unread:
        names = ", ".join(unread[:_MOST_NAMES])
        if len(unread) > _MOST_NAMES:
            names += f" and {len(unread) - _MOST_NAMES:,} more"
        print(f"not read: {names}")
    if not any(split == "train" for split, _ in files):
        raise UserError(
            f"{', '.join(map(str, sources))}: no training file there, such as train.en.tsv; "
            "docs/data_layout.md lists the names under Your own labels"
        )
    return sorted(files.values(), key=_order)


def _order(file: OwnFile) -> tuple[int, bool, str]:
    """A sort key."""
    is_other = file.language != "en"  # False is before True, so English is first
    return SPLITS.index(file.split), is_other, file.language


def refuse_earlier_files(output: Path, files: Sequence[OwnFile]) -> None:
    """Refuse a folder with files that this call does not write: they would be trained on, or evaluated.

    Raises:
        UserError: there are such files; names them.
    """
    written = {file.target(output) for file in files}
    if sum(file.split == "train" for file in files) > 1:
        written.add(output / "train" / "train.all.tsv")
    leftovers = []
    for split in SPLITS:
        paths = sorted((output / split).glob(f"{split}.*.tsv"))
        leftovers += [str(path) for path in paths if path not in written]
    if leftovers:
        raise UserError(
            f"{', '.join(leftovers)}: written by an earlier call, and not by this one; remove {output}, or "
            "choose another folder with --output"
        )


def read_own(path: Path) -> OwnTable:
    """Read texts or pairs of texts with labels. A header may name the columns: text_a, text_b, label.

    Raises:
        UserError: the file is not UTF-8, or a line has another form; names it.
    """
    rows = [line.split("\t") for line in Sentences(path).texts()]
    while rows and rows[-1] == [""]:  # blank lines at the end
        rows.pop()
    width = len(rows[0]) if rows else 0
    columns = _COLUMNS.get(width, ())  # (): no file has so many columns, and its first line is an error
    first_line = 1
    if rows and tuple(rows[0]) == columns:
        rows.pop(0)
        first_line = 2
    if not rows:
        raise UserError(f"{path}: no rows in it")
    for number, cells in enumerate(rows, first_line):
        if len(cells) != len(columns) or not all(cell.strip() for cell in cells):
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, or an empty one; each line has a text, "
                "perhaps a second text, and a label, with tabs between"
            )
        cells[-1] = cells[-1].strip()  # a space behind a label would make it another label
    return OwnTable(columns, rows, first_line)


def check_columns(tables: Mapping[OwnFile, OwnTable]) -> None:
    """Refuse single texts in one file and pairs in another.

    Raises:
        UserError: there are both.
    """
    first_file, first_table = next(iter(tables.items()))
    for file, table in tables.items():
        if table.columns != first_table.columns:
            raise UserError(
                f"{file.path}: {len(table.columns)} columns, but {first_file.path} has "
                f"{len(first_table.columns)}"
            )


def labels_of_training(tables: Mapping[OwnFile, OwnTable]) -> set[str]:
    """The labels of the training files.

    Raises:
        UserError: there are so many that they are hardly labels.
    """
    counts: Counter[str] = Counter()
    paths = []
    for file, table in tables.items():
        if file.split == "train":
            counts.update(table.labels())
            paths.append(str(file.path))
    if 2 * len(counts) > counts.total():  # on average a label has fewer than two rows
        raise UserError(
            f"{', '.join(paths)}: {len(counts):,} labels in {counts.total():,} rows; is the last column the "
            "label?"
        )
    return set(counts)


def check_labels(tables: Mapping[OwnFile, OwnTable], labels: Sequence[str]) -> None:
    """Check that every row has one of the labels of the training files.

    Raises:
        UserError: a row has another; names the line.
    """
    for file, table in tables.items():
        for number, label in enumerate(table.labels(), table.first_line):
            if label not in labels:
                raise UserError(
                    f"{file.path}, line {number}: label '{label[:30]}' is in no training file "
                    f"({', '.join(labels)})"
                )


def write_rows(path: Path, tables: Sequence[OwnTable]) -> None:
    """Write the rows of all tables below one header."""
    lines = ["\t".join(tables[0].columns)]
    for table in tables:
        lines += ["\t".join(cells) for cells in table.rows]
    with atomic_file(path) as target:
        target.write("\n".join([*lines, ""]).encode())


def write_language_maps(output: Path, files: Sequence[OwnFile]) -> None:
    """Write lang_map.json for the dev files and test/lang_map.json for the test files."""
    languages: dict[str, list[str]] = {split: [] for split in SPLITS}
    for file in files:
        languages[file.split].append(file.language)
    # own.sh evaluates the languages of lang_map.json. If there is no dev file, these are the languages of the
    # training files, and own.sh says which dev file is missing, unless it has --do_val false.
    write_places(output / "lang_map.json", languages["dev"] or languages["train"])
    if languages["test"]:
        write_places(output / "test" / "lang_map.json", languages["test"])


def table_of_files(tables: Mapping[OwnFile, OwnTable]) -> str:
    """A line for each file."""
    lines = [["split", "language", "rows"]]
    for file, table in tables.items():
        lines.append([file.split, file.language, f"{len(table.rows):,}"])
    return in_columns(lines)


def table_of_labels(tables: Mapping[OwnFile, OwnTable], labels: Sequence[str]) -> str:
    """How often each label occurs: a line for each label, a column for each split."""
    counts: dict[str, Counter[str]] = {}  # split -> label -> number of rows
    for file, table in tables.items():
        counts.setdefault(file.split, Counter()).update(table.labels())
    lines = [["label", *counts.keys()]]
    for label in labels:
        numbers = [f"{counts_of_split[label]:,}" for counts_of_split in counts.values()]
        lines.append([label, *numbers])
    return in_columns(lines)
