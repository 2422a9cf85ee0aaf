"""Several labels a text, or none; how predictions of classes and numbers are written."""

import numpy as np
import paddle
import pytest

from ernie_m.finetune.classifier import Classification, MultiLabelClassification, Regression
from ernie_m.model.packed_batch import LabeledBatch
from ernie_m.reader.batching import Example
from ernie_m.reader.tokenization import Tokenizer


def test_the_loss_is_the_mean_binary_cross_entropy(toy_folder):
    task = MultiLabelClassification(Tokenizer(None, toy_folder / "piece.model"), ["a", "b"], 16)
    features = task.encode([Example("ab", None, (1, 0)), Example("c", "d", (0, 0))])
    batch = task.encode.collate(features, np.arange(2), 2)
    logits = np.array([[2.0, -1.0], [0.5, -3.0]])
    probabilities = 1 / (1 + np.exp(-logits))
    of_labels = -np.log(np.where(batch.labels, probabilities, 1 - probabilities))
    sent = LabeledBatch(None, paddle.to_tensor(batch.labels))
    total, right, count = task.compute_loss_and_counts(sent, {"logits": paddle.to_tensor(logits)})
    assert float(total) == pytest.approx(of_labels.mean(axis=1).sum())
    assert (int(right), count) == (1, 2)  # the second text does not have a
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
        (Regression(None, 16), 1 / 3, {"score": 0.333333}, "0.333333"),
    ],
)
def test_how_a_prediction_is_written(tmp_path, task, prediction, answer, line):
    """With six decimals. In a file behind the qid of a text, if it has one, even an empty one."""
    examples = [Example("x", qid=qid) for qid in (None, "", "0")]
    assert task.to_json(prediction) == answer
    task.write(tmp_path / "a", examples, [prediction] * 3)
    assert (tmp_path / "a").read_text() == f"{line}\n\t{line}\n0\t{line}\n"
