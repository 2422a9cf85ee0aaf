"""Reads plain, .gz, .bz2, .xz and .zst files as blocks of bytes in constant memory."""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple

from utils.errors import UserError

_BLOCK = 1 << 20  # the most that is passed on at a time, except for .zst
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
        kind = next((kind for kind in _KINDS if start.startswith(kind.magic)), None)
        extension = os.path.splitext(path)[1].lower()
        if start and any(extension == other.extension and other is not kind for other in _KINDS):
            raise UserError(
                f"{path}: by its name compressed, but not so by its first bytes; rename or fetch it again"
            )
        yield from iter(lambda: file.read(_BLOCK), b"") if kind is None else _unpack(file, path, kind)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


class _Kind(NamedTuple):
    """A kind of archive. `blocks` gives bounded blocks, because a few bytes may stand for gigabytes."""

    extension: str
    magic: bytes
    read_size: int
    new_member: Callable[[], Any]
    blocks: Callable[[Any, bytes], Iterable[bytes]]


def _unpack(file: IO[bytes], path: str, kind: _Kind) -> Iterator[bytes]:
    member, started = kind.new_member(), False  # started: the member has received bytes
    while data := file.read(kind.read_size):
        while data:
            try:
                yield from filter(None, kind.blocks(member, data))
            except Exception as error:  # the libraries raise different kinds
                raise UserError(
                    f"{path}: damaged archive near byte {file.tell():,} ({error}); fetch it again"
                ) from error
            started = True
            if not member.eof:
                break
            data = member.unused_data.lstrip(b"\0")  # archives may be padded
            member, started = kind.new_member(), False
    if started:
        raise UserError(f"{path}: the archive ends early: cut short; fetch it again")


def _blocks(member: Any, data: bytes) -> Iterator[bytes]:
    yield member.decompress(data, _BLOCK)
    while not member.eof and not member.needs_input:
        yield member.decompress(b"", _BLOCK)


def _gzip_blocks(member: Any, data: bytes) -> Iterator[bytes]:
    block = b""
    while (data or len(block) == _BLOCK) and not member.eof:
        block = member.decompress(data, _BLOCK)
        data = member.unconsumed_tail
        yield block


def _new_zstandard() -> Any:
    try:  # only users of .zst files need the package
        import zstandard
    except ImportError as error:
        raise UserError("a .zst file needs the zstandard package: pip install zstandard") from error
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


_KINDS = (
    # wbits=31: gzip with its checksum
    _Kind(".gz", b"\x1f\x8b", 16 << 10, lambda: zlib.decompressobj(wbits=31), _gzip_blocks),
    _Kind(".bz2", b"BZh", 16 << 10, bz2.BZ2Decompressor, _blocks),
    _Kind(".xz", b"\xfd7zXZ\0", 16 << 10, lzma.LZMADecompressor, _blocks),
    # zstandard cannot bound its output: 1 KiB gives at most 32 MiB
    _Kind(
        ".zst", b"\x28\xb5\x2f\xfd", 1 << 10, _new_zstandard, lambda member, data: [member.decompress(data)]
    ),
)
