"""The model card has the facts that it gets, in their order, and no others."""

import numpy as np
import pytest
import yaml

from ernie_m.model.checkpoint.card import model_card, read_metadata
from ernie_m.model.checkpoint.card_usage import _WEIGHTS, FOLDER, usage
from ernie_m.model.checkpoint.files import CARD, LANGUAGE_MEANS
from ernie_m.model.checkpoint.formats import safetensors
from ernie_m.model.checkpoint.formats.tensor_names import CHOICE, PADDLENLP, XLM_R
from ernie_m.model.conventions import Reading
from ernie_m.model.tasks import RETRIEVAL
from ernie_m.vectors.centring import LanguageMeans

FACTS = {
    "name": "XNLI, zero-shot",
    "task": "classify",
    "labels": {"no": 0, "yes": 1, "n/a": 2},
    "languages": ["en", "de"],
    "epochs": None,
    "gap": 12.345,
    "command": 'python run.py --mono "en<=/srv/someone/en.txt,de<=../de.txt" --epoch 2',
    "parameters": 1234567,
    "config": {"num_hidden_layers": 4},
    "data": "/srv/someone/data/dev.tsv",
    "scores": {
        "/srv/someone/dev.%s.tsv": {"en": {"acc": 84.126}, "de": {"acc": 71.0}},
        "./data/test.%s.tsv": {"en": {"acc": 83.5, "f1|macro": 80.0}, "zh": {"acc": 60.25}},
    },
}
SECTIONS = [
    "# XNLI, zero-shot",
    "An ERNIE-M model: 4 layers, 1,234,567 parameters.",
    "- Task: classify\n- Labels: no 0, yes 1, n/a 2\n- Languages: en, de\n- Gap: 12.35\n- Data: dev.tsv",
    "## Usage",
    "Load it.",
    "## Scores",
    "|  | en | de | zh |\n|---|---:|---:|---:|\n| acc, dev.tsv | 84.13 | 71.00 |  |\n"
    "| acc, test.tsv | 83.50 |  | 60.25 |\n| f1\\|macro, test.tsv | 80.00 |  |  |",
    "## Command",
    '```sh\npython run.py --mono "en<=en.txt,de<=de.txt" --epoch 2\n```',
    "## Configuration",
    '```json\n{\n  "num_hidden_layers": 4\n}\n```\n',
]


def test_the_whole_card():
    _metadata, text = model_card(FACTS, "Load it.").split("---\n\n")
    assert text.split("\n\n") == SECTIONS
    assert model_card({}).endswith("---\n\n# ERNIE-M checkpoint\n\nAn ERNIE-M model.\n")


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
    card = model_card({**facts, "languages": ["no", "zh-Hans", "zh-Hant", "bn_rom", "all"]})
    _, block, _text = card.split("---\n")
    assert yaml.safe_load(block) == {
        "license": "unknown",
        "language": ["no", "zh", "bn"],
        "library_name": "paddle",
        "pipeline_tag": pipeline,
        "tags": ["ernie-m", "cross-lingual"],
    }


def test_a_card_is_read_again(tmp_path):
    """A conversion keeps licence, base model, languages and scores; "unknown" is no licence."""
    metadata = {"license": "mit", "base_model": "someone/model"}
    (tmp_path / CARD).write_text(model_card({**FACTS, "metadata": metadata}), encoding="utf-8")
    read_again = read_metadata(tmp_path)
    assert {key: read_again[key] for key in metadata} == metadata
    assert read_again["language"] == ["en", "de"]
    first, *_ = read_again["model-index"][0]["results"]
    assert first == {
        "task": {"type": "text-classification"},
        "dataset": {"type": "dev.en.tsv", "name": "dev.en.tsv", "config": "en"},
        "metrics": [{"type": "accuracy", "name": "acc", "value": 84.13}],
    }
    again = model_card({"metadata": read_again})
    assert again.split("## Scores")[1] in model_card(FACTS)
    (tmp_path / CARD).write_text(model_card({}), encoding="utf-8")
    assert read_metadata(tmp_path) == {"language": ["multilingual"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# Title",
        "---\n- a list\n---\n",
        "---\nmodel-index: [1]\n---\n",
        "---\n{\n---\n",
        "---\nmodel-index: 3\n---\n",
    ],
)
def test_a_card_of_another_form_is_none(tmp_path, text):
    (tmp_path / CARD).write_text(text, encoding="utf-8")
    assert read_metadata(tmp_path) == {}


def test_no_card(tmp_path):
    assert read_metadata(tmp_path) == {}


def test_the_snippet_for_paddlenlp_names_the_class_of_the_head():
    expected = {None: "ErnieMModel", RETRIEVAL: "ErnieMModel", CHOICE: "ErnieMForMultipleChoice"}
    for task, name in expected.items():
        assert f"{name}.from_pretrained" in usage(PADDLENLP, task, Reading(), has_means=False)


def test_the_snippet_for_pooled_vectors_takes_the_pooler():
    for pooling, has_pooler in {"pooled": True, "specials": False, "mean": False}.items():
        text = usage(XLM_R, RETRIEVAL, Reading(layer=2, pooling=pooling), has_means=False)
        assert ("pooler_output" in text) == has_pooler
        assert ("hidden_states" in text) != has_pooler


def test_the_snippet_that_centres_takes_the_layer_of_the_training(tmp_path):
    """Its means are those that our own centring takes."""
    rng = np.random.default_rng(1)
    means = {language: rng.normal(size=(3, 4)).astype(np.float32) for language in ("de", "en")}
    safetensors.write(tmp_path / LANGUAGE_MEANS, means)
    vectors = rng.normal(size=(2, 4)).astype(np.float32)
    text = usage(XLM_R, None, Reading(layer=1, pooling="mean"), has_means=True)
    snippet = text.split("```python\n")[-1].removesuffix("```")
    namespace = {"vectors": vectors}
    exec(snippet.replace(FOLDER, str(tmp_path)), namespace)
    ours = LanguageMeans.read(tmp_path / LANGUAGE_MEANS, (3, 4)).at(1)
    expected = [ours.subtract(vectors[:1], "en")[0], ours.subtract(vectors[1:], "de")[0]]
    np.testing.assert_array_equal(namespace["centred"], expected)


def test_the_weights_of_a_pooling_in_the_snippet():
    """Of [CLS], two tokens, [SEP] and a pad: mean takes the tokens, specials also both special tokens, cls
    the first one alone."""
    values = {
        "special": np.array([[1, 0, 0, 1, 1]]),
        "inputs": {"attention_mask": np.array([[1, 1, 1, 1, 0]])},
    }
    expected = {"mean": [0, 1, 1, 0, 0], "specials": [1, 1, 1, 1, 0], "cls": [1, 0, 0, 0, 0]}
    assert expected.keys() == _WEIGHTS.keys()
    for pooling, weights in expected.items():
        assert eval(_WEIGHTS[pooling], values)[0, :, 0].tolist() == weights


def test_a_label_with_a_line_end_begins_no_line():
    """Labels come from a table, and a card is Markdown."""
    card = model_card({"labels": ["good", "bad\n# Owned\n"]})
    assert "\n# Owned" not in card and "bad\\n# Owned\\n" in card
