"""What a search gave: tables as text, Markdown and JSON, a bar chart, predictions as XTREME wants them."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaluation.retrieval import SplitResult
from evaluation.search import Found
from finetune.report import in_columns, in_markdown
from finetune.retrieval.paper import PAPER
from reader.sentences import Bitext
from utils.files import atomic_file
from utils.logging import logger

ENGLISH_QUERIES, ENGLISH_TARGETS = "en -> xx", "xx -> en"
AVERAGE = "avg"
Rows = dict[str, dict[str, float]]  # row -> language -> per cent


def rows_of(found: Mapping[str, Found]) -> Rows:
    """Both directions, then the paper's figures for the languages that it has."""
    scores = {language: one.accuracies() for language, one in found.items()}
    rows = {
        name: {language: pair[side] for language, pair in scores.items()}
        for side, name in enumerate((ENGLISH_QUERIES, ENGLISH_TARGETS))
    }
    for name, figures in PAPER.items():
        if known := {language: figures[language] for language in scores if language in figures}:
            rows[name] = known
    return rows


def rows_by_layer(by_layer: Mapping[str, tuple[np.ndarray, SplitResult]]) -> Rows:
    """A row per layer, mean of both directions; then what the layer chosen on one half gives on the other."""
    layers = len(next(iter(by_layer.values()))[0])
    rows = {
        f"layer {layer}": {name: float(table[layer].mean()) for name, (table, _) in by_layer.items()}
        for layer in range(layers)
    }
    chosen = ", ".join(f"{name} {split.layer}" for name, (_, split) in by_layer.items())
    logger.info("layers chosen on the even pairs, by cosine: %s", chosen)
    rows["those on the odd pairs"] = {name: 100.0 * split.mean for name, (_, split) in by_layer.items()}
    return rows


def cells(rows: Rows) -> list[list[str]]:
    """Header and rows with their averages over the languages they have; two decimals."""
    languages = list(next(iter(rows.values())))
    lines = [["", *languages, AVERAGE]]
    for name, row in rows.items():
        shown = [f"{row[language]:.2f}" if language in row else "" for language in languages]
        lines.append([name, *shown, f"{sum(row.values()) / len(row):.2f}"])
    return lines


def write_report(folder: Path, title: str, rows: Rows, facts: Mapping[str, object]) -> None:
    """The table on the console and in the log; retrieval.{txt,md,json,png} in `folder`."""
    logger.info("%s\n%s", title, in_columns(cells(rows)))
    averages = {name: sum(row.values()) / len(row) for name, row in rows.items()}
    values = {"title": title, **facts, "rows": rows, "averages": averages, "command": shlex.join(sys.argv)}
    contents = {
        "txt": f"{title}\n{in_columns(cells(rows))}\n",
        "md": f"**{title}**\n\n{in_markdown(cells(rows))}\n",
        "json": json.dumps(values, indent=2, ensure_ascii=False) + "\n",
    }
    for ending, content in contents.items():
        with atomic_file(folder / f"retrieval.{ending}", "w") as file:
            file.write(content)
    with atomic_file(folder / "retrieval.png") as file:
        draw(file, title, rows)
    logger.info("wrote %s", folder / "retrieval.{txt,md,json,png}")


def draw(file, title: str, rows: Rows) -> None:
    """Bars for English queries (of a sweep: the mean over languages at each layer), the paper's as dots."""
    # matplotlib takes a second to import: only for those who want a picture.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if ENGLISH_QUERIES in rows:
        bars, others = rows[ENGLISH_QUERIES], {name: row for name, row in rows.items() if name in PAPER}
    else:
        layers = {name: row for name, row in rows.items() if name.startswith("layer ")}
        bars, others = {name: sum(row.values()) / len(row) for name, row in layers.items()}, {}
    figure = Figure(figsize=(max(6.0, 0.45 * len(bars) + 2), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    drawn = axis.bar(list(bars), list(bars.values()), color="#4477aa")
    axis.bar_label(drawn, fmt="%.1f", padding=2, fontsize=7)
    for (name, row), colour in zip(others.items(), ("#cc6677", "#228833")):
        axis.plot(list(row), list(row.values()), "o", color=colour, markersize=4, label=name)
    if others:
        axis.legend(fontsize=7)
    axis.set_title(title, fontsize=9)
    axis.set_ylabel("per cent")
    axis.tick_params(axis="x", labelrotation=90 if len(bars) > 16 else 0, labelsize=8)
    figure.savefig(file, dpi=120, format="png")


def write_predictions(folder: Path, bitexts: list[Bitext], found: Mapping[str, Found]) -> None:
    """predictions/tatoeba/test-<language>.tsv: for each English sentence the line, from 0, of the other side.

    The English sentences are in alphabetical order, in which XTREME hands them out.
    """
    for bitext in bitexts:
        english = [text.strip() for text in bitext.translations]
        order = sorted(range(len(english)), key=english.__getitem__)
        with atomic_file(folder / "predictions" / "tatoeba" / f"test-{bitext.language}.tsv", "w") as file:
            file.writelines(f"{found[bitext.language].forward[row]}\n" for row in order)
