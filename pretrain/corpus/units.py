"""Reads plain and compressed source files, and cuts them into work units of whole lines.

Only the text decides where a unit ends, not its compression or who reads it when. So a build writes the same
bytes with any number of workers and after any interruption. Memory does not grow with the size of a file.
"""

import bz2
import codecs
import itertools
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import IO, Any, NamedTuple

import numpy as np

from pretrain.corpus.inputs import TextSource
from utils.errors import UserError

LONGEST_LINE = 64 << 20  # bytes
_MOST_LINES = 1 << 16  # of a unit of aligned files: short lines of one file do not pile up the other
_BLOCK = 1 << 20  # bytes that are passed on at a time; from a .zst file it can be 32 MiB
_READ = 1 << 10  # packed bytes that are read at a time, because a few bytes may stand for gigabytes
_UNSUPPORTED = {b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}


class Unit(NamedTuple):
    """A piece of a source.

    Args:
        stream: number of the stream.
        source: number of the source in its stream.
        number: number of the unit in its source.
        texts: whole lines as bytes; for aligned files two texts with equally many lines.
        first_line: number of its first line in the file, from 1.
        weight: bytes on disk that were read for it.
        last: it is the last of its source.
    """

    stream: int
    source: int
    number: int
    texts: tuple[bytes, ...]
    first_line: int
    weight: int
    last: bool = False


def read_units(
    stream: int, number: int, source: TextSource, unit_bytes: int, blank_lines: bool = False
) -> Iterator[Unit]:
    """The units of one source in order.

    Args:
        stream, number: numbers of the stream and of the source in it.
        unit_bytes: a unit ends with the last line (document, pair) that ends within this size.
        blank_lines: cut at blank lines, between documents. A document longer than a unit is cut at a line.

    Raises:
        UserError: a file is empty, binary, damaged or has an endless line, or two aligned files have
            different numbers of lines.
    """
    files = [_LineBuffer(path, is_tmx=source.form == "tmx") for path in source.paths]
    unit, read = None, 0
    try:
        for count in itertools.count():
            first_line = files[0].line
            if source.form == "aligned":
                texts = _cut_aligned(files, unit_bytes)
            elif source.form == "tmx":
                texts = _cut_tmx(files[0], unit_bytes)
            else:
                texts = _cut_text(files[0], unit_bytes, blank_lines)
            if not any(texts):
                break
            if unit is not None:
                yield unit
            position = sum(file.raw.tell() for file in files)
            unit = Unit(stream, number, count, texts, first_line, position - read)
            read = position
        if unit is None:
            raise UserError(f"{source}: empty: no text in it; leave it out")
        yield unit._replace(last=True)
    finally:
        for file in files:
            file.raw.close()


def interleave(sources: Iterable[Iterator[Unit]], threads: int) -> Iterator[Unit]:
    """The units of many sources, of which `threads` are read at a time."""
    waiting = iter(sources)
    with ThreadPoolExecutor(threads, "reader") as pool:
        pending = {pool.submit(next, source, None): source for source in itertools.islice(waiting, threads)}
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                source, unit = pending.pop(future), future.result()
                following = next(waiting, None) if unit is None else source
                if following is not None:
                    pending[pool.submit(next, following, None)] = following
                if unit is not None:
                    yield unit


def _cut_text(file: "_LineBuffer", size: int, blank_lines: bool) -> tuple[bytes, ...]:
    if file.fill(size):
        return (file.take(len(file.buffer)),)
    end = _end_within(file.buffer, b"\n", size)
    if blank_lines:
        blanks = [(file.buffer.rfind(mark, 0, size), len(mark)) for mark in (b"\n\n", b"\n\r\n")]
        end = max((at + length for at, length in blanks if at >= 0), default=end)
    return (file.take(end),)


def _cut_tmx(file: "_LineBuffer", unit_bytes: int) -> tuple[bytes, ...]:
    size = unit_bytes
    while True:
        finished = file.fill(size)
        end = _end_within(file.buffer, b"</tu>", unit_bytes)
        where = f"{file.path}: line {file.line}"
        if not end and finished and b"<tu" in file.buffer:
            raise UserError(f"{where}: ends within a <tu>: cut short; fetch it again")
        if end or finished:
            return (file.take(end),)
        if size > LONGEST_LINE:
            raise UserError(f"{where}: no </tu> within {LONGEST_LINE >> 20} MiB: is this TMX?")
        size *= 2


def _cut_aligned(files: list["_LineBuffer"], size: int) -> tuple[bytes, ...]:
    for file in files:
        file.fill(size)
    ends = [_line_ends(file.buffer, size) for file in files]
    lines = min(map(len, ends))
    if not lines and any(file.buffer for file in files):
        counts = [file.count_all_lines() for file in files]
        raise UserError(
            f"{files[0].path} has {counts[0]:,} lines, {files[1].path} has {counts[1]:,}: not aligned; "
            "line i of one must translate line i of the other"
        )
    return tuple(file.take(int(end[lines - 1]) if lines else 0) for file, end in zip(files, ends))


def _end_within(buffer: bytes, mark: bytes, size: int) -> int:
    """The end of the last `mark` within `size` bytes, else of the first one, 0 if there is none.

    The limit `size` makes the cut independent of how much happens to be in the buffer.
    """
    at = buffer.rfind(mark, 0, size)
    if at < 0:
        at = buffer.find(mark)
    return at + len(mark) if at >= 0 else 0


def _line_ends(buffer: bytes, size: int) -> np.ndarray:
    ends = np.flatnonzero(np.frombuffer(buffer, np.uint8, min(size, len(buffer))) == ord("\n")) + 1
    return ends[:_MOST_LINES] if ends.size or not buffer else np.array([_end_within(buffer, b"\n", size)])


class _LineBuffer:
    """The bytes of a file, taken from the front. The last line always ends with a line end."""

    def __init__(self, path: str, is_tmx: bool):
        self.path, self.is_tmx = path, is_tmx
        self.buffer = b""
        self.line = 1  # number of the first line in the buffer
        self.raw = open_file(path)
        self._blocks = _as_utf8(decompressed(self.raw, path), path, is_tmx)

    def fill(self, size: int) -> bool:
        """Read until the buffer has more than `size` bytes and a line end; True at the end of the file."""
        parts, length = [self.buffer], len(self.buffer)
        enough = self.is_tmx or b"\n" in self.buffer
        while length <= size or not enough:
            if length > LONGEST_LINE and not enough:
                raise UserError(
                    f"{self.path}: line {self.line}: longer than {LONGEST_LINE >> 20} MiB; is this text, "
                    "with line ends?"
                )
            block = next(self._blocks, None)
            if block is None:
                if length and not parts[-1].endswith(b"\n"):
                    parts.append(b"\n")
                break
            if block:
                parts.append(block)
                length += len(block)
                enough = enough or b"\n" in block
        self.buffer = b"".join(parts)
        return length <= size or not enough

    def take(self, length: int) -> bytes:
        """Remove this many bytes from the front and return them."""
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        self.line += taken.count(b"\n")
        return taken

    def count_all_lines(self) -> int:
        """The number of lines of the whole file; reads it to its end."""
        while self.buffer:
            self.take(self.buffer.rfind(b"\n") + 1)
            self.fill(1 << 20)
        return self.line - 1


def _as_utf8(blocks: Iterator[bytes], path: str, is_tmx: bool) -> Iterator[bytes]:
    """Remove the byte order mark; convert TMX that is UTF-16. UserError: a NUL byte in the first block."""
    first = next(blocks, b"")
    if is_tmx and first[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        decoder = codecs.getincrementaldecoder("utf-16")()
        try:
            for block in itertools.chain([first], blocks):
                yield decoder.decode(block).encode()
            decoder.decode(b"", final=True)
        except UnicodeError as error:
            raise UserError(
                f"{path}: not UTF-16, as its first bytes say ({error}); save it as UTF-8"
            ) from error
        return
    if b"\0" in first:
        raise UserError(f"{path}: not UTF-8 text: it holds NUL bytes (UTF-16? a program's own format?)")
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from blocks


# Compressed files


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
