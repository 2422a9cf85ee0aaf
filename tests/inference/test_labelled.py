"""The lines at the end of `ernie-m label`, against counts by hand."""

import pytest

from ernie_m.inference.labelled import LabelledRows
from ernie_m.reader.files.rows import TableOptions


def summary(rows, answers, held_out=None):
    """The lines for rows, a column "text" and others, and what was predicted of them."""
    labelled = LabelledRows("rows.csv", TableOptions(), held_out or {}, sorts=False)
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        labelled.add({"text": f"text {number}", **row}, answer)
    return labelled.summary()


def one_of(*labels):
    return [{"label": label, "probabilities": dict.fromkeys(["a", "b", "1"], 0.3)} for label in labels]


def several_of(*label_lists):
    probabilities = dict.fromkeys(["a", "b", "1"], 0.3)
    return [{"labels": labels, "probabilities": probabilities} for labels in label_lists]


@pytest.mark.parametrize("column", ["label", "Class", "stars"])
def test_counts_and_accuracy(column):
    """Rows without a label do not count; a label that the model does not know is not right."""
    labels = ["a", " a\u200b", "1.0", "", "nan", "b"] + (["c"] if column != "stars" else ["b"])
    rows = [{"id": str(number), column: label} for number, label in enumerate(labels)]
    counts, accuracy = summary(rows, one_of("a", "a", "1", "b", "b", "a", "a"))
    assert counts == "7 rows: a 4, b 2, 1 1"
    assert accuracy == f"accuracy 60.0 %: 3 of 5 rows with a label in '{column}'"


def test_several_labels_must_all_be_right():
    rows = [{"tags": cell} for cell in ("a, b", "b", "['b', 'a']", "")]
    counts, accuracy = summary(rows, several_of(["b", "a"], ["a", "b"], ["a", "b"], []))
    assert counts == "4 rows: b 3, a 3, no label 1"
    assert accuracy == "accuracy 66.7 %: 2 of 3 rows with a label in 'tags'"


def test_a_table_that_cannot_be_scored():
    answers = one_of("a", "b")
    assert summary([{"topic": "x"}, {"topic": "a"}], answers) == ["2 rows: a 1, b 1"]
    assert summary([{"one": "a", "two": "b"}] * 2, answers) == ["2 rows: a 1, b 1"]  # which is it?
    assert summary([{"predicted_label": "a"}] * 2, answers) == ["2 rows: a 1, b 1"]  # of an earlier model
    _, reason = summary([{"label": "x"}, {"label": "y"}], answers)
    assert "'label'" in reason and "%" not in reason


@pytest.mark.parametrize("column", ["score", "Label", "relevance"])
def test_numbers_are_correlated_with_those_of_the_table(column):
    others = {"id": "7", "predicted_score": "1"}
    rows = [{**others, column: number} for number in ("0", "0.5", "1", "5")]
    count, correlation = summary(rows, [{"score": score} for score in (0.1, 0.2, 0.4, 0.3)])
    assert count == "4 rows"
    # The ranks are 1 2 3 4 and 1 2 4 3. Means 1.625 and 0.25, products 0.375, squares 15.6875 and 0.05.
    assert correlation == f"Pearson 42.3 %, Spearman 80.0 %: of the numbers in '{column}'"
    rows[2][column] = "good"
    assert summary(rows, [{"score": 0.5}] * 4) == ["4 rows"]
    rows = [{"score": "1", "label": "2"}] * 2  # which is it?
    assert summary(rows, [{"score": 0.5}] * 2) == ["2 rows"]


def test_answers_without_labels():
    assert summary([{}, {}], [{"score": 0.5}, {"score": 0.1}]) == ["2 rows"]
