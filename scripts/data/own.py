"""Labelled texts of the user's own, in the layout that the recipe "own" reads: ./data/own.

The sources hold train.en.tsv, dev.en.tsv, dev.de.csv, test.de.tsv.gz, ..., or are one file with any name.
Each row has a text, perhaps a second text, and a label; or more columns, below a header. Without dev files a
part of the training rows becomes one.

train/train.en.tsv, dev/dev.de.tsv, ...    the same rows below a header
train/train.all.tsv                        those of all training files, if there are several
label_map.json                             the labels in alphabetical order
lang_map.json                              the languages that have a dev file
test/lang_map.json                         those that have a test file
"""

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.labels import input_hash, oddities, overlap, split_labels
from reader.tables import LabelledTable, is_number, read_table
from reader.task_files import ALL_LANGUAGES, write_places
from utils.errors import UserError
from utils.files import atomic_file
from utils.tables import in_columns

SPLITS = ("train", "dev", "test")
_FILE_NAME = re.compile(r"(?P<split>train|dev|test)[.-](?P<language>[^.]+)\.(tsv|csv)(\.gz)?")
_ENDINGS = ("tsv", "csv", "tsv.gz", "csv.gz")
_FEW_ROWS = 3  # a label with fewer training rows may be a slip, and is hardly learned
_SEED = 1  # for the draw of dev rows
_MOST_ITEMS = 10  # so many warnings, or files that are not read, are printed; then only their number


class OwnFile(NamedTuple):
    """An input file."""

    path: Path
    split: str
    language: str

    def target(self, output: Path) -> Path:
        """The file that is written for it."""
        return output / self.split / f"{self.split}.{self.language}.tsv"


def prepare_own(
    sources: Sequence[Path],
    output: Path,
    columns: Sequence[str] = (),
    dev_share: float = 0.1,
    multi_label: bool = False,
) -> None:
    """Check all files of the sources, then write them, and print what they have.

    Args:
        columns: the names of the columns: text, perhaps second text, label; none: they are found
            (`find_text_and_label`).
        dev_share: how many of the training rows become dev rows, if there is no dev file.
        multi_label: see `LabelledTable`.

    Raises:
        UserError: there is no training file, a file is malformed, or `output` has files of other sources.
    """
    tables = {file: read_table(file.path, columns, multi_label) for file in find_files(sources, output)}
    check_columns(tables)
    labels = sorted(labels_of_training(tables))
    check_first_rows(tables)
    check_labels(tables, labels)
    if not any(file.split == "dev" for file in tables):
        tables = with_dev_rows(tables, dev_share)
    files = list(tables)
    refuse_earlier_files(output, files)
    for file, table in tables.items():
        write_rows(file.target(output), [table])
    training = [table for file, table in tables.items() if file.split == "train"]
    if len(training) > 1:
        write_rows(output / "train" / "train.all.tsv", training)
    write_places(output / "label_map.json", labels)
    write_language_maps(output, files)
    print("", table_of_files(tables), "", table_of_labels(tables, labels), "", sep="\n")
    if warnings := [*warnings_of_rows(tables), *warnings_of_labels(tables, labels)]:
        print(listed(warnings, "\n"))
    print(f"--num_labels is {len(labels)}", f"written to {output}", "", sep="\n")
    flags = " --multi_label true" if multi_label else ""
    print("next:", *next_commands(output, files, flags), sep="\n")


def find_files(sources: Sequence[Path], output: Path) -> list[OwnFile]:
    """The files in the sources whose names are known, by split and language; English is first.

    A source that is a file may have any name; its language is then "all". Files below `output` are passed
    over. Files that are not used are named on the console.

    Raises:
        UserError: a source does not exist, there is no training file, or two training files have no language.
    """
    files: dict[tuple[str, str], OwnFile] = {}  # (split, language) -> file
    unread: dict[str, list[str]] = {}  # why -> files
    for source in sources:
        for path in files_in(source, output):
            match = _FILE_NAME.fullmatch(path.name)
            fault = fault_of_name(path.name, match)
            if not fault:
                file = OwnFile(path, match["split"], match["language"])
            elif path == source and path.name.lower().endswith(_ENDINGS):
                known_split = re.match(rf"({'|'.join(SPLITS)})(?![a-z])", path.name)  # not devices.csv
                file = OwnFile(path, known_split[0] if known_split else "train", ALL_LANGUAGES)
            else:
                unread.setdefault(fault, []).append(str(path))
                continue
            used = files.setdefault((file.split, file.language), file)  # the first of several is used
            if used != file and file.language == ALL_LANGUAGES:
                raise UserError(f"{path}: {used.path} is the {file.split} file; put all rows into one file")
            if used != file:
                print(f"not used: {path}; {file.split} {file.language} is {used.path}")
    for fault, paths in unread.items():
        print(f"not read: {listed(paths, ', ')} ({fault})")
    training = [file for file in files.values() if file.split == "train"]
    if not training:
        raise UserError(
            f"{', '.join(map(str, sources))}: no training file there, such as train.en.tsv; "
            "docs/data.md lists the names under Your own labels"
        )
    if len(training) > 1 and ("train", ALL_LANGUAGES) in files:  # its file would be that of all languages
        raise UserError(
            f"{files['train', ALL_LANGUAGES].path}: beside other training files its name needs the language, "
            "as in train.en.csv"
        )
    return sorted(files.values(), key=_order)


def files_in(source: Path, output: Path) -> list[Path]:
    """The files in a folder and its sub-folders, in alphabetical order; or the one file that is the source.

    Args:
        output: a folder whose files are left out: an earlier call wrote them.

    Raises:
        UserError: there is no such source.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.is_file())
    return [path for path in paths if output.resolve() not in path.resolve().parents]


def listed(items: Sequence[str], separator: str) -> str:
    """The first items, and how many more there are."""
    shown = list(items[:_MOST_ITEMS])
    if len(items) > _MOST_ITEMS:
        shown.append(f"and {len(items) - _MOST_ITEMS:,} more")
    return separator.join(shown)


def fault_of_name(name: str, match: re.Match | None) -> str:
    """Why the name of a file says that it is not to be read, or "". `match`: of `_FILE_NAME`."""
    if not name.lower().endswith(_ENDINGS):
        return f"a name ends in .{', .'.join(_ENDINGS)}"
    if match is None:
        return "a name is train, dev or test with a language, as in train.en.tsv"
    if not re.fullmatch("[a-z]{2,3}", match["language"]) or match["language"] == ALL_LANGUAGES:
        return "a language has two or three small letters, as in train.en.tsv"
    return ""


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


def with_dev_rows(tables: Mapping[OwnFile, LabelledTable], share: float) -> dict[OwnFile, LabelledTable]:
    """Take a dev file out of each training file: a share of the texts of each label, at least one.

    Rows with the same text stay together. A label with fewer than `_FEW_ROWS` texts stays in the training
    file. Files whose rows are translations of each other are divided at the same rows.
    """
    divided: dict[OwnFile, LabelledTable] = {}
    for file, table in tables.items():
        if file.split != "train":
            divided[file] = table
            continue
        counts = count_labels({file: table}, "train")
        label_of: dict[tuple[str, ...], str] = {}  # texts -> the rarest label of their first row
        for (*texts, _), labels in zip(table.rows, table.labels()):
            label_of.setdefault(tuple(texts), min(labels, key=counts.get, default=""))
        texts_of: dict[str, list[tuple[str, ...]]] = {}
        for texts, label in label_of.items():
            texts_of.setdefault(label, []).append(texts)
        random = np.random.Generator(np.random.Philox(_SEED))
        held_out: set[tuple[str, ...]] = set()
        for _, all_texts in sorted(texts_of.items()):
            if share and len(all_texts) >= _FEW_ROWS:
                count = max(1, round(share * len(all_texts)))
                held_out.update(all_texts[i] for i in random.choice(len(all_texts), count, replace=False))
        is_held_out = np.array([tuple(cells[:-1]) in held_out for cells in table.rows])
        divided[file] = table.part(np.flatnonzero(~is_held_out))
        if held_out:
            divided[file._replace(split="dev")] = table.part(np.flatnonzero(is_held_out))
    return dict(sorted(divided.items(), key=lambda item: _order(item[0])))


def check_columns(tables: Mapping[OwnFile, LabelledTable]) -> None:
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


def labels_of_training(tables: Mapping[OwnFile, LabelledTable]) -> set[str]:
    """The labels of the training files.

    Raises:
        UserError: there are so many that they are hardly labels, or there is one alone.
    """
    counts = count_labels(tables, "train")
    paths = ", ".join(str(file.path) for file in tables if file.split == "train")
    if 2 * len(counts) > counts.total():  # on average a label has fewer than two rows
        question = "is the last column the label?"
        if all(map(is_number, counts)):
            question = "to predict numbers, see Regression in docs/finetune.md"
        raise UserError(f"{paths}: {len(counts):,} labels in {counts.total():,} rows; {question}")
    if len(counts) == 1:
        raise UserError(f"{paths}: the only label is '{next(iter(counts))}'; give rows with another one, too")
    return set(counts)


def count_labels(tables: Mapping[OwnFile, LabelledTable], split: str) -> Counter[str]:
    """How often each label occurs in the files of a split."""
    counts: Counter[str] = Counter()
    for file, table in tables.items():
        if file.split == split:
            counts.update(chain.from_iterable(table.labels()))
    return counts


def check_first_rows(tables: Mapping[OwnFile, LabelledTable]) -> None:
    """Refuse a first row that seems to be a header with names that are not known.

    Raises:
        UserError: its label occurs nowhere but in such rows.
    """
    known: set[str] = set()
    for table in tables.values():
        first_row = 0 if table.has_header else 1  # without a header, row 0 may be one of unknown names
        known.update(*table.labels()[first_row:])
    for file, table in tables.items():
        labels = table.labels()[0]
        if labels and not known.intersection(labels):
            label = ",".join(labels)[:30]
            raise UserError(
                f"{file.path}, line {table.lines[0]}: the label '{label}' occurs in no other row. If "
                "the line is a header, name its columns text_a, text_b and label; if not, put such a header "
                "above it"
            )


def check_labels(tables: Mapping[OwnFile, LabelledTable], labels: Sequence[str]) -> None:
    """Check that every row has one of the labels of the training files.

    Raises:
        UserError: a row has another; names the line.
    """
    known = set(labels)
    for file, table in tables.items():
        for number, labels_of_row in zip(table.lines, table.labels()):
            for label in labels_of_row:
                if label not in known:
                    raise UserError(
                        f"{file.path}, line {number}: label '{label[:30]}' is in no training file "
                        f"({listed(labels, ', ')})"
                    )


def warnings_of_rows(tables: Mapping[OwnFile, LabelledTable]) -> list[str]:
    """What is odd about the rows: training rows that contradict each other, or that are evaluated on."""
    hashes = {}
    for file, table in tables.items():
        hashes[file] = np.array([input_hash(*texts) for *texts, _ in table.rows], np.int64)
    training = [file for file in tables if file.split == "train"]
    warnings = []
    for file in training:
        label_hashes = [hash(tuple(sorted(labels))) for labels in tables[file].labels()]
        faults = oddities(hashes[file], np.array(label_hashes, np.int64), tables[file].lines)
        warnings += [f"warning: {file.path}: {fault}" for fault in faults]
    trained = np.concatenate([hashes[file] for file in training])
    for file in tables:
        if file.split != "train":
            fault = overlap(trained, hashes[file])
            if fault:
                warnings.append(f"warning: {file.path}: {fault}")
    return warnings


def warnings_of_labels(tables: Mapping[OwnFile, LabelledTable], labels: Sequence[str]) -> list[str]:
    """What is odd about the labels of the training files, which may be misspelt."""
    trained = count_labels(tables, "train")
    evaluated = count_labels(tables, "dev")
    warnings = []
    same: dict[str, list[str]] = {}  # a label in small letters -> the labels that are equal to it in these
    for label in labels:
        same.setdefault(label.casefold(), []).append(f"'{label}'")
    for group in same.values():
        if len(group) > 1:
            warnings.append(f"warning: the labels {', '.join(group)} differ only in case")
    for label in labels:
        parts = split_labels(label)
        if label not in parts and not set(parts).isdisjoint(labels):
            warnings.append(f"warning: if '{label}' are several labels of a text, add --multi_label true")
            break  # the first such label is an example enough
    absent = [f"'{label}'" for label in labels if label not in evaluated]
    if evaluated and absent:
        warnings.append(
            f"warning: no dev row has one of these labels, so no score covers them: {listed(absent, ', ')}"
        )
    rare = [label for label in labels if trained[label] < _FEW_ROWS]
    for number, label in enumerate(rare):
        occurs = ("never occurs", "occurs once", "occurs twice")[trained[label]]
        advice = ""
        if number < _MOST_ITEMS:  # no more are printed
            larger_labels = [name for name in labels if trained[name] > trained[label]]
            for similar in difflib.get_close_matches(label, larger_labels, n=1, cutoff=0.8):
                advice = f"; did you mean '{similar}'?"
        warnings.append(f"warning: the label '{label}' {occurs} in the training files{advice}")
    return warnings


def write_rows(path: Path, tables: Sequence[LabelledTable]) -> None:
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


def table_of_files(tables: Mapping[OwnFile, LabelledTable]) -> str:
    """A line for each file."""
    lines = [["split", "language", "rows"]]
    for file, table in tables.items():
        lines.append([file.split, file.language, f"{len(table.rows):,}"])
    return in_columns(lines)


def table_of_labels(tables: Mapping[OwnFile, LabelledTable], labels: Sequence[str]) -> str:
    """How often each label occurs: a line for each label, a column for each split."""
    splits = dict.fromkeys(file.split for file in tables)  # each once, in order
    counts = {split: count_labels(tables, split) for split in splits}
    lines = [["label", *splits]]
    for label in labels:
        lines.append([label, *(f"{counts[split][label]:,}" for split in splits)])
    return in_columns(lines)


def next_commands(output: Path, files: Sequence[OwnFile], flags: str) -> list[str]:
    """The commands that train on the files that were written, with `flags`."""
    train = f"sh scripts/base/own.sh{flags}"
    if output != Path("data/own"):
        train = f"OWN_DATA={shlex.quote(str(output))} {train}"
    result = "output/own/best"
    if not any(file.split == "dev" for file in files):
        train += " --do_val false"
        result = "output/own/step_<n>"
    languages = [file.language for file in files if file.split == "train"]
    commands = []
    if not Path("configs/base/params").exists():
        commands.append("sh scripts/data/get_weights.sh vocab base    # the released weights")
    commands.append(f"{train}    # trains on {languages[0]}; the model is {result}")
    if len(languages) > 1:
        joint = shlex.quote(str(output / "train" / "train.all.tsv"))
        commands.append(f"{train} --train_set {joint}    # trains on all {len(languages)} languages")
    return commands
