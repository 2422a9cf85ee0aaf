"""Splits plain and compressed text files into chunks of whole lines, and chunks into lines or pairs.

The boundaries of chunks depend only on the text, not on its compression or the number of workers. So a build
writes the same bytes with any number of workers and after any interruption. Memory use does not depend on the
file size.
"""

import contextlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie_m.pretrain.build_corpus.build_args import TextOptions
from ernie_m.pretrain.build_corpus.source_files import CorpusSource, Stream
from ernie_m.reader.files import plain_text
from ernie_m.reader.files.pairs import (
    PairColumns,
    detect_pair_dialect,
    find_pair_columns,
    reject_sorted_lines,
)
from ernie_m.reader.files.plain_text import (
    TextFile,
    is_unit_file,
    make_length_error,
    reject_tables,
)
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.tables import Dialect, Table, check_row_widths, filter_rows, make_table, parse_rows
from ernie_m.reader.files.text_checks import check_later_lines, check_text
from ernie_m.reader.vocabulary_coverage import warn_about_written_tokens
from ernie_m.utils.errors import UserError
from ernie_m.utils.languages import SEVERAL, language_tag
from ernie_m.utils.logging import logger

# Maximum number of lines in a chunk of aligned files: one file may have short lines where the other has long
# ones.
_MOST_LINES = 1 << 16
_HEAD = 1 << 18  # bytes of a file of pairs for detecting its columns


class PairTable(NamedTuple):
    """The structure of a table of sentence pairs, whose rows are read chunk by chunk.

    Attributes:
        names: column names.
        line: line number of the header, or of the first row without a header.
        dialect: delimiter and quoting of the file.
        columns: indices of the text columns.
        first_row: line number of the first row.
    """

    names: list[str]
    line: int
    dialect: Dialect
    columns: PairColumns
    first_row: int


class TextChunk(NamedTuple):
    """A chunk of a source: some consecutive lines, which a worker processes at a time.

    Args:
        texts: the lines as bytes; for aligned files two texts with equally many lines.
        first_line: line number of the first line in the file, from 1.
        bytes_read: number of bytes read from disk for the chunk.
        table: the structure of a file with both sides of each pair; None for other files.
    """

    texts: tuple[bytes, ...]
    first_line: int
    bytes_read: int
    table: PairTable | None


class ChunkLines(NamedTuple):
    """The lines of a chunk, stripped, without blank lines.

    Args:
        rows: the text of each line, or both sides of each pair in the order of the stream's languages.
        documents: number of lines of each document; each pair is a document.
        empty_count: number of blank lines, or of pairs with an empty side.
        not_wanted_count: number of pairs dropped by --filter.
    """

    rows: list[tuple[str, ...]]
    documents: list[int]
    empty_count: int = 0
    not_wanted_count: int = 0


def read_chunks(source: CorpusSource, chunk_bytes: int, options: TextOptions) -> Iterator[TextChunk]:
    """Split a source into chunks, in order.

    Args:
        chunk_bytes: maximum size of a chunk, unless its only line is longer.
        options: with blank lines between documents, chunks end between documents, unless a document is longer
            than a chunk.

    Raises:
        UserError: a file is empty, binary, corrupt or has an overlong line, two aligned files have different
            numbers of lines, or a file of pairs does not have two text columns.
    """
    bytes_before = 0  # bytes read from disk for earlier chunks
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(_open_source(source, path, options)) for path in source.paths]
        if not any(file.buffer for file in files):
            raise UserError(f"{source}: empty. Remove it from the command")
        table = _make_table(files[0], source, options)[0] if source.has_columns else None
        while True:
            first_line = files[0].line
            if len(files) == 2:
                texts = _take_aligned_lines(files, chunk_bytes)
            else:
                texts = (_take_lines(files[0], chunk_bytes, blank_lines=options.documents == "blank"),)
            if not any(texts):  # end of the files
                return
            bytes_so_far = sum(file.raw.tell() for file in files)
            yield TextChunk(texts, first_line, bytes_so_far - bytes_before, table)
            bytes_before = bytes_so_far


def _open_source(source: CorpusSource, path: str, options: TextOptions) -> contextlib.closing[TextFile]:
    """Open a file of a source within a `with` block."""
    languages = source.languages if len(source.languages) == 2 else None
    return contextlib.closing(TextFile(path, languages, options.encoding))


def read_lines(
    chunk: TextChunk, source: CorpusSource, languages: tuple[str, ...], options: TextOptions
) -> ChunkLines:
    """Split a chunk into lines or pairs.

    Args:
        chunk: a chunk of `source`.
        languages: languages of the stream, in the order of the sides.

    Raises:
        UserError: a line is too long or not UTF-8, has a wrong number of columns or no score, or its text is
            suspicious.
    """
    # The lines of each file, and from them rows with a cell per side.
    decoded = [_decode(text, path, chunk.first_line) for text, path in zip(chunk.texts, source.paths)]
    rows: Sequence[Sequence[str]]
    not_wanted = 0
    if chunk.table:
        rows, not_wanted = _parse_rows(decoded[0], chunk.table, chunk.first_line, source.paths[0], options)
    else:
        rows = list(zip(*decoded))
    # Strip cells, then drop rows with an empty cell.
    stripped = [tuple(map(str.strip, row)) for row in rows]
    for path, side in () if options.skip_text_checks else zip(source.paths * 2, zip(*stripped)):
        check_later_lines(path, enumerate(side, chunk.first_line))
    full = [row for row in stripped if all(row)]
    if source.languages != languages:  # the source has the reverse order
        full = [row[::-1] for row in full]
    if len(languages) == 1 and options.documents == "blank":
        # Blank lines separate documents, and are not counted as dropped.
        documents = [len(list(lines)) for is_text, lines in itertools.groupby(stripped, key=all) if is_text]
        return ChunkLines(full, documents)
    return ChunkLines(full, [1] * len(full), len(stripped) - len(full), not_wanted)


def _take_lines(file: TextFile, size: int, blank_lines: bool) -> bytes:
    """Take the next lines from a file: up to `size` bytes, or one longer line.

    Args:
        blank_lines: whether to take whole documents, which blank lines separate.
    """
    end = len(file.peek_lines(size))
    if blank_lines and end < len(file.buffer):  # the file continues, possibly within a document
        for blank in re.finditer(rb"\n(?:[^\S\n]*\n)+", file.buffer[:size]):
            end = blank.end()  # the last one counts
    return file.take_bytes(end)


def _take_aligned_lines(files: list[TextFile], size: int) -> tuple[bytes, ...]:
    """Take the same number of lines from two aligned files: up to `size` bytes, or one longer line.

    Raises:
        UserError: only one of the files has ended.
    """
    line_ends = []  # per file: ends of the lines that fit
    for file in files:
        head = np.frombuffer(file.peek_lines(size), np.uint8)
        line_ends.append(np.flatnonzero(head == ord("\n"))[:_MOST_LINES] + 1)
    lines = min(len(ends) for ends in line_ends)
    if lines:
        return tuple(file.take_bytes(int(ends[lines - 1])) for file, ends in zip(files, line_ends))
    if any(file.buffer for file in files):
        shorter = next(file for file in files if not file.buffer)
        raise UserError(
            f"{' and '.join(file.path for file in files)}: {shorter.path} has {shorter.line - 1:,} lines, "
            "the other has more. Line i of one file must be the translation of line i of the other"
        )
    return tuple(b"" for _ in files)


def _decode(text: bytes, path: str, first_line: int) -> list[str]:
    """Decode the bytes of a chunk into lines.

    Args:
        path, first_line: file and line number of the text, for messages.

    Raises:
        UserError: a line is too long or not UTF-8.
    """
    if len(text) > plain_text.LONGEST_LINE:  # otherwise no line of it can be longer
        for number, line in enumerate(text.split(b"\n"), first_line):
            if len(line) > plain_text.LONGEST_LINE:
                raise make_length_error(path, number)
    try:
        return text.decode().split("\n")[:-1]  # each line ends with a newline, also the last one
    except UnicodeDecodeError as error:
        number = first_line + text.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}: line {number}: not UTF-8 (byte 0x{text[error.start]:02x}). Set --encoding, as in "
            "--encoding gbk, or, if the file is damaged, remove such bytes with iconv -c -f utf-8 -t utf-8"
        ) from error


def check_sources(streams: Sequence[Stream], options: TextOptions) -> None:
    """Log sample lines of each source file, and check that it begins with text in its language's script.

    Raises:
        UserError: a file cannot be read or is not text, or the columns of a table are ambiguous.
    """
    scripts: dict[str, str] = {}  # of a language
    for source in itertools.chain.from_iterable(stream.sources for stream in streams):
        for number, path in enumerate(source.paths):
            sides: dict[str, Sequence[str]]  # language -> its texts
            with _open_source(source, path, options) as file:
                lines = _decode(file.peek_lines(_HEAD), path, 1)
                if source.has_columns:
                    table, sample = _make_table(file, source, options)
                    rows = [[cells[index] for index in table.columns.texts] for _, cells in sample]
                    sides = dict(zip(source.languages, zip(*rows)))
                else:
                    reject_tables(path, file.buffer)
                    sides = {source.languages[number]: lines}
                if len(source.paths) == 2:
                    reject_sorted_lines(path, lines, options.skip_text_checks)
            for language, texts in sides.items():
                script = check_text(path, texts, language, options.skip_text_checks)
                warn_about_written_tokens(path, texts)
                first = scripts.setdefault(language, script)
                if script != first and "" not in (script, first) and language_tag(language) in SEVERAL:
                    line = "%s: most letters are %s, but in another file of '%s' they are %s"
                    logger.warning(line, path, script.title(), language, first.title())


def _make_table(
    file: TextFile, source: CorpusSource, options: TextOptions
) -> tuple[PairTable, list[tuple[int, list[str]]]]:
    """Detect the structure of a file of sentence pairs.

    Returns:
        The structure, and the first rows with their line numbers.

    Raises:
        UserError: the file has no rows, or the text columns are ambiguous.
    """
    path = Path(file.path)
    if is_unit_file(path):
        dialect, has_names, options = Dialect("\t", quoted=False), False, TextOptions()
    else:
        dialect, has_names = detect_pair_dialect(file, options, source.languages)
    errors = RowErrors(path, skip=True)  # reported later, in their chunk
    head = io.StringIO(file.peek_lines(_HEAD).decode(errors="replace"), newline="\n")
    rows = parse_rows(
        itertools.islice(head, dialect.skipped_lines, None), dialect, errors, dialect.skipped_lines + 1
    )
    table = make_table(path, dialect, has_names, rows, options, errors)
    columns = find_pair_columns(table, options, source.languages)
    if len(columns.texts) > 2:
        raise table.make_column_error("which two columns are translations?", ["--columns TEXT,TRANSLATION"])
    first_row = table.line + has_names
    return PairTable(table.names, table.line, dialect, columns, first_row), list(table.rows)


def _parse_rows(
    lines: list[str], pairs: PairTable, first_line: int, path: str, options: TextOptions
) -> tuple[list[list[str]], int]:
    """Parse the rows of a table of sentence pairs.

    Returns:
        Both texts of each row, and the number of rows excluded by --filter or because they are in another
        split.

    Raises:
        UserError: a row has a different number of columns.
    """
    errors = RowErrors(path, options.on_error == "skip")
    ended_lines = (f"{line}\n" for line in lines)
    every = parse_rows(ended_lines, pairs.dialect, errors, first_line)
    below = (row for row in every if row[0] >= pairs.first_row)
    rows = list(check_row_widths(below, len(pairs.names), pairs.line, errors, allow_ragged=False))
    table = Table(Path(path), pairs.names, pairs.line, pairs.dialect, [], iter(rows))
    taken = filter_rows(table, options.filter, errors)
    columns = pairs.columns
    texts = [
        [cells[index] for index in columns.texts] for _, cells in taken if columns.is_training_row(cells)
    ]
    errors.report(logger.warning)
    return texts, len(rows) - len(texts)
