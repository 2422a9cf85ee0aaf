"""Score tables: a row per seed and a column per language, then the average and the transfer gap.

Further rows are the mean and standard deviation over seeds and, for a recipe of the paper, the paper's
scores, with the difference if model, data and languages are the same. All scores are in %.
"""

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from ernie_m.model.config import ErnieMConfig
from ernie_m.training.log import Evaluation
from ernie_m.utils.errors import get_command_line
from ernie_m.utils.files import atomic_file
from ernie_m.utils.logging import format_columns, format_markdown_table, logger

SOURCE = "en"  # the source language of cross-lingual transfer
GAP = "gap"  # the last column
BOTH_DIRECTIONS = "mean of both directions"  # of bitext retrieval, the "direction" of a table
MAJORITY = "majority baseline"  # the row of a model that always predicts the most frequent label
# An average agrees with the paper's within this many points, with at most this standard error.
_MOST_POINTS = 0.5
_MOST_ERROR = 0.3
_LEGEND = (
    "All values are percentages. deviation: standard deviation over seeds (n - 1); avg: mean over the "
    "languages; gap: English minus the mean of the other languages; difference: mean minus the paper's "
    "score, with its standard error over seeds."
)


def compute_transfer_gap(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the cross-lingual transfer gap, {"gap": English minus the mean of other languages}.

    See Table 7 of the paper. Return {} without English or without other languages.
    """
    targets = [score for language, score in scores.items() if language != SOURCE]
    if SOURCE not in scores or not targets:
        return {}
    return {GAP: scores[SOURCE] - sum(targets) / len(targets)}


class PaperRow(NamedTuple):
    """Scores of the paper for one model size.

    Attributes:
        scores: language, or "avg" -> percent.
        is_comparable: whether the run has the model shape, the data and the languages of the paper's table.
    """

    scores: Mapping[str, float]
    is_comparable: bool


class Difference(NamedTuple):
    """The difference between a run's mean over seeds and the paper's score, in percentage points.

    `error` is the standard error of the mean; None with one seed.
    """

    points: float
    error: float | None

    def agrees(self) -> bool:
        """Return whether the run agrees with the paper: the difference and its standard error are small."""
        return self.error is not None and self.error <= _MOST_ERROR and abs(self.points) <= _MOST_POINTS

    def __str__(self) -> str:
        return f"{self.points:+.2f}" + ("" if self.error is None else f" ± {self.error:.2f}")


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one metric on one set of files.

    Args:
        title: metric and files, such as "acc, ./data/xnli/dev/dev.%s.tsv".
        rows: seed -> language -> percent; every seed has the same languages.
        paper: the rows of the paper, from `get_paper_rows`.
        comparison: rows for comparison: name -> language -> percent, such as "untrained", the same model with
            random weights; an empty row was not measured.
        unscored: languages without a score, whose files have no gold values; null in JSON.
        facts: what the table shows, for programs that read the report, such as {"measure": "cosine"}.
    """

    title: str
    rows: dict[int, dict[str, float]]
    paper: Mapping[str, PaperRow] = field(default_factory=dict)
    comparison: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    unscored: Sequence[str] = ()

    def compute_full_rows(self) -> dict[int, dict[str, float]]:
        """Return the rows of the seeds with the average and the transfer gap added."""
        return {
            seed: {**row, AVERAGE: average(row), **compute_transfer_gap(row)} if row else {}
            for seed, row in self.rows.items()
        }

    def compute_paper_rows(self) -> dict[str, dict[str, float]]:
        """Return the rows of the paper with the transfer gap over the run's languages added."""
        languages = next(iter(self.rows.values()))
        rows = {}
        for name, (row, _) in self.paper.items():
            without_average = {language: row[language] for language in languages if language in row}
            rows[name] = {**row, **compute_transfer_gap(without_average)}
        return rows

    def compute_summary(self) -> dict[str, tuple[float, float]]:
        """Return column -> mean and sample standard deviation over the seeds (0 with one seed)."""
        rows = list(self.compute_full_rows().values())
        summary = {}
        for column in rows[0]:
            scores = [row[column] for row in rows]
            deviation = stdev(scores) if len(scores) > 1 else 0.0
            summary[column] = (fmean(scores), deviation)
        return summary

    def compute_differences(self) -> dict[str, dict[str, Difference]]:
        """Return the differences from each comparable row of the paper: row -> column -> difference."""
        seeds = len(self.rows)
        summary = self.compute_summary()
        return {
            name: {
                column: Difference(mean - row[column], deviation / math.sqrt(seeds) if seeds > 1 else None)
                for column, (mean, deviation) in summary.items()
                if column in row
            }
            for name, row in self.compute_paper_rows().items()
            if self.paper[name].is_comparable
        }

    def format_cells(self) -> list[list[str]]:
        """Format the table as rows of cells, with two decimals.

        The rows are the header, the seeds, the mean and deviation of several seeds, the rows of `comparison`,
        and the rows of the paper, each followed by its differences if it is comparable.
        """
        summary = self.compute_summary()

        def format_row(name: str, row: Mapping[str, float]) -> list[str]:
            """Format a row of the table; a missing column is empty."""
            cells = [f"{row[column]:.2f}" if column in row else "" for column in summary]
            return [name, *cells]

        lines = [["", *summary]]
        lines += [format_row(f"seed {seed}", row) for seed, row in self.compute_full_rows().items()]
        if len(self.rows) > 1:
            lines.append(["mean", *(f"{mean:.2f}" for mean, _ in summary.values())])
            lines.append(["deviation", *(f"± {deviation:.2f}" for _, deviation in summary.values())])
        for name, row in self.comparison.items():
            if row:
                lines.append(format_row(name, {**row, AVERAGE: average(row)}))
        differences = self.compute_differences()
        for name, row in self.compute_paper_rows().items():
            lines.append(format_row(name, row))
            if of_columns := differences.get(name):
                verdict = "difference: agrees" if of_columns[AVERAGE].agrees() else "difference"
                lines.append([verdict, *(str(of_columns.get(column, "")) for column in summary)])
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values, in full precision."""
        summary = self.compute_summary()
        values: dict[str, Any] = {
            "title": self.title,
            **self.facts,
            "seeds": {
                str(seed): {**dict.fromkeys(self.unscored), **row}
                for seed, row in self.compute_full_rows().items()
            },
            "mean": {column: mean for column, (mean, _) in summary.items()},
            "deviation": {column: deviation for column, (_, deviation) in summary.items()},
        }
        values |= {name: dict(row) for name, row in self.comparison.items() if row}
        if self.paper:
            values["paper"] = self.compute_paper_rows()
            values["difference"] = self.compute_differences()  # column -> [points, error]
        return values


def make_seed_tables(
    evaluations: Mapping[int, Evaluation],
    baselines: Sequence[Mapping[str, Mapping[str, float]]],
    paper: Callable[[str, Sequence[str]], Mapping[str, PaperRow]],
) -> list[ScoreTable]:
    """Build a score table for each pattern of --dev_set and each metric.

    Args:
        evaluations: seed -> the evaluation of its best checkpoint.
        baselines: for each pattern: language -> metric -> score of the majority baseline, in percent.
        paper: maps a metric and languages to the rows of the paper; see `get_paper_rows`.
    """
    first_scores = next(iter(evaluations.values())).scores
    # By index, not by pattern: a seed of an earlier command may have the same files under another pattern.
    scores_of_seed = {seed: list(evaluation.scores.values()) for seed, evaluation in evaluations.items()}
    tables: list[ScoreTable] = []
    for index, (pattern, by_language) in enumerate(first_scores.items()):
        # The paper reports test sets, the last pattern of a recipe's --dev_set.
        is_last = index == len(first_scores) - 1
        metrics = next(iter(by_language.values()))  # the same for every language
        for metric in metrics:
            unscored = [language for language, values in by_language.items() if values[metric] is None]
            languages = [language for language in by_language if language not in unscored]
            rows = {
                seed: {language: scores[index][language][metric] for language in languages}
                for seed, scores in scores_of_seed.items()
            }
            paper_rows = paper(metric, languages) if is_last else {}
            baseline = baselines[index].items()
            always = {language: row[metric] for language, row in baseline if metric in row}
            title = f"{metric}, {pattern}" + (f" (no score: {', '.join(unscored)})" if unscored else "")
            tables.append(ScoreTable(title, rows, paper_rows, {MAJORITY: always}, unscored=unscored))
    return tables


def to_text(tables: Sequence[ScoreTable]) -> str:
    """Format tables as text with aligned columns."""
    return "\n\n".join(f"{table.title}\n{format_columns(table.format_cells())}" for table in tables)


def write_report(
    folder: Path,
    name: str,
    tables: Sequence[ScoreTable],
    further_values: Mapping[str, Any],
) -> None:
    """Write tables to <name>.txt, <name>.md and <name>.json in `folder`, each atomically.

    Args:
        further_values: additional values for the JSON file.
    """
    tables_as_json = [table.to_json() for table in tables]
    values = {**further_values, "tables": tables_as_json, "command": shlex.join(get_command_line())}
    contents = {
        "txt": to_text(tables),
        "md": "\n\n".join(
            [
                *(f"**{table.title}**\n\n{format_markdown_table(table.format_cells())}" for table in tables),
                _LEGEND,
            ]
        ),
        "json": json.dumps(values, indent=2, ensure_ascii=False),
    }
    for ending, content in contents.items():
        with atomic_file(folder / f"{name}.{ending}", "w") as file:
            file.write(f"{content}\n")
    logger.info("wrote %s.{%s}", folder / name, ",".join(contents))  # results.{txt,md,json}


AVERAGE = "avg"  # the column after those of the languages
# Size -> vocabulary size, number of layers and width of the released weights (without the paper's small
# ones).
_RELEASED = {"base": (250_002, 12, 768), "large": (250_002, 24, 1024)}
_LEFT_OUT = 0.01  # the fraction of a recipe's examples that a reader may drop, as rows without a text


def average(scores: Mapping[Any, float]) -> float:
    """Return the unweighted mean of the scores, as in the paper's tables."""
    return sum(scores.values()) / len(scores)


@cache
def load_recipe_scores() -> dict[str, dict[str, Any]]:
    """Return the scores in the paper: recipe (the name of its script) -> a dictionary with these keys.

    "table": the table of the paper, such as "Table 1"
    "examples": the number of training examples; for Tatoeba, of test pairs
    "columns": the languages, then "avg", separated by spaces
    "scores": metric -> model size -> a score for each column, separated by spaces; or, if the paper has fewer
        columns, {"table": ..., column: score, ...}
    """
    return json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))["recipes"]


def get_paper_rows(
    recipe: str | None, config: ErnieMConfig, examples: int, metric: str, languages: Sequence[str]
) -> dict[str, PaperRow]:
    """Return the scores in the paper for the languages of a run, with a row per model size.

    Args:
        recipe: a key of `load_recipe_scores`; None: no rows.
        config: the configuration of the run's encoder.
        examples: the number of the run's examples, counted as in `load_recipe_scores`.
        metric: the name of a metric in a report, such as "acc" or "en -> xx". Metrics that the paper does not
            report have other names.
        languages: the languages of the run.

    Returns:
        Row name -> scores. If the languages are exactly those of the paper's table, "avg" is the printed
        average; otherwise it is the mean over the common languages, and rows that only have an average are
        dropped. The name states why a row is not comparable with the run: different languages, an
        initial checkpoint of a different size, or different data.
    """
    if recipe is None:
        return {}
    in_paper = load_recipe_scores()[recipe]
    has_its_data = abs(examples / in_paper["examples"] - 1) <= _LEFT_OUT
    columns = in_paper["columns"].split()
    same_languages = set(languages) == set(columns) - {AVERAGE}
    shape = (config.vocab_size, config.num_hidden_layers, config.hidden_size)
    rows = {}
    for size, row_of_paper in in_paper["scores"].get(metric, {}).items():
        if isinstance(row_of_paper, str):  # a full row of the recipe's table
            numbers = [float(number) for number in row_of_paper.split()]
            cells = {"table": in_paper["table"], **dict(zip(columns, numbers, strict=True))}
        else:
            cells = row_of_paper
        row = {language: cells[language] for language in languages if language in cells}
        if same_languages:
            row[AVERAGE] = cells[AVERAGE]
        elif row:
            row[AVERAGE] = average(row)
        else:
            continue  # this row only has the average of other languages
        notes = [cells["table"]]
        if not same_languages:
            notes.append(f"avg of {len(row) - 1}")  # without the average itself
        is_same_run = has_its_data and shape == _RELEASED.get(size)
        if not is_same_run:
            notes.append("other model or data")
        rows[f"paper, {size} ({'; '.join(notes)})"] = PaperRow(row, same_languages and is_same_run)
    return rows
