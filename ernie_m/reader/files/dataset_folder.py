"""The files of a folder with labelled tables: train.en.tsv, dev.en.tsv, dev.de.csv, test.de.tsv.gz, ...

Some are no tables: tagged words, and questions with answers.
"""

import glob
import os
import re
import zipfile
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.reader.files.plain_text import ENDINGS, TextFile, split_name
from ernie_m.reader.files.tables import WORDS
from ernie_m.reader.labels import ALL_LANGUAGES
from ernie_m.reader.tag_schemes import JOINT
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.languages import language_tag
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


NOTATION = 'write language<=path in quotes, such as "en<=news.txt.gz" or "en-de<=pairs.tsv.gz"'
_LANGUAGE = re.compile(r"[A-Za-z0-9_]+")
WITH_BOTH_SIDES = (".tsv", ".csv", ".tmx", ".jsonl", ".json", ".xlsx")  # names of files that have both sides
LANGUAGE = "[a-z]{2,3}(?:_[A-Za-z]+)?"  # in the name of a file; also zh_Hans
_HELD_OUT_WORDS = {
    "dev", "development", "devtest", "eval", "evaluation", "held", "heldout", "holdout", "newsdev",
    "newstest", "test", "testing", "tests", "testset", "tst", "val", "valid", "validation",
}  # fmt: skip
_TWO_LANGUAGES = re.compile(rf"(?:.*[._-])?({LANGUAGE})-({LANGUAGE})")


def split_label(notation: str) -> tuple[str | None, str]:
    """The label and the path of `language<=path`; the label of a path alone is None.

    Raises:
        UserError: there is `=` for `<=`.
    """
    label, arrow, path = notation.strip().partition("<=")
    if not arrow and "=" in label and "," not in label and not os.path.exists(label):
        raise UserError(f"'{label}': no such file, and no 'language<=path'; {NOTATION}")
    return (label, path) if arrow else (None, label)


def named_files(files: str) -> list[tuple[str, str]]:
    """(language, path) of each file in "de<=de.txt,fr<=fr.txt"; the language of a path alone is ""."""
    parts = [split_label(item) for item in files.split(",")]
    return [(language or "", path) for language, path in parts]


def languages_of(label: Any, count: int) -> tuple[str, ...]:
    """The languages of a label such as "en" or "en-de", in its order.

    Raises:
        UserError: it does not name `count` languages.
    """
    if not isinstance(label, str):
        raise UserError(f"{label} is not a language; put it in quotes")
    languages = tuple(label.split("-"))
    are_names = all(_LANGUAGE.fullmatch(language) for language in languages)
    if not are_names or len(languages) != count or len(set(languages)) != count:
        form = "two languages such as en-de" if count == 2 else "a language of letters, digits and _"
        raise UserError(f"'{label}' is not {form} (zh-Hans is written zh_Hans); {NOTATION}")
    return languages


def refuse_two_names(languages: Iterable[str]) -> None:
    """Refuse a language that has two names.

    Raises:
        UserError: two of the names are of one language, with the same script or region.
    """
    names: dict[str, str] = {}  # the tag of a language, with its script or region -> its name
    for name in sorted(set(languages)):
        other = names.setdefault(language_tag(name) or name.lower(), name)
        if other != name:
            raise UserError(f"{other} and {name} are one language; give all of its text under one name")


def languages_in_name(path: str | os.PathLike) -> tuple[str, ...]:
    """The two languages of en-de.tsv, wiki.en-de.csv.gz or en-de.tmx; () if the name of a file has none."""
    name = os.path.basename(path)
    endings = "".join(split_name(name))  # ".csv.gz"
    match = _TWO_LANGUAGES.fullmatch(name[: len(name) - len(endings)])
    return match.groups() if match and all(map(language_tag, match.groups())) else ()


def says_held_out(path: str | os.PathLike) -> bool:
    """Whether the name of a file says that it is for development or testing."""
    words = re.split(r"[\W\d_]+", os.path.basename(path).lower())
    return not _HELD_OUT_WORDS.isdisjoint(words)


def expand(path: Any) -> str:
    """A path with ~ and $VARIABLES replaced.

    Raises:
        UserError: it is not a path, or the environment has no such variable.
    """
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"'{path}' is not a path; give text, a list, or for pairs a list of two")
    expanded = os.path.expanduser(os.path.expandvars(path.strip()))
    if "$" in expanded:  # `expandvars` leaves unknown variables as they are
        raise UserError(f"{path}: the environment has no such variable; set it, as in DATA=/where/data/is")
    return expanded


def find_pairs(path: Any, languages: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The files of each source of a pair: one with both sides, or two that are aligned.

    Args:
        path: `pairs.tsv`, a folder or a glob of such files; `file,file` or [file, file]; or the common
            beginning of the names of two files (Moses).

    Raises:
        UserError: a file is missing.
    """
    if isinstance(path, str) and "," in path and not os.path.exists(path):
        path = path.split(",")
    if isinstance(path, list):
        return [_aligned_files(path, languages)]
    # `train` means train.en and train.de, unless there is a file or folder of that very name.
    moses = _moses_files(expand(path), languages)
    if moses and not os.path.exists(expand(path)):
        return [moses]
    return [(file,) for file in find_files(path)]


def _aligned_files(paths: list[Any], languages: tuple[str, ...]) -> tuple[str, ...]:
    """Two files, one for each language.

    Raises:
        UserError: there are not two, or one is a file with both sides.
    """
    files = [file for path in paths for file in find_files(path)] if len(paths) == 2 else []
    if len(files) != 2 or any(split_name(file)[0] in WITH_BOTH_SIDES for file in files):
        pair = "-".join(languages) or "pairs"
        raise UserError(
            f"{pair}: {paths} is not two aligned files; give a file with both sides alone: '{pair}<=PATH'"
        )
    return tuple(files)


def _moses_files(prefix: str, languages: tuple[str, ...]) -> tuple[str, ...] | None:
    """`prefix.en` and `prefix.de`, plain or compressed; None if one is missing."""
    files = []
    for language in languages:
        names = [f"{prefix}.{language}{end}" for end in ENDINGS]
        files += list(filter(os.path.isfile, names))[:1]  # of several the plain one
    return tuple(files) if len(files) == len(languages) else None


def find_files(path: Any) -> list[str]:
    """A file, or the files of a folder or a glob in alphabetical order.

    Those whose names say that they are for development or testing are left out, with a warning. A file that
    is named itself is not.

    Raises:
        UserError: there is none.
    """
    path = expand(path)
    if os.path.isdir(path):
        paths = [os.path.join(path, name) for name in os.listdir(path) if not name.startswith(".")]
    elif os.path.exists(path):
        paths = [path]
    else:
        paths = glob.glob(path, recursive=True)
    files = sorted(path for path in paths if not os.path.isdir(path))
    held_out = [file for file in files if file != path and says_held_out(file)]
    if held_out:
        logger.warning("left out, for development or testing by their names: %s", listed(held_out, 10))
        files = [file for file in files if file not in held_out]
        if not files:
            raise UserError(f"{path}: no other file; one that is named itself is read")
    if not files:
        raise UserError(f"{path}: no file matches" if "*" in path else f"{path}: no such file")
    return files
