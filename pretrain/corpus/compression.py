"""Reads plain, .gz, .bz2, .xz and .zst files as blocks of bytes in constant memory."""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from utils.errors import UserError

_BLOCK = 1 << 20  # bytes that are passed on at a time; from a .zst file it can be 32 MiB
_READ = 1 << 10  # packed bytes that are read at a time, because a few bytes may stand for gigabytes
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
        for magic, name in _UNSUPPORTED.items():
            if start.startswith(magic):
                raise UserError(f"{path}: a {name} archive; unpack it, or pack it as .gz, .bz2, .xz or .zst")
        kind = next((end for end, (magic, _) in _KINDS.items() if start.startswith(magic)), None)
        extension = os.path.splitext(path)[1].lower()
        if start and extension in _KINDS and extension != kind:
            raise UserError(
                f"{path}: by its name compressed, but not so by its first bytes; rename or fetch it again"
            )
        if kind is None:
            yield from iter(lambda: file.read(_BLOCK), b"")
        else:
            yield from _unpack(file, path, _KINDS[kind][1])
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _unpack(file: IO[bytes], path: str, new_member: Callable[[], Any]) -> Iterator[bytes]:
    # The file objects of the standard library take a damaged second member for padding and end there.
    member, started = new_member(), False  # started: the member has received bytes
    while data := file.read(_READ):
        while data:
            try:
                yield from filter(None, _blocks(member, data))
            except Exception as error:  # the libraries raise different kinds
                raise UserError(
                    f"{path}: damaged archive near byte {file.tell():,} ({error}); fetch it again"
                ) from error
            started = True
            if not member.eof:
                break
            data = member.unused_data.lstrip(b"\0")  # archives may be padded
            member, started = new_member(), False
    if started:
        raise UserError(f"{path}: the archive ends early: cut short; fetch it again")


def _blocks(member: Any, data: bytes) -> Iterator[bytes]:
    if not hasattr(member, "needs_input"):  # zlib and zstandard
        yield member.decompress(data)
        return
    yield member.decompress(data, _BLOCK)
    while not member.eof and not member.needs_input:
        yield member.decompress(b"", _BLOCK)


def _new_zstandard() -> Any:
    try:  # only users of .zst files need the package
        import zstandard
    except ImportError as error:
        raise UserError("a .zst file needs the zstandard package: pip install zstandard") from error
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


_KINDS = {
    ".gz": (b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),  # 31: gzip with its checksum
    ".bz2": (b"BZh", bz2.BZ2Decompressor),
    ".xz": (b"\xfd7zXZ\0", lzma.LZMADecompressor),
    ".zst": (b"\x28\xb5\x2f\xfd", _new_zstandard),
}
