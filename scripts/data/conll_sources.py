"""The public forms of tagged text, told by file name, read sentence by sentence."""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from reader.tagging import JOINT, is_tag
from scripts.data.joint_files import place_in
from utils.errors import UserError

SPLITS = ("train", "dev", "test")
# The order of the paper's Table 2; other languages follow in alphabetical order.
LANGUAGES = ("en", "nl", "es", "de")

_SHARED_TASK = re.compile(r"(eng|deu|esp|ned)\.(train|testa|testb)(?:\.[\w-]+)*")
_BY_LANGUAGE = re.compile(
    r"(?:(?:conll\w*|panx|wikiann|ner)[-._])?(train|dev|valid|test)[-._](?!all\.)([a-z]{2,3})"
    r"\.(?:tsv|txt|conll|bio|iob2?)(?:\.gz)?"
)
_WIKIANN_FOLDER = re.compile(r"[a-z]{2,3}")
_NAMED = re.compile(r"(train|dev|test)\.([a-z]{2,3})=(.+)")
_LANGUAGE_NAMES = {"eng": "en", "deu": "de", "esp": "es", "ned": "nl"}
_SPLIT_NAMES = {"testa": "dev", "testb": "test", "valid": "dev"}
_DOCUMENT = "-DOCSTART-"


class Source(NamedTuple):
    """One input file and what it holds."""

    path: Path
    split: str
    language: str


class Row(NamedTuple):
    """One sentence and the line it begins on. Words may be empty."""

    line_number: int
    words: list[str]
    tags: list[str]


class Tables(NamedTuple):
    """A file as it was found."""

    rows: list[Row]
    encoding: str
    columns: int


def find_sources(arguments: Iterable[str], output: Path) -> list[Source]:
    """The files to read, training first. Of two for the same split and language the earlier one counts.

    Args:
        arguments: files, folders that are looked through with their sub-folders, or `dev.de=file`.
        output: files below it are passed over.

    Raises:
        UserError: a path that is not there, or with nothing whose name is known.
    """
    chosen: dict[tuple[str, str], Source] = {}
    for argument in arguments:
        for source in _named_or_found(argument, output):
            other = chosen.setdefault((source.split, source.language), source)
            if other is not source:
                print(
                    f"not used: {source.path} ({source.split} {source.language} is taken from {other.path})"
                )
    return sorted(chosen.values(), key=lambda one: (SPLITS.index(one.split), by_paper(one.language)))


def by_paper(language: str) -> tuple[int, str]:
    """Sort key of languages."""
    return place_in(LANGUAGES, language)


def read_tables(source: Source) -> Tables:
    """A file in columns, word first and tag last, or in the official form; UTF-8, else ISO-8859-1; maybe .gz.

    A blank line and -DOCSTART- end a sentence. WikiANN's "en:" before every word goes.

    Raises:
        UserError: no such file, a line of another width, a tag that is none; it names the file and the line.
    """
    text, encoding = _read_text(source.path)
    lines = text.removeprefix("\ufeff").rstrip("\r\n").split("\n")
    header = lines[0].rstrip("\r").split("\t")
    if {"text_a", "label"} <= {*header}:
        rows = list(_official_rows(lines, header, source.path))
        columns = len(header)
    else:
        columns, rows = _column_rows(lines, source.path)
    prefix = f"{source.language}:"
    if all(word.startswith(prefix) for row in rows for word in row.words):
        rows = [row._replace(words=[word.removeprefix(prefix) for word in row.words]) for row in rows]
    return Tables(rows, encoding, columns)


def _named_or_found(argument: str, output: Path) -> list[Source]:
    if match := _NAMED.fullmatch(argument):
        path = Path(match[3])
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        return [Source(path, match[1], match[2])]
    path = Path(argument)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    inside = output.resolve()
    found = [
        source for file in files if inside not in file.resolve().parents and (source := _recognise(file))
    ]
    if not found:
        raise UserError(
            f"{path}: no file there has a known name (eng.train, ned.testa, train-<language>.tsv, ...; "
            "--help lists them); say what it is (train.en=FILE), or name another folder"
        )
    return found


def _recognise(path: Path) -> Source | None:
    if match := _SHARED_TASK.fullmatch(path.name):
        return Source(path, _SPLIT_NAMES.get(match[2], match[2]), _LANGUAGE_NAMES[match[1]])
    if match := _BY_LANGUAGE.fullmatch(path.name):
        return Source(path, _SPLIT_NAMES.get(match[1], match[1]), match[2])
    if path.name in SPLITS and _WIKIANN_FOLDER.fullmatch(path.parent.name):
        return Source(path, path.name, path.parent.name)
    return None


def _read_text(path: Path) -> tuple[str, str]:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "not a whole gzip file"
        raise UserError(f"{path}: cannot read it ({reason}); fetch it again") from error
    try:
        return data.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:  # text with accents in ISO-8859-1 is practically never valid UTF-8
        return data.decode("iso-8859-1"), "ISO-8859-1"


def _column_rows(lines: list[str], path: Path) -> tuple[int, list[Row]]:
    rows: list[Row] = []
    current = Row(1, [], [])
    width = 0
    for number, line in enumerate([*lines, ""], 1):
        line = line.rstrip("\r")
        # Only these two part columns: a no-break space belongs to a word.
        cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
        if not any(cells) or cells[0] == _DOCUMENT:
            if current.words:
                rows.append(current)
            current = Row(number + 1, [], [])
            continue
        width = width or len(cells)
        if len(cells) != width or width < 2:
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, not {max(width, 2)}; a line is a word, what "
                "else is known of it, and its tag, with spaces or tabs between"
            )
        _check_tag(cells[-1], path, number)
        current.words.append(cells[0])
        current.tags.append(cells[-1])
    return width, rows


def _official_rows(lines: list[str], header: list[str], path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines[1:], 2):
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, but the header names {len(header)}"
            )
        words, tags = (cells[header.index(name)].split(JOINT) for name in ("text_a", "label"))
        if len(words) != len(tags):
            raise UserError(f"{path}, line {number}: {len(words)} tokens but {len(tags)} tags")
        for tag in tags:
            _check_tag(tag, path, number)
        yield Row(number, words, tags)


def _check_tag(tag: str, path: Path, number: int) -> None:
    if not is_tag(tag):
        raise UserError(f"{path}, line {number}: '{tag}' in the last column is not O, B-<type> or I-<type>")
