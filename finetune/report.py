"""The final table of a task: a row per seed, a column per language, then the average and the transfer gap."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.metrics import average, mean_and_deviation, transfer_gap

AVERAGE, GAP = "avg", "gap"


@dataclass(frozen=True)
class Table:
    """Scores of one metric on one set of files.

    Args:
        title: what was measured: "acc, ./data/xnli/dev/dev.%s.tsv".
        rows: seed -> language -> per cent; every seed has the same languages.
    """

    title: str
    rows: dict[int, dict[str, float]]

    @property
    def languages(self) -> list[str]:
        """The columns that were measured."""
        return list(next(iter(self.rows.values())))

    def full_rows(self) -> dict[int, dict[str, float]]:
        """seed -> language, "avg" and, where English and another language are there, "gap" -> per cent."""
        full = {}
        for seed, scores in self.rows.items():
            gap = transfer_gap(scores)
            full[seed] = {**scores, AVERAGE: average(scores), **({} if gap is None else {GAP: gap})}
        return full

    def summary(self) -> dict[str, tuple[float, float]]:
        """Column -> mean and standard deviation over the seeds."""
        rows = list(self.full_rows().values())
        return {column: mean_and_deviation([row[column] for row in rows]) for column in rows[0]}


def to_json(tables: Sequence[Table]) -> list[dict]:
    """The tables as plain values for `json.dump`: every seed, the mean and the deviation."""
    return [
        {
            "title": table.title,
            "seeds": {str(seed): row for seed, row in table.full_rows().items()},
            "mean": {column: mean for column, (mean, _) in table.summary().items()},
            "deviation": {column: deviation for column, (_, deviation) in table.summary().items()},
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


def draw_bars(tables: Sequence[Table], path: str | os.PathLike) -> None:
    """A PNG file: a bar per language and table, the deviation over seeds a whisker, the average a line."""
    # matplotlib takes a second to import: only for those who want a picture.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(max(6.0, 0.6 * len(tables[0].languages) + 2), 3.2 * len(tables)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    for axis, table in zip(figure.subplots(len(tables), squeeze=False)[:, 0], tables):
        summary = table.summary()
        means, deviations = zip(*(summary[language] for language in table.languages))
        bars = axis.bar(
            table.languages, means, yerr=deviations if len(table.rows) > 1 else None, color="#4477aa"
        )
        axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        axis.axhline(
            summary[AVERAGE][0], color="#cc6677", linewidth=1, label=f"average {summary[AVERAGE][0]:.1f}"
        )
        axis.set_title(table.title, fontsize=9)
        axis.set_ylabel("per cent")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _cells(table: Table) -> list[list[str]]:
    """Header, one line per seed and, for several seeds, mean and deviation. Two decimals."""
    summary = table.summary()
    columns = list(summary)
    lines = [["", *columns]]
    for seed, row in table.full_rows().items():
        lines.append([f"seed {seed}", *(f"{row[column]:.2f}" for column in columns)])
    if len(table.rows) > 1:
        lines.append(["mean", *(f"{summary[column][0]:.2f}" for column in columns)])
        lines.append(["deviation", *(f"± {summary[column][1]:.2f}" for column in columns)])
    return lines
