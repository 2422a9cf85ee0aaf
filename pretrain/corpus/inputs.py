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

_ENDINGS = ("", ".gz", ".bz2", ".xz")  # what may follow the name of a text file
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
    def unpacked(self) -> tuple[str, ...]:
        """Where the paths lead to, without the ending of a packed file: equal for the same text."""
        parts = [os.path.splitext(os.path.realpath(path)) for path in self.paths]
        return tuple(stem if end in _ENDINGS else stem + end for stem, end in parts)

    @property
    def size(self) -> int:
        """Bytes of the files.

        Raises:
            UserError: a file cannot be read.
        """
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
        """Whether it is the text of a pair of languages."""
        return len(self.languages) == 2

    @property
    def folder(self) -> str:
        """Its folder in the corpus: mono/en, parallel/de-en."""
        kind = "parallel" if self.is_parallel else "mono"
        return f"{kind}/{'-'.join(self.languages)}"


def gather_notation(arguments: list[str]) -> list[str]:
    """Join all `--mono x --mono y` of a command line into one mapping, as the parser expects it.

    The mapping is JSON: language -> paths. `--parallel` is joined in the same way, and all other words stay.

    Raises:
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
        if not equals:  # `--mono x`, not `--mono=x`: the next word is the value
            value = next(words, "")
        if value.startswith("{"):  # already a mapping
            rest += [flag, value]
            continue
        label, arrow, path = value.partition("<=")
        if not (label and arrow and path):
            raise UserError(f"'{value}': no 'language<=path'; {_NOTATION}")
        # A comma separates several files of one language. In a pair it separates the two aligned files, which
        # belong together; `_find_pairs` splits these.
        paths = [path] if "-" in label else path.split(",")
        entries[flag].setdefault(label, []).extend(paths)
    for flag, mapping in entries.items():
        if mapping:
            rest += [flag, json.dumps(mapping)]
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
    for label, paths in mono.items():
        languages = _languages(label, 1)
        for path in paths if isinstance(paths, list) else [paths]:
            sources[languages] += [TextSource((file,), languages) for file in _find_files(path)]
    for label, paths in parallel.items():
        languages = _languages(label, 2)
        for path in paths if isinstance(paths, list) else [paths]:
            # en-de and de-en are one stream; each source keeps the order of its own label.
            stream_sources = sources[tuple(sorted(languages))]
            stream_sources += [TextSource(files, languages) for files in _find_pairs(path, languages)]
    if not sources:
        raise UserError(f"no text given: --mono or --parallel; {_NOTATION}")
    streams = []
    given: dict[tuple[str, ...], str] = {}  # `TextSource.unpacked` -> its languages and its paths
    for languages, sources_of_stream in sources.items():
        name = "-".join(languages)
        for source in sources_of_stream:
            unpacked = source.unpacked
            if unpacked in given:
                raise UserError(f"{source}: given for {given[unpacked]}, and again for {name}; give it once")
            if len(set(unpacked)) < len(unpacked):
                raise UserError(
                    f"{source}: one file for both sides of {name}; name the file of each language"
                )
            given[unpacked] = f"{name} as {source}"
        streams.append(Stream(languages, tuple(sources_of_stream)))
    return sorted(streams, key=lambda stream: (stream.is_parallel, stream.languages))


def _languages(label: Any, count: int) -> tuple[str, ...]:
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
        raise UserError(f"'{label}' is not {form} (zh-Hans is written zh_Hans); {_NOTATION}")
    return languages


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


def file_status(path: str) -> os.stat_result:
    """`os.stat`.

    Raises:
        UserError: the file is missing or may not be read.
    """
    try:
        return os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _has_columns(name: str) -> bool:
    """Whether it is the name of a .tsv file, plain or compressed."""
    return name.lower().endswith(tuple(f".tsv{end}" for end in _ENDINGS))


def _find_pairs(path: Any, languages: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The files of each source of a pair: one with columns, or two that are aligned.

    Args:
        path: `pairs.tsv`, a folder or a glob of such files; `file,file` or [file, file]; or the common
            beginning of the names of two files (Moses).

    Raises:
        UserError: a file is missing or has an unknown form.
    """
    if isinstance(path, str) and "," in path:
        path = path.split(",")
    if isinstance(path, list):
        return [_aligned_files(path, languages)]
    # `train` means train.en and train.de, unless there is a file or folder of that very name.
    moses = _moses_files(expand(path), languages)
    if moses and not os.path.exists(expand(path)):
        return [moses]
    files = _find_files(path)
    for file in files:
        if not _has_columns(file):
            raise UserError(
                f"{file}: unknown form of parallel text; name it .tsv (.gz, .bz2, .xz may follow), or give "
                "two aligned files as path,path"
            )
    return [(file,) for file in files]


def _aligned_files(paths: list[Any], languages: tuple[str, ...]) -> tuple[str, ...]:
    """Two files, one for each language.

    Raises:
        UserError: there are not two, or one is a .tsv file.
    """
    files = []
    if len(paths) == 2:
        files = [file for path in paths for file in _find_files(path)]
    if len(files) != 2 or any(_has_columns(file) for file in files):
        pair = "-".join(languages)
        raise UserError(f"{pair}: {paths} is not two aligned files; give each .tsv as {pair}<=PATH")
    return tuple(files)


def _moses_files(prefix: str, languages: tuple[str, ...]) -> tuple[str, ...] | None:
    """`prefix.en` and `prefix.de`, plain or compressed; None if one is missing."""
    files = []
    for language in languages:
        names = [f"{prefix}.{language}{end}" for end in _ENDINGS]
        file = next((name for name in names if os.path.isfile(name)), None)
        if file is None:
            return None
        files.append(file)
    return tuple(files)


def _find_files(path: Any) -> list[str]:
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
