"""The tables of a task: a row per seed and a column per language, then the average and the transfer gap.

Below the seeds are their mean and deviation, and the figures of the paper (finetune/paper.json) if the run
names its recipe. All scores are per cent.
"""

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from utils.errors import UserError
from utils.files import atomic_file
from utils.logging import logger

SOURCE = "en"  # the source language of cross-lingual transfer
AVERAGE, GAP = "avg", "gap"  # columns behind those of the languages


def average(scores: Mapping[Any, float]) -> float:
    """The unweighted mean, as in the tables of the paper."""
    return sum(scores.values()) / len(scores)


def transfer_gap(scores: Mapping[str, float]) -> dict[str, float]:
    """{"gap": English minus the mean of the others} (paper, Table 7); {} without English or the others."""
    others = [score for language, score in scores.items() if language != SOURCE]
    return {GAP: scores[SOURCE] - sum(others) / len(others)} if SOURCE in scores and others else {}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of a sample (divisor n - 1; 0 for a single value)."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """The paper's figures: recipe (the name of its script) -> table, columns, figures."""
    text = Path(__file__).with_name("paper.json").read_text(encoding="utf-8")
    return json.loads(text)["recipes"]


def check_recipe(name: str | None) -> None:
    """Refuse the name of a recipe for which the paper has no figures.

    Raises:
        UserError: lists the known names.
    """
    if name is not None and name not in recipes():
        raise UserError(f"--paper {name}: the paper has no such recipe; it has {', '.join(recipes())}")


def figures(recipe: str | None, metric: str, languages: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the paper's rows for the languages of a run.

    Args:
        recipe: a key of `recipes`, or None for no rows.
        metric: "acc", "f1", "em" or "en -> xx".
        languages: the columns of the run.

    Returns:
        row -> language and "avg" -> per cent. If the run has exactly the languages of the paper's table,
        "avg" is the printed average; otherwise it is the mean over the common languages. Rows that only have
        an average are left out in the second case.
    """
    if recipe is None:
        return {}
    known, rows = recipes()[recipe], {}
    columns = known["columns"].split()
    whole = set(languages) == set(columns) - {AVERAGE}
    for size, cells in known["figures"].get(metric, {}).items():
        if isinstance(cells, str):
            cells = {"table": known["table"], **dict(zip(columns, map(float, cells.split()), strict=True))}
        shown = {language: cells[language] for language in languages if language in cells}
        if whole or shown:
            mean = cells[AVERAGE] if whole else average(shown)
            rows[f"paper, {size} ({cells['table']})"] = {**shown, AVERAGE: mean}
    return rows


class ShownTable:
    """Lines of cells below a title, as text and as Markdown. A subclass defines `title` and `cells`."""

    title: str

    def cells(self, markdown: bool = False) -> list[list[str]]:
        """The lines; the first one is the header."""
        raise NotImplementedError

    def below(self, line_end: str = "") -> str:
        """What follows the last line. `line_end` keeps lines apart in Markdown."""
        return ""


@dataclass(frozen=True)
class Table(ShownTable):
    """Scores of one metric on one set of files.

    Args:
        title: what was measured, such as "acc, ./data/xnli/dev/dev.%s.tsv".
        rows: seed -> language -> per cent; every seed has the same languages.
        paper: rows of the paper, as `figures` returns them.
        bars: whether the chart shows this table.
        untrained: language -> per cent of the same model with random weights; empty: not measured.
    """

    title: str
    rows: dict[int, dict[str, float]]
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bars: bool = True
    untrained: Mapping[str, float] = field(default_factory=dict)

    @property
    def languages(self) -> list[str]:
        return list(next(iter(self.rows.values())))

    def full_rows(self) -> dict[int, dict[str, float]]:
        """Add the average and the gap to each row."""
        return {seed: {**row, AVERAGE: average(row), **transfer_gap(row)} for seed, row in self.rows.items()}

    def paper_rows(self) -> dict[str, dict[str, float]]:
        """Add the gap over the languages of the run to the paper's rows."""
        return {
            name: {**row, **transfer_gap({one: row[one] for one in self.languages if one in row})}
            for name, row in self.paper.items()
        }

    def summary(self) -> dict[str, tuple[float, float]]:
        """column -> mean and standard deviation over the seeds."""
        rows = list(self.full_rows().values())
        return {column: mean_and_deviation([row[column] for row in rows]) for column in rows[0]}

    def cells(self, markdown: bool = False) -> list[list[str]]:
        """Header, a line per seed, mean and deviation of several, untrained, the paper; two decimals."""
        summary = self.summary()
        rows = {f"seed {seed}": row for seed, row in self.full_rows().items()}
        if self.untrained:
            rows["untrained"] = {**self.untrained, AVERAGE: average(self.untrained)}
        lines = [["", *summary]]
        for name, row in (rows | self.paper_rows()).items():
            lines.append([name, *(f"{row[column]:.2f}" if column in row else "" for column in summary)])
        if (seeds := len(self.rows)) > 1:
            means, deviations = zip(*summary.values())
            lines.insert(seeds + 1, ["mean", *(f"{mean:.2f}" for mean in means)])
            lines.insert(seeds + 2, ["deviation", *(f"± {deviation:.2f}" for deviation in deviations)])
        return lines


def to_json(tables: Sequence[Table]) -> list[dict]:
    """The tables as JSON values: every seed, the mean, the deviation, the paper."""
    return [
        {
            "title": table.title,
            "seeds": {str(seed): row for seed, row in table.full_rows().items()},
            "mean": {column: mean for column, (mean, _) in table.summary().items()},
            "deviation": {column: deviation for column, (_, deviation) in table.summary().items()},
            **({"untrained": dict(table.untrained)} if table.untrained else {}),
            **({"paper": table.paper_rows()} if table.paper else {}),
        }
        for table in tables
    ]


def to_text(tables: Sequence[ShownTable]) -> str:
    """The tables as aligned columns."""
    return "\n\n".join(f"{one.title}\n{in_columns(one.cells())}{one.below()}" for one in tables)


def to_markdown(tables: Sequence[ShownTable]) -> str:
    shown = [f"**{one.title}**\n\n{in_markdown(one.cells(markdown=True))}" for one in tables]
    # Two spaces at the end of a line keep it apart from the next one.
    return "\n\n".join(text + one.below("  ") for text, one in zip(shown, tables)) + "\n"


def in_columns(lines: Sequence[Sequence[str]]) -> str:
    """Align lines of cells; each column is as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def in_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table; the first line is the header."""
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|---|" + "---:|" * (len(lines[0]) - 1), *body])


def write_report(folder: Path, name: str, tables: Sequence[Table], facts: Mapping[str, Any]) -> None:
    """Write <name>.{txt,md,json,png} into `folder`, each atomically. `facts` are added to the JSON file.

    There is a chart (.png) only of several languages.
    """
    write_tables(folder, name, tables, {**facts, "tables": to_json(tables), "command": shlex.join(sys.argv)})
    drawn = [table for table in tables if table.bars and len(table.languages) > 1]  # one bar shows nothing
    if drawn:
        with atomic_file(folder / f"{name}.png") as file:
            draw_bars(drawn, file)


def write_tables(folder: Path, name: str, tables: Sequence[ShownTable], values: Mapping[str, Any]) -> None:
    """Write <name>.{txt,md,json} into `folder`, each atomically. The JSON file holds `values`."""
    contents = {
        "txt": f"{to_text(tables)}\n", "md": to_markdown(tables),
        "json": json.dumps(values, indent=2, ensure_ascii=False) + "\n",
    }  # fmt: skip
    for ending, content in contents.items():
        with atomic_file(folder / f"{name}.{ending}", "w") as file:
            file.write(content)
    logger.info("wrote %s", folder / f"{name}.{{{','.join(contents)}}}")


def draw_bars(tables: Sequence[Table], file: IO[bytes]) -> None:
    """Draw a PNG with a bar per language and table.

    A whisker is the deviation over the seeds, a line the average, a dot a figure of the paper.
    """
    # matplotlib takes a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = max(6.0, 0.5 * len(tables[0].languages) + 4), 3.2 * len(tables)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, table in zip(figure.subplots(len(tables), squeeze=False)[:, 0], tables):
        summary = table.summary()
        means, deviations = zip(*(summary[language] for language in table.languages))
        # The values are below the axis, where nothing covers them.
        ticks = [f"{language}\n{mean:.1f}" for language, mean in zip(table.languages, means)]
        axis.bar(table.languages, means, yerr=deviations if len(table.rows) > 1 else None, color="#4477aa")
        axis.set_xticks(range(len(ticks)), ticks, fontsize=8)
        mean = summary[AVERAGE][0]
        axis.axhline(mean, color="#cc6677", linewidth=1, label=f"average {mean:.1f}")
        for (name, row), colour in zip(table.paper.items(), ("#228833", "#aa3377", "#ccbb44")):
            found = {language: row[language] for language in table.languages if language in row}
            if found:
                axis.plot(list(found), list(found.values()), "o", color=colour, markersize=4, label=name)
        axis.set_title(table.title, fontsize=9)
        axis.set_ylabel("per cent")
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, dpi=120, format="png")


def submission_file(folder: str | os.PathLike, language: str, ending: str, seed: int | None = None) -> Path:
    """The file of a language in an XTREME submission (Hu et al., 2020): <task>/test-<language>.<ending>.

    Args:
        folder: the task's folder of the submission, such as output/xtreme/xnli.
        language: code of two letters.
        ending: "tsv", or "json" for question answering.
        seed: one of several; each has its own submission, such as output/xtreme/seed_2/xnli.
    """
    folder = Path(folder)
    if seed is not None:
        folder = folder.parent / f"seed_{seed}" / folder.name
    return folder / f"test-{language}.{ending}"
