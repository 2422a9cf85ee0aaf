"""The lines at the end of `ernie-m label`, against counts by hand."""

import csv
import json
from pathlib import Path

import pytest

import ernie_m
from ernie_m.commands import predict
from ernie_m.inference.predict_files import LabeledRows, confidence
from ernie_m.reader.files.labeled_tables import UnlabeledTable
from ernie_m.reader.files.tables import Dialect, Table
from ernie_m.utils.errors import UserError
from tests import toys
from tests.helpers.checkpoints import stored
from tests.launching import as_flags, call_main


def summary(rows, answers, labels=(), separator=","):
    """The lines for rows with some columns, of which some have labels, and what was predicted of them."""
    names = [*rows[0]]
    table = Table(Path("rows.csv"), names, 1, Dialect(), [], iter(()))
    places = [names.index(name) for name in labels]
    labeled = LabeledRows(UnlabeledTable(table, {}, places, [], separator), sorts=False)
    for row, answer in zip(rows, answers, strict=True):
        labeled.add([*row.values()], answer)
    return labeled.summary()


def one_of(*labels):
    return [{"label": label, "probabilities": dict.fromkeys(["a", "b", "1"], 0.3)} for label in labels]


def several_of(*label_lists):
    probabilities = dict.fromkeys(["a", "b", "1"], 0.3)
    return [{"labels": labels, "probabilities": probabilities} for labels in label_lists]


def test_counts_and_accuracy():
    """Rows without a label do not count."""
    labels = ["a", " a\u200b", "1.0", "", "nan", "b", "a"]
    rows = [{"id": str(number), "Art": label} for number, label in enumerate(labels)]
    counts, accuracy = summary(rows, one_of("a", "a", "1", "b", "b", "a", "b"), labels=["Art"])
    assert counts == "7 rows: a 3, b 3, 1 1"
    assert accuracy == "accuracy 60.0 %: 3 of 5 rows with a label in 'Art'"


def test_several_labels_must_all_be_right():
    """A row without a label is right if none was predicted; one without an answer does not count."""
    rows = [{"tags": cell} for cell in ("a, b", "b", "b,a", "", "", "a")]
    answers = [*several_of(["b", "a"], ["a", "b"], ["a", "b"], [], ["1"]), {}]
    counts, accuracy = summary(rows, answers, labels=["tags"])
    assert counts == "5 rows: b 3, a 3, 1 1, no label 1"
    assert accuracy == "accuracy 60.0 %: 3 of 5 rows, by the labels in 'tags'"
    *_, reason = summary(rows, answers, labels=["tags"], separator=None)
    assert reason.startswith("no accuracy: unknown label 'a, b' in 'tags'")


def test_several_labels_are_as_sure_as_all_decisions_together():
    """A row is right if all are: three decisions of 0.7 are less sure than one of 0.6 beside two of 0.99."""
    one, three = (
        {"labels": [], "probabilities": dict(zip("abc", row))} for row in ([0.4, 0.01, 0.01], [0.3] * 3)
    )
    assert confidence(three) == pytest.approx(0.343) and confidence(three) < confidence(one)


def test_a_column_for_each_label_scores_several():
    rows = [
        dict(zip(("a", "b", "1", "c"), cells)) for cells in (["1", "0", "0", "1"], ["0", "True", "1", "0"])
    ]
    answers = several_of(["a"], ["b"])
    *_, accuracy = summary(rows, answers, labels=["a", "b", "1"])
    assert accuracy == "accuracy 50.0 %: 1 of 2 rows, by the labels in 'a', 'b', '1'"


def test_a_cell_that_says_neither_yes_nor_no_leaves_its_row_out():
    rows = [{"a": cell, "b": "0", "1": "0"} for cell in ("1", "2", "?", "true")]
    *_, accuracy = summary(rows, several_of(*[["a"]] * 4), labels=["a", "b", "1"])
    assert accuracy == "accuracy 100.0 %: 2 of 2 rows, by the labels in 'a', 'b', '1'"


def test_a_table_that_cannot_be_scored():
    answers = one_of("a", "b")
    assert summary([{"topic": "x"}, {"topic": "a"}], answers) == ["2 rows: a 1, b 1"]
    for labels in ("xy", "aB"):  # as for `fit --test`, a label must have been learned
        _, reason = summary([{"label": label} for label in labels], answers, labels=["label"])
        assert "'label'" in reason and "%" not in reason and f"'{min({*labels} - {'a'})}'" in reason


def test_numbers_are_correlated_with_those_of_the_table():
    rows = [{"id": "7", "score": number} for number in ("0", "0.5", "1", "5")]
    answers = [{"score": score} for score in (0.1, 0.2, 0.4, 0.3)]
    count, correlation = summary(rows, answers, labels=["score"])
    assert count == "4 rows"
    # The ranks are 1 2 3 4 and 1 2 4 3. Means 1.625 and 0.25, products 0.375, squares 15.6875 and 0.05.
    assert correlation == "Pearson 42.3 %, Spearman 80.0 % (4 rows with a number in 'score')"
    blank = [*rows, {"id": "8", "score": ""}], [*answers, {"score": 0.9}]
    assert summary(*blank, labels=["score"])[1] == correlation
    assert summary([{"score": "good"}] * 4, [{"score": 0.5}] * 4, labels=["score"]) == ["4 rows"]


def test_answers_without_labels():
    assert summary([{"a": ""}] * 2, [{"score": 0.5}, {"score": 0.1}]) == ["2 rows"]


@pytest.fixture
def pair_table(tmp_path, monkeypatch):
    """A table with the columns Frage, Absatz and Wertung, in the current folder."""
    monkeypatch.chdir(tmp_path)
    texts = toys.sentences(16, seed=2)
    lines = [f"{texts[n % 4]};{texts[4 + n]};{n / 12}" for n in range(12)]
    (tmp_path / "pairs.csv").write_text("\n".join(["Frage;Absatz;Wertung", *lines]) + "\n")
    return "pairs.csv"


def reads(models, folder, pairs, **more):
    """A model that gives a number to pairs of texts, or to single ones."""
    preprocessing = stored(regression=True, pairs=pairs)
    settings = {"task": "classification", "labels": ["score"], "reading": preprocessing, **more}
    toys.make_model(folder, "score", models / "piece.model", settings)
    return folder


def label(model, **flags):
    call_main(predict, as_flags({"model": model, "input": "pairs.csv", "output": "out.csv", **flags}))
    with open("out.csv", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


PAIR = {"text": "Frage", "text_b": "Absatz"}


@pytest.mark.parametrize("columns", [PAIR, {**PAIR, "label": "Wertung"}])
@pytest.mark.parametrize("pairs", [True, None])
def test_a_model_of_pairs_reads_two_columns(models, pair_table, tmp_path, capsys, columns, pairs):
    """As those do whose files do not say what they read."""
    model = reads(models, tmp_path / "model", pairs=pairs)
    rows = label(model, task="regression", **columns)
    answers = ernie_m.load(model).classify([(row["Frage"], row["Absatz"]) for row in rows])
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx([a["score"] for a in answers])
    assert ("'Wertung'" in capsys.readouterr().err) == ("label" in columns)


@pytest.mark.parametrize("columns", [{}, {"text": "Frage"}])
def test_a_model_of_pairs_refuses_a_single_text(models, pair_table, tmp_path, refused, columns):
    model = reads(models, tmp_path / "model", pairs=True)
    assert "pairs.csv, line 1: " in refused(lambda: label(model, **columns))
    with pytest.raises(UserError, match="text_b"):
        ernie_m.load(model).classify(["Wie?"])


def test_the_columns_of_a_question_and_its_text_are_named(models, pair_table):
    rows = label(models / "answer", columns="Frage,Absatz", task="question-answering")
    model = ernie_m.load(models / "answer")
    answers = [model.answer(row["Frage"], row["Absatz"])["answer"] for row in rows]
    assert [row["predicted_answer"] for row in rows] == answers


def test_a_model_of_single_texts_reads_one_column(models, pair_table, tmp_path, refused):
    model = reads(models, tmp_path / "model", pairs=False)
    rows = label(model, text="Absatz")
    answers = ernie_m.load(model).classify([row["Absatz"] for row in rows])
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx([a["score"] for a in answers])
    (tmp_path / "out.csv").unlink()
    assert "'Frage' and 'Absatz'" in refused(lambda: label(model, **PAIR))
    with pytest.raises(UserError, match="text_b"):
        ernie_m.load(model).classify([("Wie?", "So.")])
    with pytest.raises(UserError, match="rank"):
        ernie_m.load(model).rank("Wie?", ["So."])


def test_the_columns_that_a_model_learned_from_are_read_again(models, pair_table, tmp_path, capsys):
    """Those of a file with JSON lines, too; without a flag."""
    columns = {"text": "Frage+Absatz", "label": "Wertung"}
    model = reads(models, tmp_path / "model", pairs=False, columns=columns)
    rows = label(model)
    texts = [f"{row['Frage']}\n{row['Absatz']}" for row in rows]
    scores = [answer["score"] for answer in ernie_m.load(model).classify(texts)]
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx(scores)
    assert "'Wertung'" in capsys.readouterr().err
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call_main(predict, as_flags({"model": model, "input": "rows.jsonl", "output": "out.jsonl"}))
    answers = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [answer["score"] for answer in answers] == pytest.approx(scores)


def test_a_table_is_looked_at_before_the_model_is_loaded(models, pair_table, tmp_path, refused):
    model = reads(models, tmp_path / "model", pairs=False)
    (model / "model.safetensors").unlink()
    assert "pairs.csv, line 1: " in refused(lambda: label(model))
    assert "pairs.csv, line 1: --text Frag: " in refused(lambda: label(model, text="Frag"))
