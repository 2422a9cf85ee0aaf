"""Plain, .gz, .bz2, .xz and .zst files as blocks of bytes, told by their first bytes, in constant memory."""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from utils.errors import UserError

_COMPRESSED_BLOCK = 16 << 10  # bytes that are read of an archive at a time
_PLAIN_BLOCK = 1 << 20  # bytes that are handed on at a time; the most that a decompressor gives at once
_ZSTD_BLOCK = 1 << 10  # of a .zst archive, whose library gives all at once: at most 32 MiB for these
_OTHERS = {b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}


class _Member:
    """One of the archives that a file is made of. By default bzip2 or xz.

    Attributes:
        eof: it has come to its end.
        unused_data: what stood behind its end in the bytes that it was given.
    """

    def __init__(self, decompressor: Any):
        self._decompressor = decompressor

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data

    def blocks(self, data: bytes) -> Iterator[bytes]:
        """What `data` stands for. A few bytes may stand for gigabytes: they come in bounded blocks."""
        yield self._decompressor.decompress(data, _PLAIN_BLOCK)
        while not self.eof and not self._decompressor.needs_input:
            yield self._decompressor.decompress(b"", _PLAIN_BLOCK)


class _Gzip(_Member):
    def blocks(self, data: bytes) -> Iterator[bytes]:
        block = b""
        while (data or len(block) == _PLAIN_BLOCK) and not self.eof:
            block = self._decompressor.decompress(data, _PLAIN_BLOCK)
            data = self._decompressor.unconsumed_tail
            yield block


class _Zstandard(_Member):
    unused_data = b""

    def blocks(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_BLOCK):
            yield self._decompressor.decompress(data[start : start + _ZSTD_BLOCK])
            if self.eof:
                self.unused_data = self._decompressor.unused_data + data[start + _ZSTD_BLOCK :]
                return


def _zstandard() -> _Member:
    # Only those who have .zst files need the package.
    try:
        import zstandard
    except ImportError as error:
        raise UserError("a .zst file needs the zstandard package: pip install zstandard") from error
    return _Zstandard(zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj())


_MEMBERS: dict[bytes, Callable[[], _Member]] = {
    b"\x1f\x8b": lambda: _Gzip(zlib.decompressobj(wbits=31)),  # 31: gzip, its checksum compared
    b"BZh": lambda: _Member(bz2.BZ2Decompressor()),
    b"\xfd7zXZ\0": lambda: _Member(lzma.LZMADecompressor()),
    b"\x28\xb5\x2f\xfd": _zstandard,
}
_BY_NAME = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\0", ".zst": b"\x28\xb5\x2f\xfd"}


def open_file(path: str) -> IO[bytes]:
    """Open for reading.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def decompressed(file: IO[bytes], path: str) -> Iterator[bytes]:
    """The blocks of an open file, decompressed where its first bytes say so; its members are joined.

    Raises:
        UserError: an archive of another kind, a damaged one, one that was cut short, or a failing disk.
    """
    try:
        start = file.read(8)
        file.seek(0)
        for magic, kind in _OTHERS.items():
            if start.startswith(magic):
                raise UserError(f"{path}: a {kind} archive; unpack it, or pack it as .gz, .bz2, .xz or .zst")
        promised = _BY_NAME.get(os.path.splitext(path)[1].lower())
        if promised and start and not start.startswith(promised):
            raise UserError(
                f"{path}: by its name compressed, but not so by its first bytes; rename or fetch it again"
            )
        make = next((make for magic, make in _MEMBERS.items() if start.startswith(magic)), None)
        yield from _plain(file) if make is None else _unpack(file, path, make)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _plain(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_PLAIN_BLOCK):
        yield block


def _unpack(file: IO[bytes], path: str, make: Callable[[], _Member]) -> Iterator[bytes]:
    member = make()
    started = False  # whether the member has seen a byte
    while data := file.read(_COMPRESSED_BLOCK):
        while data:
            try:
                yield from filter(None, member.blocks(data))
            except Exception as error:  # zlib, bz2, lzma and zstandard each have their own kind
                raise UserError(
                    f"{path}: damaged archive near byte {file.tell():,} ({error}); fetch it again"
                ) from error
            started = True
            if not member.eof:
                break
            data = member.unused_data.lstrip(b"\0")  # archives may be padded
            member, started = make(), False
    if started:
        raise UserError(f"{path}: the archive ends early: cut short; fetch it again")
