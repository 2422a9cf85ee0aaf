"""Turn public data sets into the layout of the official scripts, ./data/<task>.

    ernie-m prepare xnli|pawsx|conll|panx|mlqa|pairs SOURCE

A source is a file, or a folder that is searched with its sub-folders. docs/data.md and docs/tasks.md
list the names of files that are known, and what is written.
"""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ernie_m.data.own_pairs import prepare_pairs
from ernie_m.data.prepare.conll_panx import TAGGED
from ernie_m.data.prepare.data_set import SPLITS, DataFile, DataSet, Prepared
from ernie_m.data.prepare.mlqa import MLQA
from ernie_m.data.prepare.xnli_pawsx import PAWSX, XNLI
from ernie_m.reader.files.own_files import files_in
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.label_map import write_places
from ernie_m.utils.errors import UserError, command_name, listed, say
from ernie_m.utils.files import atomic_file, only_writer_of
from ernie_m.utils.logging import setup_console
from ernie_m.utils.options import option, parse_options
from ernie_m.utils.text_tables import in_columns

DATA_SETS = {"xnli": XNLI, "pawsx": PAWSX, "conll": TAGGED, "panx": TAGGED, "mlqa": MLQA}


@dataclass
class PrepareFlags(TableOptions):
    """What to prepare, and where to write it."""

    task: Literal["xnli", "pawsx", "conll", "panx", "mlqa", "pairs"] = option(positional=True)
    """The data set, or your own sentence pairs (pairs)."""

    sources: list[str] = option(positional=True)
    """Files or folders; of two files for the same, the first counts."""

    output: str | None = option(None, needed=True)
    """The folder to write. Default: data/<task>."""

    model: str | None = None
    """pairs: the model that will be trained on them, whose vocabulary must have their languages."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["own"]:
        raise UserError(
            f"prepare own: own tables need no preparing; {command_name()} fit {shlex.join(words[1:2])} "
            "--model MODEL --output FOLDER learns from them"
        )
    flags = parse_options(PrepareFlags, words, __name__)
    setup_console()
    output = Path(flags.output or f"data/{flags.task}")
    with only_writer_of(output):
        write_data(flags, output)


def write_data(flags: PrepareFlags, output: Path) -> None:
    """Prepare the sources of the flags, while no other command writes the folder."""
    if flags.task == "pairs":
        prepare_pairs(flags.sources, output, flags.model, flags)
        return
    sources = [Path(source) for source in flags.sources]
    data_set = DATA_SETS[flags.task]
    written: dict[tuple[str, str], Prepared] = {}  # (split, language) -> what was written
    for file in find_files(data_set, sources, output):
        say(f"reading {file.path}")
        for prepared in data_set.read(file._replace(options=flags)):
            key = (file.split, prepared.language)
            path = output / file.split / f"{file.split}.{prepared.language}.{data_set.ending}"
            if key in written:
                say(f"not used: {file.split} {prepared.language} is there already")
                continue
            with atomic_file(path) as target:
                target.write(prepared.content)
            written[key] = prepared._replace(content=b"")  # it is on disk
    written = {key: written[key] for key in sorted(written, key=data_set.place)}
    write_maps(data_set, output, written)
    say("", table(written), "", f"written to {output}")


def table(written: Mapping[tuple[str, str], Prepared]) -> str:
    """What was written: a row for each split and language, and a column for each thing that was counted."""
    # In the order in which they occur.
    columns = [*dict.fromkeys(column for prepared in written.values() for column in prepared.counts)]
    rows = [["split", "language", *columns]]
    for (split, language), prepared in written.items():
        counts = [f"{prepared.counts.get(column, 0):,}" for column in columns]
        rows.append([split, language, *counts])
    return in_columns(rows)


def find_files(data_set: DataSet, sources: Iterable[Path], output: Path) -> list[DataFile]:
    """The files in the sources whose names are known. Files below `output` are left out.

    Raises:
        UserError: a source does not exist, or has no such file.
    """
    files = []
    for source in sources:
        known = {path: data_set.recognise(path) for path in files_in(source, output)}
        files_of_source = [file for file in known.values() if file is not None]
        unread = [str(path) for path, file in known.items() if file is None]
        if unread:
            say(f"not read, as their names are not known: {listed(unread, 10)}")
        if not files_of_source:
            raise UserError(
                f"{source}: no file there has a known name; docs/data.md and docs/tasks.md list them"
            )
        files += files_of_source
    return files


def write_maps(data_set: DataSet, output: Path, written: Mapping[tuple[str, str], Prepared]) -> None:
    """Write lang_map.json for dev and test and for XQuAD, label_map.json, and train.all.tsv.

    Args:
        written: (split, language) -> what was written.
    """
    languages = {split: [language for part, language in written if part == split] for split in SPLITS}
    # Those that have both a dev and a test file; if none has both, those with a dev file, and if none has
    # that, those with a test file.
    in_both = [language for language in languages["dev"] if language in languages["test"]]
    evaluated = in_both or languages["dev"] or languages["test"]
    if evaluated:
        write_places(output / "lang_map.json", evaluated)
    if set(languages["test"]) - set(evaluated):  # languages without dev files
        write_places(output / "test" / "lang_map.json", languages["test"])
    if languages["xquad"]:
        write_places(output / "xquad" / "lang_map.json", languages["xquad"])
    labels = {label for prepared in written.values() for label in prepared.labels}
    if not labels:  # questions have none
        return
    names = data_set.label_names(labels)
    write_places(output / "label_map.json", names)
    say(f"--num_labels is {len(names)}")
    if len(languages["train"]) > 1:
        join_training_files(output / "train", languages["train"])


def join_training_files(folder: Path, languages: Sequence[str]) -> None:
    """Write train.all.tsv: the header of the first language, and the rows of all.

    Some files have a last column, qid, that others do not have. Then it is left out.
    """
    paths = [folder / f"train.{language}.tsv" for language in languages]
    widths = []
    for path in paths:
        with open(path, "rb") as file:
            widths.append(len(file.readline().split(b"\t")))
    with atomic_file(folder / "train.all.tsv") as joint:
        for number, path in enumerate(paths):
            lines = path.read_bytes().splitlines()
            for line in lines[number > 0 :]:  # the header of the first language stays
                joint.write(b"\t".join(line.split(b"\t")[: min(widths)]) + b"\n")
