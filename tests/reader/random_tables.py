"""Tables as people have them, drawn at random, each with the rows that a careful reader finds in it.

Nothing of the package is imported here, and who wrote these habits down had not seen its readers. Each table
is drawn from (seed, index) alone.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.reader.random_exports import EXPORTS
from tests.reader.random_forms import FORMS, LABELS, Column, extra, odd_names
from tests.reader.random_texts import LANGUAGES, STYLES, WESTERN, draw_meaning, say

Row = tuple[
    Any, ...
]  # (text, label), (text, its other text, label), (source, target); several labels are a tuple


class Layout(NamedTuple):
    """How a program writes cells."""

    delimiter: str = ","
    quoting: str = (
        "minimal"  # "minimal", "all", "text", "backslash", or "raw": quotes are letters like others
    )
    encoding: str = "utf-8"
    line_end: str = "\n"
    decimal: str = "."
    form: str = "cells"  # or "json lines", "json list", "json columns"


_EXCEL = Layout(";", encoding="utf-8-sig", line_end="\r\n", decimal=",")
PROGRAMS = {  # -> how often, and how it writes
    "pandas": (20, Layout()),
    "pandas with tabs": (8, Layout("\t")),
    "Excel, English": (8, _EXCEL._replace(delimiter=",", decimal=".")),
    "Excel, German": (10, _EXCEL),
    "Excel, ANSI": (4, _EXCEL._replace(encoding="cp1252")),
    "Excel, Unicode text": (7, _EXCEL._replace(delimiter="\t", encoding="utf-16")),
    "Excel, Mac": (1, Layout(line_end="\r")),
    "LibreOffice": (7, Layout(quoting="all")),
    "R": (4, Layout(quoting="text")),
    "lines with tabs": (24, Layout("\t", "raw")),
    "bars": (3, Layout("|")),
    "three bars": (1, Layout(" ||| ", "raw")),
    "Spark": (2, Layout(quoting="backslash")),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@dataclass(frozen=True)
class Table:
    """A file, and what is in it."""

    path: Path
    kind: str  # "labels" or "pairs"
    rows: list[Row]  # in the order of the file
    columns: (
        tuple  # where the parts of a row stand: the number of a cell, the keys to a value, or flags by name
    )
    kept: list[int]  # which records below the header they are, blank ones not counted
    layout: Layout
    above: int  # lines that stand above the first record: a header, a title
    ambiguous: str  # why a careful reader has to ask, or nothing: the file alone says what it holds
    habits: tuple[str, ...]
    split_labels: str = ""  # what stands between the labels of a cell

    def read_as(self, rows: list[Row]) -> bool:
        """Whether `rows` are this table's, but for white space, and one label that comes as a list."""
        return [_plain(row) for row in rows] == [_plain(row) for row in self.rows]


def write_table(folder: Path, seed: int, index: int) -> Table:
    """Write the table of (seed, index) into the folder, and return what is in it."""
    random = Random(f"{seed} {index}")
    kind = random.choices(("labels", "pairs"), (6, 4))[0]
    if random.random() < (0.3 if kind == "labels" else 0.15):
        return _write_export(folder, random, kind, index)
    return _write_cells(folder, random, kind, index)


def _texts(
    random: Random, count: int, style: str, languages: list[str], sides: int, short: bool
) -> list[list[str]]:
    """Return `sides` lists of texts, none of them twice.

    With a language for each side they are translations; otherwise the texts of a row are in one language.
    """
    most = random.choice((1, 1, 2, 4))
    texts: list[list[str]] = [[] for _ in range(sides)]
    seen = set()
    while len(texts[0]) < count:
        translated = sides > 1 and len(languages) == sides
        meanings = [draw_meaning(random, most, short) for _ in range(1 if translated else sides)]
        if seen & set(meanings) or len(set(meanings)) < len(meanings):
            continue
        seen.update(meanings)
        frame = random.choice(STYLES[style])
        spoken = languages if translated else [random.choice(languages)] * sides
        for side, meaning, language in zip(
            texts, meanings * sides if translated else meanings, spoken, strict=True
        ):
            side.append(frame.replace("§", say(meaning, language)))
    return texts


def _classes(random: Random, count: int, names: tuple[str, ...]) -> list[str]:
    """Return a label for each of `count` rows, each at least twice; some people sort their rows by label."""
    labels = list(names) * 2
    labels += random.choices(names, [random.uniform(0.2, 1) for _ in names], k=max(count - len(labels), 0))
    random.shuffle(labels)
    return sorted(labels) if random.random() < 0.15 else labels


def _write_export(folder: Path, random: Random, kind: str, index: int) -> Table:
    """Write what a program gives out as JSON."""
    name = random.choices(
        *zip(*((name, export.weight) for name, export in EXPORTS[kind].items()), strict=True)
    )[0]
    export = EXPORTS[kind][name]
    style = random.choice(tuple(STYLES))
    labels = random.choice(LABELS)
    languages = random.sample(LANGUAGES, 2 if kind == "pairs" else random.choice((1, 1, 3)))
    count = random.choice((12, 20, 40, 80))
    drawn = _classes(random, count, labels)
    texts = _texts(random, len(drawn), style, languages, 2 if kind == "pairs" else 1, False)
    records, columns, ambiguous, kept = export.make(random, texts, drawn, languages)
    form = random.choice(export.forms)
    layout = Layout(form=form, encoding=random.choices(("utf-8", "utf-8-sig"), (9, 1))[0])
    escaped = random.random() < 0.4
    if form == "json lines":
        content = "".join(json.dumps(record, ensure_ascii=escaped) + "\n" for record in records)
    elif form == "json columns":
        keys = {key: {str(i): record[key] for i, record in enumerate(records)} for key in records[0]}
        content = json.dumps(keys, ensure_ascii=escaped)
    else:
        content = json.dumps(records, ensure_ascii=escaped, indent=random.choice((None, 2)))
    suffix = (
        random.choices((".jsonl", ".json", ".txt", ".csv"), (8, 4, 1, 1))[0]
        if form == "json lines"
        else ".json"
    )
    habits = [kind, f"{kind}: {name}", form, f"texts: {style}"]
    habits += [f"{form} as {suffix}"] if suffix in (".txt", ".csv") else []
    path = _write(folder / f"{index:04}{suffix}", content, layout, random, habits)
    rows = [tuple(value_at(records[i], column) for column in columns) for i in kept]
    return Table(path, kind, rows, columns, kept, layout, 0, ambiguous, tuple(habits))


def _write_cells(folder: Path, random: Random, kind: str, index: int) -> Table:
    """Write a table of cells, as some program does."""
    name = random.choices(*zip(*((name, form.weight) for name, form in FORMS[kind].items()), strict=True))[0]
    form = FORMS[kind][name]
    programs = form.programs or tuple(PROGRAMS)
    program = random.choices(programs, [PROGRAMS[program][0] for program in programs])[0]
    layout = PROGRAMS[program][1]
    styles = set(STYLES) - ({"lines", "tabs", "in quotes"} if layout.quoting == "raw" else set())
    if layout.encoding == "cp1252":
        styles -= {"social", "separators"}
    style = random.choice(("plain", "punctuation", *sorted(styles)))
    known = WESTERN if layout.encoding == "cp1252" else LANGUAGES
    labels = random.choice(
        [names for names in LABELS if layout.encoding != "cp1252" or _fits(names, "cp1252")]
    )
    sides = form.texts
    if kind == "labels":
        languages = random.sample(known, random.choice((1, 1, 1, 3)))
    else:
        languages = random.sample(known, max(sides, 2)) if random.random() < 0.8 else [random.choice(known)]
    header = random.choices(*zip(*form.headers.items(), strict=True))[0]
    count = random.choice((12, 20, 40, 80, 120))
    drawn = _classes(random, count, labels)
    short = (
        random.random() < 0.1 and header != "odd"
    )  # a name of nobody's list above phrases could be a phrase
    texts = _texts(random, len(drawn), style, languages, sides, short)
    made = form.make(random, texts, drawn, languages, header)
    columns, ambiguous, kept = made.columns, made.ambiguous, made.kept
    habits = [kind, f"{kind}: {name}", program, f"header: {header}", f"texts: {style}"]
    habits += ["short texts"] if short else []
    habits += ["several languages"] if kind == "labels" and len(languages) > 1 else []

    if form.extras:  # what else people keep in a table
        allowed = ["id", "uuid", "date", "timestamp", "url", "user", "split", "constant", "empty", "score"]
        allowed += ["language"] if not set(drawn) <= set(LANGUAGES) else []
        allowed += ["likes", "other class"] if header in ("known", "own") and kind == "labels" else []
        for what in random.sample(allowed, random.choice((0, 0, 1, 2, 3))):
            column = extra(random, what, len(drawn), languages)
            if column.name in [other.name for other in columns]:
                continue
            place = 0 if what in ("id", "uuid") else random.randint(0, len(columns))
            columns.insert(place, column)
            habits.append(f"extra: {what}")
    if program.startswith("pandas") and random.random() < 0.4 and name not in ("label studio", "doccano"):
        columns.insert(
            0, Column("" if random.random() < 0.7 else "Unnamed: 0", [str(i) for i in range(len(drawn))])
        )
        habits.append("index column")
    names = odd_names(random, columns) if header == "odd" else [column.name for column in columns]
    if header == "odd" and columns[0].name == "" and not columns[0].part:
        names[0] = ""

    # As the program writes them: no delimiter in them where nothing is quoted, the decimals of its country.
    for column in columns:
        if layout.quoting == "raw":
            column.cells[:] = [
                cell.replace("\r\n", " ").replace("\n", " ").replace(layout.delimiter.strip(" "), " ")
                for cell in column.cells
            ]
        if layout.decimal == "," and column.decimals:
            column.cells[:] = [cell.replace(".", ",") for cell in column.cells]
    grid = [list(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    at = {part: i for i, part in enumerate(column.part for column in columns) if part}
    flags = {column.name: i for i, column in enumerate(columns) if column.part == "flag"}
    places = tuple(flags if part == "flags" else at[part] for part in made.parts)
    cells_of = {column.part: column.cells for column in columns}
    cells_of["flags"] = [
        tuple(column.name for column in columns if column.part == "flag" and column.cells[i] == "1")
        for i in range(len(drawn))
    ]
    rows = [tuple(cells_of[part][i] for part in made.parts) for i in kept]
    if made.split_labels:
        rows = [(*row[:-1], tuple(row[-1].split(made.split_labels))) for row in rows]

    # What else stands in the file
    above = [] if header == "none" else [names]
    if program == "R" and header != "none" and random.random() < 0.3:
        grid = [
            [str(i + 1), *cells] for i, cells in enumerate(grid)
        ]  # write.table: row names, and no name above
        places = tuple(
            {name: at + 1 for name, at in place.items()} if isinstance(place, dict) else place + 1
            for place in places
        )
        habits.append("header is one short")
    if program.startswith("Excel") and random.random() < 0.12:
        more = random.randint(1, 3)
        grid, above = ([cells + [""] * more for cells in lines] for lines in (grid, above))
        habits.append("empty columns at the end")
    grid += [[""] * len(grid[0])] * (
        random.randint(1, 4) if program.startswith("Excel") and random.random() < 0.1 else 0
    )
    habits += ["empty rows at the end"] if not any(grid[-1]) else []
    if program.startswith("Excel") and layout.delimiter != "\t" and random.random() < 0.05:
        above = [[f"sep={layout.delimiter}"], *above]
        habits.append("sep= above")
    elif header in ("known", "own") and random.random() < 0.01:
        above = [["Export 12.03.2024 14:05"], *above]
        habits.append("a title above")
    if layout.encoding == "cp1252":
        if not _fits([cell for cells in above + grid for cell in cells], "cp1252"):
            layout = layout._replace(encoding="utf-8-sig")
        elif not _fits([cell for cells in above + grid for cell in cells], "ascii"):
            ambiguous = ambiguous or "bytes of cp1252"
            habits.append("cp1252")
    lines = [_line(cells, layout) for cells in above + grid]
    if random.random() < 0.06:
        for place in sorted(random.choices(range(1, len(lines)), k=random.randint(1, 5)), reverse=True):
            lines.insert(place, "")
        habits.append("blank lines")
    content = (
        layout.line_end.join(lines)
        + random.choices(("", layout.line_end, layout.line_end * 3), (2, 12, 1))[0]
    )

    usual = {"\t": (".tsv", ".txt", ".csv"), ",": (".csv",) * 5 + (".txt",)}.get(
        layout.delimiter, (".csv", ".txt")
    )
    path = _write(folder / f"{index:04}{random.choice(usual)}", content, layout, random, habits)
    if kind == "labels" and Counter(row[-1] for row in rows).most_common(1)[0][1] > 0.6 * len(rows):
        habits.append("one label in most rows")
    return Table(
        path, kind, rows, places, kept, layout, len(above), ambiguous, tuple(habits), made.split_labels
    )


def _fits(cells: Any, encoding: str) -> bool:
    try:
        "".join(cells).encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _line(cells: list[str], layout: Layout) -> str:
    """Return the cells as a line, or several, without its end."""
    if layout.quoting == "raw" or cells[0].startswith("sep="):
        return layout.delimiter.join(cells)
    quoting = csv.QUOTE_MINIMAL if layout.quoting == "minimal" else csv.QUOTE_ALL
    if layout.quoting == "text":  # R: texts are quoted, numbers are not
        return layout.delimiter.join(
            cell if cell.lstrip("-").replace(".", "", 1).isdigit() else '"' + cell.replace('"', '""') + '"'
            for cell in cells
        )
    buffer = io.StringIO()
    double = layout.quoting != "backslash"
    escape = None if double else "\\"
    csv.writer(
        buffer,
        delimiter=layout.delimiter,
        quoting=quoting,
        doublequote=double,
        escapechar=escape,
        lineterminator="\r\n",
    ).writerow(cells)
    return buffer.getvalue().removesuffix("\r\n")


def _write(path: Path, content: str, layout: Layout, random: Random, habits: list[str]) -> Path:
    """Write the content, now and then compressed, and return its path."""
    encoding = "utf-16-le" if layout.encoding == "utf-16" else layout.encoding
    data = (b"\xff\xfe" if layout.encoding == "utf-16" else b"") + content.encode(encoding)
    suffix = random.choices(("", ".gz", ".bz2", ".xz"), (90, 8, 1, 1))[0]
    if suffix:
        habits.append(suffix)
        data = PACKED[suffix](data)
    path = path.with_name(path.name + suffix)
    path.write_bytes(data)
    return path


def value_at(record: Any, place: Any) -> Any:
    """Return what stands at a place of `Table.columns` in a record."""
    if isinstance(place, dict):
        return tuple(name for name, number in place.items() if record[number] == "1")
    for key in place if isinstance(place, tuple) else (place,):
        record = record[key]
    if isinstance(record, dict):  # Label Studio: several choices
        record = record["choices"]
    return tuple(map(str, record)) if isinstance(record, list) else str(record)


def _plain(row: Row) -> list:
    """Return the row with one blank for any white space, and its labels in order."""
    parts = [" ".join(part.split()) if isinstance(part, str) else part for part in row]
    if isinstance(parts[-1], str):
        return parts
    labels = sorted(" ".join(str(label).split()) for label in parts[-1])
    return [*parts[:-1], labels[0] if len(labels) == 1 else labels]


def count_readings(
    read: Callable[[Path, str], list[Row]], refused: type[Exception], folder: Path, seed: int, tables: int
) -> tuple[Counter, list[str]]:
    """Read tables, and count how.

    Args:
        read: returns the rows of a file of a kind, in order: (text, label), (text, other text, label), or
            (source, target); several labels as a tuple. It raises `refused` where it asks or refuses.

    Returns:
        (habit, outcome) -> tables, with the habit "all"; and a line for each table that was not read right.
        "right" is read right, or asked where a careful reader has to; "silent" is read as something else;
        "asked" is asked or refused although the file says it; "broken" is any other exception.
    """
    counts: Counter = Counter()
    wrong = []
    for index in range(tables):
        table = write_table(folder, seed, index)
        said = ""
        try:
            outcome = "right" if table.read_as(read(table.path, table.kind)) else "silent"
        except refused as error:
            outcome, said = "right" if table.ambiguous else "asked", str(error)
        except Exception as error:
            outcome, said = "broken", repr(error)
        causes = ["all", *table.habits, *([f"must ask: {table.ambiguous}"] if table.ambiguous else [])]
        counts.update((cause, outcome) for cause in causes)
        if outcome != "right":
            wrong.append(f"{outcome} {table.path} ({'; '.join(causes[1:])}): {said}")
    return counts, wrong


def as_lines(counts: Counter) -> list[str]:
    """Return a line for each habit: how many tables have it, and their outcomes."""
    outcomes = ("right", "silent", "asked", "broken")
    habits = sorted({habit for habit, _ in counts}, key=lambda habit: (habit != "all", habit))
    lines = [f"{'':44}{'tables':>8}" + "".join(f"{outcome:>8}" for outcome in outcomes)]
    for habit in habits:
        numbers = [counts[habit, outcome] for outcome in outcomes]
        lines.append(f"{habit:44}{sum(numbers):8}" + "".join(f"{number:8}" for number in numbers))
    return lines
