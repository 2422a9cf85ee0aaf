"""Which text goes into a corpus: the notation `language<=path`, resolved to streams of source files.

    en<=news.en.txt.gz            one file; plain, .gz, .bz2, .xz or .zst (told by its content, not its name)
    en<=wiki/*.xz,books/          globs, folders, several with commas
    en-de<=pairs.tsv.gz           a pair a line, tab between: English, German
    en-de<=train.en,train.de      two aligned files
    en-de<=train                  Moses: train.en and train.de
    en-de<=memory.tmx             translation memory

In YAML the same as mappings, paths as text or lists; two aligned files are a list within the list.
"""

import glob
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_LANGUAGE = re.compile(r"[A-Za-z0-9_]+")
_NOTATION = 'write language<=path in quotes, such as "en<=news.txt.gz" or "en-de<=pairs.tsv.gz"'


@dataclass(frozen=True)
class Source:
    """One file, or two aligned ones.

    Args:
        paths: one path, or two in the order of `languages`.
        form: text, tsv, aligned or tmx.
        languages: one language, or two in the order of the file's columns.
    """

    paths: tuple[str, ...]
    form: str
    languages: tuple[str, ...]

    def __str__(self) -> str:
        return " and ".join(self.paths)


@dataclass(frozen=True)
class Stream:
    """All sources of one language, or of one pair whichever way round they name it.

    Args:
        languages: one, or two in alphabetical order.
        sources: in the order they are read.
    """

    languages: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def is_parallel(self) -> bool:
        return len(self.languages) == 2

    @property
    def folder(self) -> str:
        """Its folder in the corpus: mono/en, parallel/de-en."""
        return f"{'parallel' if self.is_parallel else 'mono'}/{'-'.join(self.languages)}"


def parse_notation(entries: list[str]) -> dict[str, list[str]]:
    """`["en<=a,b", "de<=c"]` as `{"en": ["a", "b"], "de": ["c"]}`; a comma in a pair's path is left alone.

    Raises:
        UserError: an entry without `<=`, without a language or without a path.
    """
    parsed: dict[str, list[str]] = {}
    for entry in entries:
        label, arrow, path = entry.partition("<=")
        if not (label and arrow and path):
            raise UserError(f"'{entry}': no 'language<=path'; {_NOTATION}")
        parsed.setdefault(label, []).extend([path] if "-" in label else path.split(","))
    return parsed


def resolve(mono: Mapping[str, Any], parallel: Mapping[str, Any]) -> list[Stream]:
    """The streams of a build, languages first, each kind in alphabetical order.

    Args:
        mono: language -> path or list of paths.
        parallel: "a-b" -> path, or list of paths and [path, path] lists.

    Raises:
        UserError: nothing given, a malformed name, a path that does not exist, a form that is not known.
    """
    sources: dict[tuple[str, ...], list[Source]] = defaultdict(list)
    for label, paths in mono.items():
        languages = _check_languages(label, 1)
        for path in _as_list(paths, label):
            sources[languages] += [Source((name,), "text", languages) for name in _expand(path)]
    for label, paths in parallel.items():
        languages = _check_languages(label, 2)
        for path in _as_list(paths, label):
            sources[tuple(sorted(languages))] += _parallel_sources(path, languages)
    if not sources:
        raise UserError(f"no text given: --mono or --parallel; {_NOTATION}")
    for found in sources.values():
        _refuse_twice(found)
    streams = [Stream(languages, tuple(found)) for languages, found in sources.items()]
    return sorted(streams, key=lambda stream: (stream.is_parallel, stream.languages))


def _parallel_sources(path: Any, languages: tuple[str, ...]) -> list[Source]:
    if isinstance(path, str) and "," in path:
        path = path.split(",")
    if isinstance(path, list):
        files = [name for part in path for name in _expand(part)] if len(path) == 2 else []
        if len(files) != 2:
            raise UserError(
                f"{'-'.join(languages)}: {path} is not two aligned files, one for {languages[0]} and one for "
                f"{languages[1]}"
            )
        return [Source(tuple(files), "aligned", languages)]
    moses = _moses(path, languages)
    if moses:
        return [moses]
    files = _expand(path)
    if os.path.isdir(_plain(path)):
        files = [name for name in files if _form(name)]
    if not files:
        raise UserError(f"{path}: no .tsv and no .tmx file in that folder")
    sources = []
    for name in files:
        if not _form(name):
            raise UserError(
                f"{name}: unknown form of parallel text; name it .tsv or .tmx (.gz, .bz2, .xz, .zst may "
                "follow), or give two aligned files as path,path"
            )
        sources.append(Source((name,), _form(name), languages))
    return sources


def _moses(prefix: str, languages: tuple[str, ...]) -> Source | None:
    """prefix.en and prefix.de, where there is no file `prefix` itself."""
    prefix = _plain(prefix)
    if os.path.exists(prefix):
        return None
    found = [
        next((name for end in ("", *COMPRESSED) if os.path.isfile(name := f"{prefix}.{language}{end}")), None)
        for language in languages
    ]
    return Source(tuple(found), "aligned", languages) if all(found) else None


def _form(path: str) -> str | None:
    name = Path(path).name.lower()
    for end in COMPRESSED:
        name = name.removesuffix(end)
    return next((form for form in ("tsv", "tmx") if name.endswith(f".{form}")), None)


def _expand(path: str) -> list[str]:
    """A file, the files of a folder or those of a glob, in alphabetical order."""
    plain = _plain(path)
    if os.path.isdir(plain):
        found = [
            str(file) for file in sorted(Path(plain).iterdir()) if file.is_file() and file.name[0] != "."
        ]
    elif os.path.exists(plain):
        found = [plain]
    else:
        found = sorted(name for name in glob.glob(plain, recursive=True) if os.path.isfile(name))
    if not found:
        raise UserError(f"{plain}: no such file" if "*" not in plain else f"{plain}: no file matches")
    return found


def _plain(path: Any) -> str:
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"'{path}' is not a path; give text, a list, or for pairs a list of two")
    return expand(path)


def expand(path: str) -> str:
    """A path with ~ and $VARIABLES replaced.

    Raises:
        UserError: there is no such variable.
    """
    plain = os.path.expanduser(os.path.expandvars(path.strip()))
    if "$" in plain:
        raise UserError(
            f"{path}: the environment has no such variable; set it, as in DATA=/where/the/data/is"
        )
    return plain


def _as_list(paths: Any, label: str) -> list[Any]:
    paths = paths if isinstance(paths, list) else [paths]
    if not paths:
        raise UserError(f"{label}: no path given; {_NOTATION}")
    return paths


def _check_languages(label: str, count: int) -> tuple[str, ...]:
    languages = tuple(label.split("-"))
    if len(languages) != count or not all(_LANGUAGE.fullmatch(language) for language in languages):
        form = "one language of letters, digits and _" if count == 1 else "two languages such as en-de"
        raise UserError(f"'{label}' is not {form} (zh-Hans is written zh_Hans); {_NOTATION}")
    if count == 2 and languages[0] == languages[1]:
        raise UserError(f"'{label}': a pair needs two different languages")
    return languages


def _refuse_twice(sources: list[Source]) -> None:
    seen: set[tuple[str, ...]] = set()
    for source in sources:
        if source.paths in seen:
            raise UserError(f"{source}: given twice for {'-'.join(source.languages)}")
        seen.add(source.paths)
