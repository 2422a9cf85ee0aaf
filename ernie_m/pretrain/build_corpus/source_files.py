"""Source files of a corpus: resolves the notation `language<=path`.

    en<=news.en.txt.gz            one file: plain, .gz, .bz2 or .xz
    en<=wiki/*.xz,books/          globs and folders; commas separate several
    en-de<=pairs.tsv.gz           one pair per line, English and German: .tsv, .csv; or a .tmx file
    en-de<=train.en,train.de      two aligned files
    en-de<=train                  Moses: train.en and train.de

In a YAML file these are mappings, whose values are a path or a list; two aligned files are a nested list.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ernie_m.reader.files.find_files import (
    NOTATION,
    check_languages,
    find_pair_files,
    find_text_files,
    parse_languages,
    split_language_prefix,
)
from ernie_m.reader.files.plain_text import PACKINGS
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import get_file_version


@dataclass(frozen=True)
class CorpusSource:
    """A source of a corpus: one file, or two aligned files.

    Args:
        paths: one path, or two in the order of `languages`.
        languages: one language, or two in the order of the file's columns.
    """

    paths: tuple[str, ...]
    languages: tuple[str, ...]

    def __str__(self) -> str:
        return " and ".join(self.paths)

    @property
    def label(self) -> str:
        """Return the name of the source in the manifest, such as "en<=news.en.txt"."""
        return f"{'-'.join(self.languages)}<={','.join(self.paths)}"

    @property
    def has_columns(self) -> bool:
        """Return whether the source is one file with both sides of each pair."""
        return len(self.paths) < len(self.languages)

    @property
    def uncompressed_paths(self) -> tuple[str, ...]:
        """Return the resolved paths without compression suffix, to detect a file that is given twice."""
        parts = [os.path.splitext(os.path.realpath(path)) for path in self.paths]
        return tuple(stem if end in PACKINGS else stem + end for stem, end in parts)

    @property
    def size(self) -> int:
        """Return the total size of the files in bytes.

        Raises:
            UserError: a file cannot be read.
        """
        return sum(get_file_version(path)[0] for path in self.paths)


@dataclass(frozen=True)
class Stream:
    """All sources of a language, or of a language pair.

    Args:
        languages: one language, or two in alphabetical order.
        sources: the sources in reading order.
    """

    languages: tuple[str, ...]
    sources: tuple[CorpusSource, ...]

    @property
    def is_parallel(self) -> bool:
        """Return whether the stream is a language pair."""
        return len(self.languages) == 2

    @property
    def folder(self) -> str:
        """Return the folder of the stream in the corpus, such as mono/en or parallel/de-en."""
        kind = "parallel" if self.is_parallel else "mono"
        return f"{kind}/{'-'.join(self.languages)}"


def merge_source_options(arguments: list[str]) -> list[str]:
    """Merge repeated --mono options of a command line into one JSON mapping, and likewise --parallel.

    Raises:
        UserError: a value is not `language<=path`.
    """
    joined_arguments: list[str] = []
    entries: dict[str, dict[str, list[str]]] = {"--mono": {}, "--parallel": {}}
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in entries:
            joined_arguments.append(word)
            continue
        if not equals:  # `--mono x`, not `--mono=x`: the next word is the value
            value = next(words, "")
        if value.startswith("{"):  # already a mapping
            joined_arguments += [flag, value]
            continue
        label, path = split_language_prefix(value)
        if not (label and path):
            raise UserError(f"invalid '{value}' (expected language<=path). {NOTATION}")
        # A comma separates several files of one language. In a pair it separates the two aligned files, which
        # `find_pair_files` splits.
        paths = [path] if "-" in label else path.split(",")
        entries[flag].setdefault(label, []).extend(paths)
    for flag, mapping in entries.items():
        if mapping:
            joined_arguments += [flag, json.dumps(mapping)]
    return joined_arguments


def resolve_sources(mono: Mapping[str, Any], parallel: Mapping[str, Any]) -> list[Stream]:
    """Resolve the source files of a build into streams: languages, then language pairs, alphabetically.

    Args:
        mono: language -> path or list of paths.
        parallel: "a-b" -> path, or list of paths and [path, path] lists.

    Raises:
        UserError: there is no text, a name is invalid, a file is missing, a format is unknown, or a language
            has two names.
    """
    sources: dict[tuple[str, ...], list[CorpusSource]] = defaultdict(list)
    for number, entries in ((1, mono), (2, parallel)):
        for label, paths in entries.items():
            languages = parse_languages(label, number)
            for path in paths if isinstance(paths, list) else [paths]:
                files = (
                    find_pair_files(path, languages) if number == 2 else zip(find_text_files(path, languages))
                )
                # en-de and de-en are one stream; each source keeps the order of its own label.
                sources[tuple(sorted(languages))] += [CorpusSource(names, languages) for names in files]
    if not sources:
        raise UserError(f"missing --mono or --parallel. {NOTATION}")
    check_languages(chain.from_iterable(sources))
    streams = []
    given: dict[tuple[str, ...], str] = {}  # `CorpusSource.uncompressed_paths` -> its languages and its paths
    for languages, sources_of_stream in sources.items():
        name = "-".join(languages)
        for source in sources_of_stream:
            unpacked = source.uncompressed_paths
            if unpacked in given:
                raise UserError(f"{source}: given twice, for {given[unpacked]} and for {name}")
            if len(set(unpacked)) < len(unpacked):
                raise UserError(
                    f"{source}: the same file for both languages of {name}. Give one file per language"
                )
            given[unpacked] = f"{name} as {source}"
        streams.append(Stream(languages, tuple(sources_of_stream)))
    return sorted(streams, key=lambda stream: (stream.is_parallel, stream.languages))
