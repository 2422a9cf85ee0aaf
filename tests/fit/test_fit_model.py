"""model.fit: a classifier of few labeled texts, and everything that takes it."""

import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

import ernie_m
from ernie_m.commands import convert, run_classifier
from ernie_m.fit.fit_model import _fit_head
from ernie_m.fit.labeled_rows import build_dataset
from ernie_m.model.tasks import CLASSIFICATION, MULTI_LABEL, REGRESSION
from ernie_m.reader.labels import write_indices
from tests.helpers.checkpoints import changed_copy, remove_pooler, stored
from tests.inference.conftest import run_export
from tests.launching import as_flags, call_main, error_of
from tests.toys import sentences, write_lines

TEXTS = sentences(24, seed=6)
LABELS = ["news", "question", "3"] * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which `fit` saves `classifier`."""
    return tmp_path_factory.mktemp("few") / "classifier"


@pytest.fixture(scope="module")
def classifier(models, folder):
    """A classifier on the first layer, as `fit` returns it."""
    labels = [int(label) if label == "3" else label for label in LABELS]
    return ernie_m.load(models / "encode").fit(TEXTS, labels, folder, layer=1)


def head(vectors, labels, kind=CLASSIFICATION, like=None):
    """Weight and bias of the head that learns embeddings with labels."""
    texts = [[f"text {number}"] for number in range(len(labels))]
    locations = [text for (text,) in texts]
    none = [""] * len(labels)
    return _fit_head(vectors, build_dataset(kind, texts, labels, locations, none, none, like))


def test_the_weights_are_at_the_minimum():
    """The gradient of the loss, by hand, is zero there."""
    random = np.random.default_rng(1)
    embeddings = random.normal(size=(40, 5))
    ids = random.integers(0, 3, 40)
    weight, bias = head(embeddings, ids)
    logits = embeddings @ weight + bias
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors = exponentials / exponentials.sum(axis=1, keepdims=True) - np.eye(3)[ids]
    np.testing.assert_allclose(embeddings.T @ errors + weight, 0, atol=5e-3)
    np.testing.assert_allclose(errors.sum(axis=0), 0, atol=5e-3)


def test_labels_that_all_rows_have_or_none():
    """Of several labels the first is in each row; of two classes of the model one is not there.

    Rows of which it is unknown whether they have a label do not count for it.
    """
    embeddings = np.random.default_rng(1).normal(size=(12, 5))
    weight, bias = head(embeddings, [["a", "b"], ["a"], ["a", "c"]] * 4, MULTI_LABEL)
    assert (embeddings @ weight + bias)[:, 0].min() > 10
    labels = [["a"] * (n % 2) + ["b"] * (n % 3 == 0) for n in range(12)]
    partly = [*({"a": n % 2 == 1, "b": None} for n in range(6)), *labels[6:]]
    weight, bias = head(embeddings[6:], labels[6:], MULTI_LABEL)
    np.testing.assert_array_equal(head(embeddings, partly, MULTI_LABEL)[0][:, 1], weight[:, 1])
    training = build_dataset(CLASSIFICATION, [["a"], ["b"]], ["x", "y"], ["", ""], ["", ""], ["", ""])
    for label, sign in (("x", 1), ("y", -1)):
        weight, bias = head(embeddings, [label] * 12, like=training)
        assert (sign * (embeddings @ weight + bias) @ [1, -1] > 10).all()


@pytest.mark.parametrize(
    ("kind", "labels"),
    [(CLASSIFICATION, [*"ab"]), (MULTI_LABEL, [["a"], ["b"]]), (REGRESSION, [0.5, 1.5])],
)
def test_select_dataset_rows(models, kind, labels):
    """Rows keep what is theirs, and a model that is trained on pairs takes pairs."""
    texts = [[f"text {number}", "b"] for number in range(4)]
    dataset = build_dataset(kind, texts, labels * 2, [*"wxyz"], ["en", "de", "fr", "en"], [""] * 4)
    part = dataset.select_rows([3, 1])
    for name in ("examples", "languages", "groups", "locations"):
        assert [*getattr(part, name)] == [getattr(dataset, name)[number] for number in (3, 1)]
    assert part.make_task(ernie_m.load(models / "encode").tokenizer, 32).pairs


def test_without_scikit_learn(models, monkeypatch):
    for name in ("sklearn", "scipy", "scipy.sparse"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "scikit-learn" in error_of(ernie_m.load(models / "encode").fit, TEXTS, LABELS)


def test_warn_about_unknown_words_and_nearly_equal_labels(encoder, caplog):
    """All texts are the same for a vocabulary that knows none of their words."""
    encoder.fit(TEXTS[:4], ["a", "b"] * 2)
    assert "unknown" not in caplog.text and "differ only in case" not in caplog.text
    encoder.fit(["ᚠᚢ", "ᚦᚨ", "ᚱᚲ", "ᚷᚹ"], ["a", "A"] * 2)
    assert "'A', 'a' differ only in case" in caplog.text
    (message,) = [message for message in caplog.messages if "unknown" in message]
    assert message.startswith("fit: 50 % of its tokens are unknown")


def check_classifiers(classifiers, labels, vectors):
    """Each of them has these embeddings of TEXTS, and predicts as the head on them."""
    weight, bias = head(vectors, LABELS)
    exponentials = np.exp(vectors @ weight + bias)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    for classifier in classifiers:
        predictions = classifier.classify(TEXTS)
        predicted = [[*prediction["probabilities"].values()] for prediction in predictions]
        np.testing.assert_allclose(predicted, probabilities, atol=1e-5)
        assert "text_b" in error_of(classifier.classify, ("mo", "lo"))  # it was not trained on pairs
        likeliest = [labels[row.argmax()] for row in probabilities]
        assert classifier.labels == labels
        assert [prediction["label"] for prediction in predictions] == likeliest
        np.testing.assert_allclose(classifier.encode(TEXTS), vectors, atol=1e-5)


def test_predictions_are_those_of_the_weights(models, folder, classifier):
    embeddings = ernie_m.load(models / "encode").encode(TEXTS, pooling="mean", layer=1)
    # What `fit` returned has fewer layers than the weights in its folder, and can be fitted again.
    again = classifier.fit(TEXTS, [int(label) if label == "3" else label for label in LABELS])
    check_classifiers([ernie_m.load(folder), classifier, again], [3, "news", "question"], embeddings)


def test_fit_classifier_on_embedding_model_without_pooler(models, tmp_path):
    """Its embeddings are not those of the start, and no random pooler is saved with it."""
    pipeline_config = stored(layer=1, pooling="cls", normalize=True, prompts={"query": "mo "})
    start = changed_copy(models / "encode", tmp_path / "initial", pipeline=pipeline_config)
    remove_pooler(start)
    classifier = ernie_m.load(start, engine="paddle-eager").fit(TEXTS, LABELS, tmp_path / "classifier")
    assert classifier.engine == "paddle-eager"
    assert not any("pooler" in name for name in load_file(tmp_path / "classifier/model.safetensors"))
    embeddings = ernie_m.load(start).encode(TEXTS, pooling="mean", normalize=False, prompt="")
    check_classifiers([classifier, ernie_m.load(tmp_path / "classifier")], sorted({*LABELS}), embeddings)


def test_predict_and_exports_take_it(folder, classifier, ask, tmp_path):
    expected = classifier.classify(TEXTS)
    requests = [{"text": text} for text in TEXTS]
    settings = run_export(folder, tmp_path / "exported")
    assert settings["labels"] == ["3", "news", "question"]
    assert ernie_m.load(tmp_path / "exported").labels == classifier.labels
    assert max(settings["export"]["engines"].values()) < 1e-4
    for model, tolerance in ((folder, 2e-6), (tmp_path / "exported", 1e-5)):
        for prediction, of_fit in zip(ask(requests, model=model), expected, strict=True):
            named = {str(label): value for label, value in of_fit["probabilities"].items()}
            assert prediction["label"] == str(of_fit["label"])
            assert prediction["probabilities"] == pytest.approx(named, abs=tolerance)


def test_a_converted_classifier_predicts_the_same(folder, classifier, tmp_path):
    convert.main([str(folder), str(tmp_path / "native"), "--to", "ernie-m"])
    for prediction, expected in zip(
        ernie_m.load(tmp_path / "native").classify(TEXTS), classifier.classify(TEXTS)
    ):
        assert prediction["probabilities"] == pytest.approx(expected["probabilities"], abs=2e-6)


@pytest.mark.parametrize("target", ["xlm-roberta", "huggingface", "paddlenlp", "fluid"])
@pytest.mark.usefixtures("classifier")
def test_formats_without_such_a_classifier(folder, refused, tmp_path, target):
    flags = [str(folder), str(tmp_path / "converted"), "--to", target]
    assert f"{folder}: " in refused(lambda: convert.main(flags))
    assert not (tmp_path / "converted").exists()


def test_fine_tune_from_its_encoder_or_its_head(folder, classifier, tmp_path):
    rows = [f"{text}\t{label}" for text, label in zip(TEXTS, LABELS)]
    train = write_lines(tmp_path / "train.tsv", ["text_a\tlabel", *rows])
    flags = dict.fromkeys(["do_val", "do_test", "use_cuda"], "false") | {"do_train": "true"}
    flags |= {"train_set": train, "max_seq_len": 32, "checkpoints": tmp_path / "head"}
    call_main(run_classifier, as_flags(flags | {"init_checkpoint": folder, "learning_rate": 1e-12}))
    further = ernie_m.load(tmp_path / "head/step_3")
    for prediction, expected in zip(further.classify(TEXTS[:5]), classifier.classify(TEXTS[:5])):
        assert [*prediction["probabilities"].values()] == [*expected["probabilities"].values()]
    write_indices(tmp_path / "labels.json", sorted(set(LABELS)))
    flags |= {"init_pretraining_params": folder, "num_labels": 3, "checkpoints": tmp_path / "run"}
    call_main(run_classifier, as_flags(flags | {"label_map_config": tmp_path / "labels.json"}))
    assert ernie_m.load(tmp_path / "run/step_3").loaded.num_layers == 1


def test_labels_in_their_normal_form(encoder):
    """Numbers, of which pandas makes decimals, count as texts."""
    labels = ["fro\u0308h ", "fröh\u200b", " fröh", 1, 1.0, np.float32(1), "1.00"]
    by_label = encoder.fit(TEXTS[:7], labels).scores["by_label"]
    assert {label: row["rows"] for label, row in by_label.items()} == {1: 4, "fro\u0308h ": 3}
    assert encoder.fit(TEXTS[:4], [0.5, 1.5] * 2, task="classification").labels == [0.5, 1.5]
    assert encoder.fit(TEXTS[:20], [*range(10)] * 2).labels == [*range(10)]
    truths = [True, np.bool_(True), "False", np.array([False])[0]]
    assert encoder.fit(TEXTS[:4], truths).labels == ["False", True]


@pytest.mark.parametrize(
    ("labels", "given"),
    [
        ([10, 9, 8], [10, 8, 9]),  # in the order of their texts
        (np.array([True, False, True]), [False, True]),
        (["a\u200b", " a", "1.0"], ["1.0", "a\u200b"]),
        ([1.0, 2.0, 1], [1.0, 2.0]),
        (np.array([0.0, 1.0, 1.0]), [0.0, 1.0]),  # as pandas writes 0 and 1
        ([[1, 2], None, ("x",)], [1, 2, "x"]),  # a row is not labeled
    ],
)
def test_labels_come_back_as_they_were_given(models, tmp_path, labels, given):
    """Also from the folder, from an export, and in the scores. Of labels that are the same, the first one."""
    classifier = ernie_m.load(models / "encode").fit(TEXTS[:12], [*labels] * 4, tmp_path / "saved")
    (expected,) = classifier.classify(TEXTS[0])
    columns = {"text": "body"}
    run_export(changed_copy(tmp_path / "saved", tmp_path / "copy", columns=columns), tmp_path / "exported")
    assert ernie_m.load(tmp_path / "exported").loaded.columns == columns
    for made in (classifier, *map(ernie_m.load, (tmp_path / "saved", tmp_path / "exported"))):
        (prediction,) = made.classify(TEXTS[0])
        assert prediction["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
        assert repr(made.labels) == repr([*prediction["probabilities"]]) == repr(given)  # with their types
        assert {*prediction.get("labels", [prediction.get("label")])} <= {*given}
    assert {*classifier.scores["by_label"]} == {*given}


@pytest.mark.parametrize(
    ("later", "warns"), [(["a", "b"], True), (["c", "b", "a"], False), (["d", "e"], False)]
)
def test_labels_that_later_rows_lack(encoder, caplog, later, warns):
    encoder.fit(TEXTS[:6], ["a", "b", "c"] * 2).fit(TEXTS[: 2 * len(later)], later * 2)
    assert ("no rows with" in caplog.text, "fit: no rows with c of " in caplog.text) == (warns, warns)


def make_series(values, index):
    """A column of pandas, with the names of its rows."""
    return type("Series", (list,), {"iloc": None, "index": index})(values)


@pytest.mark.parametrize(
    ("index", "warns"), [([3, 2, 1, 0], True), ([0, 1, 2, 3], False), ([4, 5, 6, 7], False)]
)
def test_labels_in_another_order_than_the_texts(encoder, caplog, index, warns):
    """They are paired by position. Another index, as of a part whose other column has a new one, is right."""
    encoder.fit(make_series(TEXTS[:4], [0, 1, 2, 3]), make_series(["a", "b"] * 2, index))
    assert ("by position" in caplog.text) == warns


@pytest.mark.parametrize("wrong", [3, ["a"], [["a"], "b", "c"]])
@pytest.mark.usefixtures("classifier")
def test_corrupt_labels(folder, tmp_path, wrong):
    changed = changed_copy(folder, tmp_path / "changed", labels_as_given=wrong)
    assert error_of(ernie_m.load, changed).startswith(f"{changed}")


@pytest.mark.parametrize(
    ("texts", "labels", "options", "location"),
    [
        (TEXTS, ["a"] * 24, {}, "label 1 (index 0): all 24 rows"),
        ([], [], {}, "texts is empty"),
        (TEXTS, LABELS[:-1], {}, "labels: expected one per text (24), got 23"),
        (TEXTS[:3], ["a", "b", "a"], {"languages": ["en"]}, "languages: expected one per text (3), got 1"),
        (TEXTS[:3], ["a", "b", "a"], {"groups": [1]}, "groups: expected one per text (3), got 1"),
        (TEXTS[:2], ["a", None], {}, "label 2 (index 1)"),
        (TEXTS[:2], ["a", float("nan")], {}, "label 2 (index 1)"),
        (TEXTS[:2], ["a", "\u200b"], {}, "label 2 (index 1)"),
        (TEXTS[:2], ["a", "-"], {}, "label 2 (index 1)"),
        (TEXTS[:2], ["a", ["a"]], {}, "label 2 (index 1)"),
        (TEXTS[:2], [["a"], ["a", None]], {}, "label 2 (index 1)"),
        (TEXTS[:2], [1, True], {}, "1 and True"),
        (TEXTS[:2], [*np.eye(2)], {}, "label 1 (index 0): invalid labels [1.0, 0.0]"),
        (TEXTS[:2], [0.5, 1], {}, "label 1 (index 0): ambiguous label '0.5'"),
        (
            TEXTS[:2],
            [0.5, float("nan")],
            {"folder": "new"},
            "label 2 (index 1): invalid label nan (expected a n",
        ),
        (TEXTS[:3], [0.0, 1.0, float("nan")], {}, "label 3 (index 2): invalid label nan (expected a string"),
        (TEXTS[:2], ["a", "b"], {"task": "multi-label"}, "task multi-label"),
        (TEXTS[:2], ["a", "b"], {"task": "token-classification"}, "task 'token-classification'"),
        (TEXTS[:2], ["a", "b"], {"task": ""}, "task ''"),
        (["mo", " \n"], ["a", "b"], {}, "text 2 (index 1)"),
        (["mo", None], ["a", "b"], {}, "text 2 (index 1)"),
        (["mo", ("mo", "no")], ["a", "b"], {}, "label 2 (index 1): invalid row of 2 texts"),
        (TEXTS[:2], [[], []], {}, "label 1 (index 0): all 2 rows"),
        (np.zeros((2, 2)), ["a", "b"], {}, "texts must be "),
        (TEXTS, LABELS, {"layer": 3}, "layer 3"),
        (TEXTS, LABELS, {"layer": 0}, "layer 0 "),
        (TEXTS, LABELS, {"folder": "."}, ". already"),
        (TEXTS, LABELS, {"finetune": True}, "Set a folder"),
        (TEXTS, LABELS, {"finetune": True, "folder": "new", "layer": 1}, "Set a folder"),
        ([("mo", "no"), ("no", "mo")], ["a", "b"], {}, "Set a folder"),
    ],
)
def test_reject_what_cannot_be_learned(models, texts, labels, options, location):
    assert location in error_of(ernie_m.load(models / "encode").fit, texts, labels, **options)


def test_more_labels_than_a_head_has_room_for(models, monkeypatch):
    monkeypatch.setattr("ernie_m.fit.labeled_rows._MOST_CELLS", 24 * 3 - 1)
    assert error_of(ernie_m.load(models / "encode").fit, TEXTS, LABELS).startswith("label 1 (index 0): ")


def test_learns_from_too_few_rows_without_scores(models):
    classifier = ernie_m.load(models / "encode").fit(["mo", "no", "lo"], ["a", "b", "b"])
    assert classifier.scores is None and classifier.classify("mo")[0]["label"] in "ab"


def test_an_exported_model_is_not_fitted(exported):
    assert "is an export" in error_of(ernie_m.load(exported / "encode").fit, TEXTS, LABELS)


@pytest.mark.parametrize(
    ("languages", "are_pairs", "is_warned_of"),
    [(None, False, True), (["en", "de"] * 12, False, False), (None, True, False)],
)
def test_warn_about_near_duplicates_without_language(
    models, tmp_path, caplog, languages, are_pairs, is_warned_of
):
    """Each text stands next to one that differs in its end alone. Pairs often share a text."""
    texts = [f"{text}{end}" for text in TEXTS[:12] for end in (" ka", " ka lo")]
    texts = [(text, "ba") for text in texts] if are_pairs else texts
    output = tmp_path / "out" if are_pairs else None
    ernie_m.load(models / "encode").fit(texts, ["x", "y"] * 12, output, languages=languages)
    assert ("Set --group or --language" in caplog.text) == is_warned_of
