"""Accuracy, micro and macro F1, the table by label and the confusion are scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from ernie_m.finetune.metrics import MACRO_F1, share_of_most_frequent
from ernie_m.finetune.score_tables import LabelTable
from ernie_m.finetune.tasks.classification import Classification
from ernie_m.reader.batching import Example

SEEDS = range(0, 300, 50)  # each with the 49 after it


def drawn(seed):
    """Ids of labels and probabilities [N, C] of 2 to 9 skewed classes; some may be absent."""
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 10))
    rows = int(random.integers(1, 60))
    shares = random.dirichlet(np.full(classes, 0.5))
    labels = random.choice(classes, rows, p=shares)
    probabilities = random.dirichlet(np.full(classes, 0.5), rows)
    probabilities[np.arange(rows), labels] += random.uniform(0, 0.5)
    return labels, probabilities


def assert_same_by_label(table, names, by_label):
    """Compare the values of a table with precision, recall, F1 and rows of each label."""
    for name, precision, recall, f1, rows in zip(names, *by_label, strict=True):
        ours = list(table["labels"][name].values())
        assert ours == pytest.approx([100 * precision, 100 * recall, 100 * f1, rows])


@pytest.mark.parametrize("first_seed", SEEDS)
def test_one_label_a_text(first_seed):
    for seed in range(first_seed, first_seed + 50):
        labels, probabilities = drawn(seed)
        names = [f"class {id_}" for id_ in range(probabilities.shape[1])]
        task = Classification(None, names, 16, metric=MACRO_F1)
        data = [Example("", None, int(label)) for label in labels]
        predicted = probabilities.argmax(axis=1)
        scores = task.score(data, list(probabilities), "en")
        assert scores["acc"] == pytest.approx(100 * metrics.accuracy_score(labels, predicted))
        expected = 100 * metrics.f1_score(labels, predicted, average="macro", zero_division=0)
        assert scores[MACRO_F1] == pytest.approx(expected)

        confusion = task.confusion(data, list(probabilities))
        table = LabelTable("", confusion).to_json()
        ids = sorted({*labels.tolist(), *predicted.tolist()})
        assert sorted(table["labels"]) == [names[id_] for id_ in ids]
        by_label = metrics.precision_recall_fscore_support(labels, predicted, labels=ids, zero_division=0)
        assert_same_by_label(table, [names[id_] for id_ in ids], by_label)
        counts = metrics.confusion_matrix(labels, predicted, labels=ids)
        for row, of_row in zip(ids, counts):
            ours = [confusion.get(names[row], {}).get(names[column], 0) for column in ids]
            assert ours == of_row.tolist()
        assert share_of_most_frequent(confusion) == pytest.approx(
            100 * np.bincount(labels).max() / len(labels)
        )
