"""Files of text as bytes, plain or compressed, taken from the front; what is no plain text is refused."""

import bz2
import codecs
import contextlib
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator, Sequence

from ernie_m.reader.files.official_tsv import refuse_compressed
from ernie_m.reader.files.tmx import TmxRows
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import refuse_pointer

ENDINGS = ("", ".gz", ".bz2", ".xz")  # what may follow the name of a text file
LONGEST_LINE = 4 << 20  # bytes; the tokens of a line take 35 times as much memory
_OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_HEAD = 4096  # bytes that tell the form of a file
_BLOCK = 1 << 20  # bytes that `lines` takes at a time


def split_name(path: str | os.PathLike) -> tuple[str, str]:
    """The ending of a file's name, and that of its packing, in small letters: (".tsv", ".gz")."""
    stem, packing = os.path.splitext(os.fspath(path).lower())
    if packing in _OPEN:
        return os.path.splitext(stem)[1], packing
    return packing, ""


class TextFile:
    """The bytes of a plain or compressed file, taken from the front. The last line always has a line end.

    Args:
        languages: of the pairs of a .tmx file, which reads as lines of two cells in this order; () takes the
            first two languages of the file. None: the file must be plain text.

    Attributes:
        line: the number of the first line in the buffer, from 1.
        raw: the file as it is on disk; how far it has been read says how many bytes were used.
        buffer: bytes that were read, and decompressed, but not taken.

    Raises:
        UserError: the file cannot be read, or is no text.
    """

    def __init__(self, path: str, languages: Sequence[str] | None = None):
        self.path = path
        self.line = 1
        ending, packing = split_name(path)
        refuse_pointer(path)
        open_stream = _OPEN.get(packing, io.BufferedReader)  # plain text is only buffered
        with _faults_named(path):
            self.raw = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
            self._file = open_stream(self.raw)
            if ending == ".tmx" and languages is not None:
                self._file = io.BufferedReader(TmxRows(self._file, path, languages))
            self.buffer = self._file.read(_HEAD).removeprefix(codecs.BOM_UTF8)
        if b"\0" in self.buffer:
            raise UserError(f"{path}: not UTF-8 text: it holds NUL bytes (UTF-16? an archive?)")
        refuse_other_forms(self.buffer, path)

    def close(self) -> None:
        self.raw.close()

    def fill(self, size: int) -> bool:
        """Read until the buffer has more than `size` bytes and a line end.

        Returns:
            Whether the file has ended.
        """
        with _faults_named(self.path):
            missing = max(size + 1 - len(self.buffer), 0)
            more = self._file.read(missing)
            self.buffer += more
            if len(more) < missing:
                # The standard library takes a damaged later part of a .bz2 or .xz file for its end; bytes
                # remain.
                if self.raw.read(1):
                    raise UserError(f"{self.path}: damaged after line {self.line}; fetch it again")
                if self.buffer and not self.buffer.endswith(b"\n"):
                    self.buffer += b"\n"
                return True
            if b"\n" not in self.buffer:
                # Read the rest of the line that fills the buffer.
                self.buffer += self._file.readline(LONGEST_LINE)
                if len(self.buffer) > LONGEST_LINE and not self.buffer.endswith(b"\n"):
                    raise too_long(self.path, self.line)
                self.buffer = self.buffer.removesuffix(b"\n") + b"\n"
        return False

    def head(self, size: int) -> bytes:
        """The whole lines among the first `size` bytes that are not taken, or one longer line; they stay."""
        if self.fill(size):
            return self.buffer
        return self.buffer[: self.buffer.rfind(b"\n", 0, size) + 1 or self.buffer.find(b"\n") + 1]

    def take(self, length: int) -> bytes:
        """Remove this many bytes from the front and return them."""
        front = self.buffer[:length]
        self.buffer = self.buffer[length:]
        self.line += front.count(b"\n")
        return front

    def lines(self) -> Iterator[bytes]:
        """Take one line after the other, without line ends."""
        while True:
            whole_lines = self.head(_BLOCK)
            if not whole_lines:
                return
            self.take(len(whole_lines))
            yield from whole_lines.removesuffix(b"\n").split(b"\n")


def refuse_other_forms(head: bytes, path: str | os.PathLike) -> None:
    """Check the first bytes of a file that should have a text, or cells, on each line.

    Raises:
        UserError: they are of an archive, JSON, XML, or lines that end with CR alone.
    """
    refuse_compressed(head, path)
    head = head.removeprefix(codecs.BOM_UTF8)
    if re.match(rb"\s*<(\?xml|!doctype|tmx)\b", head, re.IGNORECASE):
        raise UserError(
            f"{path}, line 1: XML, not plain text; a .tmx file is read as pairs, and other files must have "
            "one text on each line"
        )
    first, line_end, _ = head.partition(b"\n")
    if first.strip() in (b"{", b"[") or (first.startswith(b'{"') and (not line_end or _is_json(first))):
        raise UserError(
            f"{path}, line 1: JSON, not plain text; write one text on each line, as in jq -r .text a.jsonl "
            "> a.txt, or for pairs jq -r '[.query, .positive] | @tsv' a.jsonl > a.tsv"
        )
    if b"\r" in head and not line_end:
        raise UserError(
            f"{path}, line 1: its lines end with CR alone; change them: tr '\\r' '\\n' < old.txt > new.txt"
        )


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


@contextlib.contextmanager
def _faults_named(path: str) -> Iterator[None]:
    """Turn a failing disk and what the libraries raise for a damaged archive into one line."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read: {reason}; fetch it again if it is damaged") from error


def too_long(path: str, line: int) -> UserError:
    """The error for a line of more than `LONGEST_LINE` bytes."""
    limit = f"{LONGEST_LINE >> 20} MiB"
    return UserError(f"{path}: line {line}: longer than {limit}; is this text? break it into lines")
