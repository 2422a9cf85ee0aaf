"""A whole model fitted to rows: honest scores, the same bits after an interruption, other commands."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import convert, fit, predict, run_classifier
from ernie_m.finetune import hyperparameters
from ernie_m.fit import whole_model as finetune_model
from ernie_m.model.tasks import CLASSIFICATION
from ernie_m.training.stop_requests import ShutdownHandler
from tests import toys
from tests.helpers.checkpoints import assert_same_weights
from tests.launching import as_flags, call_main, error_of

ROWS = toys.labeled_texts(30, seed=4)
TEXTS = [row.text_a for row in ROWS]
LABELS = [row.label for row in ROWS]


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch):
    monkeypatch.setattr(hyperparameters, "_AMOUNTS", toys.SHORT_AMOUNTS)


@pytest.fixture
def trained(monkeypatch):
    """What was trained on and predicted, in order: ("trained" or "predicted", the texts, the epochs)."""
    seen = []
    trainer, predict_files = finetune_model.Trainer, finetune_model.predict_files

    def make(fine_tuning, *rest):
        seen.append(("trained", {row.text_a for row in fine_tuning.train_set}, fine_tuning.flags.epoch))
        return trainer(fine_tuning, *rest)

    def predicting(task, engine, files, *rest, **options):
        seen.append(("predicted", {row.text_a for row in files[0].data}, None))
        return predict_files(task, engine, files, *rest, **options)

    monkeypatch.setattr(finetune_model, "Trainer", make)
    monkeypatch.setattr(finetune_model, "predict_files", predicting)
    return seen


def test_no_row_is_answered_by_a_model_that_was_trained_on_it(random_encoder, tmp_path, trained, monkeypatch):
    """Both trainings have the same epochs: 75 examples are 2 of all 30 rows, but 3 of 24."""
    monkeypatch.setattr(
        hyperparameters,
        "_AMOUNTS",
        {CLASSIFICATION: hyperparameters._TrainingAmount(times=1, least=75, most=75)},
    )
    groups = [number // 2 for number in range(30)]
    model = ernie_m.load(random_encoder).fit(TEXTS, LABELS, tmp_path / "out", groups=groups, finetune=True)
    (kinds, texts, epochs) = zip(*trained)
    assert kinds == ("trained", "predicted", "trained") and texts[2] == {*TEXTS}
    assert not texts[0] & texts[1] and texts[0] | texts[1] == texts[2]
    for one, other in zip(TEXTS[::2], TEXTS[1::2]):
        assert (one in texts[1]) == (other in texts[1])
    assert (epochs, model.scores["rows"]) == ((2, None, 2), len(texts[1]))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_training_begins_with_a_new_head(random_encoder, tmp_path, caplog, info_log, cpu_with_bf16):
    """That of the start may have learned from the rows that are held out. The model computes as the start."""
    first = ernie_m.load(random_encoder, amp="bf16").fit(TEXTS, LABELS, tmp_path / "first", finetune=True)
    assert first.loaded.amp == "bf16"
    first.fit(TEXTS, LABELS, tmp_path / "second", finetune=True)
    assert "its classifier is" not in caplog.text


class StopIn(ShutdownHandler):
    """A stop request that comes in the training that has this folder."""

    def __init__(self, folder: Path):
        super().__init__(is_active=False)
        self.folder = folder
        self.looks = 0

    def __bool__(self) -> bool:
        self.looks += self.folder.is_dir()
        return self.looks > 1


def test_an_interrupted_training_ends_with_the_same_bits(random_encoder, tmp_path, monkeypatch):
    """Asked to stop in the first training, then in the second; the third call completes it."""
    table = tmp_path / "rows.csv"
    toys.write_lines(table, ["text,label", *map(",".join, zip(TEXTS, LABELS))])

    def run(output, stop_in="nowhere"):
        folder = tmp_path / f"{output}.training" / stop_in
        monkeypatch.setattr(fit, "ShutdownHandler", lambda **_: StopIn(folder))
        flags = {"model": random_encoder, "output": tmp_path / output}
        call_main(fit, [str(table), "--finetune", *as_flags(flags)])

    run("straight")
    for stop_in in ("scores", "all"):
        run("out", stop_in)
        assert not (tmp_path / "out").exists() and (tmp_path / "out.training" / stop_in).is_dir()
    table.write_text(table.read_text().replace("tool", "drink", 1))
    assert str(tmp_path / "out.training") in error_of(run, "out")
    toys.write_lines(table, ["text,label", *map(",".join, zip(TEXTS, LABELS))])
    run("out")
    assert_same_weights(tmp_path / "out", tmp_path / "straight")


def test_the_command_and_the_next_ones(random_encoder, in_tmp_path, capsys):
    """fit --finetune, predict and run_classifier.py agree on a table of pairs; others read the model."""
    rows = [("text_a", "text_b", "label"), *((row.text_a, row.text_b, row.label) for row in ROWS)]
    with open("rows.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    Path("rows.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    flags = {"model": random_encoder, "output": "out", "test": "rows.csv"}
    call_main(fit, ["rows.csv", "--finetune", *as_flags(flags)])
    printed = capsys.readouterr().out
    flags = {"input": "rows.csv", "model": "out", "output": "new.csv"}
    call_main(predict, as_flags(flags))
    with open("new.csv", newline="", encoding="utf-8") as file:
        correct = [row["label"] == row["predicted_label"] for row in csv.DictReader(file)]
    accuracy = 100 * np.mean(correct)
    assert f"rows.csv (30 rows)  {accuracy:.1f} ± " in printed
    assert evaluated("out", "rows.tsv") == pytest.approx(accuracy)
    for target in ("xlm-roberta", "huggingface", "paddlenlp", "fluid"):
        call_main(convert, ["out", target, "--to", target])
    pair = (ROWS[0].text_a, ROWS[0].text_b)
    assert ernie_m.load("xlm-roberta").classify(pair) == ernie_m.load("out").classify(pair)


def evaluated(model: str, table: str) -> float:
    """The accuracy that run_classifier.py gives a model."""
    flags = {"do_train": "false", "do_test": "false", "init_checkpoint": model, "dev_set": table}
    call_main(run_classifier, as_flags({**flags, "checkpoints": "evaluation"}))
    return json.loads(Path("evaluation/evaluation.json").read_text())["tables"][0]["mean"]["avg"]


def test_fit_regression_on_pairs(random_encoder, tmp_path):
    """Decimals are numbers; the model reranks, also when it is loaded again."""
    pairs = [(row.text_a, row.text_b) for row in ROWS]
    tuned = ernie_m.load(random_encoder).fit(pairs, [len(label) / 2 for label in LABELS], tmp_path / "tuned")
    assert {"pearson", "spearman", "standard_error", "rows"} == {*tuned.scores}
    again = ernie_m.load(tmp_path / "tuned")
    assert again.rank("a", ["b", "c"]) == tuned.rank("a", ["b", "c"]) and again.scores is None
