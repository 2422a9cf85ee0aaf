"""Streaming of plain or compressed text files and TMX; other formats are rejected."""

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
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, BinaryIO
from xml.etree.ElementTree import Element, ParseError, iterparse

from ernie_m.reader.files.official_tsv import reject_compressed
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.utils.errors import UserError, format_value, join_items
from ernie_m.utils.files import parse_json, reject_lfs_pointer
from ernie_m.utils.logging import logger

# Extension of a compressed text file -> the function that opens it.
PACKINGS: dict[str, Callable[..., Any]] = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Names of file formats. A name without an extension of `FORMATS` is text, or determined by the contents.
LINES, CELLS, OBJECTS = "lines (.txt)", "a table (.csv, .tsv)", "JSON lines (.jsonl)"
SHEET, UNITS, TAGS, OTHER = "a workbook (.xlsx)", "TMX", "tagged words (.conll)", "another format"
FORMATS = {
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
LARGEST = 1 << 28  # maximum size in bytes of a file that is read into memory
LONGEST_LINE = 4 << 20  # bytes; the tokens of a line take 35 times the memory
# First bytes of a compressed file -> the function that decompresses it.
_OPEN = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_HEAD = 4096  # bytes to detect the format of a file
_BLOCK = 1 << 20  # bytes that `lines` takes at a time
# The beginning of an object with a translation, such as {"translation": {"en": "A man.", "de": "Ein Mann."}}.
_TRANSLATION = re.compile(rb'\s*\{\s*("id"\s*:\s*[^,{]*,\s*)?"translation"\s*:\s*\{')


def split_extensions(path: str | os.PathLike) -> tuple[str, str]:
    """Return the extensions of a file for its format and its compression, in lower case: (".tsv", ".gz")."""
    stem, packing = os.path.splitext(os.fspath(path).lower())
    if packing and packing in PACKINGS:
        return os.path.splitext(stem)[1], packing
    return packing, ""


def detect_format(path: str | os.PathLike) -> str:
    """Return the format of a file by its extension, a value of `FORMATS`; "" if unknown."""
    return FORMATS.get(split_extensions(path)[0], "")


def is_unit_file(path: str | os.PathLike) -> bool:
    """Return whether each unit of a file has a text per language: TMX, or JSON lines with translations."""
    return detect_format(path) == UNITS or bool(find_unit_languages(path))


def find_unit_languages(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the languages of the first object in a file of JSON lines with translations; () for other files.

    `datasets` writes WMT and OPUS as {"translation": {"en": "A man.", "de": "Ein Mann."}}.
    """
    if detect_format(path) != OBJECTS:
        return ()
    with contextlib.closing(TextFile(str(path), allow_json=True)) as file:
        is_translation = _TRANSLATION.match(file.buffer)
        value = parse_json(file.peek_lines(_HEAD).partition(b"\n")[0]) if is_translation else None
    return tuple(name.replace("-", "_") for name in value["translation"]) if value else ()


def reject_tables(path: str | os.PathLike, head: bytes) -> None:
    """Reject a file whose extension is that of a table or of another format that is not plain text.

    Args:
        head: the beginning of the file, for the error.

    Raises:
        UserError: the extension is that of another format.
    """
    format_name = detect_format(path)
    if format_name not in ("", LINES):
        first = head.partition(b"\n")[0].decode("utf-8-sig", errors="replace").strip()
        raise UserError(
            f"{path}: expected one text per line, got {format_name} (first line: {format_value(first)}). "
            "Write its texts to a .txt file, one per line"
        )


@cache
def _read_pipe(path: str) -> bytes:
    """Return the contents of a pipe, which can be read only once, whereas a table is opened several times."""
    return Path(path).read_bytes()


class TextFile:
    """A stream of the decompressed bytes of a text file in UTF-8, in which every line ends with a newline.

    Compression and UTF-16 are detected from the first bytes.

    Args:
        path: the path; "-": standard input. It is read into memory, as is a pipe, if `languages` is None.
        languages: the two languages of a .tmx file, whose units become lines of two tab-separated cells in
            this order; (): its first two languages. None: the file is not TMX.
        encoding: the encoding of the text; None: UTF-8, or UTF-16 with a byte order mark.
        allow_json: whether to accept JSON.

    Attributes:
        line: the line number at the start of the buffer, from 1.
        raw: the file on disk; its position is the number of compressed bytes read.
        buffer: the decompressed bytes that have not been taken.
        byte_order_mark: the byte order mark as a string; "" without one.

    Raises:
        UserError: the file cannot be read, or is not text.
    """

    def __init__(
        self,
        path: str,
        languages: Sequence[str] | None = None,
        encoding: str | None = None,
        allow_json: bool = False,
    ):
        is_input = path == "-"
        self.path = path = "standard input" if is_input else path
        self.line = 1
        reject_lfs_pointer(path)
        with _translate_file_errors(path):
            # Closed by `close`.
            if is_input or (languages is None and Path(path).is_fifo()):
                self.raw: BinaryIO = io.BytesIO(sys.stdin.buffer.read() if is_input else _read_pipe(path))
            else:
                self.raw = open(path, "rb", buffering=0)  # noqa: SIM115
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
            if detect_format(path) == UNITS and languages is not None:
                parts = read_tmx_rows(self._file, path, languages)
            elif languages is not None and _TRANSLATION.match(start):
                parts = read_translation_rows(self._file, path, languages)
            elif encoding or ends_with_cr:
                parts = _convert_to_utf8(self._file, path, encoding or "utf-8")
            if parts:
                self._file = io.BufferedReader(_IteratorFile(self._file, parts))
            self.buffer = self._file.read(_HEAD)
        self.byte_order_mark = "\ufeff" if self.buffer.startswith(codecs.BOM_UTF8) else ""
        self.buffer = self.buffer.removeprefix(codecs.BOM_UTF8)
        reject_other_formats(self.buffer, path, allow_json=allow_json)
        if 10 * self.buffer.count(0) > len(self.buffer):
            raise UserError(
                f"{path}: contains NUL bytes. If it is UTF-16 without a byte order mark, "
                "set --encoding utf-16-le"
            )

    def close(self) -> None:
        self.raw.close()

    def _fill_buffer(self, size: int) -> bool:
        """Read until the buffer has more than `size` bytes and a newline, or the file ends.

        Returns:
            Whether the end of the file was reached.

        Raises:
            UserError: the file is corrupt, or a line is too long.
        """
        with _translate_file_errors(self.path):
            missing = max(size + 1 - len(self.buffer), 0)
            more = self._file.read(missing)
            self.buffer += more
            if len(more) < missing:
                # The standard library treats a corrupt later part of a .bz2 or .xz file as its end; bytes
                # remain.
                if self._packed.read(1):
                    raise UserError(
                        f"{self.path}: corrupt after line {self.line}. Restore or download it again"
                    )
                if self.buffer and not self.buffer.endswith(b"\n"):
                    self.buffer += b"\n"
                return True
            if b"\n" not in self.buffer:
                # Read the rest of the line that fills the buffer.
                self.buffer += self._file.readline(LONGEST_LINE)
                if len(self.buffer) > LONGEST_LINE and not self.buffer.endswith(b"\n"):
                    raise make_length_error(self.path, self.line)
                self.buffer = self.buffer.removesuffix(b"\n") + b"\n"
        return False

    def peek(self, size: int) -> bytes:
        """Return the first `size` bytes without taking them; the last line may be incomplete."""
        with _translate_file_errors(self.path):
            self.buffer += self._file.read(max(size - len(self.buffer), 0))
        return self.buffer[:size]

    def peek_lines(self, size: int) -> bytes:
        """Return the complete lines in the first `size` bytes, or a longer first line; do not take them."""
        if self._fill_buffer(size):
            return self.buffer
        # After the last line that ends within `size`, or after the first if none does (0).
        end = self.buffer.rfind(b"\n", 0, size) + 1 or self.buffer.find(b"\n") + 1
        return self.buffer[:end]

    def take_bytes(self, length: int) -> bytes:
        """Remove the first `length` bytes from the buffer, and return them."""
        front = self.buffer[:length]
        self.buffer = self.buffer[length:]
        self.line += front.count(b"\n")
        return front

    def iter_lines(self, errors: RowErrors) -> Iterator[str]:
        """Yield the lines with newlines; a line that is not UTF-8 is yielded blank and added to `errors`."""
        while whole_lines := self.peek_lines(_BLOCK):
            first = self.line
            self.take_bytes(len(whole_lines))
            try:
                text = whole_lines.decode() if b"\0" not in whole_lines else ""
            except UnicodeDecodeError:
                text = ""
            if not text:  # find the lines with NUL bytes or invalid UTF-8
                lines = whole_lines.split(b"\n")
                text = "\n".join(
                    decode_or_add_error(line, number, errors) for number, line in enumerate(lines, first)
                )
            yield from io.StringIO(text, newline="\n")  # does not treat other characters as newlines

    def read_rest(self) -> bytes:
        """Take and return the remaining bytes of the file.

        Raises:
            UserError: the rest exceeds `LARGEST` bytes.
        """
        parts = [self.take_bytes(len(self.buffer))]
        with _translate_file_errors(self.path):
            while block := self._file.read(_BLOCK):
                parts.append(block)
                if len(parts) * _BLOCK > LARGEST:
                    most = f"{LARGEST >> 20} MiB"
                    raise UserError(
                        f"{self.path}: too large to read into memory (maximum: {most}). Split it, or write "
                        "a JSON list as one object per line"
                    )
        return b"".join(parts)


def decode_or_add_error(line: bytes, number: int, errors: RowErrors) -> str:
    """Decode line `number` from UTF-8; "" with an error in `errors` if it is not UTF-8 or has a NUL byte."""
    if b"\0" in line:
        errors.add(number, "NUL byte", "The file is corrupt. Restore or download it again")
        return ""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        start = max(line.rfind(space, 0, error.start) for space in (b" ", b"\t")) + 1
        word, *_ = line[start:].split()  # contains the first invalid byte
        in_cp1252 = word[:40].decode("cp1252", errors="replace")
        fix = "Set --encoding, as in gbk, or cp1252 if this word is correct, or save the file as UTF-8"
        errors.add(number, f"not UTF-8: '{in_cp1252}'", fix)
        return ""


class _IteratorFile(io.RawIOBase):
    """A readable file whose content comes from an iterator of bytes."""

    def __init__(self, file: IO[bytes], parts: Iterator[bytes]):
        self._file = file  # keeps the file open until the last part
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


def _convert_to_utf8(file: IO[bytes], path: str, encoding: str) -> Iterator[bytes]:
    """Yield the content of a file in another encoding, or with CR line endings, as UTF-8 with LF.

    Log a warning at the end if the file is mostly UTF-8 although another encoding is set.

    Raises:
        UserError: the text is not in this encoding, or the encoding is unknown.
    """
    are_none: Counter[bool] = Counter()  # non-ASCII characters: whether they are invalid UTF-8
    in_utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def iter_blocks() -> Iterator[bytes]:
        for block in iter(partial(file.read, _HEAD), b""):
            are_none.update(letter == "\ufffd" for letter in re.findall(r"[^\0-\x7f]", in_utf8.decode(block)))
            yield block

    ends_with_cr = None  # as on old Macs
    try:
        "".encode(encoding)  # LookupError for hex, rot13 and other non-text codecs
        for text in codecs.iterdecode(iter_blocks(), encoding):
            if ends_with_cr is None:
                ends_with_cr = "\r" in text and "\n" not in text
            yield (text.replace("\r", "\n") if ends_with_cr else text).encode()
    except LookupError as error:
        raise UserError(f"unknown --encoding {encoding} (expected a name such as cp1252)") from error
    except UnicodeError as error:
        raise UserError(
            f"{path}: not in the encoding {encoding} ({error}). Set another --encoding"
        ) from error
    if are_none[False] > 9 * are_none[True] and not codecs.lookup(encoding).name.startswith("utf-8"):
        line = "%s: read with --encoding %s, but %d of %d non-ASCII characters are UTF-8. Remove --encoding"
        logger.warning(line, path, encoding, are_none[False], are_none.total())


def reject_other_formats(head: bytes, path: str | os.PathLike, allow_json: bool = False) -> None:
    """Check that the first bytes of a file are not those of an archive, JSON, XML or HTML.

    Args:
        allow_json: whether to accept JSON.

    Raises:
        UserError: the file has one of these formats.
    """
    reject_compressed(head, path)
    head = head.removeprefix(codecs.BOM_UTF8)
    if re.match(rb"\s*<(\?xml|!doctype|tmx|html|table)\b", head, re.IGNORECASE):
        raise UserError(
            f"{path}, line 1: XML or HTML, not plain text. Save tables as .csv, pairs as .tmx, or "
            "otherwise one text per line"
        )
    first, line_end, _ = head.partition(b"\n")
    value = parse_json(first) if first.startswith(b'{"') else None
    begins_object = first.startswith(b'{"') and (not line_end or value)
    if (begins_object or first.strip() in (b"{", b"[")) and not allow_json:
        keys = f" (keys: {join_items([*value])})" if isinstance(value, dict) else ""
        raise UserError(
            f"{path}, line 1: JSON, not plain text{keys}. Write the values of one key, each in a line "
            "(replace line breaks by spaces), or for pairs the values of two keys with a tab between them"
        )


@contextlib.contextmanager
def _translate_file_errors(path: str) -> Iterator[None]:
    """Translate I/O errors and errors of corrupt compressed files within the context into UserError."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot be read ({reason}). If it is corrupt, restore or download it again"
        ) from error


def make_length_error(path: str, line_number: int) -> UserError:
    """Return the error for a line of more than `LONGEST_LINE` bytes."""
    limit = f"{LONGEST_LINE >> 20} MiB"
    return UserError(
        f"{path}: line {line_number}: too long (maximum: {limit}). Check that it is text, and "
        "split it into lines"
    )


_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"  # xml:lang
_CODES = {"bpt", "ept", "it", "ph", "ut"}  # elements with formatting codes of other programs


def read_tmx_rows(file: BinaryIO, path: str, languages: Sequence[str]) -> Iterator[bytes]:
    """Yield a line for each translation unit of a TMX file: its text in two languages, separated by a tab.

    A missing language is an empty cell. White space is collapsed.

    Args:
        file: the TMX file.
        path: the path of the file, for errors.
        languages: the two languages in order, as in ("en", "pt_BR"); "en" also matches en-GB. (): the first
            two languages of the first unit.

    Raises:
        UserError: the file is not TMX, or no unit has both languages.
    """
    has_both = False
    body: Element | None = None  # the parent of the units
    try:
        # expat rejects entity expansion attacks.
        for event, element in iterparse(file, ("start", "end")):
            name = _get_local_name(element)
            if event == "start":
                body = element if body is None or name == "body" else body
            elif name in _CODES:
                element.text = None
                del element[:]
            elif name == "tu":
                texts = _get_unit_texts(element)
                languages = languages or list(texts)[:2]
                sides = [_get_text_in_language(texts, language) for language in languages]
                has_both = has_both or (len(sides) == 2 and all(sides))
                yield "\t".join(sides).encode() + b"\n"
                body.clear()  # free the units so far
    except (ParseError, ValueError, LookupError) as error:  # the last two: an unknown encoding
        line, _ = getattr(error, "position", (1, 0))
        raise UserError(
            f"{path}, line {line}: corrupt or incomplete TMX ({error}). Restore or download it again"
        ) from error
    if not has_both:
        missing = " and in ".join(languages) or "two languages"
        raise UserError(
            f"{path}: no translation unit has text in {missing}. Set its language codes, as in en-de<=PATH"
        )


def read_translation_rows(file: BinaryIO, path: str, languages: Sequence[str]) -> Iterator[bytes]:
    """Yield a line for each line of JSON with a translation: its text in two languages, separated by a tab.

    A missing or null text is an empty cell. White space is collapsed.

    Args:
        file: JSON lines as {"translation": {"en": "A man.", "de": "Ein Mann."}}.
        path, languages: as in `read_tmx_rows`.

    Raises:
        UserError: a line is not such an object, or the first has no text in one of the languages.
    """
    for number, line in enumerate(file, 1):
        value = parse_json(line)
        texts = value.get("translation") if isinstance(value, dict) else None
        if not isinstance(texts, dict) or not all(isinstance(text, str | None) for text in texts.values()):
            raise UserError(
                f"{path}, line {number}: expected an object with a text per language in 'translation', as in "
                f"line 1, got {format_value(line.decode(errors='replace').strip())[:60]}. Fix the line"
            )
        texts = {language: " ".join((text or "").split()) for language, text in texts.items()}
        languages = languages or tuple(texts)
        sides = [_get_text_in_language(texts, language) for language in languages]
        if number == 1 and (len(sides) != 2 or not all(sides)):
            raise UserError(
                f"{path}, line 1: translation in {', '.join(texts)} (expected text in two languages, got "
                f"{'-'.join(languages)}). Set them, as in en-de<=PATH"
            )
        yield "\t".join(sides).encode() + b"\n"


def _get_local_name(element: Element) -> str:
    """Return the name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def _get_unit_texts(unit: Element) -> dict[str, str]:
    """Return language -> text of a TMX translation unit."""
    texts: dict[str, str] = {}
    for variant in unit:
        language = variant.get(_LANGUAGE) or variant.get("lang") or ""
        for element in variant:
            if _get_local_name(element) == "seg":
                texts.setdefault(language, " ".join("".join(element.itertext()).split()))
    return texts


def _get_text_in_language(texts: dict[str, str], language: str) -> str:
    """Return the text of a translation unit in a language, or in one of its regions; "" if missing.

    Args:
        texts: from `_get_unit_texts`.
    """
    wanted = language.lower().replace("_", "-")
    for name, text in texts.items():
        found = name.lower().replace("_", "-")
        if wanted in (found, found.split("-")[0]):
            return text
    return ""
