"""Scores of fine-tuning: accuracy, averages over languages and seeds, the transfer gap. All in per cent."""

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

SOURCE = "en"  # the language that cross-lingual transfer starts from
AVERAGE, GAP = "avg", "gap"  # columns of a table, beside the languages


def accuracy(predicted: Sequence[int], labels: Sequence[int]) -> float:
    """Per cent of `predicted` that equal `labels`.

    Raises:
        ValueError: nothing to compare, or unequal numbers.
    """
    if not len(labels) or len(predicted) != len(labels):
        raise ValueError(f"{len(predicted)} predictions for {len(labels)} labels")
    return 100.0 * sum(int(a == b) for a, b in zip(predicted, labels)) / len(labels)


def average(scores: Mapping[str, float]) -> float:
    """The plain mean over languages, as in the paper's tables."""
    return sum(scores.values()) / len(scores)


def transfer_gap(scores: Mapping[str, float], source: str = SOURCE) -> float | None:
    """The source language's score minus the mean of the others (paper, Table 7); smaller is better transfer.

    None where the source or any other language is absent.
    """
    others = [score for language, score in scores.items() if language != source]
    if source not in scores or not others:
        return None
    return scores[source] - sum(others) / len(others)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and the standard deviation of a sample (divisor n - 1); 0 for one seed."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


# What the paper reports, to stand beside a run's own tables: finetune/paper.json, by recipe.


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """Recipe (the name of its script) -> table, columns, figures."""
    text = Path(__file__).with_name("paper.json").read_text(encoding="utf-8")
    return json.loads(text)["recipes"]


def check_recipe(name: str | None) -> None:
    """Refuse a name that the paper has no figures for.

    Raises:
        UserError: lists those that there are.
    """
    if name is not None and name not in recipes():
        raise UserError(f"--paper {name}: the paper has no such recipe; it has {', '.join(recipes())}")


def figures(recipe: str | None, metric: str, languages: Sequence[str]) -> dict[str, dict[str, float]]:
    """The paper's rows for the languages of a run.

    Args:
        recipe: a key of `recipes`; None: no rows.
        metric: "acc", "f1", "em" or "en -> xx".
        languages: the columns of the run.

    Returns:
        row -> language and "avg" -> per cent. "avg" is as printed where the run has all languages of the
        paper's table and no other, else the mean over those that both have. A row of the average alone is
        there in the first case only.
    """
    if recipe is None:
        return {}
    known = recipes()[recipe]
    columns, rows = known["columns"].split(), {}
    whole = set(languages) == set(columns) - {AVERAGE}
    for size, cells in known["figures"].get(metric, {}).items():
        if isinstance(cells, dict):
            table, row = cells["table"], {AVERAGE: cells[AVERAGE]}
        else:
            table, row = known["table"], dict(zip(columns, map(float, cells.split()), strict=True))
        shown = {language: row[language] for language in languages if language in row}
        if whole or shown:
            rows[f"paper, {size} ({table})"] = {**shown, AVERAGE: row[AVERAGE] if whole else average(shown)}
    return rows


# Where predictions stand that XTREME (Hu et al., 2020) takes: <task>/test-<language>.<tsv or json>.


def submission_file(folder: str | os.PathLike, language: str, ending: str, seed: int | None = None) -> Path:
    """The file of a language.

    Args:
        folder: that of the task in a submission: output/xtreme/xnli.
        language: code of two letters.
        ending: "tsv", or "json" for answers to questions.
        seed: of several, so that each seed has a submission of its own: output/xtreme/seed_2/xnli.
    """
    folder = Path(folder)
    if seed is not None:
        folder = folder.parent / f"seed_{seed}" / folder.name
    return folder / f"test-{language}.{ending}"


# The final tables of a task: a row per seed, a column per language, then the average and the transfer gap.
#
# Below the seeds stand their mean and deviation, and the paper's own figures where the run names its recipe.


@dataclass(frozen=True)
class Table:
    """Scores of one metric on one set of files.

    Args:
        title: what was measured: "acc, ./data/xnli/dev/dev.%s.tsv".
        rows: seed -> language -> per cent; every seed has the same languages.
        paper: row -> language and "avg" -> per cent, as `finetune.report.figures` returns them.
        bars: whether the chart shows it.
    """

    title: str
    rows: dict[int, dict[str, float]]
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bars: bool = True

    @property
    def languages(self) -> list[str]:
        """The columns that were measured."""
        return list(next(iter(self.rows.values())))

    def full_rows(self) -> dict[int, dict[str, float]]:
        """seed -> language, "avg" and, where English and another language are there, "gap" -> per cent."""
        return {
            seed: {**scores, AVERAGE: average(scores), **_gap(scores)} for seed, scores in self.rows.items()
        }

    def paper_rows(self) -> dict[str, dict[str, float]]:
        """The paper's rows with the gap of the languages that they have here."""
        return {
            name: {**row, **_gap({language: row[language] for language in self.languages if language in row})}
            for name, row in self.paper.items()
        }

    def summary(self) -> dict[str, tuple[float, float]]:
        """Column -> mean and standard deviation over the seeds."""
        rows = list(self.full_rows().values())
        return {column: mean_and_deviation([row[column] for row in rows]) for column in rows[0]}


def to_json(tables: Sequence[Table]) -> list[dict]:
    """The tables as plain values for `json.dump`: every seed, the mean, the deviation, the paper."""
    return [
        {
            "title": table.title,
            "seeds": {str(seed): row for seed, row in table.full_rows().items()},
            "mean": {column: mean for column, (mean, _) in table.summary().items()},
            "deviation": {column: deviation for column, (_, deviation) in table.summary().items()},
            **({"paper": table.paper_rows()} if table.paper else {}),
        }
        for table in tables
    ]


def to_text(tables: Sequence[Table]) -> str:
    """The tables in columns for the console and the log."""
    return "\n\n".join(f"{table.title}\n{in_columns(_cells(table))}" for table in tables)


def to_markdown(tables: Sequence[Table]) -> str:
    """The tables in Markdown."""
    return "\n\n".join(f"**{table.title}**\n\n{in_markdown(_cells(table))}" for table in tables) + "\n"


def in_columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def in_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first one the header, as a table in Markdown."""
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|---|" + "---:|" * (len(lines[0]) - 1), *body])


def write_report(folder: Path, name: str, tables: Sequence[Table], facts: Mapping[str, Any]) -> None:
    """Write <name>.{txt,md,json,png} into `folder`, each atomically.

    Args:
        facts: stand beside the tables in the JSON file.
    """
    values = {**facts, "tables": to_json(tables), "command": shlex.join(sys.argv)}
    contents = {
        "txt": to_text(tables) + "\n", "md": to_markdown(tables),
        "json": json.dumps(values, indent=2, ensure_ascii=False) + "\n",
    }  # fmt: skip
    for ending, content in contents.items():
        with atomic_file(folder / f"{name}.{ending}", "w") as file:
            file.write(content)
    with atomic_file(folder / f"{name}.png") as file:
        draw_bars([table for table in tables if table.bars], file)
    logger.info("wrote %s", folder / f"{name}.{{txt,md,json,png}}")


def draw_bars(tables: Sequence[Table], file: IO[bytes]) -> None:
    """A PNG: a bar per language and table, the deviation over seeds a whisker, the average a line.

    The paper's figures are dots.
    """
    # matplotlib takes a second to import: only for those who want a picture.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = max(6.0, 0.5 * len(tables[0].languages) + 4)
    figure = Figure(figsize=(width, 3.2 * len(tables)), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, table in zip(figure.subplots(len(tables), squeeze=False)[:, 0], tables):
        summary = table.summary()
        means, deviations = zip(*(summary[language] for language in table.languages))
        # The values stand under the axis, where nothing covers them.
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


def _gap(scores: Mapping[str, float]) -> dict[str, float]:
    gap = transfer_gap(scores)
    return {} if gap is None else {GAP: gap}


def _cells(table: Table) -> list[list[str]]:
    """Header, a line per seed, for several seeds mean and deviation, the paper's. Two decimals."""
    summary = table.summary()
    columns = list(summary)
    lines = [["", *columns]]
    for seed, row in table.full_rows().items():
        lines.append([f"seed {seed}", *(f"{row[column]:.2f}" for column in columns)])
    if len(table.rows) > 1:
        lines.append(["mean", *(f"{summary[column][0]:.2f}" for column in columns)])
        lines.append(["deviation", *(f"± {summary[column][1]:.2f}" for column in columns)])
    for name, row in table.paper_rows().items():
        lines.append([name, *(f"{row[column]:.2f}" if column in row else "" for column in columns)])
    return lines
