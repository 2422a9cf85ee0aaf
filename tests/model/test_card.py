"""The model card says what it was told, in order, and nothing it was not told."""

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
        == """# XNLI, zero-shot

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


def test_a_card_of_little():
    assert model_card({}) == "# ERNIE-M checkpoint\n\nAn ERNIE-M model.\n"
    assert "\n- perplexity: 7.50\n- steps/s: 3\n" in model_card({"scores": {"perplexity": 7.5, "steps/s": 3}})
