"""A .npy file that grows: rows are written through memory maps, so they need not fit in memory."""

import os
from types import TracebackType

import numpy as np

_HEADER_BYTES = 128  # numpy aligns the data to 64; the shape is filled in at the end


class ArrayFile:
    """An array [rows, width] on disk; use it in a `with` statement, after which `np.load` reads the file.

    Args:
        path: a new file.
        width: of a row.
        dtype: "float32" or "float16".
    """

    def __init__(self, path: str | os.PathLike, width: int, dtype: str):
        self.width, self.dtype, self.rows = width, np.dtype(dtype), 0
        self._file = open(path, "xb+")  # noqa: SIM115 - closed by __exit__
        self._file.truncate(_HEADER_BYTES)

    def grow(self, rows: int) -> np.ndarray:
        """Room for so many more rows: [rows, width], to be written into."""
        start = _HEADER_BYTES + self.rows * self.width * self.dtype.itemsize
        # Given out at once: a disk that is full says so here, and not as a signal while the map is written.
        os.posix_fallocate(self._file.fileno(), start, max(1, rows * self.width * self.dtype.itemsize))
        self.rows += rows
        if not rows:
            return np.empty([0, self.width], self.dtype)
        return np.memmap(self._file, self.dtype, "r+", start, (rows, self.width)).view(np.ndarray)

    def close(self) -> None:
        """Write the header."""
        shape = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, self.width)}
        magic = np.lib.format.magic(1, 0)
        room = _HEADER_BYTES - len(magic) - 2
        header = repr(shape).ljust(room - 1).encode("latin-1") + b"\n"
        self._file.truncate(_HEADER_BYTES + self.rows * self.width * self.dtype.itemsize)
        self._file.seek(0)
        self._file.write(magic + room.to_bytes(2, "little") + header)
        self._file.close()

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
