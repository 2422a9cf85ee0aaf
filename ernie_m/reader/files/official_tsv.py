"""Lines and cells of the official TSV files: UTF-8, a header, every tab ends a cell, no quoting."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import (
    FileVersion,
    get_file_version,
    reject_changed,
    reject_pointer,
    translate_read_errors,
)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OFFICIAL = ("text_a", "text_b", "label", "qid")  # the columns of the official files
_IN_QUOTES = re.compile('".*"')  # cells have no line ends
_TO_CSV = ".to_csv('table.csv', index=False)\""
# The first bytes of a file that is no text -> what it is, and what makes text of it; {}: the path.
_NO_TEXT = {
    b"PAR1": "Parquet and no text; convert it: python -c \"import pandas; pandas.read_parquet('{}')"
    + _TO_CSV,
    b"ARROW1": "Arrow and no text; convert it: python -c \"import pandas; pandas.read_feather('{}')"
    + _TO_CSV,
    b"\xff\xff\xff\xff": (
        'Arrow and no text; convert it: python -c "import pyarrow; '
        "pyarrow.ipc.open_stream('{}').read_pandas()" + _TO_CSV
    ),
    b"\x1f\x8b": "the file is compressed; unpack it first with gunzip",
    b"BZh91AY&SY": "the file is compressed; unpack it first with bunzip2",
    b"\xfd7zXZ\0": "the file is compressed; unpack it first with unxz",
    b"PK\x03\x04": "the file is compressed; unpack it first with unzip, or save a spreadsheet as .csv",
    b"(\xb5/\xfd": "the file is compressed; unpack it first with unzstd",
    b"7z\xbc\xaf'\x1c": "the file is compressed; unpack it first with 7z x",
}


class FileLines:
    """Lines of a file, read from disk when they are asked for: a line costs 8 bytes of memory.

    Pickled as the file's name and the positions, so that a worker process gets millions of lines at once.

    Args:
        path: the file.
        version: of the file before it was read to find the lines.
        starts: int64 [lines + 1], where each line begins and the last one ends, in bytes.
    """

    def __init__(self, path: Path, version: FileVersion, starts: np.ndarray):
        self.path = path.absolute()
        self._version = version
        self._starts = starts
        self._file: BinaryIO | None = None  # opened when the first line is read

    def __len__(self) -> int:
        return len(self._starts) - 1

    def line(self, index: int) -> bytes:
        """One line with its line end.

        Raises:
            IndexError: there is no such line.
            UserError: the file was changed or removed.
        """
        index = range(len(self))[index]  # as in a list: -1 is the last line
        start = int(self._starts[index])
        length = int(self._starts[index + 1]) - start
        if self._file is None:
            self._file = _open(self.path)
        # Read first, then compare: so a change during the read is seen, too. A memory map would kill the
        # process if the file became shorter.
        line = os.pread(self._file.fileno(), length, start)
        reject_changed(self.path, get_file_version(self._file.fileno()), self._version)
        return line

    def __getstate__(self) -> dict:  # an open file cannot be pickled
        return {**vars(self), "_file": None}


@contextmanager
def open_lines(path: Path) -> Iterator[tuple[BinaryIO, FileVersion]]:
    """Open a file whose lines will be `FileLines`, and yield the file and its version.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    reject_pointer(path)
    with _open(path) as file:
        version = get_file_version(file.fileno())
        if not version[0]:
            raise UserError(f"{path}: the file is empty")
        yield file, version


def in_one_line(cell: str) -> str:
    """A cell as this form can hold it, without tabs and line ends."""
    return cell if cell.isprintable() else re.sub(r"[\t\r\n]+", " ", cell)


def parse_header(line: bytes, path: Path, required: Sequence[str], form: str) -> list[str]:
    """The column names in the first line of a TSV file.

    Args:
        required: columns that must be there.
        form: what the header should be, for the error.

    Raises:
        UserError: a required column is missing, two columns have one name, or the file is no text.
    """
    header = split_cells(decode(line.removeprefix(_BYTE_ORDER_MARK), path, 1))
    missing = [name for name in required if name not in header]
    if missing:
        raise UserError(
            f"{path}, line 1: no column {', '.join(missing)} in the header; it names the tab-separated "
            f"columns ({form})"
        )
    same = [name for name, count in Counter(header).items() if count > 1]
    if same:
        raise UserError(f"{path}, line 1: two columns {same[0]}; rename one")
    return header


def parse_row(line: bytes, path: Path, number: int, header: Sequence[str]) -> list[str]:
    """The cells of line `number` of a TSV file.

    Raises:
        UserError: there are not as many cells as the header has columns, or the line is not UTF-8.
    """
    cells = split_cells(decode(line, path, number))
    if len(cells) != len(header):
        raise UserError(
            f"{path}, line {number}: {len(cells)} columns, but the header names {len(header)} "
            f"({', '.join(header)}); a text must not hold a tab or a line end"
        )
    return cells


def has_quotes(cells: Iterable[str]) -> bool:
    """Whether a cell is in quotation marks, which are text here; pandas and Excel may have put them there."""
    return any(map(_IN_QUOTES.fullmatch, cells))


def say_quoted(path: Path, quoted: int, rows: int, say: Callable[[str], None]) -> None:
    """Say how many rows of a file have cells in quotation marks, if there are any; see `has_quotes`."""
    if quoted:
        say(
            f"{path}: {quoted:,} of {rows:,} rows have a cell in quotation marks, which stay in the text; if "
            "they only enclose cells, save it without them (pandas: quoting=3), or with commas as .csv"
        )


def without_blank_end(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file without the blank ones at its end."""
    blank: list[bytes] = []
    for line in lines:
        if line.strip(b"\r\n"):
            yield from blank
            blank.clear()
            yield line
        else:
            blank.append(line)


def decode(line: bytes, path: Path, number: int) -> str:
    """Line `number` of a file as text.

    Raises:
        UserError: the file is compressed, or the line is not UTF-8.
    """
    if number == 1:
        reject_compressed(line, path)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number}: not UTF-8 (byte {error.start + 1} of the line); save it as UTF-8"
        ) from error


def reject_compressed(content: bytes, path: str | os.PathLike) -> None:
    """Check the first bytes of a file that should be text.

    Raises:
        UserError: they are those of an archive.
    """
    for magic, what in _NO_TEXT.items():
        if content.startswith(magic):
            raise UserError(f"{path}: {what.format(path)}")


def has_official_names(line: str, needed: Iterable[str]) -> bool:
    """Whether a line is the header of an official file: all `needed` names, and none but OFFICIAL."""
    names = set(split_cells(line))
    return names.issuperset(needed) and names.issubset(OFFICIAL)


def is_official(path: Path) -> bool:
    """Whether the first line of a file is the header of an official file with texts.

    Raises:
        UserError: as `open_lines`.
    """
    with open_lines(path) as (file, _):
        header = file.readline(1 << 16).removeprefix(_BYTE_ORDER_MARK)
    return has_official_names(header.decode("utf-8", errors="replace"), ["text_a"])


def split_cells(line: str) -> list[str]:
    """The cells of a line, which may end in a line break."""
    return line.rstrip("\r\n").split("\t")


def _open(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        UserError: it cannot be read.
    """
    with translate_read_errors(path):
        return open(path, "rb")
