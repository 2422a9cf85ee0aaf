"""Reads plain, .gz, .bz2, .xz and .zst files as blocks of bytes in constant memory.

The first bytes of a file decide its kind.
"""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from utils.errors import UserError

_COMPRESSED_BLOCK = 16 << 10  # bytes of an archive that are read at a time
_PLAIN_BLOCK = 1 << 20  # the largest block that is passed on, except for .zst
_ZSTD_BLOCK = 1 << 10  # zstandard cannot limit its output: these bytes give at most 32 MiB
_UNSUPPORTED = {b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}


def open_file(path: str) -> IO[bytes]:
    """Open a file for reading.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def decompressed(file: IO[bytes], path: str) -> Iterator[bytes]:
    """The blocks of an open file, decompressed if its first bytes say so. Members of an archive are joined.

    Raises:
        UserError: an unsupported, damaged or truncated archive, or a failing disk.
    """
    try:
        start = file.read(8)
        file.seek(0)
        for magic, kind in _UNSUPPORTED.items():
            if start.startswith(magic):
                raise UserError(f"{path}: a {kind} archive; unpack it, or pack it as .gz, .bz2, .xz or .zst")
        promised = _BY_NAME.get(os.path.splitext(path)[1].lower())
        if promised and start and not start.startswith(promised):
            raise UserError(
                f"{path}: by its name compressed, but not so by its first bytes; rename or fetch it again"
            )
        make = next((make for magic, make in _DECODERS.items() if start.startswith(magic)), None)
        yield from iter(lambda: file.read(_PLAIN_BLOCK), b"") if make is None else _unpack(file, path, make)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


class _Decoder:
    """Decompresses one member of an archive, in bounded blocks. This class serves bzip2 and xz.

    Attributes:
        eof: the member has ended.
        unused_data: the bytes behind its end.
    """

    def __init__(self, decompressor: Any):
        self.decompressor = decompressor

    @property
    def eof(self) -> bool:
        return self.decompressor.eof

    @property
    def unused_data(self) -> bytes:
        return self.decompressor.unused_data

    def blocks(self, data: bytes) -> Iterator[bytes]:
        """A few bytes may stand for gigabytes, so they come in blocks."""
        yield self.decompressor.decompress(data, _PLAIN_BLOCK)
        while not self.eof and not self.decompressor.needs_input:
            yield self.decompressor.decompress(b"", _PLAIN_BLOCK)


class _Gzip(_Decoder):
    def blocks(self, data: bytes) -> Iterator[bytes]:
        block = b""
        while (data or len(block) == _PLAIN_BLOCK) and not self.eof:
            block = self.decompressor.decompress(data, _PLAIN_BLOCK)
            data = self.decompressor.unconsumed_tail
            yield block


class _Zstandard(_Decoder):
    unused_data = b""

    def blocks(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_BLOCK):
            yield self.decompressor.decompress(data[start : start + _ZSTD_BLOCK])
            if self.eof:
                self.unused_data = self.decompressor.unused_data + data[start + _ZSTD_BLOCK :]
                return


def _zstandard() -> _Decoder:
    try:  # only users of .zst files need the package
        import zstandard
    except ImportError as error:
        raise UserError("a .zst file needs the zstandard package: pip install zstandard") from error
    return _Zstandard(zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj())


_DECODERS: dict[bytes, Callable[[], _Decoder]] = {
    b"\x1f\x8b": lambda: _Gzip(zlib.decompressobj(wbits=31)),  # 31: gzip with its checksum
    b"BZh": lambda: _Decoder(bz2.BZ2Decompressor()),
    b"\xfd7zXZ\0": lambda: _Decoder(lzma.LZMADecompressor()),
    b"\x28\xb5\x2f\xfd": _zstandard,
}
_BY_NAME = dict(zip((".gz", ".bz2", ".xz", ".zst"), _DECODERS))


def _unpack(file: IO[bytes], path: str, make: Callable[[], _Decoder]) -> Iterator[bytes]:
    member, started = make(), False  # started: the member has received bytes
    while data := file.read(_COMPRESSED_BLOCK):
        while data:
            try:
                yield from filter(None, member.blocks(data))
            except Exception as error:  # zlib, bz2, lzma and zstandard raise different kinds
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
