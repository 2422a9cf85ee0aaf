"""The text of a corpus: resolves the notation `language<=path` to streams of source files.

    en<=news.en.txt.gz            one file: plain, .gz, .bz2 or .xz
    en<=wiki/*.xz,books/          globs and folders; commas separate several
    en-de<=pairs.tsv.gz           one pair per line, separated by a tab: English, German
    en-de<=train.en,train.de      two aligned files
    en-de<=train                  Moses: train.en and train.de

A YAML file has the same as mappings. Paths are text or lists; two aligned files are a list within the list.
"""

import glob
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils.errors import UserError

_PACKED = ("", ".gz", ".bz2", ".xz")
_LANGUAGE = re.compile(r"[A-Za-z0-9_]+")
_NOTATION = 'write language<=path in quotes, such as "en<=news.txt.gz" or "en-de<=pairs.tsv.gz"'


@dataclass(frozen=True)
class TextSource:
    """One file, or two aligned files.

    Args:
        paths: one path, or two in the order of `languages`.
        languages: one language, or two in the order of the file's columns.
    """

    paths: tuple[str, ...]
    languages: tuple[str, ...]

    def __str__(self) -> str:
        return " and ".join(self.paths)

    @property
    def has_columns(self) -> bool:
        """Whether it is one file with both sides of each pair."""
        return len(self.paths) < len(self.languages)

    @property
    def size(self) -> int:
        """Bytes of the files. UserError: a file cannot be read."""
        return sum(file_status(path).st_size for path in self.paths)


@dataclass(frozen=True)
class Stream:
    """All sources of one language, or of one pair of languages in either order.

    Args:
        languages: one, or two in alphabetical order.
        sources: in reading order.
    """

    languages: tuple[str, ...]
    sources: tuple[TextSource, ...]

    @property
    def is_parallel(self) -> bool:
        return len(self.languages) == 2

    @property
    def folder(self) -> str:
        """Its folder in the corpus: mono/en, parallel/de-en."""
        return f"{'parallel' if self.is_parallel else 'mono'}/{'-'.join(self.languages)}"


def gather_notation(arguments: list[str]) -> list[str]:
    """Join all `--mono x --mono y` of a command line into one mapping, as the parser expects it.

    UserError: a value is not `language<=path`.
    """
    rest: list[str] = []
    entries: dict[str, dict[str, list[str]]] = {"--mono": {}, "--parallel": {}}
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in entries:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if value.startswith("{"):  # already a mapping
            rest += [flag, value]
            continue
        label, arrow, path = value.partition("<=")
        if not (label and arrow and path):
            raise UserError(f"'{value}': no 'language<=path'; {_NOTATION}")
        # A comma separates files of one language, or the two aligned files of a pair.
        entries[flag].setdefault(label, []).extend([path] if "-" in label else path.split(","))
    for flag, mapping in entries.items():
        rest += [flag, json.dumps(mapping)] if mapping else []
    return rest


def resolve(mono: Mapping[str, Any], parallel: Mapping[str, Any]) -> list[Stream]:
    """The streams of a build: languages first, then pairs, each in alphabetical order.

    Args:
        mono: language -> path or list of paths.
        parallel: "a-b" -> path, or list of paths and [path, path] lists.

    Raises:
        UserError: no text given, a malformed name, a missing file, an unknown form.
    """
    sources: dict[tuple[str, ...], list[TextSource]] = defaultdict(list)
    for given, count in ((mono, 1), (parallel, 2)):
        for label, paths in given.items():
            if not isinstance(label, str):
                raise UserError(f"{label} is not a language; put it in quotes: YAML reads no as false")
            languages = tuple(label.split("-"))
            known = all(map(_LANGUAGE.fullmatch, languages))
            if not known or not len(languages) == len(set(languages)) == count:
                form = "two languages such as en-de" if count == 2 else "a language of letters, digits and _"
                raise UserError(f"'{label}' is not {form} (zh-Hans is written zh_Hans); {_NOTATION}")
            for path in paths if isinstance(paths, list) else [paths]:
                files = _find_pairs(path, languages) if count == 2 else zip(_find_files(path))
                sources[tuple(sorted(languages))] += [TextSource(names, languages) for names in files]
    if not sources:
        raise UserError(f"no text given: --mono or --parallel; {_NOTATION}")
    for languages, found in sources.items():
        if len({source.paths for source in found}) < len(found):
            raise UserError(f"a file is given twice for {'-'.join(languages)}")
    streams = [Stream(languages, tuple(found)) for languages, found in sources.items()]
    return sorted(streams, key=lambda stream: (stream.is_parallel, stream.languages))


def expand(path: Any) -> str:
    """A path with ~ and $VARIABLES replaced.

    UserError: not a path, or the environment has no such variable.
    """
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"'{path}' is not a path; give text, a list, or for pairs a list of two")
    expanded = os.path.expanduser(os.path.expandvars(path.strip()))
    if "$" in expanded:
        raise UserError(f"{path}: the environment has no such variable; set it, as in DATA=/where/data/is")
    return expanded


def file_status(path: str) -> os.stat_result:
    """`os.stat`. UserError: the file is missing or may not be read."""
    try:
        return os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _has_columns(name: str) -> bool:
    return name.lower().endswith(tuple(f".tsv{end}" for end in _PACKED))


def _find_pairs(path: Any, languages: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The files of each source of a pair: one with columns, or two that are aligned."""
    if isinstance(path, str) and "," in path:
        path = path.split(",")
    if isinstance(path, list):
        files = [name for part in path for name in _find_files(part)] if len(path) == 2 else []
        if len(files) != 2 or any(map(_has_columns, files)):
            pair = "-".join(languages)
            raise UserError(f"{pair}: {path} is not two aligned files; give each .tsv as {pair}<=PATH")
        return [tuple(files)]
    moses = [[f"{expand(path)}.{language}{end}" for end in _PACKED] for language in languages]
    files = [name for names in moses for name in list(filter(os.path.isfile, names))[:1]]
    if len(files) == 2 and not os.path.exists(expand(path)):
        return [tuple(files)]
    files = _find_files(path)
    for name in files:
        if not _has_columns(name):
            raise UserError(
                f"{name}: unknown form of parallel text; name it .tsv (.gz, .bz2, .xz may follow), or give "
                "two aligned files as path,path"
            )
    return [(name,) for name in files]


def _find_files(path: Any) -> list[str]:
    """A file, or the files of a folder or a glob in alphabetical order."""
    path = expand(path)
    if os.path.isdir(path):
        names = [os.path.join(path, name) for name in os.listdir(path) if not name.startswith(".")]
    else:
        names = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
    found = sorted(name for name in names if not os.path.isdir(name))
    if not found:
        raise UserError(f"{path}: no such file" if "*" not in path else f"{path}: no file matches")
    return found
