"""Which columns of a labelled file hold the texts and the label, whatever their names are."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from reader.tsv import official_names, refuse_two_columns
from utils.errors import UserError

TEXT_COLUMNS = ("text_a", "text_b")


def find_columns(
    path: Path, first: Sequence[str], rows: Sequence[Sequence[str]], wanted: Sequence[str] = ()
) -> list[int] | None:
    """The places of the text, perhaps a second text, and the label; None: the first row is no header.

    A header may have the names that `official_names` knows. Otherwise the label is the column whose values
    repeat, and the text that of words which rarely do; where several could be meant, the user has to say it.

    Args:
        first: the cells of the first row.
        rows: those of the others, as many in each.
        wanted: the names of the columns in this order; none: they are to be found.

    Raises:
        UserError: the header does not have the wanted columns, or it is not clear which are meant.
    """
    if wanted:
        return [_place(path, first, name) for name in wanted]
    names = official_names(first)
    known_texts = [names.index(name) for name in TEXT_COLUMNS if name in names]
    known_label = [names.index("label")] if "label" in names else []
    if "text_a" in names and known_label:
        refuse_two_columns(first, names, path)
        return known_texts + known_label

    columns = list(enumerate(zip(*rows)))  # (place, the cells below the first)
    repeating = [place for place, cells in columns if 1 < len(set(cells)) <= len(cells) / 2]
    is_header = bool(known_texts or known_label)
    for place, cells in columns:
        is_header |= all(map(is_number, cells)) and not is_number(first[place])
    if repeating and not any(first[place] in columns[place][1] for place in repeating):
        is_header = True  # each value of a label is in several rows
    if not is_header:
        return None

    texts = known_texts or [
        place for place, cells in columns if 2 * len(set(cells)) > len(cells) and _has_words(cells)
    ]
    labels = known_label or [place for place in repeating if place not in known_texts]
    if len(labels) != 1 or not (known_texts or len(texts) == 1):
        example = [first[place] for place in (texts or [0])[:1] + (labels or [len(first) - 1])[:1]]
        raise UserError(
            f"{path}, line 1: the text may be {_listed(first, texts)}, the label {_listed(first, labels)}; "
            f"say which, as in --columns {shlex.quote(','.join(example))}"
        )
    return texts + labels


def _place(path: Path, first: Sequence[str], name: str) -> int:
    """The place of a column that --columns names.

    Raises:
        UserError: the header does not have it.
    """
    stripped = [cell.strip() for cell in first]
    if name not in stripped:
        raise UserError(f"{path}, line 1: --columns {name}: no such column; there are {', '.join(stripped)}")
    return stripped.index(name)


def is_number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+([.,]\d+)?", cell.strip()) is not None


def _has_words(cells: Sequence[str]) -> bool:
    """Whether most cells of a column have a letter, other than numbers and dates."""
    return sum(any(map(str.isalpha, cell)) for cell in cells) > len(cells) / 2


def _listed(first: Sequence[str], places: Sequence[int]) -> str:
    """The names of columns for a message."""
    return " or ".join(f"'{first[place]}'" for place in places) or "in no column"
