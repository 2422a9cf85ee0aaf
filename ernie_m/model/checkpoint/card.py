"""The model card, README.md of a folder: what the model is, how to use it, and its scores.

The block of YAML at its top has the keys of Hugging Face's cards. A conversion reads it again, so that the
new card has the same licence, base model, languages and scores.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ernie_m.model.checkpoint.files import CARD
from ernie_m.model.tasks import ENCODING, TASKS, task_named
from ernie_m.utils.errors import UserError, printable
from ernie_m.utils.files import read_text
from ernie_m.utils.text_tables import in_markdown
from ernie_m.utils.yaml_files import yaml_value

# Keys of the metadata that a conversion takes from the card of its source.
KEPT = ("license", "base_model", "language", "model-index")
# These facts have a place of their own in the card; any other is an entry of a list.
_NOT_LISTED = ("name", "config", "scores", "command", "parameters", "metadata")
# The config's key -> how the first sentence counts it.
_UNITS = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "vocab_size": "words",
}
_METRIC_TYPES = {"acc": "accuracy"}  # our names -> those of model hubs, where they differ
_LARGEST_CARD = 1 << 20  # bytes
_FOLDERS = re.compile(r"[^\s\"'=<,(]*/")  # what stands before the last part of a path


def model_card(facts: Mapping[str, Any], usage: str = "") -> str:
    """Write the card. Paths stand in it without their folders, which are those of one machine.

    Args:
        facts: each key may be absent, or None. `name` str; `config` dict of the model; `parameters` int;
            `command` str; `scores` {file: {language: {metric: value}}}; `metadata`, keys of the block of YAML
            that replace those made here; any other key is listed with its value, a list or a dict.
        usage: Markdown: how to use the model.

    Returns:
        Markdown, after a block of YAML. The licence is "unknown" unless the metadata has one: it depends on
        the terms of the text and the weights that the training began with.
    """
    config = facts.get("config") or {}
    # What the model is, with its sizes as far as config and facts say them.
    sizes = [f"{config[key]:,} {unit}" for key, unit in _UNITS.items() if key in config]
    if facts.get("parameters") is not None:
        sizes.append(f"{facts['parameters']:,} parameters")
    first_sentence = f"An ERNIE-M model: {', '.join(sizes)}." if sizes else "An ERNIE-M model."
    metadata = _metadata(facts, config)
    title = facts.get("name") or "ERNIE-M checkpoint"
    blocks = [f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---", f"# {title}", first_sentence]
    other_facts = []
    for key, value in facts.items():
        if key not in _NOT_LISTED and value is not None:
            text = _plain(value)
            if key != "labels":  # a label is no path
                text = _FOLDERS.sub("", text)
            other_facts.append(f"- {key.replace('_', ' ').capitalize()}: {text}")
    if other_facts:
        blocks.append("\n".join(other_facts))
    if usage:
        blocks += ["## Usage", usage]
    for model in metadata.get("model-index", ()):
        blocks += ["## Scores", _table(model["results"])]
    if facts.get("command"):
        blocks += ["## Command", f"```sh\n{_FOLDERS.sub('', facts['command'])}\n```"]
    if config:
        blocks += ["## Configuration", f"```json\n{json.dumps(config, indent=2, ensure_ascii=False)}\n```"]
    return "\n\n".join(blocks) + "\n"


def read_metadata(folder: Path) -> dict[str, Any]:
    """The `KEPT` keys of the card in a folder; empty if there is no card, or one of another form."""
    try:
        # A line of --- is before the block, and another one behind it.
        _, block, _ = read_text(folder / CARD, _LARGEST_CARD).split("---\n", 2)
        values = yaml_value(block)
        metadata = {key: values[key] for key in KEPT if values.get(key) not in (None, "unknown")}
        for model in metadata.get("model-index", ()):
            _table(model["results"])  # fails here, and not in the new card, if the scores have another form
    except (UserError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return metadata


def _metadata(facts: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the block of YAML."""
    # `task_named` knows the classes of models, too. That of an encoder stands for no task, and is returned as
    # it is.
    task = task_named(facts.get("task") or config.get("task") or config.get("architecture", ENCODING))
    pipeline = TASKS.get(task, TASKS[ENCODING]).pipeline
    # "zh-Hans" and "bn_rom" are the languages zh and bn; "all" is none.
    languages: list[str] = []
    for name in facts.get("languages") or config.get("languages") or ():
        code = re.split("[-_]", name)[0]
        is_language = re.fullmatch("[a-z]{2,3}", code) and code != "all"
        if is_language and code not in languages:
            languages.append(code)
    values: dict[str, Any] = {
        "license": "unknown",
        "language": languages or ["multilingual"],
        "library_name": "paddle",
        "pipeline_tag": pipeline,
        "tags": ["ernie-m", "cross-lingual"],
    }
    if facts.get("scores"):
        results = _results(facts["scores"], pipeline)
        values["model-index"] = [{"name": facts.get("name") or "ERNIE-M checkpoint", "results": results}]
    return values | (facts.get("metadata") or {})


def _results(scores: Mapping[str, Mapping[str, Mapping[str, float]]], pipeline: str) -> list[dict[str, Any]]:
    """The entries of a model-index: one for each file and language."""
    results = []
    for file, by_language in scores.items():
        for language, metrics in by_language.items():
            name = Path(file.replace("%s", language)).name  # %s stands for the language
            dataset = {"type": name, "name": name, "config": language}
            entries = [
                {"type": _METRIC_TYPES.get(metric, metric), "name": metric, "value": round(value, 2)}
                for metric, value in metrics.items()
            ]
            results.append({"task": {"type": pipeline}, "dataset": dataset, "metrics": entries})
    return results


def _table(results: Iterable[Mapping[str, Any]]) -> str:
    """A model-index as a Markdown table: a row for each file and metric, a column for each language."""
    rows: dict[str, dict[str, Any]] = {}  # name of the row -> language -> value
    for result in results:
        dataset = result["dataset"]
        language = str(dataset.get("config", ""))
        # Without its language the file has one name, and so one row, for all languages.
        file = dataset["name"].replace(f".{language}.", ".") if language else dataset["name"]
        for metric in result["metrics"]:
            row = rows.setdefault(f"{metric.get('name', metric['type'])}, {file}", {})
            row[language] = metric["value"]
    languages = list(dict.fromkeys(itertools.chain(*rows.values())))  # each once, in their order
    lines = [["", *languages]]
    for name, row in rows.items():
        lines.append([name, *(row.get(language) for language in languages)])
    escaped = [[_plain(cell).replace("|", "\\|") for cell in line] for line in lines]
    return in_markdown(escaped)


def _plain(value: Any) -> str:
    """A value as text; None is empty."""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(_plain(item) for item in value)
    return "" if value is None else printable(str(value))
