"""The files of a folder with labelled tables: train.en.tsv, dev.en.tsv, dev.de.csv, test.de.tsv.gz, ...

Some are no tables: tagged words, and questions with answers.
"""

import re
import zipfile
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.plain_text import TextFile, split_name
from ernie_m.reader.files.tables import WORDS
from ernie_m.reader.label_map import ALL_LANGUAGES
from ernie_m.reader.tags import JOINT
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.logging import logger

SPLITS = ("train", "dev", "test")
_ENDINGS = ("tsv", "csv", "json", "jsonl", "conll", "txt", "xlsx", "tsv.gz", "csv.gz")
_FILE_NAME = re.compile(rf"(?P<split>train|dev|test)[.-](?P<language>[^.]+)\.({'|'.join(_ENDINGS)})")

_HEAD = 1 << 16  # bytes by which the kind of a file is known
TAG_ENDINGS = ("", ".conll", ".conllu", ".bio", ".iob")


class LabelledFile(NamedTuple):
    """A table of one language, and what it is for: "train", "dev" or "test"."""

    path: Path
    split: str
    language: str


def find_tables(source: Path, output: Path) -> list[LabelledFile]:
    """The files in a folder whose names are known, by split and language; English is first.

    A source that is a file is the training file, whatever its name. Files below `output` are passed over.
    Files that are not used are named in the log.

    Raises:
        UserError: there is no such source, or no training file in it.
    """
    files: dict[tuple[str, str], LabelledFile] = {}  # (split, language) -> file
    unread: dict[str, list[str]] = {}  # why -> files
    for path in files_in(source, output):
        match = _FILE_NAME.fullmatch(path.name)
        fault = _fault_of_name(path.name, match)
        if path == source:
            return [LabelledFile(path, "train", ALL_LANGUAGES if fault else match["language"])]
        if fault:
            unread.setdefault(fault, []).append(str(path))
            continue
        file = LabelledFile(path, match["split"], match["language"])
        used = files.setdefault((file.split, file.language), file)  # the first of several is used
        if used != file:
            logger.warning("not used: %s; %s %s is %s", path, file.split, file.language, used.path)
    for fault, paths in unread.items():
        logger.warning("not read: %s (%s)", listed(paths, 10), fault)
    if not any(file.split == "train" for file in files.values()):
        raise UserError(
            f"{source}: no training file there, such as train.en.tsv; docs/data.md lists the names under "
            "Your own labels"
        )
    by_language = sorted(files.values(), key=lambda file: (file.language != "en", file.language))
    return sorted(by_language, key=lambda file: SPLITS.index(file.split))


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


def _fault_of_name(name: str, match: re.Match | None) -> str:
    """Why the name of a file says that it is not to be read, or "". `match`: of `_FILE_NAME`."""
    if not name.lower().endswith(_ENDINGS):
        return f"a name ends in .{', .'.join(_ENDINGS)}"
    if match is None:
        return "a name is train, dev or test with a language, as in train.en.tsv"
    if not re.fullmatch("[a-z]{2,3}", match["language"]) or match["language"] == ALL_LANGUAGES:
        return "a language has two or three small letters, as in train.en.tsv"
    return ""


def holds_tags(path: Path) -> bool:
    """Whether a file has tagged words, by its name, or because it has the official form or lists of JSON."""
    if split_name(path)[0] in TAG_ENDINGS:
        return True
    head = _head_of(path)
    if head.lstrip()[:1] in ("{", "["):
        return all(_list_under(names).search(head) for names in WORDS.values())
    return JOINT in "\n".join(head.split("\n")[:2])


def _list_under(names: Collection[str]) -> re.Pattern:
    return re.compile(rf'"({"|".join(names)})"\s*:\s*\[')


def _head_of(path: Path) -> str:
    """The beginning of a text, unpacked; of a sheet ""."""
    if zipfile.is_zipfile(path):
        return ""
    with closing(TextFile(str(path), any_form=True)) as file:
        return file.start(_HEAD).decode(errors="replace")


def holds_questions(path: Path, whole: bool = False) -> bool:
    """Whether a file has questions with contexts: SQuAD, or, unless it must be `whole`, one on each line."""
    head = _head_of(path)
    keys = "qas" if whole else "qas|question"
    is_json = head.lstrip()[:1] in ("{", "[")
    return is_json and re.search(rf'"({keys})"\s*:', head) is not None and '"context"' in head
