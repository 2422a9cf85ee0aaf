"""The model card, README.md of a checkpoint folder: metadata, training facts and scores.

The YAML front matter has the keys of the Hugging Face Hub.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ernie_m.model.tasks import EMBEDDING, TASKS, find_task
from ernie_m.utils.args import NULLS, parse_yaml
from ernie_m.utils.checksums import CARD
from ernie_m.utils.errors import UserError, escape_control_characters
from ernie_m.utils.files import read_text
from ernie_m.utils.languages import base_language
from ernie_m.utils.logging import format_markdown_table

KEPT = ("license", "base_model", "language")  # keys that a conversion copies from its source
_TEMPLATE = """---
{metadata}---

# {name}

An ERNIE-M model: {sizes}. See docs/predict.md and docs/models.md of that project.

{facts}
"""
_SCORES = "\n## Scores\n\n"
_NOT_LISTED = ("name", "scores", "command", "metadata")  # shown elsewhere in the card
_LARGEST_CARD = 1 << 20  # bytes
_FOLDERS = re.compile(r"[^\s\"'=<,(]*/")  # the folders of a path


def format_model_card(facts: Mapping[str, Any], config: Mapping[str, Any], num_parameters: int) -> str:
    """Format the model card as Markdown with YAML front matter.

    Directories in paths are removed, because they are specific to one machine. The license is "unknown"
    unless given in the metadata: it depends on the licenses of the training text and the initial weights.

    Args:
        facts: facts about the training; each key may be missing or None. `name`; `task`; `command`;
            `scores`: {file: {language: {metric: value}}}, or a Markdown table from `read_card`; `metadata`:
            front-matter keys that replace the default ones. Every other key is listed with its value.
        config: contents of config.json.
        num_parameters: number of parameters.
    """
    # `find_task` also knows model classes. The class of an encoder is not a task.
    task = find_task(facts.get("task") or config.get("task") or config.get("architecture", EMBEDDING))
    # "zh-Hans" and "bn_rom" are the languages zh and bn; "all" is not a language.
    codes = map(base_language, facts.get("languages") or config.get("languages") or ())
    languages = list(dict.fromkeys(filter(None, codes)))
    metadata = {
        "license": "unknown",
        "language": languages or ["multilingual"],
        "library_name": "paddle",
        "pipeline_tag": TASKS.get(task, TASKS[EMBEDDING]).pipeline_tag,
        "tags": ["ernie-m", "cross-lingual"],
        **(facts.get("metadata") or {}),
    }
    listed = []
    for key, value in facts.items():
        if key not in _NOT_LISTED and value is not None:
            text = _format_value(value) if key == "labels" else _FOLDERS.sub("", _format_value(value))
            listed.append(f"- {key.replace('_', ' ').capitalize()}: {text}")
    if facts.get("command"):
        listed.append(f"- Command: `{_FOLDERS.sub('', facts['command'])}`")
    units = {"num_hidden_layers": "layers", "hidden_size": "hidden", "vocab_size": "words"}
    sizes = ", ".join(f"{config[key]:,} {unit}" for key, unit in units.items())
    card = _TEMPLATE.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False),
        name=facts.get("name") or "ERNIE-M checkpoint",
        sizes=f"{sizes}, {num_parameters:,} parameters",
        facts="\n".join(listed),
    )
    scores = facts.get("scores")
    if scores:
        card += _SCORES + (scores if isinstance(scores, str) else _format_scores(scores))
    return card


def read_card(folder: Path) -> tuple[dict[str, Any], str | None]:
    """Read the model card of a folder.

    Returns:
        The front-matter keys in `KEPT`, {} if there is no card; and the Markdown table of scores, if any.
    """
    try:
        # The front matter is between two lines of ---.
        _, block, text = read_text(folder / CARD, _LARGEST_CARD).split("---\n", 2)
        values = parse_yaml(block)
        return {key: values[key] for key in KEPT if values.get(key, "") not in ("", "unknown", *NULLS)}, (
            text.partition(_SCORES)[2] or None
        )
    except (UserError, ValueError, AttributeError, RecursionError, yaml.YAMLError):
        return {}, None


def _format_scores(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Format scores as a Markdown table: a row per file and metric, a column per language."""
    rows: dict[str, dict[str, float]] = {}  # name of the row -> language -> value
    for file, by_language in scores.items():
        name = Path(file.replace(".%s", "")).name  # %s is the language
        for language, metrics in by_language.items():
            for metric, value in metrics.items():
                rows.setdefault(f"{metric}, {name}", {})[language] = value
    languages = list(dict.fromkeys(itertools.chain(*rows.values())))  # unique, in order
    lines: list[list[Any]] = [["", *languages]]
    lines += [[name, *map(row.get, languages)] for name, row in rows.items()]
    return (
        format_markdown_table([[_format_value(cell).replace("|", "\\|") for cell in line] for line in lines])
        + "\n"
    )


def _format_value(value: Any) -> str:
    """Format a value as text; None becomes ""."""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_format_value(key)} {_format_value(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(_format_value(item) for item in value)
    return "" if value is None else escape_control_characters(str(value))
