"""The model card says what it was told, in order, and nothing it was not told."""

import pytest
import yaml

from model.checkpoint.card import model_card

FACTS = {
    "name": "XNLI, zero-shot",
    "task": "classify",
    "labels": {"entailment": 0, "neutral": 1},
    "languages": ["en", "de", "zh"],
    "data": ["train.en.tsv (39302)"],
    "steps": 1200,
    "seed": 1,
    "epochs": None,
    "gap": 12.345,
    "command": "sh scripts/small/xnli.sh --epoch 1",
    "parameters": 1234567,
    "config": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "vocab_size": 32000},
    "scores": {"dev accuracy": {"en": 84.126, "de": 71.0}, "test|accuracy": {"en": 83.5, "zh": 60.25}},
}


def test_the_whole_card():
    assert (
        model_card(FACTS)
        == """---
license: unknown
language:
- en
- de
- zh
library_name: paddle
pipeline_tag: text-classification
tags:
- ernie-m
- cross-lingual
---

# XNLI, zero-shot

An ERNIE-M model: 4 layers, 256 hidden, 4 heads, 32,000 words, 1,234,567 parameters.

- Task: classify
- Labels: entailment 0, neutral 1
- Languages: en, de, zh
- Data: train.en.tsv (39302)
- Steps: 1200
- Random seed: 1
- Gap: 12.35

## Scores

|  | en | de | zh |
|---|---:|---:|---:|
| dev accuracy | 84.13 | 71.00 |  |
| test\\|accuracy | 83.50 |  | 60.25 |

## Command

```sh
sh scripts/small/xnli.sh --epoch 1
```

## Configuration

```json
{
  "num_hidden_layers": 4,
  "hidden_size": 256,
  "num_attention_heads": 4,
  "vocab_size": 32000
}
```
"""
    )


def test_a_card_of_nothing():
    assert model_card({}).endswith("---\n\n# ERNIE-M checkpoint\n\nAn ERNIE-M model.\n")


@pytest.mark.parametrize(
    ("facts", "pipeline"),
    [
        ({}, "feature-extraction"),
        ({"task": "tagging"}, "token-classification"),
        ({"task": "question_answering"}, "question-answering"),
        ({"task": "retrieval", "config": {"architecture": "ErnieMModel"}}, "sentence-similarity"),
        ({"config": {"architecture": "PreTrainingModel"}}, "fill-mask"),
        ({"config": {"architecture": "TokenClassifier"}}, "token-classification"),
    ],
)
def test_metadata_for_hubs(facts, pipeline):
    """YAML reads the code of Norwegian, "no", as a string and not as false."""
    block = model_card({**facts, "languages": ["no", "zh-Hans", "zh-Hant", "bn_rom"]}).split("---\n")[1]
    found = yaml.safe_load(block)
    assert list(found) == ["license", "language", "library_name", "pipeline_tag", "tags"]
    assert (found["pipeline_tag"], found["language"]) == (pipeline, ["no", "zh", "bn"])


def test_scores_without_columns_are_a_list():
    assert "## Scores\n\n- perplexity: 7.50\n- steps/s: 3\n" in model_card(
        {"scores": {"perplexity": 7.5, "steps/s": 3}}
    )
