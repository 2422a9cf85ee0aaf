"""Several labels a text, or none."""

import numpy as np
import paddle
import pytest

from ernie_m.finetune.fit.read_units import read_units
from ernie_m.finetune.fit.units import LABELS
from ernie_m.finetune.metrics import MACRO_F1
from ernie_m.finetune.score_tables import LabelTable, macro_f1_of_seeds, to_text
from ernie_m.finetune.tasks.multi_label import MultiLabelClassification
from ernie_m.model.batch import LabelledBatch
from ernie_m.reader.batching import Example
from ernie_m.reader.files.own_files import LabelledFile
from ernie_m.reader.files.rows import TableOptions
from ernie_m.tokenizer.tokenizer import Tokenizer
from tests import toys
from tests.launching import error_of
from tests.toys import write_lines


def test_the_loss_is_the_mean_binary_cross_entropy(toy_folder):
    task = MultiLabelClassification(Tokenizer(None, toy_folder / "piece.model"), ["a", "b"], 16)
    features = task.encode([Example("ab", None, (1, 0)), Example("c", "d", (0, 0))])
    batch = task.encode.collate(features, np.arange(2), 2)
    logits = np.array([[2.0, -1.0], [0.5, -3.0]])
    probabilities = 1 / (1 + np.exp(-logits))
    of_labels = -np.log(np.where(batch.labels, probabilities, 1 - probabilities))
    sent = LabelledBatch(None, paddle.to_tensor(batch.labels))
    total, right, count = task.loss_and_counts(sent, {"logits": paddle.to_tensor(logits)})
    assert float(total) == pytest.approx(of_labels.mean(axis=1).sum())
    assert (int(right), count) == (1, 2)  # the second text does not have a
    np.testing.assert_allclose(task.decode(batch, {"logits": logits}), probabilities)


def test_the_table_of_labels():
    """Worked by hand: a is in 3 of 5 rows, found in 2 and predicted for 2 others; b is in 1, and found."""
    confusion = {"a": {"a": 2, "": 1}, "b": {"b": 1}, "": {"a": 2, "": 4}}
    assert to_text([LabelTable("dev", confusion)]) == (
        "dev\n"
        "   precision  recall      f1  rows  missed  wrong\n"
        "a      50.00   66.67   57.14     3       1      2\n"
        "b     100.00  100.00  100.00     1       0      0"
    )
    assert macro_f1_of_seeds({1: {"en": confusion}}) == {"en": pytest.approx(550 / 7)}


@pytest.mark.parametrize("metric", [None, MACRO_F1])
def test_the_scores(metric):
    """Worked by hand, whatever selects a step: a is found in 1 of 2 texts, b is predicted wrongly in 1."""
    task = MultiLabelClassification(None, ["a", "b"], 16, metric=metric)
    data = [Example("", None, labels) for labels in ((1, 0), (1, 0), (0, 0))]
    predictions = [np.array([0.9, 0.6]), np.array([0.5, 0.1]), np.array([0.2, 0.3])]
    scores = task.score(data, predictions, "en")
    assert scores == pytest.approx({"micro f1": 50.0, "macro f1": 100 / 3, "acc": 100 / 3})
    assert task.metric == (metric or "micro f1")


def test_a_table_with_a_column_for_each_label_has_one_for_all(tmp_path):
    """Where a column is missing the label would count as absent from each row, and scores would be wrong."""
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    decisions = [f"a {text},{number % 2},{number // 2 % 2}" for number, text in enumerate(toys.KINDS)]
    write_lines(part, ["text,a,b", *decisions])
    write_lines(whole, ["text,a,b,c", *(f"{line},1" for line in decisions)])
    units = read_units([LabelledFile(whole, "train", "all")], TableOptions(), LABELS)
    assert units.names == ["a", "b", "c"]
    test = [LabelledFile(part, "test", "all")]
    assert error_of(read_units, test, TableOptions(), like=units).startswith(f"{part}: ")

    # Beside another table to learn from.
    both = [LabelledFile(path, "train", "all") for path in (whole, part)]
    assert error_of(read_units, both, TableOptions(), LABELS).startswith(f"{part}: ")
