"""Numbers as people write them: with decimal commas, and with marks between thousands."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ernie_m.reader.files.labels import number_in

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
# What may be thousands: with points, if there are whole hundreds without a mark beside it.
_MAY_BE_THOUSANDS, _HUNDREDS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}"), 100


class Numbers(NamedTuple):
    """Cells that are read as numbers.

    Attributes:
        cells: with points for decimals.
        values: of each cell; None: it has none.
        unclear: the place of the first cell that may be a thousand; None: there is none.
    """

    cells: list[str]
    values: list[float | None]
    unclear: int | None


def read_numbers(cells: Sequence[str]) -> Numbers:
    """Read the cells of a column. Decimals may have commas, if no cell has a point."""
    cells = [cell.strip() for cell in cells]
    marked = [cell for cell in cells if "." in cell or "," in cell]
    largest = max((number_in(cell) or 0 for cell in cells if cell.isdecimal()), default=0)
    unclear = None
    may_be_thousands = bool(marked) and all(map(_MAY_BE_THOUSANDS.fullmatch, marked))
    if may_be_thousands and (largest >= _HUNDREDS or "," in marked[0]):
        unclear = cells.index(marked[0])
    if all(map(_DECIMAL_COMMA.fullmatch, marked)):
        cells = [cell.replace(",", ".") for cell in cells]
    return Numbers(cells, list(map(number_in, cells)), unclear)
