"""What the prepare_*.py scripts share: finding files by their names, and the files that a folder has once."""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.files import atomic_file

SPLITS = ("train", "dev", "test")
ALL = "*"  # the language of a file whose rows name their languages


class DataFile(NamedTuple):
    """One input file, and what it holds."""

    path: Path
    split: str
    language: str


def source_parser(description: str, output: str) -> argparse.ArgumentParser:
    """The flags of a script that prepares data."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("sources", nargs="+", help="folders or files; of two for the same, the first counts")
    parser.add_argument("--output", type=Path, default=Path(output), help=f"folder to write ({output})")
    return parser


def find_files(
    sources: Iterable[str | Path | DataFile],
    recognise: Callable[[Path], tuple[str, str] | None],
    order: Sequence[str],
    known: str,
    output: Path | None = None,
) -> list[DataFile]:
    """The files to read, sorted by split and language. Of two for the same, the earlier one counts.

    Args:
        sources: files, folders that are searched with their sub-folders, or files that are already known.
        recognise: gives (split, language) of a file, or None.
        order: languages; others follow in alphabetical order.
        known: names for the error message.
        output: files below this folder are ignored.

    Raises:
        UserError: a source does not exist, or holds no file with a known name.
    """
    chosen: list[DataFile] = []
    for source in sources:
        for file in (
            [source] if isinstance(source, DataFile) else _search(Path(source), recognise, known, output)
        ):
            if other := next((other for other in chosen if _overlap(file, other)), None):
                print(f"not used: {file.path} ({file.split} {file.language} is taken from {other.path})")
            else:
                chosen.append(file)
    return sorted(chosen, key=lambda file: (file.split not in SPLITS, file.split != "train", file.split,
                                            place_in(order, file.language)))  # fmt: skip


def _search(
    source: Path, recognise: Callable[[Path], tuple[str, str] | None], known: str, output: Path | None
) -> list[DataFile]:
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    # Of two forms of one text, the table comes before the JSON lines.
    paths = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    paths.sort(key=lambda path: (path.suffix == ".jsonl", path))
    inside = output.resolve() if output else None
    found = [
        DataFile(path, *name)
        for path in paths
        if inside not in path.resolve().parents and (name := recognise(path))
    ]
    if not found:
        raise UserError(f"{source}: no file there has a known name ({known}")
    return found


def _overlap(a: DataFile, b: DataFile) -> bool:
    return a.split == b.split and (a.language == b.language or ALL in (a.language, b.language))


def place_in(order: Sequence[str], language: str) -> tuple[int, str]:
    """A sort key: the languages of `order`, then all others by their codes."""
    return order.index(language) if language in order else len(order), language


def by_split(files: Iterable[tuple[str, str]], order: Sequence[str]) -> dict[str, list[str]]:
    """Split -> its languages, from (split, language)."""
    files = sorted(files, key=lambda file: place_in(order, file[1]))
    return {split: [language for name, language in files if name == split] for split in SPLITS}


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines of UTF-8 text, without a byte order mark and line ends.

    Raises:
        UserError: a line is not UTF-8.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                message = f"{path}, line {number}: not UTF-8; fetch or convert the file again"
                raise UserError(message) from error
            yield number, line.removeprefix("\ufeff") if number == 1 else line


def write_language_map(
    output: Path, languages: Mapping[str, list[str]], order: Sequence[str], ending: str = "tsv"
) -> list[str]:
    """Write lang_map.json: the languages of both dev and test, or of the one that exists.

    Args:
        output: holds <split>/<split>.<language>.<ending>.
        languages: of "train", "dev" and "test".

    Returns:
        Notes about it, and about missing splits.
    """
    notes = []
    for split, known in languages.items():
        if not known:
            pattern = f" (pass --dev_set {output}/dev/dev.%s.{ending} to the scripts)"
            notes.append(
                f"no {split} data among the sources{pattern if split == 'test' and languages['dev'] else ''}"
            )
    evaluated = [set(languages[split]) for split in ("dev", "test") if languages[split]]
    if not evaluated:
        return [*notes, "lang_map.json is not written: no dev or test data among the sources"]
    common = set.intersection(*evaluated)
    write_numbers(output / "lang_map.json", sorted(common, key=lambda one: place_in(order, one)))
    if left := sorted(set.union(*evaluated) - common, key=lambda one: place_in(order, one)):
        notes.append(f"lang_map.json leaves out {' '.join(left)}: not in both dev and test")
    return notes


def write_joint_files(
    output: Path, languages: Mapping[str, list[str]], labels: Iterable[str], order: Sequence[str], header: str
) -> list[str]:
    """Write label_map.json, lang_map.json and, for several training languages, train.all.tsv.

    Args:
        output: holds <split>/<split>.<language>.tsv, each with a header line.
        languages: of "train", "dev" and "test".
        labels: in the order of their ids.
        header: first line of train.all.tsv, which has these columns alone.

    Returns:
        Notes about them.
    """
    write_numbers(output / "label_map.json", labels)
    notes = write_language_map(output, languages, order)
    columns = header.count("\t") + 1
    if len(languages["train"]) > 1:
        with atomic_file(output / "train" / "train.all.tsv", "w", newline="\n") as joint:
            joint.write(header)
            for language in languages["train"]:
                with open(output / "train" / f"train.{language}.tsv", encoding="utf-8", newline="\n") as file:
                    next(file)
                    joint.writelines(
                        "\t".join(line.rstrip("\n").split("\t")[:columns]) + "\n" for line in file
                    )
    elif languages["train"]:
        notes.append(f"train.all.tsv is not written: {languages['train'][0]} is the only training language")
    return notes


def write_numbers(path: Path, names: Iterable[str]) -> None:
    """Write a JSON object that gives each name its place, from 0."""
    with atomic_file(path, "w") as file:
        json.dump({name: number for number, name in enumerate(names)}, file, indent=2)
        file.write("\n")
