"""Tables as programs write them, drawn at random, with their rows and the flags that read them; and damage.

Nothing of the package is imported here. Each table is drawn from (seed, index) alone.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple


class Program(NamedTuple):
    """How a program writes cells."""

    mark: str = ","  # "": JSON lines
    quoting: int = csv.QUOTE_MINIMAL  # QUOTE_NONE: quotation marks are letters like others
    encoding: str = "utf-8"
    line_end: str = "\n"
    ending: str = ".csv"
    escape: str | None = None  # stands before a quotation mark; None: it is doubled

    def line(self, cells: Sequence[str]) -> str:
        """The cells as one line, or as several where a text has several."""
        if self.quoting == csv.QUOTE_NONE:
            return self.mark.join(cells)
        file = io.StringIO()
        form = {"delimiter": self.mark, "quoting": self.quoting, "lineterminator": "\r\n"}
        csv.writer(file, escapechar=self.escape, doublequote=not self.escape, **form).writerow(cells)
        return file.getvalue().removesuffix("\r\n")


PROGRAMS = (
    Program(),  # pandas
    Program("\t", ending=".tsv"),
    Program(";", encoding="utf-8-sig", line_end="\r\n"),  # Excel
    Program(quoting=csv.QUOTE_ALL),  # LibreOffice
    Program("\t", csv.QUOTE_NONE, ending=".tsv"),  # lines with tabs
    Program("|", ending=".txt"),
    Program(ending=".csv.gz"),
    Program("\t", encoding="utf-16", line_end="\r\n", ending=".txt"),  # Excel, Unicode text
    Program(";", encoding="cp1252", line_end="\r\n"),  # Excel, ANSI
    Program(line_end="\r"),  # Excel, Mac
    Program(quoting=csv.QUOTE_ALL, escape="\\"),  # Spark
    Program("", ending=".jsonl"),
)
# kind, its parts, names of them that are known without a flag, and some of one's own
KINDS = (
    ("labels", "text label", "Sentence LABEL", "Kommentar Kategorie"),
    ("labels", "text text_b label", "premise hypothesis score", "Frage Antwort Urteil"),
    ("pairs", "query positive", "Anchor target", "原文 译文"),
)
EXTRAS = ("", "id", "remarks", "n")  # columns that are no part of a row
PLAIN = ["the", "red", "umbrella", "was", "lost", "yesterday", "in", "rain", "Größe", "für", "Ärzte"]
ODD = ['"so"', "3,5", "a;b", "|", "it's", "#", "\\", "=", "两张票", "ключи", "مرحبا", '"', "sep=,", "1", "\n"]
BAD_BYTE = "\ue000"  # stands for é in Latin-1 until the file is written


class Table(NamedTuple):
    """A file, what is in it, and the flags that its owner would give."""

    path: Path
    kind: str  # "labels" or "pairs"
    rows: list[list[str]]  # white space counts as one blank
    flags: dict[str, str | bool]
    lines: dict[str, int]  # kind of damage -> the line at which the damaged row begins


# Each returns the damaged line of a row with a text and a label, whose places it is told.
DAMAGES: dict[str, Callable[[Program, list[str], int, int], str]] = {
    "quote": lambda program, cells, text, label: program.line(cells).replace(cells[text], f'"x{cells[text]}'),
    "missing cell": lambda program, cells, text, label: program.line(cells[:-1]),
    "extra cell": lambda program, cells, text, label: program.line([*cells, "x"]),
    "bad UTF-8": lambda program, cells, text, label: program.line(_with(cells, text, f"a{BAD_BYTE}")),
    "NUL": lambda program, cells, text, label: program.line(_with(cells, text, "a\0")),
    "empty text": lambda program, cells, text, label: program.line(_with(cells, text, " ")),
    "empty label": lambda program, cells, text, label: program.line(_with(cells, label, "")),
    "cut": lambda program, cells, text, label: program.line(cells).rpartition(program.mark)[
        0
    ],  # the last row
}


def _with(cells: list[str], place: int, value: str) -> list[str]:
    return [*cells[:place], value, *cells[place + 1 :]]


def write_table(folder: Path, seed: int, index: int, damages: Sequence[str] = (), odd: bool = True) -> Table:
    """Write the table of (seed, index), with each kind of damage in a row of its own.

    `odd`: whether its texts have marks, quotation marks and line ends, in any script.
    """
    random = Random(f"{seed} {index}")
    program = PROGRAMS[index % len(PROGRAMS)]
    raw = program.quoting == csv.QUOTE_NONE
    unable = {"\n"} if raw or program.line_end == "\r" else {program.escape}
    words = [word for word in random.sample(ODD, 5) if word not in unable] * odd
    kind, parts, *families = random.choice(KINDS)
    if program.encoding == "cp1252":
        words = [word for word in words if word.isascii()]
        families = [family for family in families if family.isascii()]
    names = random.choice([family.split() for family in families] + [None] * (program.mark != ""))
    rows = []
    for number in range(random.randint(25, 60)):
        texts = [
            " ".join([*random.choices([*PLAIN, *words], k=5), f"number {number}"]) for part in parts.split()
        ]
        rows.append([*texts[:-1], random.choice("ab")] if kind == "labels" else texts)
    extras = random.sample(EXTRAS, random.randint(0, 2))
    width = len(rows[0]) + len(extras)
    order = random.sample(range(width), width)
    grid = [[*row, *(str(number) for _ in extras)] for number, row in enumerate(rows)]
    grid = [[cells[place] for place in order] for cells in grid]
    header = [[*names, *extras][place] for place in order] if names else []

    lines = [program.line(header)] if names and program.mark else []
    row_of = dict(zip(random.sample(range(5, len(rows) - 1), len(damages)), damages))
    if "cut" in damages:
        row_of = {len(rows) - 1 if damage == "cut" else row: damage for row, damage in row_of.items()}
    line_of = {}
    for number, cells in enumerate(grid):
        if number in row_of:
            line_of[row_of[number]] = sum(line.count("\n") + 1 for line in lines) + 1
            lines.append(
                DAMAGES[row_of[number]](program, cells, order.index(0), order.index(len(rows[0]) - 1))
            )
        elif program.mark:
            lines.append(program.line(cells))
        else:
            lines.append(json.dumps(dict(zip(header, cells)), ensure_ascii=number % 2 == 0))
        lines += [""] * (number in (2, 4))
    content = program.line_end.join(lines) + program.line_end * ("cut" not in damages)
    data = content.encode(program.encoding).replace(BAD_BYTE.encode(), b"\xe9")
    path = folder / f"{index:04}{'-'.join(damages)}{program.ending}"
    path.write_bytes(gzip.compress(data) if program.ending.endswith(".gz") else data)

    columns = [names[place] if names else str(order.index(place) + 1) for place in range(len(rows[0]))]
    flags = dict(zip(parts.split(), columns)) if kind == "labels" else {"columns": ",".join(columns)}
    if program.mark:
        flags |= {"delimiter": "tab" if program.mark == "\t" else program.mark, "quotes": not raw}
    if program.encoding == "cp1252":
        flags["encoding"] = "cp1252"
    return Table(path, kind, [[" ".join(cell.split()) for cell in row] for row in rows], flags, line_of)
