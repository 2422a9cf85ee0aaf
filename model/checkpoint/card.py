"""The model card: what a checkpoint is, its training and its scores, as a Markdown page for model hubs."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from model.tasks import ENCODING, TASKS, task_named

# These facts have a place of their own in the card; any other is an entry of a list.
_NOT_LISTED = ("name", "config", "scores", "command", "parameters")
# The config's key -> how the first sentence counts it.
_UNITS = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "vocab_size": "words",
}


def model_card(facts: Mapping[str, Any]) -> str:
    """Write the card.

    Args:
        facts: each key may be absent, or None. `name` str; `config` dict of the model; `parameters` int;
            `command` str; `scores` {row: {column: value}}, such as {"dev": {"en": 84.1, "de": 71.0}},
            or {name: value}; any other key is listed with its value, a list or a dict.

    Returns:
        Markdown, after a block of YAML with the keys of Hugging Face's model cards. The licence is "unknown":
        it depends on the terms of the text and the weights that the training began with.
    """
    config = facts.get("config") or {}
    title = facts.get("name") or "ERNIE-M checkpoint"
    # What the model is, with its sizes as far as config and facts say them.
    sizes = [f"{config[key]:,} {unit}" for key, unit in _UNITS.items() if key in config]
    if facts.get("parameters") is not None:
        sizes.append(f"{facts['parameters']:,} parameters")
    first_sentence = f"An ERNIE-M model: {', '.join(sizes)}." if sizes else "An ERNIE-M model."
    blocks = [_metadata(facts, config), f"# {title}", first_sentence]
    other_facts = []
    for key, value in facts.items():
        if key not in _NOT_LISTED and value is not None:
            other_facts.append(f"- {key.replace('_', ' ').capitalize()}: {_plain(value)}")
    if other_facts:
        blocks.append("\n".join(other_facts))
    if facts.get("scores"):
        blocks += ["## Scores", "\n".join(_table(facts["scores"]))]
    if facts.get("command"):
        blocks += ["## Command", f"```sh\n{facts['command']}\n```"]
    if config:
        blocks += ["## Configuration", f"```json\n{json.dumps(config, indent=2, ensure_ascii=False)}\n```"]
    return "\n\n".join(blocks) + "\n"


def _metadata(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The block of YAML at the beginning of the card."""
    # A model's class is one of the names of its task. The class of an encoder is no name of any task.
    task = task_named(facts.get("task") or config.get("architecture", ENCODING))
    # "zh-Hans" and "bn_rom" are the languages zh and bn; each is named once.
    codes = [code.replace("_", "-").split("-")[0] for code in facts.get("languages") or ()]
    values = {
        "license": "unknown",
        "language": list(dict.fromkeys(codes)) or ["multilingual"],
        "library_name": "paddle",
        "pipeline_tag": TASKS.get(task, TASKS[ENCODING]).pipeline,
        "tags": ["ernie-m", "cross-lingual"],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _table(scores: Mapping[str, Any]) -> list[str]:
    """The lines of a table of {row: {column: value}}, or of a list of {name: value}."""
    if not all(isinstance(row, Mapping) for row in scores.values()):
        return [f"- {name}: {_plain(value)}" for name, value in scores.items()]
    columns = list(dict.fromkeys(column for row in scores.values() for column in row))
    lines = [_table_line(["", *columns]), "|---|" + "---:|" * len(columns)]
    for name, row in scores.items():
        lines.append(_table_line([name, *(row.get(column) for column in columns)]))
    return lines


def _table_line(cells: list[Any]) -> str:
    """A line of a Markdown table."""
    escaped = [_plain(cell).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _plain(value: Any) -> str:
    """A value as text; None is empty."""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(_plain(item) for item in value)
    return "" if value is None else str(value)
