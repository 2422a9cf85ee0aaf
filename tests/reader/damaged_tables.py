"""Tables with damaged lines, and where the damage is.

Twenty-five shapes of tables and eight kinds of damage. Nothing of the package is imported here. Each table is
drawn from (seed, shape) alone.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.reader.random_texts import LANGUAGES, draw_meaning, say

_BAD_BYTE = "\ue000"  # stands for é in Latin-1 until the file is written


class Shape(NamedTuple):
    kind: str  # "labels" or "pairs"
    header: str  # its names, or none
    cells: str  # what a row has: T text, O another text, L label, I id, S score, C language code
    delimiter: str = ","
    quoting: str = "minimal"  # "minimal", "all", "raw", or "json": JSON lines
    line_end: str = "\n"
    mark: bool = False  # a byte order mark
    packed: bool = False
    before: str = ""  # what stands between the rows: "" or "blank lines" or "texts of several lines"


SHAPES = (
    Shape("labels", "text_a label", "TL", "\t", "raw"),  # the official form
    Shape("labels", "text_a text_b label", "TOL", "\t", "raw"),
    Shape("labels", "text label", "TL"),
    Shape("labels", "Text Kategorie", "TL", ";", line_end="\r\n", mark=True),
    Shape("labels", "review sentiment", "TL", quoting="all"),
    Shape("labels", "sentence label", "TL", "\t", "raw"),
    Shape("labels", "tweet label", "TL", "\t"),
    Shape("labels", "", "TL"),
    Shape("labels", "", "LT", "\t", "raw"),
    Shape("labels", "id text label lang", "ITLC"),
    Shape("labels", "text label", "TL", before="texts of several lines"),
    Shape("labels", "text label", "TL", packed=True),
    Shape("labels", "text label", "TL", before="blank lines"),
    Shape("labels", "text label", "TL", quoting="json"),
    Shape("labels", "label text", "LT", line_end="\r\n"),
    Shape("labels", "content category", "TL", "|"),
    Shape("pairs", "en de", "TO"),
    Shape("pairs", "", "TO", "\t", "raw"),
    Shape("pairs", "", "STO", "\t", "raw"),
    Shape("pairs", "", "ITIO", "\t", "raw"),
    Shape("pairs", "source target", "TO", quoting="all", before="texts of several lines"),
    Shape("pairs", "source target", "TO", ";", line_end="\r\n", mark=True),
    Shape("pairs", "Quelle_x Ziel_x", "TO", "\t"),
    Shape("pairs", "source target", "TO", quoting="json"),
    Shape("pairs", "", "TOCC", "\t", "raw", packed=True, before="blank lines"),
)


@dataclass(frozen=True)
class Damaged:
    """A file with damage."""

    path: Path
    kind: str
    shape: int
    lines: dict[str, int]  # kind of damage -> the line on which the damaged row begins, counted from 1
    rows_with_quote: list[tuple[str, ...]] | None  # where nothing is quoted, a lone quote may be text


def _lone_quote(shape: Shape, cells: list[str], text: int) -> str:
    """A quote opens and does not close; where all cells have quotes, one is lost."""
    line = _line(shape, cells)
    if shape.quoting == "json":
        return line.replace('", "', ', "', 1)
    if shape.quoting == "all":
        return line.replace(f'{cells[text]}"', cells[text], 1)
    return line.replace(cells[text], '"' + cells[text], 1)


def _missing_cell(shape: Shape, cells: list[str], text: int) -> str:
    if shape.quoting == "json":
        return json.dumps({shape.header.split()[0]: cells[0]}, ensure_ascii=False)
    return _line(shape, cells[:-1])


def _extra_cell(shape: Shape, cells: list[str], text: int) -> str:
    """A delimiter in the text that nothing quotes; in JSON a value without its key."""
    if shape.quoting == "json":
        return _line(shape, cells)[:-1] + ', "x"}'
    words = cells[text].partition(" ")
    return _line(shape, [*cells[:text], words[0], words[2] or "x", *cells[text + 1 :]])


def _bad_byte(shape: Shape, cells: list[str], text: int) -> str:
    return _line(shape, _with(cells, text, cells[text][:2] + _BAD_BYTE + cells[text][2:]))


def _nul(shape: Shape, cells: list[str], text: int) -> str:
    line = _line(shape, _with(cells, text, cells[text][:2] + "\0" + cells[text][2:]))
    return line.replace("\\u0000", "\0")


def _empty_text(shape: Shape, cells: list[str], text: int) -> str:
    return _line(shape, _with(cells, text, ""))


def _empty_label(shape: Shape, cells: list[str], text: int) -> str:
    """Of a pair the other side."""
    place = shape.cells.index("L" if "L" in shape.cells else "O")
    return _line(shape, _with(cells, place, ""))


def _cut(shape: Shape, cells: list[str], text: int) -> str:
    """The file ends within the text of its last row, or before it if the row would look whole."""
    line = _line(shape, cells)
    start = line.index(cells[text])
    return line[: start - 1] if text == len(cells) - 1 else line[: start + len(cells[text]) // 2]


# Each returns the damaged line. Its arguments: the shape, the cells of the row, and the place of the text.
DAMAGES: dict[str, Callable[[Shape, list[str], int], str]] = {
    "lone quote": _lone_quote,
    "missing cell": _missing_cell,
    "extra cell": _extra_cell,
    "bad UTF-8": _bad_byte,
    "NUL": _nul,
    "empty text": _empty_text,
    "empty label": _empty_label,
    "cut last line": _cut,
}


def write_damaged(folder: Path, seed: int, number: int, damages: Sequence[str]) -> Damaged:
    """Write the table of a shape, with each kind of damage in a row of its own, and return where they are."""
    shape = SHAPES[number]
    random = Random(f"{seed} {number}")
    spaced = [code for code in LANGUAGES if code not in ("zh", "ja")]
    codes = random.sample(spaced, 2)
    labels = random.choice(
        (("positive", "negative"), ("spam", "ham"), ("0", "1"), ("Sport", "Politik", "Kultur"))
    )
    order = shape.cells
    count = random.randint(25, 60)
    rows = [_row(random, order, codes, labels, i) for i in range(count)]
    text = order.index("T")
    for i in (1, 2):  # a table that quotes cells has quoted cells
        if shape.quoting == "minimal":
            rows[i][text] = f'{rows[i][text]}{shape.delimiter} "{rows[i][text]}"'
    if shape.before == "texts of several lines":
        rows[3][text] = rows[3][text].replace(" ", "\n", 2)

    others = random.sample(range(5, count - 1), len(damages))
    places = {
        damage: count - 1 if damage == "cut last line" else at
        for damage, at in zip(damages, others, strict=True)
    }
    lines = [_line(shape, shape.header.split())] if shape.header and shape.quoting != "json" else []
    at_lines = {}
    kind_at = {at: damage for damage, at in places.items()}
    for i, cells in enumerate(rows):
        if shape.before == "blank lines" and i in (2, 4):
            lines.append("")
        if i in kind_at:
            at_lines[kind_at[i]] = sum(line.count("\n") + 1 for line in lines) + 1
            lines.append(DAMAGES[kind_at[i]](shape, cells, text))
        else:
            lines.append(_line(shape, cells))

    content = shape.line_end.join(lines) + ("" if "cut last line" in damages else shape.line_end)
    data = content.encode().replace(_BAD_BYTE.encode(), b"\xe9")
    data = (b"\xef\xbb\xbf" if shape.mark else b"") + data
    suffix = ".jsonl" if shape.quoting == "json" else ".tsv" if shape.delimiter == "\t" else ".csv"
    name = "-".join([f"{number:02}", *(damage.replace(" ", "_") for damage in damages)])
    path = folder / f"{name}{suffix}{'.gz' if shape.packed else ''}"
    path.write_bytes(gzip.compress(data, mtime=0) if shape.packed else data)

    may_be_text = shape.quoting == "raw" and list(damages) == ["lone quote"]
    if may_be_text:
        cells = rows[places["lone quote"]]
        cells[text] = '"' + cells[text]
    parts = [order.index(part) for part in "TOL" if part in order]
    read = [tuple(cells[part] for part in parts) for cells in rows] if may_be_text else None
    return Damaged(path, shape.kind, number, at_lines, read)


def _row(random: Random, order: str, codes: list[str], labels: Sequence[str], i: int) -> list[str]:
    meaning = draw_meaning(random, 2, False)
    values = {"T": say(meaning, codes[0]), "O": say(meaning, codes[1]), "L": labels[i % len(labels)]}
    values |= {"I": str(4711 + 3 * i), "S": f"{random.uniform(1, 1.3):.5f}"}
    seen = iter(codes)
    return [next(seen) if part == "C" else values[part] for part in order]


def _with(cells: list[str], place: int, value: str) -> list[str]:
    return [*cells[:place], value, *cells[place + 1 :]]


def _line(shape: Shape, cells: list[str]) -> str:
    """The cells as one line, or as several where a text has several."""
    if shape.quoting == "json":
        return json.dumps(dict(zip(shape.header.split(), cells, strict=True)), ensure_ascii=False)
    if shape.quoting == "raw":
        return shape.delimiter.join(cells)
    quoting = csv.QUOTE_ALL if shape.quoting == "all" else csv.QUOTE_MINIMAL
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=shape.delimiter, quoting=quoting, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n")
