"""Readers of the official TSV files: UTF-8 and tab-separated, with a header, without quoting."""

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
    reject_changed_file,
    reject_lfs_pointer,
    translate_read_errors,
)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OFFICIAL = ("text_a", "text_b", "label", "qid")  # columns of the official files
_IN_QUOTES = re.compile('".*"')  # cells have no newlines
_TO_CSV = ".to_csv('table.csv', index=False)\""
# First bytes of a file that is not text -> its format and how to convert it; {}: the path.
_NO_TEXT = {
    b"PAR1": "Parquet, not text. Convert it: python -c \"import pandas; pandas.read_parquet('{}')" + _TO_CSV,
    b"ARROW1": "Arrow, not text. Convert it: python -c \"import pandas; pandas.read_feather('{}')" + _TO_CSV,
    b"\xff\xff\xff\xff": (
        'Arrow, not text. Convert it: python -c "import pyarrow; '
        "pyarrow.ipc.open_stream('{}').read_pandas()" + _TO_CSV
    ),
    b"\x1f\x8b": "compressed file. Decompress it with gunzip",
    b"BZh91AY&SY": "compressed file. Decompress it with bunzip2",
    b"\xfd7zXZ\0": "compressed file. Decompress it with unxz",
    b"PK\x03\x04": "compressed file. Decompress it with unzip, or save a spreadsheet as .csv",
    b"(\xb5/\xfd": "compressed file. Decompress it with unzstd",
    b"7z\xbc\xaf'\x1c": "compressed file. Decompress it with 7z x",
}


class FileLines:
    """Random access to the lines of a file, with 8 bytes of memory per line.

    A pickle contains the path and the offsets of the lines, not the lines.

    Args:
        path: the file.
        version: the version of the file before the offsets were computed, to detect changes.
        starts: the byte offsets of the lines, and the size of the file, int64 [lines + 1].
    """

    def __init__(self, path: Path, version: FileVersion, starts: np.ndarray):
        self.path = path.absolute()
        self._version = version
        self._starts = starts
        self._file: BinaryIO | None = None  # opened on first access

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read_line(self, index: int) -> bytes:
        """Return line `index`, from 0, with its line ending.

        Raises:
            IndexError: the line does not exist.
            UserError: the file was changed or removed.
        """
        index = range(len(self))[index]  # as in a list: -1 is the last line
        start = int(self._starts[index])
        length = int(self._starts[index + 1]) - start
        if self._file is None:
            self._file = _open(self.path)
        # Read first, then compare, to detect a change during the read. A memory map would crash if the file
        # became shorter.
        line = os.pread(self._file.fileno(), length, start)
        reject_changed_file(self.path, get_file_version(self._file.fileno()), self._version)
        return line

    def __getstate__(self) -> dict:  # an open file cannot be pickled
        return {**vars(self), "_file": None}


@contextmanager
def open_lines(path: Path) -> Iterator[tuple[BinaryIO, FileVersion]]:
    """Open a file as a context manager that yields the file and its version, for `FileLines`.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    reject_lfs_pointer(path)
    with _open(path) as file:
        version = get_file_version(file.fileno())
        if not version[0]:
            raise UserError(f"{path}: empty file")
        yield file, version


def to_single_line(cell: str) -> str:
    """Replace each run of tabs and newlines in a cell with a space."""
    return cell if cell.isprintable() else re.sub(r"[\t\r\n]+", " ", cell)


def parse_header(line: bytes, path: Path, required: Sequence[str], expected_header: str) -> list[str]:
    """Parse the header of a TSV file into column names.

    Args:
        line: the first line of the file.
        required: the required column names.
        expected_header: the expected header, for errors.

    Raises:
        UserError: a required column is missing, two columns have the same name, or the file is not text.
    """
    header = split_cells(decode_line(line.removeprefix(_BYTE_ORDER_MARK), path, 1))
    missing = [name for name in required if name not in header]
    if missing:
        raise UserError(
            f"{path}, line 1: missing column {', '.join(missing)} (expected a "
            f"tab-separated header: {expected_header})"
        )
    same = [name for name, count in Counter(header).items() if count > 1]
    if same:
        raise UserError(f"{path}, line 1: duplicate column {same[0]}. Rename one")
    return header


def parse_row(line: bytes, path: Path, line_number: int, header: Sequence[str]) -> list[str]:
    """Parse line `line_number` of a TSV file into cells.

    Raises:
        UserError: the number of cells differs from the header, or the line is not UTF-8.
    """
    cells = split_cells(decode_line(line, path, line_number))
    if len(cells) != len(header):
        raise UserError(
            f"{path}, line {line_number}: {len(cells)} columns (expected {len(header)}: "
            f"{', '.join(header)}). Remove tabs and line ends from texts"
        )
    return cells


def has_quotes(cells: Iterable[str]) -> bool:
    """Return whether any cell is enclosed in quotation marks, which pandas or Excel may have added."""
    return any(map(_IN_QUOTES.fullmatch, cells))


def log_quoted_rows(path: Path, num_quoted: int, num_rows: int, log: Callable[[str], None]) -> None:
    """Log the number of rows with quoted cells, if there are any; see `has_quotes`.

    Args:
        num_quoted: the number of rows with quoted cells, out of `num_rows`.
        log: logs the message.
    """
    if num_quoted:
        log(
            f"{path}: {num_quoted:,} of {num_rows:,} rows have a cell in quotation marks, which are kept as "
            "text. If they enclose cells, save the file without them (pandas: quoting=3), or as .csv"
        )


def drop_trailing_blank_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file except trailing blank lines."""
    blank: list[bytes] = []
    for line in lines:
        if line.strip(b"\r\n"):
            yield from blank
            blank.clear()
            yield line
        else:
            blank.append(line)


def decode_line(line: bytes, path: Path, line_number: int) -> str:
    """Decode line `line_number` of a file from UTF-8.

    Raises:
        UserError: the file is compressed, or the line is not UTF-8.
    """
    if line_number == 1:
        reject_compressed(line, path)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {line_number}: not UTF-8 (byte {error.start + 1} of the line). Save it as UTF-8"
        ) from error


def reject_compressed(content: bytes, path: str | os.PathLike) -> None:
    """Reject content that starts with the signature of an archive or a binary format.

    Raises:
        UserError: the format is in `_NO_TEXT`.
    """
    for magic, what in _NO_TEXT.items():
        if content.startswith(magic):
            raise UserError(f"{path}: {what.format(path)}")


def is_official_header(line: str, required: Iterable[str]) -> bool:
    """Return whether a line is an official header: with all `required` names, and only names of OFFICIAL."""
    names = set(split_cells(line))
    return names.issuperset(required) and names.issubset(OFFICIAL)


def is_official_tsv(path: Path) -> bool:
    """Return whether the first line of a file is an official header with the column text_a.

    Raises:
        UserError: see `open_lines`.
    """
    with open_lines(path) as (file, _):
        header = file.readline(1 << 16).removeprefix(_BYTE_ORDER_MARK)
    return is_official_header(header.decode("utf-8", errors="replace"), ["text_a"])


def split_cells(line: str) -> list[str]:
    """Split a tab-separated line into cells, without the line ending."""
    return line.rstrip("\r\n").split("\t")


def _open(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        UserError: the file cannot be read.
    """
    with translate_read_errors(path):
        return open(path, "rb")
