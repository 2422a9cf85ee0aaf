"""The lines at the end of `ernie-m label`, against counts by hand."""

import csv

import pytest

import ernie_m
from ernie_m.commands import predict
from ernie_m.inference.labelled import LabelledRows
from ernie_m.reader.files.rows import TableOptions
from ernie_m.utils.errors import UserError
from tests import toys
from tests.launching import as_flags, call_main


def summary(rows, answers, held_out=None):
    """The lines for rows, a column "text" and others, and what was predicted of them."""
    reads = (("text_a", "text_b"), None, False)
    labelled = LabelledRows("rows.csv", TableOptions(), reads, held_out or {}, sorts=False)
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
    """A row without a label is right if none was predicted; one whose label is not known does not count."""
    rows = [{"tags": cell} for cell in ("a, b", "b", "['b', 'a']", "", "", "nan")]
    counts, accuracy = summary(rows, several_of(["b", "a"], ["a", "b"], ["a", "b"], [], ["1"], []))
    assert counts == "6 rows: b 3, a 3, 1 1, no label 2"
    assert accuracy == "accuracy 60.0 %: 3 of 5 rows, by the labels in 'tags'"


def test_a_column_for_each_label_scores_several():
    rows = [
        dict(zip(("a", "b", "1", "c"), cells)) for cells in (["1", "0", "0", "1"], ["0", "True", "1", "0"])
    ]
    answers = several_of(["a"], ["b"])
    *_, accuracy = summary(rows, answers)
    assert accuracy == "accuracy 50.0 %: 1 of 2 rows, by the labels in 'a', 'b', '1'"
    for row in rows:
        del row["1"]  # whose rows are not known
    assert summary(rows, answers) == ["2 rows: a 1, b 1"]


def test_the_column_that_is_compared_needs_no_known_name():
    """It is the only one with numbers, or with mostly labels of the model."""
    rows = [{"Nr": str(n), "pertinence": f"0,{n}"} for n in (1, 4, 3)]
    _, line = summary(rows, [{"score": score} for score in (0.1, 0.2, 0.3)])
    assert "'pertinence'" in line
    _, line = summary([{"Thema": label} for label in ("a", "b", "Sonstiges")], one_of("a", "b", "b"))
    assert line == "accuracy 66.7 %: 2 of 3 rows with a label in 'Thema'"


def test_a_cell_that_says_neither_yes_nor_no_leaves_its_row_out():
    rows = [{"a": cell, "b": "0", "1": "0"} for cell in ("1", "2", "?", "x")]
    *_, accuracy = summary(rows, several_of(*[["a"]] * 4))
    assert accuracy == "accuracy 100.0 %: 2 of 2 rows, by the labels in 'a', 'b', '1'"


def test_a_model_with_one_label_has_a_column_of_it():
    answers = [{"labels": labels, "probabilities": {"urgent": 0.7}} for labels in (["urgent"], [])]
    *_, accuracy = summary([{"urgent": "1"}, {"urgent": "1"}], answers)
    assert accuracy == "accuracy 50.0 %: 1 of 2 rows, by the labels in 'urgent'"


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
    answers = [{"score": score} for score in (0.1, 0.2, 0.4, 0.3)]
    count, correlation = summary(rows, answers)
    assert count == "4 rows"
    # The ranks are 1 2 3 4 and 1 2 4 3. Means 1.625 and 0.25, products 0.375, squares 15.6875 and 0.05.
    assert correlation == f"Pearson 42.3 %, Spearman 80.0 %: of 4 rows with a number in '{column}'"
    with_commas = [{**row, column: row[column].replace(".", ",")} for row in rows]
    assert summary(with_commas, answers) == [count, correlation]
    _, with_blank = summary([*rows, {**others, column: ""}], [*answers, {"score": 0.9}])
    assert with_blank == correlation
    thousands = [{**row, column: cell} for row, cell in zip(rows, ("1.000", "500", "2.000", "700"))]
    assert summary(thousands, answers) == ["4 rows"]
    rows[2][column] = "good"
    assert summary(rows, [{"score": 0.5}] * 4) == ["4 rows"]
    rows = [{"score": "1", "label": "2"}] * 2  # which is it?
    assert summary(rows, [{"score": 0.5}] * 2) == ["2 rows"]


def test_answers_without_labels():
    assert summary([{}, {}], [{"score": 0.5}, {"score": 0.1}]) == ["2 rows"]


@pytest.fixture
def pair_table(tmp_path, monkeypatch):
    """A table with the columns Frage, Absatz and Wertung, in the current folder."""
    monkeypatch.chdir(tmp_path)
    texts = toys.sentences(16, seed=2)
    lines = [f"{texts[n % 4]};{texts[4 + n]};{n / 12}" for n in range(12)]
    (tmp_path / "pairs.csv").write_text("\n".join(["Frage;Absatz;Wertung", *lines]) + "\n")
    return "pairs.csv"


def reads(models, folder, pairs):
    """A model that gives a number to pairs of texts, or to single ones."""
    reading = {"regression": True, "pairs": pairs}
    settings = {"task": "classification", "labels": ["score"], "reading": reading}
    toys.make_model(folder, "score", models / "piece.model", settings)
    return folder


def label(model, columns, task="regression"):
    flags = {"task": task, "model": model, "input": "pairs.csv", "output": "out.csv"}
    call_main(predict, as_flags(flags | ({"columns": columns} if columns else {})))
    with open("out.csv", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


@pytest.mark.parametrize("columns", ["Frage,Absatz", "Frage,Absatz,Wertung", "1,2,3"])
def test_a_model_of_pairs_reads_two_columns(models, pair_table, tmp_path, capsys, caplog, columns):
    """The columns may be those that `fit` was told; then the last one has the numbers to compare with."""
    model = reads(models, tmp_path / "model", pairs=True)
    rows = label(model, columns)
    answers = ernie_m.load(model).classify([(row["Frage"], row["Absatz"]) for row in rows])
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx([a["score"] for a in answers])
    assert "'Frage' and 'Absatz'" in caplog.text
    assert "'Wertung'" in capsys.readouterr().err


def test_a_reranker_whose_files_do_not_say_what_it_reads(models, pair_table, tmp_path, refused):
    """Two columns are asked for as they are taken: one without numbers is not its label."""
    model = reads(models, tmp_path / "model", pairs=None)
    assert "--columns Frage,Absatz" in refused(lambda: label(model, None))
    rows = label(model, "Frage,Absatz")
    answers = ernie_m.load(model).classify([(row["Frage"], row["Absatz"]) for row in rows])
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx([a["score"] for a in answers])
    (tmp_path / "out.csv").unlink()
    assert "pairs.csv, line 1: " in refused(lambda: label(model, "Absatz,Wertung"))


@pytest.mark.parametrize("columns", [None, "Frage"])
def test_a_model_of_pairs_refuses_a_single_text(models, pair_table, tmp_path, refused, columns):
    model = reads(models, tmp_path / "model", pairs=True)
    assert "pairs.csv, line 1: " in refused(lambda: label(model, columns))
    with pytest.raises(UserError, match="text_b"):
        ernie_m.load(model).classify(["Wie?"])


def test_the_columns_of_a_question_and_its_text_are_named(models, pair_table):
    rows = label(models / "answer", "Frage,Absatz", task="question-answering")
    model = ernie_m.load(models / "answer")
    answers = [model.answer(row["Frage"], row["Absatz"])["answer"] for row in rows]
    assert [row["predicted_answer"] for row in rows] == answers


def test_a_model_of_single_texts_reads_one_column(models, pair_table, tmp_path, refused):
    """Of two columns that are named the second has the labels, as for `fit`."""
    model = reads(models, tmp_path / "model", pairs=False)
    rows = label(model, "Absatz,Wertung")
    answers = ernie_m.load(model).classify([row["Absatz"] for row in rows])
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx([a["score"] for a in answers])
    with pytest.raises(UserError, match="text_b"):
        ernie_m.load(model).classify([("Wie?", "So.")])
    with pytest.raises(UserError, match="pairs"):
        ernie_m.load(model).rank("Wie?", ["So."])
