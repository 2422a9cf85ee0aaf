"""The model card has the facts that it gets, in their order, and no others."""

import pytest
import yaml

from model.checkpoint.card import model_card

FACTS = {
    "name": "XNLI, zero-shot",
    "task": "classify",
    "labels": {"no": 0, "yes": 1},
    "languages": ["en", "de"],
    "epochs": None,
    "gap": 12.345,
    "command": "sh run.sh",
    "parameters": 1234567,
    "config": {"num_hidden_layers": 4},
    "scores": {"dev accuracy": {"en": 84.126, "de": 71.0}, "test|accuracy": {"en": 83.5, "zh": 60.25}},
}
SECTIONS = [
    "# XNLI, zero-shot",
    "An ERNIE-M model: 4 layers, 1,234,567 parameters.",
    "- Task: classify\n- Labels: no 0, yes 1\n- Languages: en, de\n- Gap: 12.35",
    "## Scores",
    "|  | en | de | zh |\n|---|---:|---:|---:|\n| dev accuracy | 84.13 | 71.00 |  |\n"
    "| test\\|accuracy | 83.50 |  | 60.25 |",
    "## Command",
    "```sh\nsh run.sh\n```",
    "## Configuration",
    '```json\n{\n  "num_hidden_layers": 4\n}\n```\n',
]


def test_the_whole_card():
    _metadata, text = model_card(FACTS).split("---\n\n")
    assert text.split("\n\n") == SECTIONS
    assert model_card({}).endswith("---\n\n# ERNIE-M checkpoint\n\nAn ERNIE-M model.\n")
    assert "## Scores\n\n- perplexity: 7.50\n" in model_card({"scores": {"perplexity": 7.5}})


@pytest.mark.parametrize(
    ("facts", "pipeline"),
    [
        ({"task": "retrieval", "config": {"architecture": "ErnieMModel"}}, "sentence-similarity"),
        ({"config": {"architecture": "PreTrainingModel"}}, "fill-mask"),
        ({"config": {"architecture": "TokenClassifier"}}, "token-classification"),
    ],
)
def test_metadata_for_hubs(facts, pipeline):
    """The block of YAML before the text.

    "no", the code of Norwegian, must be a string in it, and not false.
    """
    card = model_card({**facts, "languages": ["no", "zh-Hans", "zh-Hant", "bn_rom"]})
    _, block, _text = card.split("---\n")
    assert yaml.safe_load(block) == {
        "license": "unknown",
        "language": ["no", "zh", "bn"],
        "library_name": "paddle",
        "pipeline_tag": pipeline,
        "tags": ["ernie-m", "cross-lingual"],
    }
