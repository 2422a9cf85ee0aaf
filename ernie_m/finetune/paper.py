"""The figures of the paper (paper.json), beside which a report of one of its recipes shows its own."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ernie_m.model.config import ErnieMConfig

AVERAGE = "avg"  # the column behind those of the languages
# Size -> layers and width of configs/<size>/ernie_config.json.
_SHAPES = {"small": (6, 768), "base": (12, 768), "large": (24, 1024)}
_LEFT_OUT = 0.01  # the share of a recipe's examples that a reader may leave out, as rows without a text


def average(scores: Mapping[Any, float]) -> float:
    """The unweighted mean, as in the tables of the paper."""
    return sum(scores.values()) / len(scores)


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """The paper's figures: recipe (the name of its script) -> a dictionary with these keys.

    "table": "Table 1"
    "examples": the number of training examples; of Tatoeba that of the pairs that are searched
    "columns": the languages, then "avg", separated by spaces
    "figures": metric -> size of the model -> a number for each column, separated by spaces; or, if the paper
        has fewer, {"table": ..., column: number, ...}
    """
    return json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))["recipes"]


def figures(
    recipe: str | None, config: ErnieMConfig, examples: int, metric: str, languages: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the paper's rows for the languages of a run.

    Args:
        recipe: a key of `recipes`, or None for no rows.
        config: of the run's encoder.
        examples: the number of the run's examples, counted as those of the recipe.
        metric: a name in a report, such as "acc" or "en -> xx". Scores that are not counted as the paper's
            have other names.
        languages: the columns of the run.

    Returns:
        row -> language and "avg" -> per cent. If the run has exactly the languages of the paper's table,
        "avg" is the printed average; otherwise it is the mean over the common languages. Rows that only have
        an average are left out in the second case. The name of a row says if the run has more languages, and
        if it is not of the row's size, or learned from other data.
    """
    if recipe is None:
        return {}
    recipe_figures = recipes()[recipe]
    has_its_data = abs(examples / recipe_figures["examples"] - 1) <= _LEFT_OUT
    columns = recipe_figures["columns"].split()
    same_languages = set(languages) == set(columns) - {AVERAGE}
    rows = {}
    for size, row_of_paper in recipe_figures["figures"].get(metric, {}).items():
        if isinstance(row_of_paper, str):  # a whole row of the recipe's table
            numbers = [float(number) for number in row_of_paper.split()]
            cells = {"table": recipe_figures["table"], **dict(zip(columns, numbers, strict=True))}
        else:
            cells = row_of_paper
        row = {language: cells[language] for language in languages if language in cells}
        if same_languages:
            row[AVERAGE] = cells[AVERAGE]
        elif row:
            row[AVERAGE] = average(row)
        else:
            continue  # this row has an average alone, of other languages
        source = cells["table"]
        languages_in_paper = [language for language in languages if language in row]
        if languages_in_paper and len(languages_in_paper) < len(languages):
            source += f"; avg of {len(languages_in_paper)}"
        if not has_its_data or (config.num_hidden_layers, config.hidden_size) != _SHAPES[size]:
            source += "; other data or size"
        rows[f"paper, {size} ({source})"] = row
    return rows
