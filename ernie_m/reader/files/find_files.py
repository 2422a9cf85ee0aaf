"""Search for input files, and detection of splits and languages from file names.

    train.en.tsv, test-de.csv   a split and a language: labeled files, public data sets
    en-de.tsv, wiki.en-de.tmx   two languages: a file of pairs
    train.en with train.de      two aligned files (Moses)
    newstest2020.txt, dev.en    for validation or testing, not used for training
    en-de<=a.txt,b.txt          languages that are not in a file name

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
    FORMATS,
    LINES,
    OBJECTS,
    PACKINGS,
    SHEET,
    TAGS,
    UNITS,
    detect_format,
    find_unit_languages,
    split_extensions,
)
from ernie_m.reader.labels import ALL_LANGUAGES
from ernie_m.utils.errors import UserError, join_items
from ernie_m.utils.files import reject_undecodable_names
from ernie_m.utils.languages import language_tag
from ernie_m.utils.logging import logger

SPLITS = ("train", "dev", "test")
# Parts of the patterns of names.
SPLIT = f"(?P<split>{'|'.join(SPLITS)})"
LANGUAGE = "(?P<language>[a-z]{2,3})"
_OF_TABLES = (CELLS, OBJECTS, SHEET, TAGS, LINES)  # the formats of training files of `fit`
WITH_BOTH_SIDES = (CELLS, OBJECTS, SHEET, UNITS)  # the formats of files with both sides of pairs
_ONE_OF_TWO = "[a-z]{2,3}(?:_[A-Za-z]+)?"  # a language, or zh_Hans
_TWO_LANGUAGES = re.compile(rf"(?:.*[._-])?({_ONE_OF_TWO})-({_ONE_OF_TWO})")
# Word in a cell or file name -> split.
SPLIT_OF = {
    **dict.fromkeys(("", "train", "training"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "devset", "newsdev"), "dev"),
    **dict.fromkeys(("syscomb", "val", "valid", "validate", "validation", "tune", "tuning"), "dev"),
    **dict.fromkeys(("devtest", "newstest", "test", "testa", "testb", "testing", "tests", "testset"), "test"),
    **dict.fromkeys(("blind", "eval", "evaluation", "gold", "held", "heldout", "hold", "holdout"), "test"),
    "tst": "test",
}
# Prefixes and suffixes of such a word: newsdiscusstest, valset.
_AROUND = re.compile("^news(discuss)?(?=.)|(?<=.)(sets?|data|files?)$")
NOTATION = 'Write language<=path in quotes, such as "en<=news.txt.gz" or "en-de<=pairs.tsv.gz"'
_LANGUAGE_NAME = re.compile(r"[A-Za-z0-9_]+")


class NamedFile(NamedTuple):
    """A data file with the split and language from its name. `language` is None if the rows contain it."""

    path: Path
    split: str
    language: str | None


def find_files(
    path: str | os.PathLike, recursive: bool = False, excluded: str | os.PathLike | None = None
) -> list[str]:
    """List the files of a directory or a glob in alphabetical order, or a single file.

    Args:
        recursive: whether to include hidden files and the files of subdirectories.
        excluded: a directory whose files are excluded.

    Raises:
        UserError: no file or folder matches, or a name is not UTF-8.
    """
    paths: list[Any]
    if not os.path.isdir(path):
        paths = [path] if os.path.exists(path) else sorted(glob.glob(os.fspath(path), recursive=True))
        if not paths:
            raise UserError(f"{path}: no {'file matches' if '*' in str(path) else 'such file or folder'}")
    elif recursive:
        paths = sorted(filter(Path.is_file, Path(path).rglob("*")))
    else:
        paths = sorted(os.path.join(path, name) for name in os.listdir(path) if not name.startswith("."))
    names = [
        str(file)
        for file in paths
        if not os.path.isdir(file)
        and not (excluded and Path(os.path.realpath(excluded)) in Path(os.path.realpath(file)).parents)
    ]
    reject_undecodable_names(names)
    return names


def find_text_files(path: Any) -> list[str]:
    """List the training files of a directory or a glob in alphabetical order, or a single file.

    Files whose path indicates validation or test data are skipped with a warning; a single file is always
    used.

    Raises:
        UserError: there are no training files; see also `find_files` and `expand_path`.
    """
    path = expand_path(path)
    files = find_files(path)
    # The folder, or the part before the first * of a glob.
    folder = path if os.path.isdir(path) else os.path.dirname(re.split(r"[*?[]", path)[0])
    skipped = {
        file
        for file in files
        if file != path and is_evaluation_path(os.path.relpath(file, folder or os.curdir))
    }
    if skipped:
        logger.warning("skipped validation and test files: %s", join_items(sorted(skipped), 10))
    if len(skipped) == len(files):
        raise UserError(
            f"{path}: only validation and test files, by their names. To use one for training, "
            "pass the file itself"
        )
    return [file for file in files if file not in skipped]


def find_pair_files(path: Any, languages: Sequence[str]) -> list[tuple[str, ...]]:
    """Find files of pairs: for each source, a file with both sides, or two aligned files.

    Args:
        path: `pairs.tsv`, a directory or a glob of such files; `file,file` or [file, file]; or the common
            prefix of two aligned files (Moses), unless it is itself a file or directory.
        languages: the two languages, which are the extensions of aligned files with a common prefix; ():
            unknown.

    Raises:
        UserError: a file is missing, or the files are not two aligned files.
    """
    if isinstance(path, str) and "," in path and not os.path.exists(path):
        path = path.split(",")
    if isinstance(path, list):
        files = [file for part in path for file in find_text_files(part)] if len(path) == 2 else []
        if len(files) != 2 or any(detect_format(file) in WITH_BOTH_SIDES for file in files):
            pair = "-".join(languages) or "pairs"
            raise UserError(
                f"{pair}: invalid {path} (expected two aligned files). For a file with "
                f"both sides, use '{pair}<=PATH'"
            )
        return [tuple(files)]
    prefix = expand_path(path)
    names = [[f"{prefix}.{language}{end}" for end in PACKINGS] for language in languages]
    moses = [next(filter(os.path.isfile, of_side), "") for of_side in names]  # preferably uncompressed
    if moses and all(moses) and not os.path.exists(prefix):
        return [tuple(moses)]
    return [(file,) for file in find_text_files(path)]


def find_labeled_files(source: Path, output: Path) -> list[NamedFile]:
    """Find the labeled files of a directory, sorted by split and language, English first.

    A single file is the training file, regardless of its name. Ignored files are logged.

    Args:
        source: the directory or file.
        output: a directory whose files are excluded.

    Raises:
        UserError: the source is missing, or has no training file.
    """
    files: dict[tuple[str, str | None], NamedFile] = {}  # (split, language) -> file
    unread: dict[str, list[str]] = {}  # why -> files
    for path in map(Path, find_files(source, recursive=True, excluded=output)):
        ending = re.escape(path.name.removeprefix(get_stem(path)))
        is_table = detect_format(path) in _OF_TABLES
        file = parse_file_name(path, [rf"{SPLIT}[.-]{LANGUAGE}{ending}"], {}) if is_table else None
        if path == source:
            return [NamedFile(path, "train", file.language if file else ALL_LANGUAGES)]
        if file is None:
            unread.setdefault(_explain_unknown_name(path), []).append(str(path))
        elif (used := files.setdefault(file[1:], file)) != file:  # the first of duplicates is used
            logger.warning("ignored %s: the %s file of %s is %s", *file, used.path)
    for error, paths in unread.items():
        logger.warning("ignored files: %s (%s)", join_items(paths, 10), error)
    if not any(file.split == "train" for file in files.values()):
        raise UserError(
            f"{source}: missing training file, such as train.en.tsv (see Directories in docs/data.md)"
        )
    return sorted(files.values(), key=lambda file: (SPLITS.index(file[1]), file[2] != "en", file[2]))


def _explain_unknown_name(path: Path) -> str:
    """Return the reason why a file name is not recognized as that of a labeled file."""
    if detect_format(path) not in _OF_TABLES:
        return (
            f"expected a name in {', '.join(ending for ending in FORMATS if FORMATS[ending] in _OF_TABLES)}"
        )
    if not re.fullmatch(rf"{SPLIT}[.-][^.]+", get_stem(path)):
        return "expected train, dev or test with a language, as in train.en.tsv"
    return "unknown language code; see ernie_m/utils/languages.tsv"


def parse_file_name(path: Path, patterns: Iterable[str], aliases: Mapping[str, str]) -> NamedFile | None:
    """Detect the split and language of a data file from its name; None if no pattern matches.

    Args:
        patterns: regular expressions for the end of the path, which may begin with the name of the directory,
            with the groups "split" (default: train) and "language" (default: None).
        aliases: a split or language in file names -> its name in this project.
    """
    for pattern in patterns:
        match = re.search(f"/{pattern}$", f"/{path.parent.name}/{path.name}")
        if match:
            groups = {"split": "train", "language": None, **match.groupdict()}
            split, language = (aliases.get(name, name) for name in groups.values())
            if language is None or language_tag(language):
                return NamedFile(path, split, language and language_tag(language))
    return None


def get_stem(path: str | os.PathLike) -> str:
    """Return a file name without its extensions: "wiki.en-de" for wiki.en-de.csv.gz."""
    name = os.path.basename(path)
    return name[: len(name) - len("".join(split_extensions(name)))]


def parse_languages_in_name(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the two languages in a name such as wiki.en-de.csv.gz or en-de.tmx; () if there are none."""
    match = _TWO_LANGUAGES.fullmatch(get_stem(path))
    return match.groups() if match and all(map(language_tag, match.groups())) else ()


def find_pair_languages(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the two languages in the name of a file of pairs, otherwise in its first object.

    () if neither has two languages.
    """
    in_name = parse_languages_in_name(path)
    in_file = () if in_name else find_unit_languages(path)
    return in_file if len(in_file) == 2 else in_name


def is_evaluation_path(path: str) -> bool:
    """Return whether a relative path indicates validation or test data.

    Whole words are matched, also in CamelCase: "test.en" and "newsTest", but not "latest".
    """
    words = re.split(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])", path)
    return any(SPLIT_OF.get(_AROUND.sub("", word.lower()), "train") != "train" for word in words)


def expand_path(path: Any) -> str:
    """Expand ~ and $VARIABLES in a path.

    Raises:
        UserError: the path is blank or is not a string, or a variable is not set.
    """
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"invalid path '{path}' (expected a string, a list, or for pairs a list of two)")
    expanded = os.path.expanduser(os.path.expandvars(path.strip()))
    if "$" in expanded:  # `expandvars` leaves unknown variables as they are
        raise UserError(f"{path}: unknown environment variable. Set it, as in DATA=/where/data/is")
    return expanded


def split_language_prefix(notation: str) -> tuple[str | None, str]:
    """Split `language<=path` into the language or languages and the path; (None, path) without `<=`.

    Raises:
        UserError: the notation has `=` instead of `<=`.
    """
    label, arrow, path = notation.strip().partition("<=")
    if not arrow and "=" in label and "," not in label and not os.path.exists(label):
        raise UserError(f"'{label}': no such file, and not 'language<=path'. {NOTATION}")
    return (label, path) if arrow else (None, label)


def split_file_list(files: str) -> list[tuple[str, str]]:
    """Split "de<=de.txt,fr<=fr.txt" into (language, path) tuples; the language is "" without `<=`."""
    parts = [split_language_prefix(item) for item in files.split(",")]
    return [(language or "", path) for language, path in parts]


def parse_languages(label: Any, count: int) -> tuple[str, ...]:
    """Split a label such as "en" or "en-de" into languages, in order.

    Raises:
        UserError: the label does not have `count` different languages.
    """
    if not isinstance(label, str):
        raise UserError(f"invalid language {label} (expected a string). Put it in quotes")
    languages = tuple(label.split("-"))
    are_names = all(_LANGUAGE_NAME.fullmatch(language) for language in languages)
    if not are_names or len(languages) != count or len(set(languages)) != count:
        expected = "two languages such as en-de" if count == 2 else "a language of letters, digits and _"
        raise UserError(
            f"invalid label '{label}' (expected {expected}; write zh-Hans as zh_Hans). {NOTATION}"
        )
    return languages


def check_languages(languages: Iterable[str]) -> None:
    """Check that no language has two names, and log a warning for each unknown language.

    Raises:
        UserError: two names have the same language, script and region.
    """
    names: dict[str, str] = {}  # tag of a language, with script or region -> its name
    for name in sorted(set(languages)):
        tag = language_tag(name)
        if not tag:
            logger.warning(
                "unknown language code '%s' (Japanese is ja), treated as a separate language", name
            )
        other = names.setdefault(tag or name.lower(), name)
        if other != name:
            raise UserError(f"{other} and {name} are the same language. Use one name for all of its text")
