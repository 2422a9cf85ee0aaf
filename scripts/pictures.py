"""Draw the masks and the stages of BTMLM for docs/objectives.md, and the chart of docs/performance.md.

    .venv/bin/python -m scripts.pictures docs/images

The masks are those of `pretrain.attention_mask`, which training uses; the ratios are those of
docs/performance.json. One release of matplotlib draws the same SVG files on every machine.
"""

from utils.environment import run

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pretrain import attention_mask
from utils.command_line import load_config
from utils.files import atomic_file, read_json
from utils.options import option

PERFORMANCE = Path(__file__).resolve().parents[1] / "docs" / "performance.json"
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

    def cells(self) -> list[list[str]]:
        """The kind of the token that is seen, or HIDDEN: [T] lists of T."""
        return [[kind if sees else HIDDEN for kind, sees in zip(self.kinds, row)] for row in self.mask]


@dataclass
class PictureFlags:
    """Where the pictures go."""

    output: str = option(positional=True)
    """The folder of the pictures."""


def main() -> None:
    folder = Path(load_config(PictureFlags, None, __doc__).output)
    pictures = {"masks": masks(), "btmlm": btmlm(), "performance": ratios(read_json(PERFORMANCE))}
    # Without a salt the names in the files are random.
    with matplotlib.rc_context({"svg.hashsalt": "ernie-m"}):
        for name, figure in pictures.items():
            with atomic_file(folder / f"{name}.svg") as file:
                figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


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


def masks() -> Figure:
    """The matrices side by side, and what the colours mean."""
    figure = Figure(figsize=(11, 2.85), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)
    widths = [len(matrix.tokens) for matrix in matrices()]
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    for axis, matrix in zip(axes, matrices()):
        colours = [[to_rgb(COLOURS[kind]) for kind in row] for row in matrix.cells()]
        axis.pcolormesh(colours, edgecolors="white", linewidth=2)
        axis.axhline(matrix.boundary, color="white", linewidth=7)  # between the sides
        axis.axvline(matrix.boundary, color="white", linewidth=7)
        axis.invert_yaxis()  # the first token at the top
        axis.set_aspect("equal", anchor="N")
        axis.set_title(matrix.title, fontsize=11, y=1, pad=20)
        places = np.arange(len(matrix.tokens)) + 0.5
        axis.set_xticks(places, matrix.tokens)
        axis.set_yticks(places, matrix.tokens)
        axis.tick_params(length=0, labelsize=10, top=False, labeltop=True, labelbottom=False)
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            for label, kind in zip(labels, matrix.kinds):
                label.set_color(COLOURS[kind])
        axis.spines[:].set_visible(False)
    patches = [Patch(color=COLOURS[kind], label=meaning) for kind, meaning in LEGEND.items()]
    figure.legend(handles=patches, loc="outside lower left", ncols=len(patches), frameon=False, fontsize=10)
    return figure


def btmlm() -> Figure:
    """Both stages of BTMLM as rows of tokens, with what is predicted above them."""
    figure = Figure(figsize=(7.6, 3.8))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 7.6), ylim=(0, 3.8))  # inches
    axis.axis("off")
    places = [0.7, 1.7, 2.7, 3.7, 4.95, 5.95, 6.95]  # the second language stands apart
    pseudo_tokens = ["das", "rote", "Haus"]

    axis.text(0.25, 3.5, "Stage 1: make pseudo-tokens, without gradient", fontsize=11)
    draw_tokens(axis, places[:4], 2.65, ["the", "red", "house", "stands"], [SOURCE] * 4)
    draw_tokens(axis, places[4:], 2.65, ["[MASK]"] * 3, [MASKED] * 3)
    axis.text(0.25, 2.1, "each [MASK] sees the sentence and itself", fontsize=10)
    for place, word in zip(places[4:], pseudo_tokens):
        draw_prediction(axis, place, 2.65, word, PSEUDO)
        draw_arrow(axis, place, 2.4, 1.1, COLOURS[PSEUDO])

    axis.text(0.25, 1.6, "Stage 2: learn from them", fontsize=11)
    draw_tokens(
        axis, places[:4], 0.85, ["the", "[MASK]", "house", "stands"], [SOURCE, MASKED, SOURCE, SOURCE]
    )
    draw_tokens(axis, places[4:], 0.85, pseudo_tokens, [PSEUDO] * 3)
    draw_prediction(axis, places[1], 0.85, "red", SOURCE)
    note = "all tokens see all tokens; the loss is on the masked word of the sentence"
    axis.text(0.25, 0.25, note, fontsize=10)
    return figure


def draw_tokens(
    axis: Axes, places: Sequence[float], y: float, words: Sequence[str], kinds: Sequence[str]
) -> None:
    """A box in the colour of its kind for each word, with its middle at (place, y)."""
    for place, word, kind in zip(places, words, kinds):
        axis.bar(place, 0.36, width=0.88, bottom=y - 0.18, color=COLOURS[kind])
        axis.text(place, y, word, color="white", ha="center", va="center", fontsize=10)


def draw_prediction(axis: Axes, place: float, y: float, word: str, kind: str) -> None:
    """An arrow upwards from the box at (place, y) to the word that is predicted there."""
    draw_arrow(axis, place, y + 0.2, y + 0.44, "black")
    axis.text(place, y + 0.54, word, color=COLOURS[kind], ha="center", va="center", fontsize=11)


def draw_arrow(axis: Axes, x: float, tail: float, head: float, colour: str) -> None:
    """A vertical arrow between two heights."""
    properties = {"arrowstyle": "->", "color": colour, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", xytext=(x, tail), xy=(x, head), arrowprops=properties)


def ratios(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A bar for each row of docs/performance.json that has a peer. The line is at 1: as fast as the peer."""
    bars = {}  # title -> result
    for row in rows.values():
        if "fastest_peer" in row.get("result", {}):
            bars[row["title"]] = row["result"]
    labels = []
    for result in bars.values():
        peer = result["contenders"][result["fastest_peer"]]["label"]
        labels.append(f"{result['ratio']:.2f} times {peer}")
    figure = Figure(figsize=(10.5, 0.33 * len(bars) + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)
    axis = figure.subplots()
    drawn = axis.barh(list(bars), [result["ratio"] for result in bars.values()], color=COLOURS[SOURCE])
    axis.bar_label(drawn, labels, padding=6, fontsize=10)
    axis.axvline(1, color="black", linewidth=1, linestyle="--")
    axis.invert_yaxis()  # the first row at the top
    axis.margins(x=0.9, y=0.02)  # room for the text behind a bar
    axis.set_xlim(left=0)
    axis.tick_params(left=False, bottom=False, labelbottom=False, labelsize=10)
    axis.spines[:].set_visible(False)
    return figure


if __name__ == "__main__":
    run(main)
