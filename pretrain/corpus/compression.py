"""Plain, .gz, .bz2, .xz and .zst files as blocks of bytes, told by their first bytes, in constant memory."""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from utils.errors import UserError

# Fed to a decompressor at a time. Even a file of one repeated line (1 : 7000 in xz) then gives bounded
# blocks.
_COMPRESSED_BLOCK = 16 << 10
_PLAIN_BLOCK = 1 << 20
_OTHERS = {b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}


def _gzip() -> Any:
    return zlib.decompressobj(wbits=31)  # 31: gzip, its checksum compared


def _zstd() -> Any:
    # Only those who have .zst files need the package.
    try:
        import zstandard
    except ImportError as error:
        raise UserError("a .zst file needs the zstandard package: pip install zstandard") from error
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


_DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
    b"\x28\xb5\x2f\xfd": _zstd,
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
        make = next((make for magic, make in _DECOMPRESSORS.items() if start.startswith(magic)), None)
        yield from _plain(file) if make is None else _unpack(file, path, make)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _plain(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_PLAIN_BLOCK):
        yield block


def _unpack(file: IO[bytes], path: str, make: Callable[[], Any]) -> Iterator[bytes]:
    member = make()
    started = False  # whether the member has seen a byte
    while data := file.read(_COMPRESSED_BLOCK):
        while data:
            try:
                block = member.decompress(data)
            except Exception as error:  # zlib, lzma and zstandard each have their own kind
                raise UserError(
                    f"{path}: damaged archive near byte {file.tell():,} ({error}); fetch it again"
                ) from error
            started = True
            if block:
                yield block
            if not member.eof:
                break
            data = member.unused_data.lstrip(b"\0")  # archives may be padded
            member, started = make(), False
    if started:
        raise UserError(f"{path}: the archive ends early: cut short; fetch it again")
