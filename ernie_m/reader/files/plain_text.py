"""Files of text as bytes, plain or compressed, taken from the front; what is no plain text is refused."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import IO, Any, BinaryIO
from xml.etree.ElementTree import Element, ParseError, iterparse

from ernie_m.reader.files.official_tsv import reject_compressed
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.files import parse_json, reject_pointer
from ernie_m.utils.logging import logger

# What may follow the name of a file of text -> what opens it.
PACKINGS: dict[str, Callable[..., Any]] = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# The forms of files, in words; a name without an ending of `FORMS` says nothing: text, or what is in it.
LINES, CELLS, OBJECTS = "lines (.txt)", "a table (.csv, .tsv)", "JSON lines (.jsonl)"
SHEET, UNITS, TAGS, OTHER = "a workbook (.xlsx)", "TMX", "tagged words (.conll)", "another form"
FORMS = {
    ".txt": LINES,
    **dict.fromkeys((".csv", ".tsv"), CELLS),
    **dict.fromkeys((".conll", ".conllu", ".bio", ".iob"), TAGS),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), OBJECTS),
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb"), SHEET),
    ".tmx": UNITS,
    **dict.fromkeys((".parquet", ".feather", ".arrow", ".orc", ".avro", ".sqlite", ".db"), OTHER),
    **dict.fromkeys((".xls", ".ods", ".docx", ".pdf", ".npy", ".npz", ".pkl"), OTHER),
    **dict.fromkeys((".zip", ".7z", ".rar", ".zst", ".tar", ".tgz"), OTHER),
}
LARGEST = 1 << 28  # bytes of a file that is read as a whole
LONGEST_LINE = 4 << 20  # bytes; the tokens of a line take 35 times as much memory
# The first bytes of a packed file -> what unpacks it.
_OPEN = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_HEAD = 4096  # bytes that tell the form of a file
_BLOCK = 1 << 20  # bytes that `lines` takes at a time


def split_name(path: str | os.PathLike) -> tuple[str, str]:
    """The ending of a file's name, and that of its packing, in small letters: (".tsv", ".gz")."""
    stem, packing = os.path.splitext(os.fspath(path).lower())
    if packing and packing in PACKINGS:
        return os.path.splitext(stem)[1], packing
    return packing, ""


def named_form(path: str | os.PathLike) -> str:
    """The form that the name of a file says it has, to be read or written; "": it says none."""
    return FORMS.get(split_name(path)[0], "")


def refuse_tables(path: str | os.PathLike, head: bytes) -> None:
    """Refuse a file of texts, one on each line, whose name says that it has another form.

    Args:
        head: its beginning, whose first line may name its columns.

    Raises:
        UserError: it does.
    """
    form = named_form(path)
    if form not in ("", LINES):
        first = head.partition(b"\n")[0].decode("utf-8-sig", errors="replace").strip()
        raise UserError(
            f"{path}: by its name it is {form}, but here each line is a text; write its texts to a .txt "
            f"file, one on each line. Its first line: {shown(first)}"
        )


class TextFile:
    """The bytes of a file, unpacked and in UTF-8, taken from the front. The last line always has a line end.

    What the file is packed with, and a mark of UTF-16, is seen by its first bytes.

    Args:
        path: "-": standard input, which is read to its end.
        languages: of the pairs of a .tmx file, which reads as lines of two cells in this order; () takes the
            first two languages of the file. None: the file must be plain text.
        encoding: of the text; None: UTF-8, or UTF-16 with its mark.
        any_form: whether JSON is let through, for who reads it.

    Attributes:
        line: the number of the first line in the buffer, from 1.
        raw: the file as it is on disk; how far it has been read says how many bytes were used.
        buffer: bytes that were read, and decompressed, but not taken.
        begin: the byte order mark, as text.

    Raises:
        UserError: the file cannot be read, or is no text.
    """

    def __init__(
        self,
        path: str,
        languages: Sequence[str] | None = None,
        encoding: str | None = None,
        any_form: bool = False,
    ):
        is_input = path == "-"
        self.path = path = "standard input" if is_input else path
        self.line = 1
        reject_pointer(path)
        with _faults_named(path):
            # It is closed by `close`.
            self.raw = io.BytesIO(sys.stdin.buffer.read()) if is_input else open(path, "rb", buffering=0)  # noqa: SIM115
            self._packed = io.BufferedReader(self.raw)
            self._file = self._packed
            start = self._packed.peek(6)
            for magic, unpack in _OPEN.items():
                if start.startswith(magic):
                    self._file = unpack(self._packed)
            start = self._file.peek(_HEAD)[:_HEAD]
            if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                encoding = encoding or "utf-16"
            ends_with_cr = b"\r" in start and b"\n" not in start
            parts = None
            if named_form(path) == UNITS and languages is not None:
                parts = read_tmx_rows(self._file, path, languages)
            elif encoding or ends_with_cr:
                parts = _in_utf8(self._file, path, encoding or "utf-8")
            if parts:
                self._file = io.BufferedReader(_Unpacked(self._file, parts))
            self.buffer = self._file.read(_HEAD)
        self.begin = "\ufeff" if self.buffer.startswith(codecs.BOM_UTF8) else ""
        self.buffer = self.buffer.removeprefix(codecs.BOM_UTF8)
        reject_other_formats(self.buffer, path, but_json=any_form)
        if 10 * self.buffer.count(0) > len(self.buffer):
            raise UserError(
                f"{path}: it holds NUL bytes; if it is UTF-16 without its mark: --encoding utf-16-le"
            )

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
                if self._packed.read(1):
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

    def start(self, size: int) -> bytes:
        """About the first `size` bytes that are not taken, which stay; the last line may be cut."""
        with _faults_named(self.path):
            self.buffer += self._file.read(max(size - len(self.buffer), 0))
        return self.buffer[:size]

    def head(self, size: int) -> bytes:
        """The whole lines among the first `size` bytes that are not taken, or one longer line; they stay."""
        if self.fill(size):
            return self.buffer
        # Behind the last line that ends within `size`, or behind the first if none does (0).
        end = self.buffer.rfind(b"\n", 0, size) + 1 or self.buffer.find(b"\n") + 1
        return self.buffer[:end]

    def take(self, length: int) -> bytes:
        """Remove this many bytes from the front and return them."""
        front = self.buffer[:length]
        self.buffer = self.buffer[length:]
        self.line += front.count(b"\n")
        return front

    def texts(self, errors: RowErrors) -> Iterator[str]:
        """Take one line after the other, with its line end; one that is not UTF-8 is noted, and blank."""
        while whole_lines := self.head(_BLOCK):
            first = self.line
            self.take(len(whole_lines))
            try:
                text = whole_lines.decode() if b"\0" not in whole_lines else ""
            except UnicodeDecodeError:
                text = ""
            if not text:  # a line has a NUL byte or is not UTF-8: find it
                lines = whole_lines.split(b"\n")
                text = "\n".join(decoded(line, number, errors) for number, line in enumerate(lines, first))
            yield from io.StringIO(text, newline="\n")  # which takes no other mark for a line end

    def rest(self) -> bytes:
        """Take all that is left.

        Raises:
            UserError: it is more than `LARGEST` bytes.
        """
        parts = [self.take(len(self.buffer))]
        with _faults_named(self.path):
            while block := self._file.read(_BLOCK):
                parts.append(block)
                if len(parts) * _BLOCK > LARGEST:
                    most = f"{LARGEST >> 20} MiB"
                    raise UserError(
                        f"{self.path}: more than {most}, and read as a whole; divide it, or, if it is a list "
                        "of JSON, write an object on each line"
                    )
        return b"".join(parts)


def decoded(line: bytes, number: int, errors: RowErrors) -> str:
    """The text of a line; "" if it has a NUL byte or is not UTF-8, which is noted."""
    if b"\0" in line:
        errors.add(number, "it holds a NUL byte", "the file is damaged there")
        return ""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        start = line.rfind(b" ", 0, error.start) + 1
        word, *_ = line[start:].split()  # with the first byte that is wrong
        in_cp1252 = word[:40].decode("cp1252", errors="replace")
        mend = "save the file as UTF-8, or, if this word is right, read it with --encoding cp1252"
        errors.add(number, f"not UTF-8: '{in_cp1252}'", mend)
        return ""


class _Unpacked(io.RawIOBase):
    """Bytes that are made of a file, as a file."""

    def __init__(self, file: IO[bytes], parts: Iterator[bytes]):
        self._file = file  # without this it would be closed when the last part is made
        self._parts = parts
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        self._ready = self._ready or next(self._parts, b"")
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _in_utf8(file: IO[bytes], path: str, encoding: str) -> Iterator[bytes]:
    """The bytes of a text in another encoding, or with lines that end with CR alone, as UTF-8 with LF.

    A file that is UTF-8 but for a few letters, although another encoding was asked for, is warned of when all
    of it is read.

    Raises:
        UserError: it is not in this encoding, or the encoding has no such name.
    """
    are_none: Counter[bool] = Counter()  # of the letters beyond ASCII, if the text is UTF-8
    in_utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def blocks() -> Iterator[bytes]:
        for block in iter(partial(file.read, _HEAD), b""):
            are_none.update(letter == "\ufffd" for letter in re.findall(r"[^\0-\x7f]", in_utf8.decode(block)))
            yield block

    ends_with_cr = None  # as on old Macs
    try:
        "".encode(encoding)  # a LookupError for hex, rot13 and others that are not of text
        for text in codecs.iterdecode(blocks(), encoding):
            if ends_with_cr is None:
                ends_with_cr = "\r" in text and "\n" not in text
            yield (text.replace("\r", "\n") if ends_with_cr else text).encode()
    except LookupError as error:
        raise UserError(f"--encoding {encoding}: no encoding has this name; an example is cp1252") from error
    except UnicodeError as error:
        raise UserError(f"{path}: it is not in {encoding} ({error})") from error
    if are_none[False] > 9 * are_none[True] and not codecs.lookup(encoding).name.startswith("utf-8"):
        line = "%s: read with --encoding %s, but %d of %d letters beyond ASCII are UTF-8; leave that out"
        logger.warning(line, path, encoding, are_none[False], are_none.total())


def reject_other_formats(head: bytes, path: str | os.PathLike, but_json: bool = False) -> None:
    """Check the first bytes of a file that should have a text, or cells, on each line.

    Args:
        but_json: whether JSON is let through.

    Raises:
        UserError: they are of an archive, JSON, or XML.
    """
    reject_compressed(head, path)
    head = head.removeprefix(codecs.BOM_UTF8)
    if re.match(rb"\s*<(\?xml|!doctype|tmx|html|table)\b", head, re.IGNORECASE):
        raise UserError(
            f"{path}, line 1: XML or HTML, not plain text; save a table as .csv; .tmx is read as pairs, "
            "and other files must have one text on each line"
        )
    first, line_end, _ = head.partition(b"\n")
    begins_object = first.startswith(b'{"') and (not line_end or parse_json(first))
    if (begins_object or first.strip() in (b"{", b"[")) and not but_json:
        raise UserError(
            f"{path}, line 1: JSON, not plain text; write one text on each line, by its key, as in "
            "jq -r .text a.jsonl > a.txt, or for pairs jq -r '[.query, .positive] | @tsv' a.jsonl > a.tsv"
        )


@contextlib.contextmanager
def _faults_named(path: str) -> Iterator[None]:
    """Turn a failing disk and what the libraries raise for a damaged archive into one line."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read: {reason}; fetch it again if it is damaged") from error


def too_long(path: str, line: int) -> UserError:
    """The error for a line of more than `LONGEST_LINE` bytes."""
    limit = f"{LONGEST_LINE >> 20} MiB"
    return UserError(f"{path}: line {line}: longer than {limit}; is this text? break it into lines")


_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"  # xml:lang
_CODES = {"bpt", "ept", "it", "ph", "ut"}  # elements in a text that hold the formatting of another program


def read_tmx_rows(file: BinaryIO, path: str, languages: Sequence[str]) -> Iterator[bytes]:
    """A line for each unit of a TMX file: one language, tab, the other language.

    The line of a unit without one of the languages has an empty cell. White space in a text becomes a space.

    Args:
        file: the XML.
        path: its name, for errors.
        languages: the two in their order, as in ("en", "pt_BR"); "en" also takes en-GB. (): the first two of
            the first unit.

    Raises:
        UserError: it is no TMX, or no unit has both languages.
    """
    has_both = False
    body: Element | None = None  # what the units are in
    try:
        # expat, below it, refuses entities that would make a small file endless.
        for event, element in iterparse(file, ("start", "end")):
            name = _name(element)
            if event == "start":
                body = element if body is None or name == "body" else body
            elif name in _CODES:
                element.text = None
                del element[:]
            elif name == "tu":
                texts = _texts(element)
                languages = languages or list(texts)[:2]
                sides = [_side(texts, language) for language in languages]
                has_both = has_both or (len(sides) == 2 and all(sides))
                yield "\t".join(sides).encode() + b"\n"
                body.clear()  # the units so far
    except (ParseError, ValueError, LookupError) as error:  # the last two: an encoding that is not known
        line, _ = getattr(error, "position", (1, 0))
        raise UserError(f"{path}, line {line}: no whole TMX ({error}); fetch it again") from error
    if not has_both:
        missing = " and in ".join(languages) or "two languages"
        raise UserError(
            f"{path}: no unit has a text in {missing}; name the languages as the file does, in en-de<=PATH"
        )


def _name(element: Element) -> str:
    """The name of an element without a namespace."""
    return element.tag.rpartition("}")[2]


def _texts(unit: Element) -> dict[str, str]:
    """Language -> the text of a unit."""
    texts: dict[str, str] = {}
    for variant in unit:
        language = variant.get(_LANGUAGE) or variant.get("lang") or ""
        for element in variant:
            if _name(element) == "seg":
                texts.setdefault(language, " ".join("".join(element.itertext()).split()))
    return texts


def _side(texts: dict[str, str], language: str) -> str:
    """The text of a language, or of one of its regions; "" if there is none."""
    wanted = language.lower().replace("_", "-")
    for name, text in texts.items():
        found = name.lower().replace("_", "-")
        if wanted in (found, found.split("-")[0]):
            return text
    return ""
