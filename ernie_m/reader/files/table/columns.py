"""What the columns of a table hold, by their cells and names, and whether the first line names them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from ernie_m.reader.files.table.words import (
    ALIKE,
    CLASSES,
    EMPTY,
    ID,
    LANGUAGE,
    NUMBERS,
    ONE,
    SPLIT,
    SPLITS,
    TEXTS,
    VERDICT_WORDS,
    VERDICTS,
    is_code,
    purpose_of,
)
from ernie_m.utils.errors import UserError, listed, shown

# A number, a date, or an id of hexadecimal digits.
_NUMBER = re.compile(
    r"[-+#]?[\d.][\d.,:/ _-]*(t?[\d:.]+z?|e[-+]?\d+)?%?|nan|none|null|[\da-f]{8}[\da-f-]{8,}"
    r"|([a-z]{3},? )?([a-z]{3} \d+|\d+ [a-z]{3}),? [\d:]+( \S{3,5})?( \d+)?",
    re.IGNORECASE,
)
_ID = re.compile(r"\w{2,8}://\S+|[\w.:/#-]*\d[\w.:/#-]*|[\w.-]+/\S+|[\w.+-]+@[\w.-]+", re.ASCII)
_NAME = re.compile(r"[^\W\d_][\w#]*(?:[ _.:/-][\w#]+){0,2}\??:?")  # a cell that looks like a name
_DIGITS = re.compile(r"\d+")
_END = re.compile(r"[.!?。！？।؟…]['\"”’»)]*$")
_FEW = 20  # values of a column of texts; one with fewer may have classes
_BEGINNING = 20  # characters of a cell without its digits: the same ones in a licence, a URL, an id


def is_number(cell: str) -> bool:
    """Whether a cell is a plain number, with a decimal comma or point."""
    return re.fullmatch(r"[+-]?\d+([.,]\d+)?", cell.strip()) is not None


def counted(width: int) -> str:
    return f"{width} column{'' if width == 1 else 's'}"


def place_of(name: str, names: Sequence[str], width: int, flag: str) -> int:
    """The place of a column that an option names, by its name or its number from 1.

    Args:
        names, width: the names of the columns, if they have any, and their number.
        flag: the place in the file and the option, for the error.

    Raises:
        UserError: there is no such column.
    """
    if name in names:
        return names.index(name)
    if name.isdecimal() and 0 < int(name) <= width:
        return int(name) - 1
    there = ", ".join(names) or f"no header, so give numbers from 1 to {width}"
    raise UserError(f"{flag} {name}: no such column; there are {there}")


def columns_of(rows: Iterable[Sequence[str]], width: int) -> list[list[str]]:
    """The cells of each column, without white space at both ends."""
    columns = [[cell.strip() for cell in column] for column in zip_longest(*rows, fillvalue="")]
    return columns[:width] + [[] for _ in range(width - len(columns))]


def kind_of(cells: Sequence[str]) -> str:
    """What the cells of a column are."""
    filled = [cell for cell in cells if cell]
    values = Counter(cell.casefold() for cell in filled)
    if not filled:
        return EMPTY
    if len(values) == 1 and len(filled) > 1:
        return ONE
    count = len(filled)
    if len(values) <= 12 and {*values} <= VERDICT_WORDS and count > len(values):
        return VERDICTS
    if {*values} <= SPLITS:
        return SPLIT
    if len(values) <= 200:  # a damaged row does not hide languages
        codes = sum(number for cell, number in Counter(filled).items() if is_code(cell))
        if codes >= 0.97 * count:
            return LANGUAGE
    repeats = count >= 4 and len(values) <= min(count / 2, max(_FEW, count / 20))
    if sum(_NUMBER.fullmatch(cell) is not None for cell in filled) >= 0.9 * count:
        # Few whole numbers that repeat may be stars or topics.
        are_whole = all(re.fullmatch(r"[+-]?\d{1,4}(\.0)?", value) for value in values)
        return CLASSES if repeats and len(values) <= _FEW and are_whole else NUMBERS
    if repeats and sum(map(len, values)) <= 40 * len(values):
        return CLASSES
    if sum(_ID.fullmatch(cell) is not None for cell in filled) >= 0.9 * count:
        return ID
    # What has digits, or is a URL, is compared by its beginning: so ids, URLs and licences are one value.
    without_digits = [(cell, _DIGITS.sub("", cell)) for cell in filled[:1000]]
    stems = {
        stem if stem == cell and "://" not in cell else stem[:_BEGINNING] for cell, stem in without_digits
    }
    few = max(1, min(_FEW, len(without_digits) // 10))
    return ALIKE if count >= 5 and len(stems) <= few and len(values) > count / 2 else TEXTS


def has_header(
    path: Path,
    first: tuple[int, list[str]],
    columns: Sequence[Sequence[str]],
    kinds: Sequence[str],
    chosen: bool | None,
    say: Callable[[str], None],
) -> bool:
    """Whether the first row names the columns.

    Args:
        first: its line and its cells.
        columns, kinds: the cells of each column below it, and what they are.
        chosen: the value of --header.

    Raises:
        UserError: some signs say so, and others that it does not.
    """
    if chosen is not None:
        return chosen
    line, cells = first
    if not any(columns):  # there is no row below it
        return all(purpose_of(cell) for cell in cells)
    signs, against = _signs_of_header(cells, columns, kinds)
    if signs and against and len(signs) <= 2 * len(against):
        raise UserError(
            f"{path}, line {line}: is it a header? {listed(signs, 2)}, but {listed(against, 2)}; "
            "say which: --header true or --header false"
        )
    if not signs and not against:
        row = " | ".join(shown(cell)[:30] for cell in cells[:6])
        say(f"{path}, line {line}: read as a row, not as a header: {row} (--header true, if it is one)")
    return bool(signs)


def _signs_of_header(first: Sequence[str], columns: Sequence[Sequence[str]], kinds: Sequence[str]) -> tuple:
    """What says that the first row names the columns, and what says that it is a row.

    Args:
        first: its cells.
        columns: the cells of each column below it.
        kinds: what each column holds.

    Returns:
        two lists of sentences.
    """
    numbers = first[1:] if first[0] == "" else first
    # Also V1, V2, ..., or feld_01, feld_02, ...
    counts = [int(number) for cell in numbers for number in re.findall(r"\d+$", cell)]
    stems = {_DIGITS.sub("", cell) for cell in numbers}
    start = counts[0] if counts else 0
    is_numbered = len(numbers) > 1 and len(stems) == 1 and counts == list(range(start, start + len(numbers)))
    may_be_names = start <= 1 or stems != {""}  # numbers alone begin at 0 or 1
    has_text_below = any(kind not in (NUMBERS, CLASSES, VERDICTS) for kind in kinds)
    if is_numbered and may_be_names and has_text_below:
        return ["it numbers the columns, as pandas does"], []
    cells = [cell.strip() for cell in first]
    found = [_sign(place, *column) for place, column in enumerate(zip(cells, columns, kinds), 1)]
    signs = [sign for sign, _ in found if sign]
    against = [sign for _, sign in found if sign]
    texts = [place for place, kind in enumerate(kinds) if kind in (TEXTS, ALIKE)]
    if texts and all(_is_name_above(cells[place], columns[place]) for place in texts):
        signs.append("short names stand above texts")
    return signs, against


def _sign(place: int, cell: str, cells: Sequence[str], kind: str) -> tuple[str, str]:
    """What a cell of the first row says for a header, and what against.

    Args:
        place: the number of its column.
        cells, kind: those of the column below it.
    """
    usual = f"'{cell}' is a usual name"
    alike = f"'{cell}' is of the kind of those below it"
    named = f"'{cell}' is a name above {kind}"
    if kind == EMPTY:
        return (usual if purpose_of(cell) else ""), ""
    if not cell:  # the index of pandas has no name
        is_index = kind in (NUMBERS, ID) and len(cells) > 1
        return (f"no name above the numbers of column {place}" if is_index else ""), ""
    folded = cell.casefold()
    below = sum(other.casefold() == folded for other in cells)
    if below:
        is_value = kind in (CLASSES, VERDICTS, LANGUAGE, SPLIT, ONE) or below > 1
        return "", (f"'{cell}' is below it, too" if is_value else "")
    are_numbered_classes = kind == CLASSES and all(is_number(other) for other in cells if other)
    if kind in (NUMBERS, ID) or are_numbered_classes:
        is_alike = _NUMBER.fullmatch(cell) or (kind == ID and _shape(cell) in map(_shape, cells[:100]))
        return ("", alike) if is_alike else (named, "")
    of_kind = {LANGUAGE: is_code(cell), SPLIT: folded in SPLITS, VERDICTS: folded in VERDICT_WORDS}
    if of_kind.get(kind):
        return "", alike
    if purpose_of(cell) and not any(map(purpose_of, cells[:20])):
        return usual, ""
    if kind in (VERDICTS, LANGUAGE, SPLIT) and len(cells) > 2:
        return named, ""
    if kind in (CLASSES, ONE):
        counts = Counter(cells)
        are_repeated = len(cells) >= 3 * len(counts) and min(counts.values()) > 1
        return (f"'{cell}' is in no other row" if are_repeated else ""), ""
    if _is_name_above(cell, cells):
        is_written = re.search(r"\w_\w|[a-z][A-Z]", cell) and not any("_" in other for other in cells)
        return (f"'{cell}' is written like a name" if is_written else ""), ""
    is_sentence = (len(cell.split()) > 3 and _END.search(cell)) or len(cell) > 120
    return "", (f"'{cell[:30]}...' is a sentence" if is_sentence else "")


def _shape(cell: str) -> str:
    """A cell with one letter for letters, and one digit for digits."""
    return re.sub(r"[^\W\d_]+", "a", _DIGITS.sub("9", cell))


def _is_name_above(cell: str, cells: Sequence[str]) -> bool:
    """Whether a cell is a word or two above longer texts."""
    if len(cell) > 40 or not _NAME.fullmatch(cell) or len(cells) < 3:
        return False
    shorter = sum(len(other) <= len(cell) or len(other.split()) < len(cell.split()) for other in cells)
    return shorter <= 0.03 * len(cells)
