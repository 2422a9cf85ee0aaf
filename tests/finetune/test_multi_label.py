"""run_classifier.py --multi_label true: several labels a text, or none."""

import json

import numpy as np
import paddle
import pytest

from ernie_m.commands import predict, run_classifier
from ernie_m.finetune.fit.read_units import read_units
from ernie_m.finetune.fit.units import LABELS
from ernie_m.finetune.metrics import MACRO_F1
from ernie_m.finetune.score_tables import LabelTable, macro_f1_of_seeds, to_text
from ernie_m.finetune.tasks.multi_label import MultiLabelClassification
from ernie_m.model.batch import LabelledBatch
from ernie_m.reader.batching import Example
from ernie_m.reader.classification import read_classification
from ernie_m.reader.files.own_files import LabelledFile
from ernie_m.reader.files.rows import TableOptions
from ernie_m.tokenizer.tokenizer import Tokenizer
from tests import command_lines, toys
from tests.launching import as_flags, call_main, error_of, give_input
from tests.toys import write_lines


def labelled_rows(count, seed):
    """Rows whose labels are the kinds of the nouns in their text: none to three of them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        kinds = [kind for kind in toys.NOUNS if rng.random() < 0.4]
        text = toys.text_with(rng, "and")
        for kind in kinds:
            text = f"{text} {rng.choice(toys.NOUNS[kind])}"
        rows.append(toys.LabelledTexts(str(100 + i), text, "now", ",".join(kinds)))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    toys.write_task(folder, toys.both_texts(toys.labelled_texts(400, seed=9)), ["en"], toys.KINDS)
    toys.write_labelled_texts(folder / "train.tsv", labelled_rows(160, seed=1))
    toys.write_labelled_texts(folder / "dev.en.tsv", labelled_rows(31, seed=20))
    return folder


@pytest.fixture
def decide(runner, folder):
    """decide(**flags): run_classifier.py --multi_label true; returns results.json."""

    def flags(folder, out, **changes):
        return command_lines.classification(folder, out, **({"multi_label": "true"} | changes))

    return runner(run_classifier, flags, folder)


def test_a_cell_has_several_labels_or_none(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("label\ttext_a\nc, a,a\tx\n\ty\nb\tz\n", encoding="utf-8")
    examples = read_classification(path, {"a": 0, "b": 1, "c": 2}, num_labels=3, multi_label=True)
    assert [example.label for example in examples] == [(1, 0, 1), (0, 0, 0), (0, 1, 0)]
    path.write_text("label\ttext_a\n2,0\tx\n", encoding="utf-8")
    (example,) = read_classification(path, num_labels=3, multi_label=True)
    assert example.label == (1, 0, 1)


def test_the_loss_is_the_mean_binary_cross_entropy(folder):
    task = MultiLabelClassification(Tokenizer(None, folder / "piece.model"), ["a", "b"], 16)
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


def test_it_learns_and_predicts(decide, refusal, folder, tmp_path, monkeypatch, capsys):
    test_files = {"do_test": "true", "test_set": f"{folder}/dev.%s.tsv", "test_save": f"{tmp_path}/%s"}
    results = decide(epoch=12, learning_rate=5e-3, select_on="last", **test_files)
    assert [table["title"].split(",")[0] for table in results["tables"]] == ["micro f1", "macro f1", "acc"]
    micro_f1, _, accuracy = (table["mean"]["en"] for table in results["tables"])
    assert micro_f1 > 70 and results["metric"] == "micro f1"

    # The predictions, in both forms.
    gold = labelled_rows(31, seed=20)
    (path,) = tmp_path.glob("en.*[0-9]")
    readable = [json.loads(line) for line in (tmp_path / f"{path.name}.jsonl").read_text().splitlines()]
    right = 0
    for row, line, values in zip(gold, path.read_text().splitlines(), readable, strict=True):
        qid, ids, *probabilities = line.split("\t")
        names = [list(toys.KINDS)[int(id_)] for id_ in ids.split(",") if id_]
        assert (qid, values["labels"]) == (row.qid, names)
        assert list(values["probabilities"].values()) == pytest.approx(list(map(float, probabilities)))
        assert names == [label for label, value in values["probabilities"].items() if value > 0.5]
        right += names == [name for name in row.label.split(",") if name]
    assert 100 * right / 31 == pytest.approx(accuracy)
    assert {len(values["labels"]) for values in readable} >= {0, 1, 2}

    # Without the flag.
    best = tmp_path / "out/best"
    of_labels = {"label_map_config": None, "num_labels": None}
    alone = {**command_lines.FOLDER_ALONE, "init_checkpoint": best, **of_labels}
    assert "--multi_label true" in refusal(decide, **alone, multi_label="false")
    again = decide(**alone)
    assert again["labels"][0]["labels"] == results["labels"][0]["labels"]

    # ernie-m predict
    row = max(gold, key=lambda row: len(row.label))
    give_input(monkeypatch, json.dumps({"text_a": row.text_a, "text_b": row.text_b}).encode())
    call_main(predict, as_flags({"task": "classify", "model": best}))
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    values = readable[gold.index(row)]
    assert answer["labels"] == values["labels"]
    assert answer["probabilities"] == pytest.approx(values["probabilities"], abs=1e-4)


def test_a_model_for_one_label_is_refused(decide, refusal, toy_folder, tmp_path):
    decide(multi_label="false", max_steps=1, train_set=toy_folder / "train.tsv", do_val="false", dev_set=None)
    line = refusal(decide, out="again", init_checkpoint=tmp_path / "out/step_1")
    assert "--multi_label false" in line


def test_what_is_refused(decide, refusal, tmp_path):
    toys.write_labelled_texts(
        tmp_path / "bad.tsv",
        [toys.LabelledTexts("1", "a", "b", "tool"), toys.LabelledTexts("2", "a", "b", "tool,toll")],
    )
    assert "bad.tsv, line 3: unknown label 'toll'" in refusal(decide, train_set=tmp_path / "bad.tsv")
    line = refusal(decide, is_regression="true", label_map_config=None, num_labels=None)
    assert "--multi_label true" in line


def test_a_table_with_a_column_for_each_label_has_one_for_all(tmp_path, folder):
    """Where a column is missing the label would count as absent from each row, and scores would be wrong."""
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    words = [row.text_a for row in labelled_rows(12, seed=3)]
    decisions = [f"{text},{number % 2},{number // 2 % 2}" for number, text in enumerate(words)]
    write_lines(part, ["text,a,b", *decisions])
    write_lines(whole, ["text,a,b,c", *(f"{line},1" for line in decisions)])
    tokenizer = Tokenizer(None, folder / "piece.model")

    # As a test of what another table has taught, in both commands.
    task = MultiLabelClassification(tokenizer, [], 16)
    task.read_training(whole)
    assert task.labels == ["a", "b", "c"]
    task.read(whole, "dev")
    assert error_of(task.read, part, "dev").startswith(f"{part}: ")
    task.read(part, "test")  # where labels are not read
    units = read_units([LabelledFile(whole, "train", "all")], TableOptions(), LABELS)
    assert units.names == ["a", "b", "c"]
    test = [LabelledFile(part, "test", "all")]
    assert error_of(read_units, test, TableOptions(), like=units).startswith(f"{part}: ")

    # Beside another table to learn from.
    both = [LabelledFile(path, "train", "all") for path in (whole, part)]
    assert error_of(read_units, both, TableOptions(), LABELS).startswith(f"{part}: ")
    task = MultiLabelClassification(tokenizer, [], 16)
    assert error_of(task.read_tables, [whole, part]).startswith(f"{part}: ")
