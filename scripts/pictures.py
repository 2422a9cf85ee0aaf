"""Draw the masks and the stages of BTMLM for docs/objectives.md, and the chart of docs/performance.md.

    .venv/bin/python -m scripts.pictures docs/images

The masks are those of `pretrain.attention_mask`, which training uses; the ratios are those of
docs/performance.json. The SVG files are the same on every machine.
"""

from utils.environment import run

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from pretrain import attention_mask
from utils.command_line import Parser
from utils.files import atomic_file, read_json

PERFORMANCE = Path(__file__).resolve().parents[1] / "docs" / "performance.json"
CELL = 22  # pixels
GAP = 6  # between the sides of a pair
LABELS = 30  # the width of the row labels and the height of the column labels
MARGIN = 16
TITLE = 30
BAR_LEFT = 370  # where the bars of a chart begin
BAR_UNIT = 70  # the length of a bar of 1
SOURCE = "source"
TARGET = "target"
MASKED = "masked"
PSEUDO = "pseudo"
HIDDEN = "hidden"
COLOURS = {
    SOURCE: "#4477aa",
    TARGET: "#ee7733",
    MASKED: "#aa3377",
    PSEUDO: "#228833",
    HIDDEN: "#e8e8e8",
}
LEGEND = {
    SOURCE: "sees a source token",
    TARGET: "sees a target token",
    MASKED: "sees a [MASK] or placeholder",
    PSEUDO: "sees a pseudo-token",
    HIDDEN: "may not attend",
}
INK = "#222222"
FONT = "font-family='DejaVu Sans, Arial, sans-serif'"


@dataclass(frozen=True)
class Matrix:
    """A matrix of T tokens.

    Attributes:
        kinds: of each token: SOURCE, TARGET, MASKED or PSEUDO.
        boundary: the number of tokens before the second side; T if there is none.
        mask: bool [T, T], row i: the tokens that token i may attend to.
    """

    title: str
    tokens: Sequence[str]
    kinds: Sequence[str]
    boundary: int
    mask: np.ndarray

    @property
    def size(self) -> int:
        """Width and height of the cells in pixels."""
        return self.offset(len(self.tokens) - 1) + CELL

    def offset(self, number: int) -> int:
        """Where the cell of a token begins."""
        return number * CELL + (GAP if number >= self.boundary else 0)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("output", type=Path, help="the folder of the pictures")
    folder = parser.parse_args().output
    rows = read_json(PERFORMANCE)
    pictures = {"masks.svg": masks(), "btmlm.svg": btmlm(), "performance.svg": ratios(rows)}
    for name, picture in pictures.items():
        with atomic_file(folder / name, "w") as file:
            file.write(picture)


def matrices() -> list[Matrix]:
    """The matrices of docs/objectives.md. M is a [MASK] or placeholder, h a pseudo-token."""
    pair = ["x1", "M2", "x3", "y4", "M5", "M6", "y7"]
    pair_kinds = [SOURCE, MASKED, SOURCE, TARGET, MASKED, MASKED, TARGET]
    side = np.array([0, 0, 0, 1, 1, 1, 1])  # 0: the source, 1: the target
    masked = np.array([kind == MASKED for kind in pair_kinds])
    stage1 = ["x1", "x2", "x3", "x4", "M5", "M6", "M7"]
    stage1_kinds = [SOURCE, SOURCE, SOURCE, SOURCE, MASKED, MASKED, MASKED]
    stage2 = ["x1", "M2", "x3", "x4", "h5", "h6", "h7"]
    stage2_kinds = [SOURCE, MASKED, SOURCE, SOURCE, PSEUDO, PSEUDO, PSEUDO]
    everything = np.ones((7, 7), bool)  # all tokens see all tokens
    camlm = attention_mask.camlm(side, masked)
    placeholders = attention_mask.compact(context_length=4, placeholders=3)
    return [
        Matrix("MMLM", pair[:3], pair_kinds[:3], boundary=3, mask=everything[:3, :3]),
        Matrix("TLM", pair, pair_kinds, boundary=3, mask=everything),
        Matrix("CAMLM", pair, pair_kinds, boundary=3, mask=camlm),
        Matrix("BTMLM, stage 1", stage1, stage1_kinds, boundary=4, mask=placeholders),
        Matrix("BTMLM, stage 2", stage2, stage2_kinds, boundary=4, mask=everything),
    ]


def masks() -> str:
    """The matrices side by side, and what the colours mean."""
    parts = []
    left = MARGIN
    height = 0
    for matrix in matrices():
        parts += draw_matrix(matrix, left, top=MARGIN)
        left += LABELS + matrix.size + MARGIN
        height = max(height, MARGIN + TITLE + LABELS + matrix.size)
    x = MARGIN  # where the next entry of the legend begins
    for kind, meaning in LEGEND.items():
        parts.append(rectangle(x, height + MARGIN, width=14, height=14, colour=COLOURS[kind]))
        parts.append(text(x + 20, height + MARGIN + 12, meaning, size=12, anchor="start"))
        x += 44 + 7 * len(meaning)  # a letter of this size has about 7 pixels
    return svg(max(left, x), height + 2 * MARGIN + 14, parts)


def draw_matrix(matrix: Matrix, left: int, top: int) -> list[str]:
    """The elements of a matrix: title, labels, and a square for each pair of tokens."""
    first_column = left + LABELS
    first_row = top + TITLE + LABELS
    parts = [text(first_column + matrix.size // 2, top + 14, matrix.title, size=14)]
    for number, (token, kind) in enumerate(zip(matrix.tokens, matrix.kinds)):
        middle = matrix.offset(number) + CELL // 2
        parts.append(text(first_column + middle, first_row - 8, token, colour=COLOURS[kind]))
        parts.append(text(left + LABELS // 2, first_row + middle + 4, token, colour=COLOURS[kind]))
    for query in range(len(matrix.tokens)):
        for key, kind in enumerate(matrix.kinds):
            colour = COLOURS[kind if matrix.mask[query, key] else HIDDEN]
            x = first_column + matrix.offset(key)
            y = first_row + matrix.offset(query)
            parts.append(rectangle(x, y, width=CELL - 2, height=CELL - 2, colour=colour))
    return parts


def btmlm() -> str:
    """Both stages of BTMLM as rows of tokens, with what is predicted above them."""
    sentence = ["the", "red", "house", "stands"]
    pseudo_tokens = ["das", "rote", "Haus"]
    masked_sentence = ["the", "[MASK]", "house", "stands"]
    parts = [text(MARGIN, 26, "Stage 1: make pseudo-tokens, without gradient", size=14, anchor="start")]
    parts += draw_tokens(sentence, [SOURCE] * 4, first=0, top=86)
    parts += draw_tokens(["[MASK]"] * 3, [MASKED] * 3, first=4, top=86)
    for number, word in enumerate(pseudo_tokens):
        parts.append(arrow(token_middle(4 + number), 84, token_middle(4 + number), 66))
        parts.append(text(token_middle(4 + number), 58, word, colour=COLOURS[PSEUDO], size=14))
        parts.append(arrow(token_middle(4 + number), 150, token_middle(4 + number), 190, COLOURS[PSEUDO]))
    note = "each [MASK] sees the sentence and itself"
    parts.append(text(MARGIN, 136, note, size=12, anchor="start"))
    parts.append(text(MARGIN, 184, "Stage 2: learn from them", size=14, anchor="start"))
    kinds = [SOURCE, MASKED, SOURCE, SOURCE]
    parts += draw_tokens(masked_sentence, kinds, first=0, top=236)
    parts += draw_tokens(pseudo_tokens, [PSEUDO] * 3, first=4, top=236)
    parts.append(arrow(token_middle(1), 234, token_middle(1), 216))
    parts.append(text(token_middle(1), 208, "red", colour=COLOURS[SOURCE], size=14))
    note = "all tokens see all tokens; the loss is on the masked word of the sentence"
    parts.append(text(MARGIN, 286, note, size=12, anchor="start"))
    return svg(token_middle(7), 304, parts)


def draw_tokens(words: Iterable[str], kinds: Iterable[str], first: int, top: int) -> list[str]:
    """Boxes with words, from the place `first` on."""
    parts = []
    for place, (word, kind) in enumerate(zip(words, kinds), first):
        left = token_middle(place) - 36
        parts.append(rectangle(left, top, width=72, height=28, colour=COLOURS[kind]))
        parts.append(text(token_middle(place), top + 19, word, colour="#ffffff"))
    return parts


def token_middle(place: int) -> int:
    """The middle of a box in pixels. The second language, from the place 4 on, stands apart."""
    return MARGIN + 36 + 80 * place + (24 if place >= 4 else 0)


def ratios(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A bar for each row of docs/performance.json that has a peer. The line is at 1: as fast as the peer."""
    parts = []
    top = MARGIN
    for row in rows.values():
        result = row.get("result", {})
        if "fastest_peer" not in result:
            continue
        peer = result["contenders"][result["fastest_peer"]]["label"]
        ratio = result["ratio"]
        end = BAR_LEFT + round(BAR_UNIT * ratio)
        parts.append(text(BAR_LEFT - 10, top + 15, row["title"], anchor="end"))
        parts.append(rectangle(BAR_LEFT, top, width=end - BAR_LEFT, height=20, colour=COLOURS[SOURCE]))
        parts.append(text(end + 8, top + 15, f"{ratio:.2f} times {peer}", size=12, anchor="start"))
        top += 30
    line = BAR_LEFT + BAR_UNIT  # where a bar of 1 ends
    parts.append(f"<path d='M{line} {MARGIN} L{line} {top}' stroke='{INK}' stroke-dasharray='4 3'/>")
    width = BAR_LEFT + 5 * BAR_UNIT + 320  # room for ratios of up to 5, and for the text behind a bar
    return svg(width, top + MARGIN, parts)


def rectangle(x: int, y: int, width: int, height: int, colour: str) -> str:
    return f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='3' fill='{colour}'/>"


def text(x: int, y: int, words: str, colour: str = INK, size: int = 13, anchor: str = "middle") -> str:
    style = f"{FONT} font-size='{size}' fill='{colour}' text-anchor='{anchor}'"
    return f"<text x='{x}' y='{y}' {style}>{escape(words)}</text>"


def arrow(x1: int, y1: int, x2: int, y2: int, colour: str = INK) -> str:
    """A vertical line with a head at its end, (x2, y2)."""
    direction = 1 if y2 > y1 else -1  # downwards or upwards
    head = f"M{x2 - 4} {y2 - 6 * direction} L{x2} {y2} L{x2 + 4} {y2 - 6 * direction}"
    return f"<path d='M{x1} {y1} L{x2} {y2} {head}' stroke='{colour}' stroke-width='1.5' fill='none'/>"


def svg(width: int, height: int, parts: Iterable[str]) -> str:
    """A picture on white."""
    size = f"width='{width}' height='{height}' viewBox='0 0 {width} {height}'"
    background = f"<rect width='{width}' height='{height}' fill='#ffffff'/>"
    lines = [f"<svg xmlns='http://www.w3.org/2000/svg' {size}>", background, *parts, "</svg>"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
