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
from itertools import chain
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
from ernie_m.utils.languages import base_language, language_tag
from ernie_m.utils.logging import logger

SPLITS = ("train", "dev", "test")
# Parts of the patterns of names.
SPLIT = f"(?P<split>{'|'.join(SPLITS)})"
LANGUAGE = "(?P<language>[a-z]{2,3})"
_OF_TABLES = (CELLS, OBJECTS, SHEET, TAGS, LINES)  # the formats of training files of `fit`
WITH_BOTH_SIDES = (CELLS, OBJECTS, SHEET, UNITS)  # the formats of files with both sides of pairs
_ONE_OF_TWO = "[a-z]{2,3}(?:_[A-Za-z]+)?"  # a language, or zh_Hans
_TWO_LANGUAGES = re.compile(rf"(?:.*[._-])?({_ONE_OF_TWO})-({_ONE_OF_TWO})")
# A language code or name, also with a script or a region, unlike my-corpus: de, deu_Latn, pt-BR, pt_br. The
# first three are words of other names.
_ONE_LANGUAGE = re.compile("(?!(bak|in|src)$)[A-Za-z]+([-_]([A-Z][a-z]{3}|[A-Z]{2})|_(hans|hant|[a-z]{2}))?")
_NOTES = ("citation", "copying", "licence", "license", "notice", "readme")  # about a corpus
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


def find_text_files(path: Any, languages: Sequence[str] = ()) -> list[str]:
    """List the training files of a directory or a glob in alphabetical order, or a single file.

    Files whose path indicates validation or test data, documentation or other languages are skipped with a
    warning; a single file is always used.

    Args:
        languages: the language of the text, or the two of pairs in order; (): unknown.

    Raises:
        UserError: there are no training files, or the name of a single file contradicts the languages; see
            also `find_files` and `expand_path`.
    """
    path = expand_path(path)
    files = find_files(path)
    if path in files and _contradicts_name(path, languages):
        label, in_name = "-".join(languages), "-".join(find_languages_in_name(path))
        way = (
            f"Write '{in_name}<={path}' (swap two aligned files)"
            if in_name.count("-") == label.count("-")
            else "Correct the label"
        )
        raise UserError(f"{path}: labeled {label}, but named {in_name}. {way}, or rename the file")
    # The folder, or the part before the first * of a glob.
    folder = path if os.path.isdir(path) else os.path.dirname(re.split(r"[*?[]", path)[0])
    skipped = {
        file
        for file in files
        if file != path
        and (
            is_evaluation_path(os.path.relpath(file, folder or os.curdir))
            or get_stem(file).lower() in _NOTES
            or _contradicts_name(file, languages)
        )
    }
    if skipped:
        logger.warning(
            "skipped by name, as validation or test files, documentation or other languages: %s",
            join_items(sorted(skipped), 10),
        )
    if len(skipped) == len(files):
        raise UserError(
            f"{path}: by their names, all files are validation or test files, documentation, or not in "
            f"{'-'.join(languages) or 'a language'}. To use one for training, pass the file itself"
        )
    return [file for file in files if file not in skipped]


def _contradicts_name(path: str, languages: Sequence[str]) -> bool:
    """Return whether a file name says other languages, or the two in another order; unknown ones are free.

    The order is free in a file that names the language of each text, as TMX.
    """
    in_name, given = (
        list(filter(None, map(base_language, names))) for names in (find_languages_in_name(path), languages)
    )
    if len(in_name) == len(given) and detect_format(path) not in (OBJECTS, UNITS):
        return in_name != given
    return len(in_name) > 2 or not ({*in_name} <= {*given} or {*given} <= {*in_name})


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
        sides = [find_text_files(path[side], languages[side : side + 1]) for side in (0, 1) if len(path) == 2]
        files = list(chain.from_iterable(sides))
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
    return [(file,) for file in find_text_files(path, languages)]


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
            f"{source}: missing training file, such as train.en.tsv. Rename the files, or pass one file "
            "(docs/data.md, Published files)"
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


def find_languages_in_name(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the languages that a file name says; () if there are none.

    Two for a file of pairs (wiki.en-de.csv.gz), one for text (news.en.txt) or one of two aligned files
    (train.en, en-de.de), and three for a name that contradicts itself (en-de.fr).
    """
    stem = get_stem(path)
    match = _TWO_LANGUAGES.fullmatch(stem)
    pair = match.groups() if match and all(map(language_tag, match.groups())) else ()
    last_word = stem.rpartition(".")[2]
    extension = os.path.basename(path)[len(stem) + 1 :].partition(".")[0]
    word = {LINES: last_word, "": extension}.get(detect_format(path), "")
    is_known = _ONE_LANGUAGE.fullmatch(word) and base_language(word)
    if not is_known and extension not in last_word.split("-"):  # as in en-xx.xx
        return pair
    if pair and base_language(word) not in map(base_language, pair):
        return (*pair, word)
    return (word.replace("-", "_"),)


def find_pair_languages(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the two languages in the name of a file of pairs, otherwise in its first object.

    () if neither has two languages.
    """
    named = (find(path) for find in (find_languages_in_name, find_unit_languages))
    return next((languages for languages in named if len(languages) == 2), ())


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
