"""Tables of text: aligned columns for the console, Markdown for files."""

from collections.abc import Sequence

from ernie_m.utils.errors import printable


def in_columns(lines: Sequence[Sequence[str]]) -> str:
    """Align lines of cells; each column is as wide as its widest cell. A cell is in one line."""
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def in_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Write lines of cells as a Markdown table; the first line is the header."""
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    right_aligned = "---:|" * (len(lines[0]) - 1)  # all columns but the first, which holds names
    return "\n".join([head, f"|---|{right_aligned}", *body])
