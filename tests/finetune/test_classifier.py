"""Losses, scores and predictions of classes, of several labels a text, and of numbers."""

import json

import numpy as np
import paddle
import pytest

from ernie_m.commands import run_classifier
from ernie_m.finetune.classifier import Classification, MultiLabelClassification, Regression
from ernie_m.finetune.metrics import pearson, spearman
from ernie_m.model.packed_batch import LabeledBatch
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.text_featurizer import UNKNOWN, Example, TextFeaturizer
from ernie_m.reader.tokenization import Tokenizer
from tests import command_lines, toys
from tests.launching import error_of


def test_the_loss_is_the_mean_binary_cross_entropy(toy_folder):
    """An unknown label is in neither the loss nor its gradient."""
    task = MultiLabelClassification(Tokenizer(None, toy_folder / "piece.model"), ["a", "b"], 16)
    labels = [(1, 0), (0, 0), (1, UNKNOWN)]
    features = task.encode([Example("ab", "c", label) for label in labels])
    batch = task.encode.collate(features, np.arange(3), 3)
    logits = np.array([[2.0, -1.0], [0.5, -3.0], [1.5, 4.0]])
    probabilities = 1 / (1 + np.exp(-logits))
    is_known = batch.labels != UNKNOWN
    of_labels = -np.log(np.where(batch.labels == 1, probabilities, 1 - probabilities)) * is_known
    sent = LabeledBatch(None, paddle.to_tensor(batch.labels))
    given = paddle.to_tensor(logits, stop_gradient=False)
    total, right, count = task.compute_loss_and_counts(sent, {"logits": given})
    assert float(total) == pytest.approx(of_labels.mean(axis=1).sum())
    assert (int(right), count) == (2, 3)  # the second text does not have a
    total.backward()
    np.testing.assert_allclose(given.grad.numpy(), (probabilities - batch.labels) / 2 * is_known, atol=1e-7)
    np.testing.assert_allclose(task.decode(batch, {"logits": logits}), probabilities)


PROBABILITIES = {"probabilities": {"a": 0.333333, "b": 0.666667, "c": 0.5}}
LINE = "1\t0.333333\t0.666667\t0.500000"


@pytest.mark.parametrize(
    ("task", "prediction", "answer", "line"),
    [
        (
            Classification(None, "abc", 16),
            np.array([1 / 3, 2 / 3, 0.5]),
            {"label": "b", **PROBABILITIES},
            LINE,
        ),
        (
            MultiLabelClassification(None, "abc", 16),
            np.array([1 / 3, 2 / 3, 0.5]),
            {"labels": ["b"], **PROBABILITIES},
            LINE,
        ),
        (Regression(None, 16), 1 / 3, {"score": 0.3333333}, "0.333333"),
        (Regression(None, 16), 1.2345678e-5, {"score": 1.234568e-05}, "0.000012"),
    ],
)
def test_how_a_prediction_is_written(tmp_path, task, prediction, answer, line):
    """With six decimals. In a file behind the qid of a text, if it has one, even an empty one."""
    examples = [Example("x", qid=qid) for qid in (None, "", "0")]
    assert task.to_json(prediction) == answer
    task.write(tmp_path / "a", examples, [prediction] * 3)
    assert (tmp_path / "a").read_text() == f"{line}\n\t{line}\n0\t{line}\n"


SCORES = {"animal": "-1.5", "drink": "0.25", "tool": "4"}


@pytest.fixture(scope="module")
def folder(module_folder):
    """The toy's texts, with a number for each class."""
    toys.write_task(module_folder, toys.both_texts(toys.labeled_texts(400, seed=9)), ["en", "de"], [])
    for name, count, seed in (("train", 96, 1), ("dev.en", 31, 20), ("dev.de", 31, 21)):
        rows = [row._replace(label=SCORES[row.label]) for row in toys.labeled_texts(count, seed)]
        toys.write_labeled_texts(module_folder / f"{name}.tsv", rows)
    return module_folder


@pytest.fixture
def regress(runner, folder):
    """regress(**flags): run_classifier.py --is_regression true; returns results.json."""

    def flags(folder, out, **changes):
        fixed = {"is_regression": "true", "label_map_config": None, "num_labels": None}
        return command_lines.classification(folder, out, **(fixed | changes))

    return runner(run_classifier, flags, folder)


def test_correlations_equal_numpy_and_hand_computed_ranks():
    """Pearson's is numpy's; Spearman's is worked out by hand, with ties."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = x + rng.normal(size=50)
    assert pearson(x, y) == pytest.approx(100 * np.corrcoef(x, y)[0, 1], abs=1e-10)
    # The ranks are 1, 2.5, 2.5, 4 and 1, 2, 3, 4. Of their deviations from 2.5, the sum of the products is
    # 4.5, and those of the squares are 4.5 and 5.
    assert spearman([0, 1, 1, 9], [1, 2, 3, 50]) == pytest.approx(100 * 4.5 / np.sqrt(4.5 * 5))
    assert spearman(x, np.exp(x)) == pytest.approx(100)
    assert (pearson([1, 1], [0, 1]), spearman([1, 1], [0, 1])) == (0.0, 0.0)


def test_the_loss_is_the_mean_squared_error(folder):
    tokenizer = Tokenizer(None, folder / "piece.model")
    task = Regression(tokenizer, 16)
    features = task.encode([Example("ab", None, -1.5), Example("c", "d", 2.25)])
    batch = task.encode.collate(features, np.arange(2), 2)
    assert batch.labels.dtype == np.float32
    targets = paddle.to_tensor(batch.labels)  # -1.5 and 2.25
    logits = paddle.to_tensor([[1.0], [2.0]])
    total, _, count = task.compute_loss_and_counts(LabeledBatch(None, targets), {"logits": logits})
    assert (float(total), count) == (2.5**2 + 0.25**2, 2)
    assert TextFeaturizer(tokenizer, 16).collate(features, np.arange(2), 2).labels.dtype == np.int64
    scores = task.decode(batch, {"logits": logits.numpy()})
    assert [json.dumps(task.to_json(score)) for score in scores] == ['{"score": 1.0}', '{"score": 2.0}']


@pytest.mark.parametrize(("first", "second"), [(None, "b"), ("b", None)])
def test_pairs_beside_single_texts_are_rejected(folder, first, second):
    task = Regression(Tokenizer(None, folder / "piece.model"), 16)
    task.check_pairs([Example("a", first)], "first.tsv")
    task.check_pairs([Example("a", first)], "again.tsv")
    assert error_of(task.check_pairs, [Example("a", second)], "second.tsv").startswith("second.tsv: ")


def test_scores_are_those_of_the_predictions(regress, refusal, folder, tmp_path, capsys):
    test_files = {"do_test": "true", "test_set": f"{folder}/dev.%s.tsv", "test_save": f"{tmp_path}/%s"}
    results = regress(**test_files, select_on="last")  # dev files are scored once, at the end
    assert results["metric"] == "pearson"
    assert [table["title"].split(",")[0] for table in results["tables"]] == ["pearson", "spearman"]
    (path,) = tmp_path.glob("en.*")
    predicted = [float(line.split("\t")[1]) for line in path.read_text().splitlines()]
    labels = [example.label for example in read_classification(folder / "dev.en.tsv", regression=True)]
    # Two predictions may tie in the file, which has six decimals.
    for table, measure in zip(results["tables"], (pearson, spearman)):
        assert table["mean"]["en"] == pytest.approx(measure(predicted, labels), abs=0.1)
    assert "root mean squared error: " in capsys.readouterr().out

    # Without the flag.
    best = {**command_lines.FOLDER_ALONE, "init_checkpoint": tmp_path / "out/best"}
    assert "--is_regression true" in refusal(regress, **best, is_regression="false")
