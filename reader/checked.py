"""A .npy file read through a memory map, whose pages are compared with their CRC-32 whenever they are read.

Checksums of whole files are compared before a run, if at all: who reads a page here and there of terabytes
cannot. A page is what a disk reads anyway, and its CRC-32 costs a few microseconds.
"""

import os
import tokenize
import zlib
from pathlib import Path

import numpy as np

from utils.errors import UserError

PAGE = 4096  # bytes
# What numpy makes of a header, which is Python's text of a dict, when it is none.
_NO_HEADER = (ValueError, TypeError, LookupError, EOFError, SyntaxError, OverflowError, RecursionError,
              MemoryError, tokenize.TokenError)  # fmt: skip
_REMEDY = "put back a good copy, or delete the corpus and build it again; data.verify true checks all files"


class PageSums:
    """The CRC-32 of every page of one file after another, fed in pieces as to a hashlib object."""

    def __init__(self) -> None:
        self._sums: list[int] = []
        self._crc, self._filled = 0, 0

    def update(self, data: bytes | np.ndarray) -> None:
        """More bytes of the file."""
        rest = memoryview(data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else data)
        while len(rest):
            part, rest = rest[: PAGE - self._filled], rest[PAGE - self._filled :]
            self._crc = zlib.crc32(part, self._crc)
            self._filled += len(part)
            if self._filled == PAGE:
                self.end_file()

    def end_file(self) -> None:
        """The next bytes are those of another file, or page."""
        if self._filled:
            self._sums.append(self._crc)
            self._crc, self._filled = 0, 0

    def array(self) -> np.ndarray:
        """uint32 [pages]."""
        return np.array(self._sums, np.uint32)


class CheckedArray:
    """A one-dimensional .npy file.

    Args:
        path: the file.
        sums: uint32, of its pages; None: nothing but bounds can be checked.
        remedy: what to do about a damaged file, for the error.

    Attributes:
        array: the whole of it, memory-mapped and unchecked.

    Raises:
        UserError: the file is missing, or no such array.
    """

    def __init__(self, path: Path, sums: np.ndarray | None, remedy: str = _REMEDY):
        self.path, self.sums, self.remedy = path, sums, remedy
        mapped = map_array(path)
        # A plain view of the map: np.memmap's own indexing costs several times as much.
        self.array = mapped.view(np.ndarray)
        self._begin, self._width = mapped.offset, mapped.itemsize  # bytes
        self._bytes = memoryview(np.memmap(path, np.uint8, "r")) if sums is not None else None

    def read(self, start: int, end: int, record: str) -> np.ndarray:
        """Elements start .. end - 1, as they were written.

        Args:
            record: what they are part of ("document 7"), for the error.

        Raises:
            UserError: they are not in the file, or the file was altered; names file and record.
        """
        if not 0 <= start <= end <= len(self.array):
            raise self._damaged(f"{record} would be elements {start} to {end} of {len(self.array)}")
        if self.sums is not None:
            first = (self._begin + start * self._width) // PAGE
            last = (self._begin + end * self._width - 1) // PAGE
            for page in range(first, last + 1):
                if zlib.crc32(self._bytes[page * PAGE : (page + 1) * PAGE]) != self.sums[page]:
                    raise self._damaged(
                        f"{record}: bytes {page * PAGE} to {min((page + 1) * PAGE, len(self._bytes)) - 1} "
                        "differ from their checksum"
                    )
        return self.array[start:end]

    def read_all(self, record: str) -> np.ndarray:
        """The whole array, checked."""
        return self.read(0, len(self.array), record)

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}: the file is damaged; {self.remedy}")


def map_array(path: Path) -> np.memmap:
    """A one-dimensional .npy file, memory-mapped.

    Raises:
        UserError: the file is missing, or no such array.
    """
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(
            f"{path}: missing ({error.strerror}); put it back, or build the corpus again"
        ) from error
    except _NO_HEADER as error:
        raise UserError(f"{path}: damaged, no array ({error}); put back a good copy") from error
    if mapped.ndim != 1 or mapped.dtype.kind not in "ui":
        raise UserError(f"{path}: damaged, not a list of numbers; put back a good copy")
    return mapped


def pages(path: str | os.PathLike) -> int:
    """How many pages a file has, the last of which may be a part of one."""
    return -(-os.stat(path).st_size // PAGE)
