"""Plain, .gz, .bz2, .xz and .zst files as blocks of bytes, told by their first bytes, in constant memory."""

import bz2
import codecs
import itertools
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np

from pretrain.corpus.inputs import Source
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


# Source files as work units: about as many bytes of whole lines each, whatever the compression.
#
# Where a unit ends depends on the text alone, never on who reads it when, so a build gives the same bytes
# with
# any number of workers and after any interruption. Memory does not grow with a file.

LONGEST_LINE = 64 << 20  # bytes; more without a line end is no text
MOST_LINES = (
    1 << 16
)  # of a unit of two aligned files, so that short lines on one side do not pile up the other


class Unit(NamedTuple):
    """A piece of a source.

    Args:
        stream: number of the stream.
        source: number of the source in its stream.
        number: number of the unit in its source.
        texts: UTF-8 (not checked), whole lines; two for aligned files, with equally many lines.
        first_line: number of its first line in the file, from 1.
        weight: bytes of the files, as they lie on disk, that were read for it.
        last: nothing follows it in its source.
    """

    stream: int
    source: int
    number: int
    texts: tuple[bytes, ...]
    first_line: int
    weight: int
    last: bool = False

    @property
    def key(self) -> tuple[int, int, int]:
        """Which unit it is among all."""
        return self.stream, self.source, self.number


@dataclass(frozen=True)
class Cutting:
    """How sources are cut.

    Args:
        unit_bytes: size of a unit; it ends with the last line (document, pair) that ends within it.
        blank_lines: documents end at blank lines; one that is longer than a unit is cut at a line.
    """

    unit_bytes: int
    blank_lines: bool


def read_units(stream: int, number: int, source: Source, cutting: Cutting) -> Iterator[Unit]:
    """The units of one source in order.

    Raises:
        UserError: a file is empty, binary, damaged or has an endless line; aligned files have not equally
            many lines.
    """
    files = [_Lines(path, is_tmx=source.form == "tmx") for path in source.paths]
    cut = {"aligned": _cut_aligned, "tmx": _cut_tmx}.get(source.form, _cut_text)
    unit, read = None, 0
    try:
        for count in itertools.count():
            first_line = files[0].line
            texts = cut(files, cutting)
            if texts is None:
                break
            if unit is not None:
                yield unit
            position = sum(file.position() for file in files)
            unit = Unit(stream, number, count, texts, first_line, position - read)
            read = position
        if unit is None:
            raise UserError(f"{source}: empty: no text in it; leave it out")
        yield unit._replace(last=True)
    finally:
        for file in files:
            file.close()


def interleave(sources: Iterable[Iterator[Unit]], threads: int) -> Iterator[Unit]:
    """The units of many sources, `threads` sources at a time (decompressors let other threads run)."""
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


def _cut_text(files: list["_Lines"], cutting: Cutting) -> tuple[bytes, ...] | None:
    (file,) = files
    if file.fill(cutting.unit_bytes):
        return (file.take(len(file.buffer)),) if file.buffer else None
    end = _end_within(file.buffer, b"\n", cutting.unit_bytes)
    if cutting.blank_lines:
        blanks = [
            (file.buffer.rfind(blank, 0, cutting.unit_bytes), len(blank)) for blank in (b"\n\n", b"\n\r\n")
        ]
        end = max((at + length for at, length in blanks if at >= 0), default=end)
    return (file.take(end),)


def _cut_tmx(files: list["_Lines"], cutting: Cutting) -> tuple[bytes, ...] | None:
    (file,) = files
    size = cutting.unit_bytes
    while True:
        finished = file.fill(size)
        end = _end_within(file.buffer, b"</tu>", cutting.unit_bytes)
        if end:
            return (file.take(end),)
        if finished:
            if b"<tu" in file.buffer:
                raise UserError(
                    f"{file.path}: line {file.line}: ends within a <tu>: cut short; fetch it again"
                )
            return None
        if size > LONGEST_LINE:
            raise UserError(
                f"{file.path}: line {file.line}: no </tu> within {LONGEST_LINE >> 20} MiB: is this TMX?"
            )
        size *= 2


def _cut_aligned(files: list["_Lines"], cutting: Cutting) -> tuple[bytes, ...] | None:
    for file in files:
        file.fill(cutting.unit_bytes)
    ends = [_line_ends(file.buffer, cutting.unit_bytes) for file in files]
    lines = min(len(end) for end in ends)
    if lines == 0:
        if any(file.buffer for file in files):
            counts = [file.count_all_lines() for file in files]
            raise UserError(
                f"{files[0].path} has {counts[0]:,} lines, {files[1].path} has {counts[1]:,}: not aligned; "
                "line i of one must translate line i of the other"
            )
        return None
    return tuple(file.take(int(end[lines - 1])) for file, end in zip(files, ends))


def _end_within(buffer: bytes, mark: bytes, size: int) -> int:
    """The end of the last `mark` within `size` bytes, else of the first one, 0 if there is none.

    Looking no further than `size` keeps the cut from hanging on how much happened to be read.
    """
    at = buffer.rfind(mark, 0, size)
    if at < 0:
        at = buffer.find(mark)
    return at + len(mark) if at >= 0 else 0


def _line_ends(buffer: bytes, size: int) -> np.ndarray:
    ends = np.flatnonzero(np.frombuffer(buffer, np.uint8, min(size, len(buffer))) == ord("\n")) + 1
    return ends[:MOST_LINES] if ends.size or not buffer else np.array([_end_within(buffer, b"\n", size)])


class _Lines:
    """A file's bytes, taken from the front; the last line always ends with a line end."""

    def __init__(self, path: str, is_tmx: bool):
        self.path = path
        self.buffer = b""
        self.line = 1  # number of the first line in the buffer
        self._needs_line_ends = not is_tmx
        self._file = open_file(path)
        self._blocks = _decoded(decompressed(self._file, path), path, is_tmx)

    def fill(self, size: int) -> bool:
        """Read until the buffer has over `size` bytes and a line end. True: it holds all that is left."""
        parts, length = [self.buffer], len(self.buffer)
        enough = not self._needs_line_ends or b"\n" in self.buffer
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
        """Cut so many bytes off the front."""
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        self.line += taken.count(b"\n")
        return taken

    def count_all_lines(self) -> int:
        """The lines of the whole file; reads it to its end."""
        lines, last = self.line - 1, b"\n"
        while self.buffer:
            lines += self.buffer.count(b"\n")
            last = self.buffer[-1:]
            self.take(len(self.buffer))
            self.fill(1 << 20)
        return lines + (last != b"\n")

    def position(self) -> int:
        """Bytes read of the file as it lies on disk."""
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def _decoded(blocks: Iterator[bytes], path: str, is_tmx: bool) -> Iterator[bytes]:
    """UTF-8 without a byte order mark; TMX may be UTF-16.

    Raises:
        UserError: a NUL byte in the first block: UTF-16 or no text at all.
    """
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
