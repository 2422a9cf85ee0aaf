"""Zero-shot classification: probabilities by their definition, and requests that are refused."""

from types import SimpleNamespace

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import convert
from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.server.app import make_predictors
from ernie_m.inference.tasks.finetuned import InferenceLabels, ZeroShotPredictor, ZeroShotRequest
from ernie_m.inference.tasks.predictors import make_predictor
from tests import toys
from tests.helpers.batches import padded_batch
from tests.helpers.checkpoints import change_config, changed_copy
from tests.launching import check_error, error_of
from tests.toys import sentences

TEXTS = sentences(5, seed=11)
LABELS = ["bado", "lera mo", "kani"]
TEMPLATE = "mo {} tan"
ENTAILMENT = toys.LABELS.index("entailment")
CONTRADICTION = toys.LABELS.index("contradiction")


def exponentials(models, text, label):
    """exp(logits) of the model itself for a text and a label: [C], by class."""
    model = load(models / "classify", engine="paddle-eager")
    ids = model.tokenizer.build_inputs(text, TEMPLATE.replace("{}", label))
    return np.exp(model.model(padded_batch([ids]))[0].numpy().astype(np.float64))


def test_one_label_is_true(models):
    """The probabilities are a softmax of the labels' logits of entailment."""
    predictions = ernie_m.load(models / "classify").zero_shot(TEXTS, tuple(LABELS), TEMPLATE)
    for text, prediction in zip(TEXTS, predictions, strict=True):
        entailed = np.array([exponentials(models, text, label)[ENTAILMENT] for label in LABELS])
        expected = dict(zip(LABELS, entailed / entailed.sum()))
        assert prediction["probabilities"] == pytest.approx(expected, abs=1e-5)
        in_order = sorted(LABELS, key=expected.get, reverse=True)
        assert list(prediction["probabilities"]) == in_order and prediction["label"] == in_order[0]


@pytest.mark.parametrize(("labels", "multi_label"), [(LABELS, True), (LABELS[:1], False)])
def test_each_label_for_itself(models, labels, multi_label):
    """With `multi_label`, or one label, a probability is a softmax of entailment and contradiction."""
    predictions = ernie_m.load(models / "classify").zero_shot(
        TEXTS, labels, TEMPLATE, multi_label=multi_label
    )
    for text, prediction in zip(TEXTS, predictions, strict=True):
        for label in labels:
            by_class = exponentials(models, text, label)
            expected = by_class[ENTAILMENT] / (by_class[ENTAILMENT] + by_class[CONTRADICTION])
            assert prediction["probabilities"][label] == pytest.approx(expected, abs=1e-5)


def test_equal_labels_keep_their_order():
    request = ZeroShotRequest("a", ("x", "y", "z"), "{}", multi_label=False)
    predictor = SimpleNamespace(inference_labels=InferenceLabels(0, 1))
    prediction = ZeroShotPredictor._compute_prediction(predictor, request, np.zeros([3, 2]))
    assert (prediction["label"], [*prediction["probabilities"]]) == ("x", ["x", "y", "z"])


def test_on_the_command_line(models, exported, ask):
    requests = [
        {"id": 3, "text": TEXTS[0]},
        {"text": TEXTS[1], "labels": ["tan", "qqq"], "hypothesis_template": "{}"},
        {"text": TEXTS[0], "multi_label": True},
        {"text": "bado " * 90},  # too long, so it is truncated
        {"text": TEXTS[0], "labels": None, "hypothesis_template": None},  # as if it named none
    ]
    flags = {"task": "zero-shot", "labels": "bado, lera mo,kani", "hypothesis_template": TEMPLATE}
    model = ernie_m.load(models / "classify")
    plain, other, several, cut = (
        model.zero_shot(text, labels, template, multi_label)[0]
        for text, labels, template, multi_label in (
            (TEXTS[0], LABELS, TEMPLATE, False),
            (TEXTS[1], ["tan", "qqq"], "{}", False),
            (TEXTS[0], LABELS, TEMPLATE, True),
            ("bado " * 90, LABELS, TEMPLATE, False),
        )
    )
    assert ask(requests, model=models / "classify", **flags) == [
        {"id": 3, **plain},
        other,
        several,
        cut,
        plain,
    ]
    assert cut["truncated"] and other["unknown_words"] == 1
    assert ask(requests[:1], model=models / "classify", multi_label="true", **flags) == [{"id": 3, **several}]
    (of_export,) = ask(requests[:1], model=exported / "classify", **flags)
    assert of_export["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "request_", "message"),
    [
        ("classify", {"text": "a"}, "--labels"),
        (
            "classify",
            {"text": "a", "labels": []},
            "invalid labels [] ",
        ),
        ("classify", {"text": "a", "labels": 3}, "invalid labels 3 "),
        ("classify", {"text": "a", "labels": "x,,y"}, "labels: invalid label ''"),
        ("classify", {"text": "a", "labels": ["x", 3]}, "labels: invalid label 3 "),
        ("classify", {"text": "a", "labels": "x,y,x"}, "labels: duplicate label in x, y, x"),
        (
            "classify",
            {"text": "a", "labels": "x", "hypothesis_template": "x"},
            "invalid hypothesis_template 'x' ",
        ),
        (
            "classify",
            {"text": "a", "labels": "x", "hypothesis_template": "{} {}"},
            "invalid hypothesis_template '{} {}' ",
        ),
        ("classify", {"text": "a", "labels": "x", "multi_label": 1}, "'multi_label': invalid value 1"),
        ("classify", {"text": "", "labels": "x"}, "'text': invalid value"),
        (
            "tag",
            {"text": "a", "labels": "x"},
            "task classification is not supported: its head is",
        ),
    ],
)
def test_reject_wrong_requests(models, ask, refused, kind, request_, message):
    assert message in refused(lambda: ask([request_], task="zero-shot", model=models / kind))


@pytest.mark.parametrize(
    ("labels", "entailment"),
    [(["not_entailment", "entailment"], 1), (["Entailment", "contradiction"], 0), (["ENTAIL", "x"], 0)],
)
def test_infer_contradiction_label_from_two_classes(labels, entailment):
    """Of two labels of one meaning the first one counts."""
    assert InferenceLabels.from_labels(labels) == (entailment, 1 - entailment)
    assert InferenceLabels.from_labels([*labels, "entailed"]).entailment == entailment


def test_models_without_the_labels(models, tmp_path):
    for name, labels in (("other", ["good", "bad", "so so"]), ("two", ["entailment", "not_entailment", "x"])):
        settings = {"task": "classification", "labels": labels}
        toys.make_model(tmp_path / name, "classify", models / "piece.model", settings)
    assert "with a label named entailment" in error_of(make_predictor, "zero-shot", load(tmp_path / "other"))
    assert "zero-shot" not in make_predictors([load(tmp_path / "other")], PredictionOptions())
    model = ernie_m.load(tmp_path / "two")
    assert model.zero_shot("bado", LABELS)[0]["label"] in LABELS
    assert "requires a model with a label named contradiction" in error_of(
        model.zero_shot, "bado", LABELS, multi_label=True
    )


def test_the_advice_for_labels_without_names(models, tmp_path, caplog):
    """A folder of transformers has them in id2label, one of this project in labels.

    That LABEL_0 is called 0 is said; two labels of one name are refused.
    """
    settings = {"task": "classification", "labels": ["0", "1", "2"]}
    native, theirs = tmp_path / "native", tmp_path / "theirs"
    toys.make_model(native, "classify", models / "piece.model", settings)
    convert.main([str(native), str(theirs), "--to", "huggingface", "--allow_lossy"])
    (native / "manifest.json").unlink()
    numbered = {str(number): f"LABEL_{number}" for number in range(3)}
    change_config(theirs, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert error_of(load, theirs).startswith(f"{theirs}: config.json has 2 label names, but the head has 3")
    change_config(theirs, id2label=numbered)
    twice = {"labels": ["yes", "no", "yes"], "id2label": {"0": "yes", "1": "no", "2": "yes"}}
    names = {"labels": toys.LABELS, "id2label": dict(zip(numbered, toys.LABELS))}
    for folder, key in ((native, "labels"), (theirs, "id2label")):
        check_error(error_of(make_predictor, "zero-shot", load(folder)), str(folder), key)
        said = [line for line in caplog.messages if f"{folder}: no label names" in line]
        assert len(said) == (folder == theirs) and all("id2label" in line for line in said)
        same = changed_copy(folder, tmp_path / f"same {key}", **{key: twice[key]})
        assert error_of(load, same).startswith(f"{same / 'config.json'}: duplicate label 'yes'")
        change_config(folder, **{key: names[key]})
        assert ernie_m.load(folder).zero_shot("bado", LABELS)[0]["label"] in LABELS
