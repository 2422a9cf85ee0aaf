"""Lines and cells of the official TSV files: UTF-8, a header, every tab ends a cell, no quoting."""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError


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
