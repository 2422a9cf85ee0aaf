"""A whole model fine-tuned on a table: honest scores, the same bits after an interruption, other commands."""

import csv
import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import convert, predict, run_classifier
from ernie_m.finetune import rates
from ernie_m.finetune.fit import whole_model
from ernie_m.finetune.fit.folds import folds_of
from ernie_m.finetune.fit.units import Classes
from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.inference import fit
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from ernie_m.training.stop_requests import StopSignal
from tests import toys
from tests.helpers.checkpoints import assert_same_weights
from tests.launching import as_flags, call_main, error_of

ROWS = toys.labelled_texts(30, seed=4)
INPUTS = [[row.text_a] for row in ROWS]
LABELS = [row.label for row in ROWS]


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch):
    monkeypatch.setattr(rates, "_AMOUNTS", toys.SHORT_AMOUNTS)


class AskedToStop(StopSignal):
    """A stop request that comes when it is looked for a second time."""

    def __init__(self):
        super().__init__(active=False)
        self.looks = 0

    def __bool__(self) -> bool:
        self.looks += 1
        return self.looks > 1


def train_and_score(inputs, labels, start, output, stop=None, **known):
    """The scores of a training on texts with labels; None: it was stopped."""
    units = Classes.of(inputs, labels, **known)
    trained = whole_model.train_and_score(units, start, output, stop=stop, amp="none")
    return None if trained is None else trained[0]


@pytest.fixture
def trained(monkeypatch):
    """What was trained on and predicted, in order: ("trained" or "predicted", the texts)."""
    seen = []
    trainer, predict_files = whole_model.Trainer, whole_model.predict_files

    def make(fine_tuning, *rest):
        seen.append(("trained", {row.text_a for row in fine_tuning.train_set}))
        return trainer(fine_tuning, *rest)

    def predicting(task, engine, files, *rest, **options):
        seen.append(("predicted", {row.text_a for row in files[0].data}))
        return predict_files(task, engine, files, *rest, **options)

    monkeypatch.setattr(whole_model, "Trainer", make)
    monkeypatch.setattr(whole_model, "predict_files", predicting)
    return seen


def test_no_row_is_predicted_by_a_model_that_was_trained_on_it(random_encoder, tmp_path, trained):
    scored = train_and_score(INPUTS, LABELS, random_encoder, tmp_path / "out")
    texts = {text for (text,) in INPUTS}
    for (of_training, used), (of_prediction, predicted) in zip(trained[:-1:2], trained[1::2], strict=True):
        assert (of_training, of_prediction) == ("trained", "predicted")
        assert not used & predicted and used | predicted == texts
    assert len(trained) == 11 and trained[-1] == ("trained", texts)
    assert scored.numbers.tolist() == list(range(30)) and scored.labels == LABELS
    assert not (tmp_path / "out.training").exists()


def test_a_training_begins_with_a_new_head(random_encoder, tmp_path, monkeypatch, caplog):
    """That of the start may have learned from the rows that a fold holds out."""
    monkeypatch.setattr(whole_model, "MANY_ROWS", 30)
    train_and_score(INPUTS, LABELS, random_encoder, tmp_path / "first")
    caplog.set_level(logging.INFO)
    train_and_score(INPUTS, LABELS, tmp_path / "first", tmp_path / "second", stop=AskedToStop())
    assert "training 1 of 2" in caplog.text and "its classifier is" not in caplog.text


def test_of_many_rows_a_fifth_is_held_out(random_encoder, tmp_path, trained, monkeypatch):
    monkeypatch.setattr(whole_model, "MANY_ROWS", 30)
    scored = train_and_score(INPUTS, LABELS, random_encoder, tmp_path / "out")
    held_out = np.flatnonzero(folds_of(np.arange(30), LABELS) == 0)
    assert scored.numbers.tolist() == held_out.tolist() and scored.folds == 1
    assert [kind for kind, _ in trained] == ["trained", "predicted", "trained"]


def test_all_trainings_have_the_same_epochs(random_encoder, tmp_path, monkeypatch):
    """75 examples would be 2 epochs of all 30 rows, but 3 of the 24 of a fold."""
    amount = rates._Amount(times=1, least=75, most=75)
    monkeypatch.setattr(rates, "_AMOUNTS", {CLASSIFICATION: amount})
    monkeypatch.setattr(whole_model, "MANY_ROWS", 30)
    epochs = []
    trainer = whole_model.Trainer
    monkeypatch.setattr(
        whole_model, "Trainer", lambda task, *rest: epochs.append(task.flags.epoch) or trainer(task, *rest)
    )
    train_and_score(INPUTS, LABELS, random_encoder, tmp_path / "out")
    assert epochs == [2, 2]


def test_a_remark_on_a_test_names_its_file(random_encoder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(whole_model, "MANY_ROWS", 30)
    units = Classes.of(INPUTS, LABELS)
    long_text = " ".join(text for (text,) in INPUTS * 20)
    test = Classes.of([[long_text]], LABELS[:1], names=units.names)
    tests = [("test.csv", test)]
    whole_model.train_and_score(units, random_encoder, tmp_path / "out", "mine.csv", "none", tests=tests)
    assert [line for line in caplog.messages if line.startswith("test.csv: 1 of 1 rows looked at")]


def test_a_group_is_in_one_fold_and_the_start_is_read_once(
    random_encoder, tmp_path, trained, monkeypatch, caplog
):
    """Stopped within the first training, the command keeps its groups, and refuses other languages or ids."""
    caplog.set_level(logging.INFO)
    inputs = [[f"{language} {text}"] for language in ("en", "fr") for (text,) in INPUTS]
    known = {"languages": ["en"] * 30 + ["fr"] * 30, "ids": ["x", "x"] + [""] * 58}
    calls = []
    numbers = np.tile(np.arange(30), 2)
    monkeypatch.setattr(whole_model, "groups_of", lambda *given: calls.append(given) or numbers)
    call = partial(train_and_score, inputs, LABELS * 2, random_encoder, tmp_path / "out")
    assert call(**known, stop=AskedToStop()) is None
    for changed in ({"languages": known["languages"][::-1]}, {"ids": [""] * 60}):
        assert str(tmp_path / "out.training") in error_of(call, **{**known, **changed})
    trained.clear()
    assert call(**known).groups.tolist() == numbers.tolist()
    sentences = [{text.split(" ", 1)[1] for text in texts} for _, texts in trained[:-1]]
    assert all(not used & predicted for used, predicted in zip(sentences[::2], sentences[1::2], strict=True))
    ((*given, vectors, languages, ids),) = calls
    assert given == [inputs, LABELS * 2] and {"languages": languages, "ids": ids} == known
    model = ernie_m.load(random_encoder)
    expected = model.encode([text for (text,) in inputs], pooling="specials", normalize=False, prompt="")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    (time_of_pass,) = [line for line in caplog.messages if line.startswith("vectors of 60 rows")]
    assert time_of_pass.endswith(" s")


def test_an_interrupted_training_ends_with_the_same_bits(random_encoder, tmp_path, monkeypatch):
    """Asked to stop in the first training, then in the second; the third call completes it."""
    monkeypatch.setattr(whole_model, "MANY_ROWS", 30)
    straight = train_and_score(INPUTS, LABELS, random_encoder, tmp_path / "straight")
    for _ in range(2):
        stop = AskedToStop()
        assert train_and_score(INPUTS, LABELS, random_encoder, tmp_path / "out", stop=stop) is None
        assert not (tmp_path / "out").exists()
    other = ["tool", *LABELS[1:]] if LABELS[0] != "tool" else ["drink", *LABELS[1:]]
    assert str(tmp_path / "out.training") in error_of(
        train_and_score, INPUTS, other, random_encoder, tmp_path / "out"
    )
    resumed = train_and_score(INPUTS, LABELS, random_encoder, tmp_path / "out")
    assert_same_weights(tmp_path / "out", tmp_path / "straight")
    np.testing.assert_array_equal(resumed.probabilities, straight.probabilities)


def test_the_command_and_the_next_ones(random_encoder, tmp_path, capsys, monkeypatch):
    """fit --finetune, label and run_classifier.py agree on a table of pairs."""
    monkeypatch.setattr(whole_model, "MANY_ROWS", 30)
    monkeypatch.chdir(tmp_path)
    rows = [["text_a", "text_b", "label", "lang"]]
    rows += [
        [row.text_a, row.text_b, row.label, "en" if number % 2 else "de"] for number, row in enumerate(ROWS)
    ]
    with open("rows.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    flags = {"model": random_encoder, "output": "out"}
    call_main(fit, ["rows.csv", "--finetune", *as_flags(flags)])
    printed = capsys.readouterr().out
    lines = [line.split()[:1] for line in printed.splitlines()]
    assert "that a model of the others predicted" in printed and "least sure" in printed
    assert all([name] in lines for name in ("animal", "drink", "tool", "de", "en"))
    call_main(
        predict,
        as_flags({"input": "rows.csv", "model": "out", "output": "new.csv"}),
    )
    with open("new.csv", newline="", encoding="utf-8") as file:
        labelled = list(csv.DictReader(file))
    correct = [row["label"] == row["predicted_label"] for row in labelled]
    assert evaluated("out", "rows.csv") == pytest.approx(100 * np.mean(correct))
    for target in ("xlm-roberta", "huggingface", "paddlenlp", "fluid"):
        call_main(convert, ["out", target, "--to", target])
    pair = (ROWS[0].text_a, ROWS[0].text_b)
    assert ernie_m.load("xlm-roberta").classify(pair) == ernie_m.load("out").classify(pair)


def evaluated(model: str, table: str) -> float:
    """The accuracy that run_classifier.py gives a model."""
    flags = {"do_train": "false", "do_test": "false", "init_checkpoint": model, "dev_set": table}
    call_main(run_classifier, as_flags({**flags, "checkpoints": "evaluation"}))
    (table_of_scores,) = json.loads(Path("evaluation/evaluation.json").read_text())["tables"]
    return table_of_scores["mean"]["avg"]


def test_a_classifier_on_vectors_is_evaluated_and_trained_on(random_encoder, classify, tmp_path):
    """run_classifier.py gives a model of `fit` its accuracy, and trains its head further."""
    classifier = ernie_m.load(random_encoder).fit(*zip(*((row.text_a, row.label) for row in ROWS)), "kinds")
    assert 0 <= classifier.scores["accuracy"] <= 100 and classifier.scores["folds"] == 5
    assert set(classifier.scores["by_label"]) == set(toys.NOUNS)
    toys.write_labelled_texts(tmp_path / "rows.tsv", [row._replace(text_b="") for row in ROWS])
    table = "\n".join(f"{row.text_a}\t{row.label}" for row in ROWS)
    (tmp_path / "rows.tsv").write_text(f"text_a\tlabel\n{table}\n")
    answers = classifier.classify([row.text_a for row in ROWS])
    correct = [answer["label"] == row.label for answer, row in zip(answers, ROWS)]
    assert evaluated("kinds", "rows.tsv") == pytest.approx(100 * np.mean(correct))
    classify(
        out="further",
        init_checkpoint="kinds",
        train_set="rows.tsv",
        dev_set="rows.tsv",
        **dict.fromkeys(
            ("ernie_config_path", "piece_model_path", "label_map_config", "lang_map_config", "num_labels")
        ),
    )
    settings = json.loads((tmp_path / "further/best/config.json").read_text())
    assert settings["reading"]["pooling"] == "specials"
    assert ernie_m.load("further/best").classify("the cat")[0]["label"] in toys.NOUNS


def test_from_python(random_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(whole_model, "MANY_ROWS", 30)
    model = ernie_m.load(random_encoder)
    pairs = [(row.text_a, row.text_b) for row in ROWS]
    tuned = model.finetune(pairs, LABELS, tmp_path / "tuned")
    assert tuned.labels == sorted(toys.NOUNS) and tuned.scores["rows"] < 30 and tuned.scores["folds"] == 1
    again = ernie_m.load(tmp_path / "tuned")
    assert again.classify(pairs[:3]) == tuned.classify(pairs[:3]) and again.scores is None
    assert not list(tmp_path.glob("*.training"))
    assert "none: " in error_of(train_and_score, INPUTS, LABELS, tmp_path / "none", tmp_path / "new")
    assert not list(tmp_path.glob("new*"))
    assert f"{tmp_path / 'tuned'}: " in error_of(model.finetune, pairs, LABELS, tmp_path / "tuned")
    assert "no texts" in error_of(model.finetune, [], [], tmp_path / "new", task="question-answering")
    assert "index 1" in error_of(model.finetune, ["a", "b", "c"], ["x", "y", "x"], tmp_path / "new")
    options = {"languages": ["en"]}
    assert "30 texts have 1 lang" in error_of(model.finetune, pairs, LABELS, tmp_path / "new", **options)


@pytest.mark.parametrize(
    ("hidden_size", "rows", "task", "expected"),
    [
        (256, 64, CLASSIFICATION, (5e-4, 1.0, 20)),
        (384, 32, CLASSIFICATION, (1.5e-4, 0.9, 40)),
        (512, 2500, CLASSIFICATION, (1.5e-4, 0.9, 4)),
        (384, 39302, CLASSIFICATION, (1.5e-4, 0.9, 1)),
        (768, 5000, CLASSIFICATION, (5e-5, 0.8, 2)),
        (1024, 256, CLASSIFICATION, (5e-5, 0.8, 20)),
        (256, 1500, TOKEN_CLASSIFICATION, (5e-4, 1.0, 4)),
        (384, 1500, TOKEN_CLASSIFICATION, (4e-4, 0.9, 4)),
        (768, 64, TOKEN_CLASSIFICATION, (4e-4, 0.8, 20)),
        (384, 1000, QUESTION_ANSWERING, (3e-4, 0.9, 3)),
        (768, 90, QUESTION_ANSWERING, (3e-4, 0.8, 10)),
        (1024, 90_000, QUESTION_ANSWERING, (8e-5, 0.9, 2)),
    ],
)
def test_rates_from_the_size_of_a_start(monkeypatch, hidden_size, rows, task, expected):
    monkeypatch.undo()  # all epochs
    config = ErnieMConfig(10, hidden_size, num_hidden_layers=2, num_attention_heads=2)
    names = ("learning_rate", "layerwise_lr_decay", "epoch")
    flags = rates.with_rates(FinetuneFlags(), config, rows, task)
    assert tuple(getattr(flags, name) for name in names) == expected
    given = FinetuneFlags(epoch=7, on_command_line=("epoch",))
    flags = rates.with_rates(given, config, rows, task)
    assert tuple(getattr(flags, name) for name in names) == (*expected[:2], 7)


def test_rates_are_those_of_the_run(classify, tmp_path):
    """--rates_of_start true sets what is not given, and run.json records it."""
    classify(rates_of_start="true", learning_rate=None, epoch=None)
    identity = json.loads((tmp_path / "out/run.json").read_text())
    assert (identity["learning_rate"], identity["epoch"]) == (5e-4, 2)
    assert identity["layerwise_lr_decay"] == 1.0 and "rates_of_start" not in identity
