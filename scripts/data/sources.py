"""What the prepare_*.py scripts share: they find files by their names, convert each, and write the maps."""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from finetune.report import in_columns
from utils.errors import UserError
from utils.files import atomic_file

SPLITS = ("train", "dev", "test")
ALL = "*"  # the language of a file whose rows name their languages
RENAMED = {
    "valid": "dev", "testa": "dev", "testb": "test",
    "translated_train": "train", "dev_2k": "dev", "test_2k": "test",
    "eng": "en", "deu": "de", "esp": "es", "ned": "nl",
}  # fmt: skip


class DataFile(NamedTuple):
    """One input file, and what it holds."""

    path: Path
    split: str
    language: str


class WrittenFile(NamedTuple):
    """What became of one language of an input file: cells of the printed table, and notes below it."""

    split: str
    language: str
    counts: Mapping[str, int | str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class DataSet:
    """How the files of a public data set are named.

    Attributes:
        output: the folder to write by default.
        languages: in the order of the paper's tables; others follow in alphabetical order.
        names: patterns of the end of a path, with the groups "split" and "language". Without a language the
            file holds all languages; without both it is English training data.
        examples: some names, for the error message.
        ending: of the files that are written.
        skips: whether a file is not used, whatever its name.
    """

    output: str
    languages: Sequence[str]
    names: Sequence[str]
    examples: str
    ending: str = "tsv"
    skips: Callable[[Path], bool] = lambda _: False

    def recognise(self, path: Path) -> DataFile | None:
        """The file with the split and the language that its name says."""
        for pattern in self.names:
            match = re.search(f"/{pattern}$", f"/{path.parent.name}/{path.name}")
            if match and not self.skips(path):
                named = {"split": "train", "language": ALL if "split" in match.re.groupindex else "en"}
                named |= match.groupdict()
                split, language = (RENAMED.get(named[key], named[key]) for key in ("split", "language"))
                return DataFile(path, split, language)
        return None

    def place(self, language: str) -> tuple[int, str]:
        """A sort key for languages."""
        known = language in self.languages
        return self.languages.index(language) if known else len(self.languages), language


def source_parser(description: str, output: str) -> argparse.ArgumentParser:
    """The flags of a script that prepares data."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("sources", nargs="+", help="folders or files; of two for the same, the first counts")
    parser.add_argument("--output", type=Path, default=Path(output), help=f"folder to write ({output})")
    return parser


def find_files(data_set: DataSet, sources: Iterable[str], output: Path) -> list[DataFile]:
    """The files to read, sorted by split and language. Of two for the same, the earlier one counts.

    Args:
        sources: files, folders that are searched with their sub-folders, or <split>.<language>=FILE.
        output: files below this folder are ignored.

    Raises:
        UserError: a source does not exist, or holds no file with a known name.
    """
    chosen: list[DataFile] = []
    for source in sources:
        for file in _search(data_set, source, output.resolve()):
            same = (
                one
                for one in chosen
                if one.split == file.split and (one.language == file.language or ALL in (one[2], file[2]))
            )
            if other := next(same, None):
                print(f"not used: {file.path} ({file.split} {file.language} is taken from {other.path})")
            else:
                chosen.append(file)
    splits = (*SPLITS, "xquad")
    return sorted(chosen, key=lambda file: (splits.index(file.split), data_set.place(file.language)))


def _search(data_set: DataSet, source: str, output: Path) -> list[DataFile]:
    named = re.fullmatch(r"(train|dev|test)\.([a-z]{2,3})=(.+)", source)
    path = Path(named[3] if named else source)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if named:
        return [DataFile(path, named[1], named[2])]
    paths = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    # Of two forms of one text, the table comes before the JSON lines.
    paths.sort(key=lambda one: (one.suffix == ".jsonl", one))
    found = [data_set.recognise(one) for one in paths if output not in one.resolve().parents]
    if not any(found):
        raise UserError(
            f"{path}: no file there has a known name ({data_set.examples}, ...; --help lists them); say what "
            "it is (train.en=FILE), or name another folder"
        )
    return [file for file in found if file]


def prepare(
    data_set: DataSet,
    options: argparse.Namespace,
    convert: Callable[[DataFile, Path], list[WrittenFile]],
    labels: Callable[[list[WrittenFile]], Sequence[str]] | None = None,
) -> list[WrittenFile]:
    """Convert all sources, write the files that the folder has once, and print a table of what was written.

    Args:
        options: of `source_parser`.
        convert: writes <split>/<split>.<language>.<ending> into a folder.
        labels: gives the labels in the order of their ids; then there are label_map.json and, for several
            training languages, train.all.tsv with the columns that all their files have.
    """
    output, written = options.output, []
    for file in find_files(data_set, options.sources, output):
        print(f"reading {file.path}", flush=True)
        written += convert(file, output)
    written.sort(key=lambda one: (one.split != "train", one.split, data_set.place(one.language)))
    languages = {split: [one.language for one in written if one.split == split] for split in SPLITS}
    notes = [note for one in written for note in one.notes]
    notes += [f"no {split} data among the sources" for split, found in languages.items() if not found]
    notes += _write_language_map(data_set, output, languages)
    if labels:
        write_numbers(output / "label_map.json", labels(written))
        if len(languages["train"]) > 1:
            write_joint(output / "train", languages["train"])
    heads = list(dict.fromkeys(head for one in written for head in one.counts))
    rows = [[one.split, one.language, *(_cell(one.counts.get(head, 0)) for head in heads)] for one in written]
    print("", in_columns([["split", "language", *heads], *rows]), "", *notes, sep="\n")
    print(f"written to {output}")
    return written


def _cell(value: int | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _write_language_map(data_set: DataSet, output: Path, languages: Mapping[str, list[str]]) -> list[str]:
    """Write lang_map.json: the languages of both dev and test, or of the one that exists; return notes."""
    evaluated = [set(languages[split]) for split in ("dev", "test") if languages[split]]
    if not evaluated:
        return ["lang_map.json is not written: no dev or test data among the sources"]
    common = set.intersection(*evaluated)
    write_numbers(output / "lang_map.json", sorted(common, key=data_set.place))
    notes = []
    if left := sorted(set.union(*evaluated) - common, key=data_set.place):
        notes.append(f"lang_map.json leaves out {' '.join(left)}: not in both dev and test")
    if not languages["test"]:
        notes.append(f"pass --dev_set {output}/dev/dev.%s.{data_set.ending} to the scripts")
    return notes


def write_joint(folder: Path, languages: Sequence[str]) -> None:
    """Write train.all.tsv from the files of the languages, with the columns that all have."""
    paths = [folder / f"train.{language}.tsv" for language in languages]
    columns = min(len(next(read_lines(path))[1].split("\t")) for path in paths)
    with atomic_file(folder / "train.all.tsv", "w", newline="\n") as joint:
        for path in paths:
            for number, line in read_lines(path):
                if number > 1 or path == paths[0]:
                    joint.write("\t".join(line.split("\t")[:columns]) + "\n")


def write_numbers(path: Path, names: Iterable[str]) -> None:
    """Write a JSON object that gives each name its place, from 0."""
    with atomic_file(path, "w") as file:
        json.dump({name: number for number, name in enumerate(names)}, file, indent=2)
        file.write("\n")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines of UTF-8 text, without a byte order mark and line ends.

    Raises:
        UserError: a line is not UTF-8.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                message = f"{path}, line {number}: not UTF-8; fetch or convert the file again"
                raise UserError(message) from error
            yield number, line.rstrip("\r\n")
