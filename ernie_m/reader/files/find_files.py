"""Which files a user means: how a path becomes a list of files, and what the name of a file says.

    train.en.tsv, test-de.csv   a split and a language: labeled files, and those of public data sets
    en-de.tsv, wiki.en-de.tmx   two languages: a file with both sides of pairs
    train.en beside train.de    two aligned files (Moses)
    newstest2020.txt, dev.en    for development or testing, so not to be trained on
    en-de<=a.txt,b.txt          languages that a name does not say

A path may be a file, a folder or a glob, such as wiki/*.xz.
"""

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.reader.files.plain_text import (
    CELLS,
    FORMS,
    LINES,
    OBJECTS,
    PACKINGS,
    SHEET,
    TAGS,
    UNITS,
    named_form,
    split_name,
)
from ernie_m.reader.labels import ALL_LANGUAGES
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.languages import language_tag
from ernie_m.utils.logging import logger

SPLITS = ("train", "dev", "test")
# Parts of the patterns of names.
SPLIT = f"(?P<split>{'|'.join(SPLITS)})"
LANGUAGE = "(?P<language>[a-z]{2,3})"
_OF_TABLES = (CELLS, OBJECTS, SHEET, TAGS, LINES)  # the forms of files that `fit` learns from
WITH_BOTH_SIDES = (CELLS, OBJECTS, SHEET, UNITS)  # the forms of files that have both sides of pairs
_ONE_OF_TWO = "[a-z]{2,3}(?:_[A-Za-z]+)?"  # a language; also zh_Hans
_TWO_LANGUAGES = re.compile(rf"(?:.*[._-])?({_ONE_OF_TWO})-({_ONE_OF_TWO})")
# What a word in a cell or a name says of a row or a file -> its split.
SPLIT_OF = {
    **dict.fromkeys(("", "train", "training"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "devset", "newsdev"), "dev"),
    **dict.fromkeys(("syscomb", "val", "valid", "validate", "validation", "tune", "tuning"), "dev"),
    **dict.fromkeys(("devtest", "newstest", "test", "testa", "testb", "testing", "tests", "testset"), "test"),
    **dict.fromkeys(("blind", "eval", "evaluation", "gold", "held", "heldout", "hold", "holdout"), "test"),
    "tst": "test",
}
# What may stand around such a word in a name: newsdiscusstest, valset.
_AROUND = re.compile("^news(discuss)?(?=.)|(?<=.)(sets?|data|files?)$")
NOTATION = 'write language<=path in quotes, such as "en<=news.txt.gz" or "en-de<=pairs.tsv.gz"'
_LANGUAGE_NAME = re.compile(r"[A-Za-z0-9_]+")


class NamedFile(NamedTuple):
    """A file, and what its name says it is for: a split, and a language; None: its rows name theirs."""

    path: Path
    split: str
    language: str | None


def find_files(
    path: str | os.PathLike, below: bool = False, output: str | os.PathLike | None = None
) -> list[str]:
    """The files of a folder or a glob in alphabetical order, or the one file that is named.

    Args:
        below: whether a folder's hidden files, and the files of its sub-folders, are among them.
        output: a folder whose files are left out: an earlier call wrote them.

    Raises:
        UserError: there is no such file or folder, and no name matches.
    """
    paths: list[Any]
    if not os.path.isdir(path):
        paths = [path] if os.path.exists(path) else sorted(glob.glob(os.fspath(path), recursive=True))
        if not paths:
            raise UserError(f"{path}: no {'file matches' if '*' in str(path) else 'such file or folder'}")
    elif below:
        paths = sorted(filter(Path.is_file, Path(path).rglob("*")))
    else:
        paths = sorted(os.path.join(path, name) for name in os.listdir(path) if not name.startswith("."))
    return [
        str(file)
        for file in paths
        if not os.path.isdir(file) and not (output and Path(output).resolve() in Path(file).resolve().parents)
    ]


def find_texts(path: Any) -> list[str]:
    """The files of a path that are to be trained on, by `find_files`.

    Those of a folder or a glob whose names, or folders, say that they are for development or testing are left
    out, with a warning. A file that is named itself is not.

    Raises:
        UserError: there is none, or as `expand`.
    """
    path = expand(path)
    files = find_files(path)
    # What is named itself: the folder, or that before the first * of a glob.
    folder = path if os.path.isdir(path) else os.path.dirname(re.split(r"[*?[]", path)[0])
    held_out = {
        file for file in files if file != path and says_held_out(os.path.relpath(file, folder or os.curdir))
    }
    if held_out:
        logger.warning(
            "left out, for development or testing by their names: %s", listed(sorted(held_out), 10)
        )
    if len(held_out) == len(files):
        raise UserError(f"{path}: no file to train on; one that is named itself is read")
    return [file for file in files if file not in held_out]


def find_pairs(path: Any, languages: Sequence[str]) -> list[tuple[str, ...]]:
    """The files of each source of a pair: one with both sides, or two that are aligned.

    Args:
        path: `pairs.tsv`, a folder or a glob of such files; `file,file` or [file, file]; or the common
            beginning of the names of two files (Moses), unless there is a file or folder of that very name.

    Raises:
        UserError: a file is missing, or two files are not aligned: they are not two, or one has both sides.
    """
    if isinstance(path, str) and "," in path and not os.path.exists(path):
        path = path.split(",")
    if isinstance(path, list):
        files = [file for part in path for file in find_texts(part)] if len(path) == 2 else []
        if len(files) != 2 or any(named_form(file) in WITH_BOTH_SIDES for file in files):
            pair = "-".join(languages) or "pairs"
            raise UserError(
                f"{pair}: {path} is not two aligned files; give a file with both sides alone: '{pair}<=PATH'"
            )
        return [tuple(files)]
    prefix = expand(path)
    names = [[f"{prefix}.{language}{end}" for end in PACKINGS] for language in languages]
    moses = [next(filter(os.path.isfile, of_side), "") for of_side in names]  # of several the plain one
    if moses and all(moses) and not os.path.exists(prefix):
        return [tuple(moses)]
    return [(file,) for file in find_texts(path)]


def find_tables(source: Path, output: Path) -> list[NamedFile]:
    """The files in a folder whose names are known, by split and language; English is first.

    A source that is a file is the training file, whatever its name. Files below `output` are passed over.
    Files that are not used are named in the log.

    Raises:
        UserError: there is no such source, or no training file in it.
    """
    files: dict[tuple[str, str | None], NamedFile] = {}  # (split, language) -> file
    unread: dict[str, list[str]] = {}  # why -> files
    for path in map(Path, find_files(source, below=True, output=output)):
        ending = re.escape(path.name.removeprefix(get_stem(path)))
        is_table = named_form(path) in _OF_TABLES
        file = recognize(path, [rf"{SPLIT}[.-]{LANGUAGE}{ending}"], {}) if is_table else None
        if path == source:
            return [NamedFile(path, "train", file.language if file else ALL_LANGUAGES)]
        if file is None:
            unread.setdefault(_name_error(path), []).append(str(path))
        elif (used := files.setdefault(file[1:], file)) != file:  # the first of several is used
            logger.warning("not used: %s; %s %s is %s", *file, used.path)
    for error, paths in unread.items():
        logger.warning("not read: %s (%s)", listed(paths, 10), error)
    if not any(file.split == "train" for file in files.values()):
        raise UserError(
            f"{source}: no training file there, such as train.en.tsv; docs/data.md lists the names under "
            "Directories"
        )
    return sorted(files.values(), key=lambda file: (SPLITS.index(file[1]), file[2] != "en", file[2]))


def _name_error(path: Path) -> str:
    """Why the name of a file does not say that it is a table."""
    if named_form(path) not in _OF_TABLES:
        return f"a name ends in {', '.join(ending for ending in FORMS if FORMS[ending] in _OF_TABLES)}"
    if not re.fullmatch(rf"{SPLIT}[.-][^.]+", get_stem(path)):
        return "a name is train, dev or test with a language, as in train.en.tsv"
    return "its language is no code of ernie_m/utils/languages.tsv in two or three small letters"


def recognize(path: Path, names: Iterable[str], renamed: Mapping[str, str]) -> NamedFile | None:
    """The file with the split and the tag of the language that its name says; None if either is not known.

    Args:
        names: patterns of the end of a path, with the groups "split" (train) and "language" (None). They may
            begin with the name of the folder.
        renamed: a split or a language in the name -> what it is called here.
    """
    for pattern in names:
        match = re.search(f"/{pattern}$", f"/{path.parent.name}/{path.name}")
        if match:
            groups = {"split": "train", "language": None, **match.groupdict()}
            split, language = (renamed.get(name, name) for name in groups.values())
            if language is None or language_tag(language):
                return NamedFile(path, split, language and language_tag(language))
    return None


def get_stem(path: str | os.PathLike) -> str:
    """The name of a file without its ending and that of its packing: "wiki.en-de" of wiki.en-de.csv.gz."""
    name = os.path.basename(path)
    return name[: len(name) - len("".join(split_name(name)))]


def languages_in_name(path: str | os.PathLike) -> tuple[str, ...]:
    """The two languages of en-de.tsv, wiki.en-de.csv.gz or en-de.tmx; () if the name of a file has none."""
    match = _TWO_LANGUAGES.fullmatch(get_stem(path))
    return match.groups() if match and all(map(language_tag, match.groups())) else ()


def says_held_out(path: str) -> bool:
    """Whether a path below what a user named says that the file is for development or testing.

    A word of it does, also in CamelCase, and not a part of a word, such as that of latest.
    """
    words = re.split(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])", path)
    return any(SPLIT_OF.get(_AROUND.sub("", word.lower()), "train") != "train" for word in words)


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
    are_names = all(_LANGUAGE_NAME.fullmatch(language) for language in languages)
    if not are_names or len(languages) != count or len(set(languages)) != count:
        form = "two languages such as en-de" if count == 2 else "a language of letters, digits and _"
        raise UserError(f"'{label}' is not {form} (zh-Hans is written zh_Hans); {NOTATION}")
    return languages


def check_languages(languages: Iterable[str]) -> None:
    """Refuse a language that has two names, and say which names are of no language that is known.

    Raises:
        UserError: two of the names are of one language, with the same script or region.
    """
    names: dict[str, str] = {}  # the tag of a language, with its script or region -> its name
    for name in sorted(set(languages)):
        tag = language_tag(name)
        if not tag:
            logger.warning("'%s' is no language that is known (Japanese is ja); it is one of its own", name)
        other = names.setdefault(tag or name.lower(), name)
        if other != name:
            raise UserError(f"{other} and {name} are one language; give all of its text under one name")
