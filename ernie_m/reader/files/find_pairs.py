"""Which files a path of pairs, or of text, names: globs, folders, two aligned files, Moses prefixes."""

import glob
import os
import re
from collections.abc import Iterable
from typing import Any

from ernie_m.reader.files.plain_text import ENDINGS, split_name
from ernie_m.reader.label_map import named_language
from ernie_m.utils.errors import UserError

NOTATION = 'write language<=path in quotes, such as "en<=news.txt.gz" or "en-de<=pairs.tsv.gz"'
_LANGUAGE = re.compile(r"[A-Za-z0-9_]+")
WITH_BOTH_SIDES = (".tsv", ".csv", ".tmx", ".jsonl", ".json", ".xlsx")  # names of files that have both sides
LANGUAGE = "[a-z]{2,3}(?:_[A-Za-z]+)?"  # in the name of a file; also zh_Hans
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
    names: dict[tuple[str, ...], str] = {}  # a language in two letters, with its script or region -> its name
    for name in sorted(set(languages)):
        code, *rest = name.lower().split("_")
        other = names.setdefault((named_language(code) or code, *rest), name)
        if other != name:
            raise UserError(f"{other} and {name} are one language; give all of its text under one name")


def languages_in_name(path: str | os.PathLike) -> tuple[str, ...]:
    """The two languages of en-de.tsv, wiki.en-de.csv.gz or en-de.tmx; () if the name of a file has none."""
    name = os.path.basename(path)
    endings = "".join(split_name(name))  # ".csv.gz"
    match = _TWO_LANGUAGES.fullmatch(name[: len(name) - len(endings)])
    return match.groups() if match else ()


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
    if not files:
        raise UserError(f"{path}: no file matches" if "*" in path else f"{path}: no such file")
    return files
