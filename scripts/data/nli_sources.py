"""The public forms of NLI data, told by file name, read row by row under our column names."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.data.joint_files import place_in
from utils.errors import UserError

SPLITS = ("train", "dev", "test")
ALL = "*"  # the language of a file that names it in each row
# The order of the paper's tables; other languages follow in alphabetical order.
LANGUAGES = ("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur")

_BY_LANGUAGE = re.compile(r"(?:(?:xnli|multinli)[-._])?(train|dev|valid|test)[-._](?!all\.)([a-z]{2,3})\.tsv")
_MIXED = re.compile(r"xnli\.(dev|test)\.(?:tsv|jsonl)")
_MULTINLI = re.compile(r"multinli_1\.0_train\.(?:txt|jsonl)")
_ALIASES = {
    "text_a": ("text_a", "premise", "sentence1"),
    "text_b": ("text_b", "hypothesis", "hypo", "sentence2"),
    "label": ("label", "gold_label"),
    "language": ("language",),
    "qid": ("qid", "pairID"),
}
_NEEDED = {"text_a", "text_b", "label"}


class Source(NamedTuple):
    """One input file and what it holds; `language` is `ALL` where each row names its own."""

    path: Path
    split: str
    language: str


def find_sources(paths: Iterable[Path], output: Path) -> list[Source]:
    """The files to read, training first. Of two for the same split and language the earlier one counts.

    Args:
        paths: files, or folders that are looked through with their sub-folders.
        output: files below it are passed over.

    Raises:
        UserError: a path that is not there, or with nothing whose name is known.
    """
    chosen: list[Source] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        found = [source for file in _files(path) if (source := _recognise(file, output))]
        if not found:
            raise UserError(
                f"{path}: no file there has a known name (xnli.dev.tsv, multinli.train.<language>.tsv, "
                "train-<language>.tsv, ...; --help lists them); rename it or name another folder"
            )
        for source in found:
            other = next((other for other in chosen if _overlap(source, other)), None)
            if other is None:
                chosen.append(source)
            else:
                print(f"not used: {source.path} ({source.split} is taken from {other.path})")
    return sorted(chosen, key=lambda source: (SPLITS.index(source.split), by_paper(source.language)))


def by_paper(language: str) -> tuple[int, str]:
    """Sort key of languages."""
    return place_in(LANGUAGES, language)


def read_rows(path: Path) -> Iterator[dict[str, str] | None]:
    """Rows as text_a, text_b, label and, where the file has them, language and qid; None for a malformed row.

    Tabs and line ends inside a text become spaces; white space at its ends goes.

    Raises:
        UserError: bad UTF-8, bad JSON, or columns that cannot be told.
    """
    if path.suffix == ".jsonl":
        for number, line in _lines(path):
            cells = _named(_json(line, path, number))
            yield cells if cells.keys() >= _NEEDED else None
        return
    header: list[str] | None = None
    for _, line in _lines(path):
        cells = line.split("\t")
        if header is None:
            if _named(dict.fromkeys(cells, "")).keys() >= _NEEDED:
                header = cells
                continue
            header = ["premise", "hypothesis", "label"]
            if len(cells) != len(header):
                raise UserError(
                    f"{path}, line 1: {len(cells)} columns that are neither a header naming premise, "
                    "hypothesis and label nor a row of just these three"
                )
        yield _named(dict(zip(header, cells))) if len(cells) == len(header) else None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    # Of two forms of one text, the table comes first.
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(files, key=lambda file: (file.suffix == ".jsonl", file))


def _recognise(path: Path, output: Path) -> Source | None:
    if output.resolve() in path.resolve().parents:
        return None
    if path.parent.name == "xnli" and (path.parent.parent / "multinli").is_dir():
        return None  # XNLI-MT-1.0/xnli: the other languages' dev and test machine-translated into English
    if match := _BY_LANGUAGE.fullmatch(path.name):
        return Source(path, match[1].replace("valid", "dev"), match[2])
    if match := _MIXED.fullmatch(path.name):
        return Source(path, match[1], ALL)
    if _MULTINLI.fullmatch(path.name):
        return Source(path, "train", "en")
    return None


def _overlap(a: Source, b: Source) -> bool:
    return a.split == b.split and (a.language == b.language or ALL in (a.language, b.language))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: not UTF-8; fetch or convert the file again"
                ) from error
            if number == 1:
                line = line.removeprefix("\ufeff")
            if line:
                yield number, line


def _json(line: str, path: Path, number: int) -> dict:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: not JSON ({error.msg}); fetch the file again") from error
    return value if isinstance(value, dict) else {}


def _named(cells: dict) -> dict[str, str]:
    named = {}
    for name, aliases in _ALIASES.items():
        for alias in aliases:
            if alias in cells:
                named[name] = re.sub(r"[\t\r\n]+", " ", str(cells[alias])).strip()
                break
    return named
