"""What a masked word costs after so many tokens of pre-training, in nats a character.

    python -m experiments.curves --runs "['own.yaml<=output/a', 'own.yaml<=output/b']"
    python -m experiments.curves

The first measures the checkpoints of runs (set `run.keep_checkpoints` to 100 for them) as experiments/nats.py
does, and puts the figures into docs/results/curves.json; runs of one name differ in their seed. Both write
docs/results/curves.md and docs/images/curves.png.
"""

from utils.environment import run

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.study import named_folder
from utils.command_line import load_config
from utils.files import atomic_file, read_json, write_json
from utils.options import PositiveInt
from utils.runtime import prepare
from utils.tables import in_markdown

FIGURES = Path("docs/results/curves.json")
CHART = Path("docs/images/curves.png")
AT_MILLIONS = (2, 4, 6, 8)
FREQUENCIES = "frequencies of the pieces"
ABOUT = """# What a masked word costs

Nats a character of held-out text, the mean over the languages (`experiments/nats.py`), and each seed in
brackets. Between two checkpoints the figures are interpolated; after the last one they stay as they are."""


@dataclass
class CurvesFlags:
    """Without --runs the table and the chart are written from the figures that are there."""

    runs: list[str] = field(default_factory=list)
    """name<=output folder of run_pretrain.py. Runs of one name replace those that the figures have."""

    lines: PositiveInt = 1000
    """The most lines of a language."""


def main(arguments: Sequence[str] | None = None) -> None:
    flags = load_config(CurvesFlags, arguments, __doc__)
    figures = {} if flags.runs and not FIGURES.is_file() else read_json(FIGURES)
    if flags.runs:
        figures |= measured(flags)
        write_json(FIGURES, figures)
    with atomic_file(FIGURES.with_suffix(".md"), "w") as file:
        file.write(page(figures))
    draw(figures)


def measured(flags: CurvesFlags) -> dict[str, dict[str, Any]]:
    """Name -> "curves" of its runs, and "frequencies": what those of the pieces give."""
    prepare(quiet=True)
    from experiments.nats import figures_of  # imports Paddle, which the table does not need

    figures: dict[str, dict[str, Any]] = {}
    for item in flags.runs:
        name, folder = named_folder("--runs", item)
        curve, frequencies = figures_of(folder, flags.lines)
        of_name = figures.setdefault(name, {"curves": [], "frequencies": frequencies})
        of_name["curves"].append(curve)
    return figures


def page(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of all runs, in Markdown."""
    columns = [*(f"{millions} million tokens" for millions in AT_MILLIONS), "the end", FREQUENCIES]
    table = [["run", *columns]]
    for name, of_name in figures.items():
        row = [name]
        for tokens in (*(1e6 * millions for millions in AT_MILLIONS), math.inf):
            values = [np.interp(tokens, *np.transpose(curve), left=math.nan) for curve in of_name["curves"]]
            row.append(f"{np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        table.append([*row, f"{of_name['frequencies']:.3f}"])
    return f"{ABOUT}\n\n{in_markdown(table)}\n\n![the same as curves](../images/{CHART.name})\n"


def draw(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw a curve for each run, in a colour for each name, and the frequencies of its corpus."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    for number, (name, of_name) in enumerate(figures.items()):
        for seed, curve in enumerate(of_name["curves"]):
            tokens, nats = np.transpose(curve)
            axis.plot(tokens / 1e6, nats, color=f"C{number}", label=None if seed else name)
        axis.axhline(
            of_name["frequencies"], color="grey", linestyle=":", label=None if number else FREQUENCIES
        )
    axis.set_title("nats a character of held-out text, by million tokens", fontsize=9)
    axis.legend(fontsize=7)
    with atomic_file(CHART) as file:
        figure.savefig(file, format="png", dpi=110)


if __name__ == "__main__":
    run(main)
