"""What the paper reports, to stand beside a run's own tables: finetune/paper.json, by recipe."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from finetune.metrics import AVERAGE, average
from utils.errors import UserError


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
