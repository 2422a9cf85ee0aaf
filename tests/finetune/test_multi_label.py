"""Several labels a text, or none."""

import numpy as np
import paddle
import pytest

from ernie_m.finetune.classifier import MultiLabelClassification
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
