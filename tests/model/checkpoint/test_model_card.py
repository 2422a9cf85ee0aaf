"""The model card has the facts that it gets, in their order, and no others."""

import pytest
import yaml

from ernie_m.model.checkpoint.model_card import format_model_card, read_card
from ernie_m.utils.checksums import CARD

CONFIG = {"num_hidden_layers": 4, "hidden_size": 8, "vocab_size": 1000}
FACTS = {
    "name": "XNLI, zero-shot",
    "task": "classification",
    "labels": {"no": 0, "yes": 1, "n/a\n# Owned": 2},
    "languages": ["en", "de"],
    "epochs": None,
    "gap": 12.345,
    "skipped": 0,
    "command": 'python run.py --mono "en<=/srv/someone/en.txt,de<=../de.txt" --epoch 2',
    "data": "/srv/someone/data/dev.tsv",
    "scores": {
        "/srv/someone/dev.%s.tsv": {"en": {"acc": 84.126}, "de": {"acc": 71.0}},
        "./data/test.%s.tsv": {"en": {"acc": 83.5, "f1|macro": 80.0}, "zh": {"acc": 60.25}},
    },
}
TABLE = (
    "|  | en | de | zh |\n|---|---:|---:|---:|\n| acc, dev.tsv | 84.13 | 71.00 |  |\n"
    "| acc, test.tsv | 83.50 |  | 60.25 |\n| f1\\|macro, test.tsv | 80.00 |  |  |\n"
)


WHOLE_CARD = """---
license: unknown
language:
- en
- de
library_name: paddle
pipeline_tag: text-classification
tags:
- ernie-m
- cross-lingual
---

# XNLI, zero-shot

An ERNIE-M model: 4 layers, 8 hidden, 1,000 words, 1,234,567 parameters. \
See docs/predict.md and docs/models.md of that project.

- Task: classification
- Labels: no 0, yes 1, n/a\\n# Owned 2
- Languages: en, de
- Gap: 12.35
- Skipped: 0
- Data: dev.tsv
- Command: `python run.py --mono "en<=en.txt,de<=de.txt" --epoch 2`

## Scores

"""


def test_the_whole_card():
    """A label with a line end begins no line."""
    assert format_model_card(FACTS, CONFIG, 1234567) == WHOLE_CARD + TABLE


@pytest.mark.parametrize(
    ("facts", "config", "pipeline"),
    [
        ({"task": "retrieval"}, {"architecture": "ErnieMModel"}, "sentence-similarity"),
        ({}, {"architecture": "ErnieMModel", "task": "retrieval"}, "sentence-similarity"),
        ({"metadata": None}, {"architecture": "PreTrainingModel"}, "fill-mask"),
        ({"task": "encoding"}, {"architecture": "ErnieMModel"}, "feature-extraction"),
        ({}, {"architecture": "ErnieMModel"}, "feature-extraction"),
        ({}, {"architecture": "SequenceClassifier", "task": "question_answering"}, "question-answering"),
        ({}, {"architecture": "TokenClassifier"}, "token-classification"),
    ],
)
def test_metadata_for_hubs(facts, config, pipeline):
    """The block of YAML before the text.

    "no", the code of Norwegian, must be a string in it, and not false.
    """
    card = format_model_card(
        {**facts, "languages": ["no", "zh-Hans", "zho_Hant", "bn_rom", "all", "how"]}, config | CONFIG, 1
    )
    _, block, _text = card.split("---\n")
    assert yaml.safe_load(block) == {
        "license": "unknown",
        "language": ["no", "zh", "bn"],
        "library_name": "paddle",
        "pipeline_tag": pipeline,
        "tags": ["ernie-m", "cross-lingual"],
    }


def test_a_card_is_read_again(tmp_path):
    """A conversion keeps license, base model, languages and scores; "unknown" is not a license."""
    metadata = {"license": "mit", "base_model": "someone/model"}
    (tmp_path / CARD).write_text(
        format_model_card({**FACTS, "metadata": metadata}, CONFIG, 1), encoding="utf-8"
    )
    kept = {**metadata, "language": ["en", "de"]}
    assert read_card(tmp_path) == (kept, TABLE)
    assert format_model_card({"metadata": kept, "scores": TABLE}, CONFIG, 1).endswith(
        f"\n## Scores\n\n{TABLE}"
    )
    with_a_rule = f"{format_model_card({}, CONFIG, 1)}\n---\nwords of the user\n"
    (tmp_path / CARD).write_text(with_a_rule, encoding="utf-8")
    assert read_card(tmp_path) == ({"language": ["multilingual"]}, None)


@pytest.mark.parametrize("text", [None, "", "# Title", "---\n- a list\n---\n", "---\n{\n---\n"])
def test_ignore_other_model_cards(tmp_path, text):
    if text is not None:
        (tmp_path / CARD).write_text(text, encoding="utf-8")
    assert read_card(tmp_path) == ({}, None)
