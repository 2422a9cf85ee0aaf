"""The official task files: TSV with a header, label_map.json, lang_map.json, `%s` patterns.

The TSV files have no quoting: every tab ends a cell, as in the official reader.
"""

import mmap
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.files import read_json

# The key under which `expand` puts the file of a pattern without %s if there is no language map.
ALL_LANGUAGES = "all"
_COLUMNS = "text_a, text_b, label, optional qid"


class Example(NamedTuple):
    """One row. `text_b`, `qid`: None without such a column. `label`: the id, or -1 if labels are not read."""

    text_a: str
    text_b: str | None
    label: int = -1
    qid: str | None = None


class FileLines:
    """Lines of a file, read from disk when they are asked for: a line costs 8 bytes of memory.

    Pickled as the file's name and the positions, so that a worker process gets millions of lines at once.

    Args:
        path: the file.
        data: its bytes, from `map_bytes`.
        starts: int64 [lines + 1], where each line begins and the last one ends, in bytes.
    """

    def __init__(self, path: Path, data: mmap.mmap, starts: np.ndarray):
        self.path = path.absolute()
        self._starts = starts
        self._bytes: mmap.mmap | None = data
        self._size = len(data)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def line(self, index: int) -> bytes:
        """One line with its line end."""
        index = range(len(self))[index]  # IndexError
        if self._bytes is None:
            self._bytes = map_bytes(self.path)
            if len(self._bytes) != self._size:
                raise UserError(f"{self.path} was changed while it was in use; start again with the new file")
        return self._bytes[self._starts[index] : self._starts[index + 1]]

    def __getstate__(self) -> dict:
        return {**vars(self), "_bytes": None}


class Examples(FileLines, Sequence[Example]):
    """The rows of a TSV file; made by `read_classification`, which checks them."""

    def __init__(
        self, path: Path, data: mmap.mmap, starts: np.ndarray, columns: dict[str, int],
        label_map: dict[str, int] | None,
    ):  # fmt: skip
        super().__init__(path, data, starts)
        self._columns, self._label_map = columns, label_map

    def __getitem__(self, index: int) -> Example:
        cells = self.line(index).decode("utf-8").rstrip("\r\n").split("\t")
        found = {name: cells[column] for name, column in self._columns.items()}
        label = found.get("label", "-1")
        label_id = self._label_map[label] if self._label_map and "label" in found else int(label)
        return Example(found["text_a"], found.get("text_b"), label_id, found.get("qid"))


def read_classification(
    path: str | os.PathLike, label_map: dict[str, int] | None = None, num_labels: int | None = None,
    labels: bool = True,
) -> Examples:  # fmt: skip
    """Check a TSV file with the columns text_a, text_b (optional), label, qid (optional); return its rows.

    Other columns are ignored. A byte order mark, Windows line ends and blank lines at the end are accepted.

    Args:
        label_map: label -> id; without it the label column contains ids.
        num_labels: without a label map, the ids must be below it.
        labels: False ignores the label column (prediction).

    Raises:
        UserError: the file cannot be read, or a line has another form; names the file and the line.
    """
    path = Path(path)
    data = map_bytes(path)
    position = data.find(b"\n") + 1 or len(data)
    header = parse_header(data[:position], path, ["text_a", *["label"] * labels], _COLUMNS)
    wanted = ("text_a", "text_b", "qid", *["label"] * labels)
    columns = {name: i for i, name in enumerate(header) if name in wanted}
    end = len(data)
    while end and data[end - 1] in b"\r\n":
        end -= 1
    known: set[str] = set()
    starts = array("q")
    while position < end:
        number = len(starts) + 2
        line_end = data.find(b"\n", position) + 1 or len(data)
        cells = parse_row(data[position:line_end], path, number, header)
        if labels and (label := cells[columns["label"]]) not in known:
            _check_label(label, label_map, num_labels, f"{path}, line {number}")
            known.add(label)
        starts.append(position)
        position = line_end
    if not starts:
        raise UserError(f"{path}: no rows after the header")
    starts.append(position)
    return Examples(path, data, np.asarray(starts, np.int64), columns, label_map)


def _check_label(label: str, label_map: dict[str, int] | None, num_labels: int | None, where: str) -> None:
    if label_map is not None:
        if label not in label_map:
            raise UserError(f"{where}: unknown label '{label}'; the label map has {', '.join(label_map)}")
    elif not (label.isdecimal() and len(label) < 10) or (num_labels is not None and int(label) >= num_labels):
        limit = "" if num_labels is None else f" below {num_labels} (--num_labels)"
        raise UserError(f"{where}: the label '{label}' is no id{limit}; name labels with --label_map_config")


def parse_header(line: bytes, path: Path, wanted: Sequence[str], columns: str) -> list[str]:
    """The column names in the first line of a TSV file, which must have those in `wanted`.

    `columns` says what the header should be, for the error.
    """
    header = decode(line.removeprefix(b"\xef\xbb\xbf"), path, 1).rstrip("\r\n").split("\t")
    if missing := [name for name in wanted if name not in header]:
        raise UserError(
            f"{path}, line 1: no column {', '.join(missing)} in the header; it names the tab-separated "
            f"columns ({columns})"
        )
    return header


def parse_row(line: bytes, path: Path, number: int, header: Sequence[str]) -> list[str]:
    """The cells of a line of a TSV file, as many as the header has columns."""
    cells = decode(line, path, number).rstrip("\r\n").split("\t")
    if len(cells) != len(header):
        raise UserError(
            f"{path}, line {number}: {len(cells)} columns, but the header names {len(header)} "
            f"({', '.join(header)}); a text must not hold a tab or a line end"
        )
    return cells


def read_label_map(path: str | os.PathLike, num_labels: int | None = None) -> dict[str, int]:
    """Label -> id from a JSON object. UserError: the ids are not 0, 1, 2, ..., `num_labels` of them."""
    labels = _read_json_object(path, '{"label": id, ...}')
    ids = list(labels.values())
    if any(type(id_) is not int for id_ in ids) or sorted(ids) != list(range(len(ids))):
        raise UserError(f"{path}: the ids must be 0 to {len(ids) - 1}, one each, but are {ids}")
    if num_labels is not None and len(labels) != num_labels:
        raise UserError(
            f"{path}: {len(labels)} labels ({', '.join(labels)}), but --num_labels is {num_labels}"
        )
    return labels


def read_languages(path: str | os.PathLike) -> list[str]:
    """The language codes of lang_map.json: the keys of a JSON object, in its order."""
    return list(_read_json_object(path, '{"en": ..., "fr": ...}'))


def expand(patterns: str, languages: Sequence[str] | None, flag: str) -> dict[str, dict[str, Path]]:
    """The files that `flag`, such as `--dev_set dev.%s.tsv,test.%s.tsv`, names: pattern -> language -> path.

    The file of a pattern without `%s` is under the only language, or under "all" without a language map.
    UserError: `%s` without languages, or no `%s` with several languages.
    """
    names = languages or [ALL_LANGUAGES]
    answer: dict[str, dict[str, Path]] = {}
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        if "%s" in pattern and languages is None:
            raise UserError(f"{flag} {pattern}: %s stands for languages; name them with --lang_map_config")
        if "%s" not in pattern and len(names) > 1:
            raise UserError(
                f"{flag} {pattern}: no %s in it, but the language map has {len(names)} languages; "
                "put %s where the file names have the language code, as in dev.%s.tsv"
            )
        answer[pattern] = {language: Path(pattern.replace("%s", language)) for language in names}
    if not answer:
        raise UserError(f"{flag}: no file named")
    return answer


def map_bytes(path: Path) -> mmap.mmap:
    """The bytes of a file. UserError: it cannot be read, or is empty."""
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise UserError(f"{path}: the file is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from error


def decode(line: bytes, path: Path, number: int) -> str:
    """A line as text. UserError: it is not UTF-8; names the file and the line."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}: not UTF-8 (byte {error.start + 1} of the line)") from error


def _read_json_object(path: str | os.PathLike, form: str) -> dict:
    value = read_json(path, f"it holds {form}")
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path}: must hold {form}")
    return value
