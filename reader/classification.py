"""The official task files: TSV with a header, label_map.json, lang_map.json, `%s` patterns.

TSV here has no quoting: a line is cut at every tab, as the official reader does.
"""

import mmap
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.files import read_json

# The key under which `expand` files a pattern without %s when there is no language map.
ALL_LANGUAGES = "all"
_READS_BETWEEN_LOOKS = 64  # rows that are read before it is looked again whether the file has changed


class Example(NamedTuple):
    """One row. `text_b`, `qid`: None without such a column. `label`: id, or -1 where none was asked for."""

    text_a: str
    text_b: str | None
    label: int = -1
    qid: str | None = None


class Examples(Sequence[Example]):
    """The rows of a TSV file, checked once and then read where they lie: a row costs 8 bytes of memory.

    Pickled as the file's name and the places of its rows, so a worker process gets millions of rows at once.
    Made by `read_classification`.
    """

    def __init__(
        self,
        path: Path,
        version: tuple[int, int],
        starts: np.ndarray,
        columns: dict[str, int],
        label_map: dict[str, int] | None,
    ):
        self.path = path
        self._version = version  # of the file when it was checked
        self._starts = starts  # [rows + 1] int64, the byte each row begins at
        self._columns = columns
        self._label_map = label_map
        self._bytes: mmap.mmap | None = None
        self._reads = 0

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        index %= len(self)
        if self._reads % _READS_BETWEEN_LOOKS == 0:
            self._check_version()
        self._reads += 1
        if self._bytes is None:
            self._bytes = map_bytes(self.path)
        try:
            return self._row(index)
        except (IndexError, KeyError, ValueError):
            self._check_version()
            raise

    def _row(self, index: int) -> Example:
        row = self._bytes[self._starts[index] : self._starts[index + 1]].decode("utf-8")
        cells = row.rstrip("\r\n").split("\t")
        column = self._columns
        return Example(
            cells[column["text_a"]],
            cells[column["text_b"]] if "text_b" in column else None,
            _label_id(cells[column["label"]], self._label_map) if "label" in column else -1,
            cells[column["qid"]] if "qid" in column else None,
        )

    def _check_version(self) -> None:
        if version_of(self.path) != self._version:  # the places of the rows mean nothing any more
            raise UserError(
                f"{self.path} was changed while it was in use; put it back as it was, or start a new run "
                "with the new one in another folder"
            )

    def __reduce__(self):
        return type(self), (self.path, self._version, self._starts, self._columns, self._label_map)


def read_classification(
    path: str | os.PathLike,
    label_map: dict[str, int] | None = None,
    num_labels: int | None = None,
    labels: bool = True,
) -> Examples:
    """Check a TSV file with the columns text_a, text_b (optional), label, qid (optional); return its rows.

    Other columns are allowed and not read; so are a byte order mark, Windows line ends, blank last lines.

    Args:
        path: the file.
        label_map: label -> id; without it the label column holds ids.
        num_labels: without a label map, the ids must be below it.
        labels: False reads no label column (prediction).

    Raises:
        UserError: no such file, an empty one, no header, a missing column, a row of the wrong width, an
            unknown label, bad UTF-8. It names the file and the line.
    """
    path = Path(path)
    version, data = version_of(path), map_bytes(path)
    header_end = data.find(b"\n") + 1 or len(data)
    header = decode(data[:header_end].removeprefix(b"\xef\xbb\xbf"), path, 1).rstrip("\r\n").split("\t")
    wanted = ["text_a", "label"] if labels else ["text_a"]
    missing = [name for name in wanted if name not in header]
    if missing:
        problem = (
            "no header line"
            if len(missing) == len(wanted)
            else f"no column {', '.join(missing)} in the header"
        )
        raise UserError(
            f"{path}, line 1: {problem}; the first line names the tab-separated columns "
            "(text_a, text_b, label, optional qid)"
        )
    if repeated := sorted(name for name, count in Counter(header).items() if count > 1):
        raise UserError(f"{path}, line 1: the column {repeated[0]} stands twice in the header")
    optional = ("text_b", "qid", "label") if labels else ("text_b", "qid")
    columns = {name: i for i, name in enumerate(header) if name == "text_a" or name in optional}
    starts = _check_rows(data, header_end, path, header, columns.get("label"), label_map, num_labels)
    return Examples(path.absolute(), version, starts, columns, label_map)


def _check_rows(
    data: mmap.mmap,
    position: int,
    path: Path,
    header: list[str],
    label_column: int | None,
    label_map: dict[str, int] | None,
    num_labels: int | None,
) -> np.ndarray:
    """Where the rows after the header begin, and where the last one ends: int64 [rows + 1]."""
    end = len(data)
    while end and data[end - 1] in b"\r\n":
        end -= 1
    known: set[str] = set()
    starts = array("q")
    line_number = 1
    while position < end:
        line_number += 1
        line_end = data.find(b"\n", position) + 1 or len(data)
        cells = decode(data[position:line_end], path, line_number).rstrip("\r\n").split("\t")
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line_number}: {len(cells)} columns, but the header names {len(header)} "
                f"({', '.join(header)}); a text must not hold a tab or a line end"
            )
        if label_column is not None and (label := cells[label_column]) not in known:
            _check_label(label, label_map, num_labels, path, line_number)
            known.add(label)
        starts.append(position)
        position = line_end
    if not starts:
        raise UserError(f"{path}: no rows after the header")
    starts.append(position)
    return np.asarray(starts, dtype=np.int64)


def _check_label(
    label: str, label_map: dict[str, int] | None, num_labels: int | None, path: Path, line_number: int
) -> None:
    if label_map is not None:
        if label not in label_map:
            raise UserError(
                f"{path}, line {line_number}: unknown label '{label}'; "
                f"the label map has {', '.join(label_map)}"
            )
    elif not _is_id(label) or (num_labels is not None and int(label) >= num_labels):
        limit = "" if num_labels is None else f" below {num_labels} (--num_labels)"
        raise UserError(
            f"{path}, line {line_number}: the label '{label}' is no id{limit}; "
            "name labels with --label_map_config"
        )


def _is_id(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _label_id(label: str, label_map: dict[str, int] | None) -> int:
    return int(label) if label_map is None else label_map[label]


def read_label_map(path: str | os.PathLike, num_labels: int | None = None) -> dict[str, int]:
    """Label -> id from a JSON object.

    Raises:
        UserError: not such an object, ids that are not 0, 1, 2, ..., or not `num_labels` of them.
    """
    labels = _read_json_object(path, '{"label": id, ...}')
    if any(type(id_) is not int for id_ in labels.values()) or sorted(labels.values()) != list(
        range(len(labels))
    ):
        raise UserError(
            f"{path}: the ids must be 0 to {len(labels) - 1}, one each, but are {list(labels.values())}"
        )
    if num_labels is not None and len(labels) != num_labels:
        raise UserError(
            f"{path}: {len(labels)} labels ({', '.join(labels)}), but --num_labels is {num_labels}; "
            "give the same number in both"
        )
    return labels


def read_languages(path: str | os.PathLike) -> list[str]:
    """The language codes of lang_map.json, a JSON object whose keys they are, in its order."""
    return list(_read_json_object(path, '{"en": ..., "fr": ...}'))


def expand(patterns: str, languages: Sequence[str] | None, flag: str) -> dict[str, dict[str, Path]]:
    """The files that a flag such as `--dev_set dev.%s.tsv,test.%s.tsv` names.

    Args:
        patterns: one or several, separated by commas; `%s` stands for each language in turn.
        languages: of the language map; None without one.
        flag: its name, for messages.

    Returns:
        pattern -> language -> path, in the order given. A pattern without `%s` has its file under the only
        language, or under "all" without a language map.

    Raises:
        UserError: `%s` where there are no languages, or no `%s` where there are several.
    """
    answer: dict[str, dict[str, Path]] = {}
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        if "%s" in pattern:
            if languages is None:
                raise UserError(
                    f"{flag} {pattern}: %s stands for languages; name them with --lang_map_config"
                )
            answer[pattern] = {language: Path(pattern.replace("%s", language)) for language in languages}
        elif languages is None or len(languages) == 1:
            answer[pattern] = {(languages or [ALL_LANGUAGES])[0]: Path(pattern)}
        else:
            raise UserError(
                f"{flag} {pattern}: no %s in it, but the language map has {len(languages)} languages; "
                "put %s where the language code stands in the file names, as in dev.%s.tsv"
            )
    if not answer:
        raise UserError(f"{flag}: no file named")
    return answer


def map_bytes(path: Path) -> mmap.mmap:
    """The bytes of a file that is not empty. UserError: it cannot be read, or is empty."""
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise UserError(f"{path}: the file is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from error


def version_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change of a file. UserError: it cannot be read."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from error
    return found.st_size, found.st_mtime_ns


def decode(line: bytes, path: Path, line_number: int) -> str:
    """A line as text. UserError: it is not UTF-8; names the file and the line."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {line_number}: not UTF-8 (byte {error.start + 1} of the line); "
            "convert the file to UTF-8"
        ) from error


def _read_json_object(path: str | os.PathLike, form: str) -> dict:
    value = read_json(path, f"it holds {form}")
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path}: must hold {form}")
    for key in value:
        if any("\ud800" <= c <= "\udfff" for c in key):
            raise UserError(f"{path}: the key '{key}' has one half of a pair, which is no character")
    return value
