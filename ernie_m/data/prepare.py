"""Convert public data sets to the layout of the official scripts, data/<task>, or prepare sentence pairs.

ernie-m prepare xnli|pawsx|conll|panx|mlqa|pairs SOURCE

Directories are searched recursively. File names and output are described in docs/data.md and docs/tasks.md.
"""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from ernie_m.data.data_sets import DATA_SETS, RENAMED, WRITTEN, DataSet
from ernie_m.data.prepare_pairs import prepare_pairs
from ernie_m.reader.files.find_files import NamedFile, find_files, parse_file_name
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.labels import write_indices
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, get_command_name, join_items, say
from ernie_m.utils.files import atomic_file, lock_for_writing
from ernie_m.utils.logging import format_columns, setup_console

# (split, language) -> column of the printed table, such as "rows" -> its value.
Counts = dict[tuple[str, str], Mapping[str, int]]


@dataclass
class PrepareFlags(TableOptions):
    """Command-line options of `ernie-m prepare`."""

    task: Literal["xnli", "pawsx", "conll", "panx", "mlqa", "pairs"] = option(positional=True)
    """Data set to prepare, or pairs for custom sentence pairs."""

    sources: list[str] = option(positional=True)
    """Files or directories; if several have the same split and language, the first is used."""

    output: str | None = option(None, needed=True)
    """Output directory (default: data/<task>)."""

    model: str | None = None
    """Model to train on the pairs, whose vocabulary must cover their languages."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ernie-m prepare`: convert the sources of the command line, and print a table of the output."""
    words = sys.argv[1:] if arguments is None else arguments
    flags = parse_options(PrepareFlags, words, __name__)
    setup_console()
    output = Path(flags.output or f"data/{flags.task}")
    with lock_for_writing(output):
        write_data(flags, output)


def write_data(flags: PrepareFlags, output: Path) -> None:
    """Convert the sources in the options, and print a table of the output; requires the lock of `output`."""
    if flags.task == "pairs":
        prepare_pairs(flags.sources, output, flags.model, flags)
        return
    data_set = DATA_SETS[flags.task]
    counts: Counts = {}
    labels: set[str] = set()
    for file in find_data_set_files(data_set, map(Path, flags.sources), output):
        say(f"reading {file.path}")
        for prepared in data_set.read(file, flags):
            key = (file.split, prepared.language)
            if key in counts:
                say(f"skipped: {file.split} {prepared.language} already exists")
                continue
            with atomic_file(output / file.split / f"{'.'.join(key)}.{data_set.ending}") as target:
                target.write(prepared.content)
            counts[key] = prepared.counts
            labels.update(prepared.labels)
    counts = {key: counts[key] for key in sorted(counts, key=data_set.sort_key)}
    write_maps(output, list(counts), data_set.label_names(labels) if labels else ())
    say("", format_counts(counts), "", f"written to {output}")


def format_counts(counts: Counts) -> str:
    """Format the counts of the output as a table, with a row per split and language."""
    columns = dict.fromkeys(chain.from_iterable(counts.values()))  # in order of occurrence
    rows = [[*key, *(f"{of_file.get(column, 0):,}" for column in columns)] for key, of_file in counts.items()]
    return format_columns([["split", "language", *columns], *rows])


def find_data_set_files(data_set: DataSet, sources: Iterable[Path], output: Path) -> list[NamedFile]:
    """Find the files of a public data set in the sources by their names.

    Args:
        output: a directory whose files are excluded.

    Raises:
        UserError: a source does not exist, or has no file with a known name.
    """
    files = []
    for source in sources:
        known = {
            path: parse_file_name(Path(path), data_set.names, RENAMED)
            for path in find_files(source, recursive=True, excluded=output)
        }
        files_of_source = [file for file in known.values() if file is not None]
        unread = [path for path, file in known.items() if file is None]
        if unread:
            say(f"skipped files with unknown names: {join_items(unread, 10)}")
        if not files_of_source:
            raise UserError(
                f"{source}: no file with a known name (see docs/data.md and docs/tasks.md). Unpack archives, "
                f"or pass a file of your own to {get_command_name()} fit"
            )
        files += files_of_source
    return files


def write_maps(output: Path, written: Collection[tuple[str, str]], labels: Sequence[str]) -> None:
    """Write lang_map.json for dev and test files and for XQuAD, label_map.json, and train.all.tsv.

    Args:
        written: the (split, language) of each output file.
        labels: the labels in the order of their ids; empty for questions.
    """
    languages = {split: [language for part, language in written if part == split] for split in WRITTEN}
    # Languages with both a dev and a test file; if there are none, those with a dev file, or else those with
    # a test file.
    in_both = [language for language in languages["dev"] if language in languages["test"]]
    evaluated = in_both or languages["dev"] or languages["test"]
    maps = {"lang_map.json": evaluated, "xquad/lang_map.json": languages["xquad"], "label_map.json": labels}
    if set(languages["test"]) - set(evaluated):  # languages without dev files
        maps["test/lang_map.json"] = languages["test"]
    for name, columns in maps.items():
        if columns:
            write_indices(output / name, columns)
    if labels:
        say(f"for fine-tuning: --num_labels {len(labels)}")
        if len(languages["train"]) > 1:
            join_training_files(output / "train", languages["train"])


def join_training_files(folder: Path, languages: Sequence[str]) -> None:
    """Concatenate the training files of all languages into train.all.tsv, with one header.

    If only some files have a last column qid, the column is dropped.
    """
    with ExitStack() as stack, atomic_file(folder / "train.all.tsv") as joint:
        files = [stack.enter_context(open(folder / f"train.{name}.tsv", "rb")) for name in languages]
        headers = [file.readline() for file in files]
        width = min(header.count(b"\t") for header in headers) + 1
        for line in chain(headers[:1], *files):
            joint.write(b"\t".join(line.removesuffix(b"\n").split(b"\t")[:width]) + b"\n")
