"""The figures of `pretrain.show` as a picture: each sequence with its predictions, and who sees whom."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle

from pretrain.panel import Panel
from utils.files import atomic_file

_CELL, _WIDEST = 0.38, 40  # inches a token takes, and a sequence at most
_PLAIN, _MASKED, _SEEN, _UNSEEN = "#dfe7f1", "#f6c46b", "#3f6ea8", "#f4f4f4"


def write_png(path: str | os.PathLike, panels: Sequence[Panel]) -> str:
    """Write the panels, one below the other.

    Returns:
        the characters that no installed font has, as one string; their code points are drawn instead.
    """
    texts = [
        text for panel in panels for text in (panel.title, *panel.tokens, *panel.predicted, *panel.languages)
    ]
    families, lacking = _fonts(set("".join(texts)))

    def label(text: str) -> str:
        return "".join(f"<{ord(c):X}>" if c in lacking else c for c in text)

    sizes = [min(max(6, len(panel.tokens)) * _CELL, _WIDEST) for panel in panels]
    figure = Figure(figsize=(max(sizes) + 2.6, sum(sizes) + 3.4 * len(panels)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [ratio for size in sizes for ratio in (2.4, size + 1.0)]
    axes = figure.subplots(2 * len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for index, panel in enumerate(panels):
        _sequence(axes[2 * index], panel, families, label)
        _matrix(axes[2 * index + 1], panel, families, label)
    with atomic_file(path) as file:
        figure.savefig(file, format="png")
    return "".join(sorted(lacking))


def _sequence(axes, panel: Panel, families: list[str], label) -> None:
    """Figure 1 and 3: inputs below, predictions above, and a line from each prediction to what it may use."""
    style = {"ha": "center", "family": families, "parse_math": False, "fontsize": 8, "rotation": 45}
    for column, (token, predicted) in enumerate(zip(panel.tokens, panel.predicted)):
        colour = _MASKED if predicted else _PLAIN
        axes.add_patch(_box(column, 0, colour))
        axes.text(column, -0.45, label(token), va="top", **{**style, "ha": "right"})
        if predicted:
            axes.add_patch(_box(column, 2, colour))
            axes.text(column, 2.45, label(predicted), va="bottom", **{**style, "ha": "left"})
            for seen in np.flatnonzero(panel.seen[column]):
                axes.plot([seen, column], [0.3, 1.7], color=_SEEN, linewidth=0.6, alpha=0.6)
    axes.set_title(label(panel.title), family=families, fontsize=10, loc="left", pad=30)
    axes.set_xlim(-0.7, len(panel.tokens) - 0.3)
    axes.set_ylim(-0.4, 2.4)
    axes.axis("off")


def _box(column: float, height: float, colour: str):
    return Rectangle(
        (column - 0.35, height - 0.3), 0.7, 0.6, facecolor=colour, edgecolor="#555555", linewidth=0.6
    )


def _matrix(axes, panel: Panel, families: list[str], label) -> None:
    """Figures 2 and 4: rows look, columns are seen."""
    axes.pcolormesh(
        panel.seen, cmap=ListedColormap([_UNSEEN, _SEEN]), vmin=0, vmax=1, edgecolors="white", linewidth=1
    )
    axes.xaxis.tick_top()
    places = np.arange(len(panel.tokens)) + 0.5
    names = [label(f"{token} {language}".strip()) for token, language in zip(panel.tokens, panel.languages)]
    axes.set_xticks(places, [label(token) for token in panel.tokens], rotation=90)
    axes.set_yticks(places, names)
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        tick.set(family=families, fontsize=8, parse_math=False)
    if panel.boundary < len(panel.tokens):
        axes.axvline(panel.boundary, color="black", linewidth=1.2)
        axes.axhline(panel.boundary, color="black", linewidth=1.2)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")


def _fonts(characters: set[str]) -> tuple[list[str], set[str]]:
    """Font families that together have the characters, and the characters that no installed font has."""
    families = ["DejaVu Sans"]  # comes with matplotlib
    missing = {c for c in characters if not c.isspace()} - _covered(font_manager.findfont("DejaVu Sans"))
    for font in font_manager.fontManager.ttflist:
        if not missing:
            break
        if font.name in families or font.name.startswith("Last Resort"):  # boxes for every character there is
            continue
        gained = missing & _covered(font.fname)
        if gained:
            families.append(font.name)
            missing -= gained
    return families, missing


def _covered(path: str) -> set[str]:
    return {chr(code) for code in FT2Font(path).get_charmap()}
