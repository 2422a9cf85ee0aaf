"""ernie-m fit and ernie-m label: a classifier from a table with its scores, and a table with labels."""

import csv
import gzip
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import predict
from ernie_m.finetune.fit.folds import folds_of
from ernie_m.finetune.fit.groups import groups_of
from ernie_m.finetune.fit.units import Classes
from ernie_m.inference import fit
from ernie_m.inference.fit_head import cross_validated
from ernie_m.inference.tasks.encode import EncodeTexts
from ernie_m.model.checkpoint import safetensors
from tests.launching import as_flags, call_main, clean_environment, error_of
from tests.toys import HIDDEN_SIZE, sentences

TEXTS = sentences(60, seed=6)
LABELS = ["news", "question", "3"] * 20
ROWS = [["id", "language", "label", "text"]] + [
    [str(number), ["en", "de"][number % 2], label, text]
    for number, (text, label) in enumerate(zip(TEXTS, LABELS))
]
ROWS[1][3] = f'{TEXTS[0]}, "{TEXTS[1]}"\n{TEXTS[2]}'  # quotes, a comma and a line break


def write(path, rows, mark=","):
    """Write a table as pandas and Excel do."""
    opened = gzip.open if path.suffix == ".gz" else open
    encoding = "utf-8-sig" if path.name == "excel.csv" else "utf-8"
    with opened(path, "wt", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=mark).writerows(rows)
    return path


def run_fit(table, models, output, **flags):
    call_main(fit, [str(table), *as_flags({"model": models / "encode", "output": output, **flags})])


@pytest.mark.parametrize(("name", "mark"), [("rows.csv", ","), ("rows.csv.gz", ","), ("excel.csv", ";")])
def test_a_table_goes_in_and_comes_out(models, tmp_path, capsys, refused, name, mark):
    """Scores by label and language; the classifier is that of `Model.fit`; all columns come out again."""
    table = write(tmp_path / name, ROWS, mark)
    run_fit(table, models, tmp_path / "classifier")
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert "accuracy" in printed and "macro F1" in printed and "least sure" in printed
    next_command = shlex.split(printed.splitlines()[-1].removeprefix("next: "))
    assert shutil.which(next_command[0])  # also in a checkout whose .venv is not on the PATH
    assert {
        line[0]: line[1] for line in lines if line[:1] in (["3"], ["news"], ["question"])
    } == dict.fromkeys(["3", "news", "question"], "20")
    assert [line[:2] for line in lines if line[:1] in (["de"], ["en"])] == [["de", "30"], ["en", "30"]]
    output = tmp_path / "labelled.csv"
    flags = {"task": "classification", "input": table, "model": tmp_path / "classifier", "output": output}
    call_main(predict, as_flags(flags))
    assert output.read_bytes().startswith(b"\xef\xbb\xbf") == (name == "excel.csv")
    with open(output, encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file, delimiter=mark)
    assert header[:6] == [*ROWS[0], "predicted_label", "predicted_probability"]
    assert [row[:3] for row in rows] == [row[:3] for row in ROWS[1:]]
    texts = [" ".join(row[3].split()) for row in ROWS[1:]]
    expected = ernie_m.load(models / "encode").fit(texts, LABELS).classify(texts)
    predicted = [answer["label"] for answer in expected]
    assert [row[4] for row in rows] == predicted
    counts, sure, accuracy = capsys.readouterr().err.splitlines()
    held_out = json.loads((tmp_path / "classifier/config.json").read_text())["held_out"]
    assert held_out["languages"] == ["de", "en"] and held_out["rows"] == 60
    if held_out["sure_from"] is None:
        assert sure.startswith("no probability is sure")
    else:
        unsure = sum(max(answer["probabilities"].values()) < held_out["sure_from"] for answer in expected)
        assert sure.startswith(f"{unsure} of 60 rows ")
    assert counts.startswith("60 rows: ")
    for label in set(LABELS):
        assert f"{label} {predicted.count(label)}" in counts
    right = sum(label == other for label, other in zip(predicted, LABELS))
    assert accuracy == f"accuracy {100 * right / 60:.1f} %: {right} of 60 rows with a label in 'label'"
    written = output.read_bytes()
    assert f"--output {output}: " in refused(lambda: call_main(predict, as_flags(flags)))
    assert output.read_bytes() == written


def classes(texts, labels) -> Classes:
    rows = Classes.of(texts, labels)
    rows.make_task(tokenizer=None, max_seq_len=8)
    return rows


def test_a_row_is_scored_by_a_classifier_of_other_texts():
    """Vectors that only name their text teach nothing about another one, and equal texts share a fold."""
    texts = [[f"text {number // 2}"] for number in range(40)]  # each text is there twice
    labels = ["a", "a", "b", "b"] * 10
    groups = groups_of(texts, labels, np.zeros((40, 1)))
    folds = folds_of(groups, labels)
    assert (folds[::2] == folds[1::2]).all() and set(folds) == {0, 1, 2, 3, 4}
    vectors = np.repeat(np.eye(20), 2, axis=0)  # a vector for each text
    scored = cross_validated(vectors, groups, classes(texts, labels))
    correct = np.array([a == b for a, b in zip(scored.labels, scored.predicted)])
    assert correct.mean() <= 0.5  # 1, if the other row of the text were learned from
    assert (scored.probabilities < 0.6).all()


def test_what_can_be_learned_is_scored_so():
    random = np.random.default_rng(1)
    labels = ["a", "b", "c"] * 30
    vectors = np.eye(3)[np.arange(90) % 3] * 4 + random.normal(size=(90, 3)) * 0.3
    texts = [[f"text {number}"] for number in range(90)]
    scored = cross_validated(vectors, np.arange(90), classes(texts, labels))
    assert scored.predicted == labels


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ([["text", "label"], *([f"t {n}", "x"] for n in range(4))], "rows.csv: all 4 rows"),
        ([["text", "label"], *([f"t {n}", "xy"[n > 2]] for n in range(4))], "rows.csv, line 5: "),
        (
            [["text", "label"], *([f"t {n}", str(n // 2)] for n in range(3000))],
            "rows.csv: the labels are 1,500 ",
        ),
        (
            [["a", "b", "c"], *([f"t {n}", "xy"[n % 2], "uv"[n % 2]] for n in range(8))],
            "which column is the text? which column is the label?",
        ),
        (
            [["text", "label"], *([f"t {n}", str(n)] for n in range(10_000))],
            "rows.csv: the labels are 10,000 ",
        ),
        (
            [["text_a", "text_b", "label"], *([f"t {n}", "u", str(n % 2)] for n in range(8))],
            "rows.csv: the labels are 2 ",
        ),
    ],
)
def test_what_is_refused(models, tmp_path, refused, rows, place):
    table = write(tmp_path / "rows.csv", rows)
    for more in ({}, {"finetune": "true"}):
        assert place in refused(lambda more=more: run_fit(table, models, tmp_path / "new", **more))
    assert not list(tmp_path.glob("new*"))


def test_translations_are_scored_together(models, tmp_path, capsys, monkeypatch):
    """Labels drawn for each sentence cannot be learned from others: about half of the answers are right."""
    random = np.random.default_rng(1)
    drawn = random.choice(["yes", "no"], 24)
    of_sentences = random.normal(size=(24, HIDDEN_SIZE)) * 5
    of_languages = {language: random.normal(size=HIDDEN_SIZE) * 5 for language in ("en", "de")}
    table = [["text", "language", "label"]]
    vectors = {}
    for language, vector in of_languages.items():
        for number, text in enumerate(TEXTS[:24]):
            table.append([f"{language} {text}", language, drawn[number]])
            vectors[f"{language} {text}"] = of_sentences[number] + vector
    as_chosen = lambda self, texts: np.array([vectors[text] for text in texts], np.float32)  # noqa: E731
    monkeypatch.setattr(EncodeTexts, "vectors", as_chosen)
    run_fit(write(tmp_path / "rows.csv", table), models, tmp_path / "classifier")
    printed = capsys.readouterr().out
    assert "48 of 48 rows are scored together with others" in printed
    accuracy = float(printed.partition("accuracy ")[2].split()[0])
    assert 25 < accuracy < 75  # within two and a half standard errors of 24 sentences


def test_ctrl_c_in_a_training_is_the_exit_code(models, tmp_path, monkeypatch):
    """As shells expect, so that a script does not go on with a classifier that is not there."""
    monkeypatch.setattr(fit, "fine_tune", lambda *given: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as ended:
        run_fit(write(tmp_path / "rows.csv", ROWS), models, tmp_path / "out", finetune="true")
    assert ended.value.code == 130


def test_after_sigterm_no_model_is_named(models, tmp_path, monkeypatch, capsys):
    """As a scheduler sends it: the state is saved, and the command ends without an error."""
    monkeypatch.setattr(fit, "fine_tune", lambda *given: os.kill(os.getpid(), signal.SIGTERM))
    run_fit(write(tmp_path / "rows.csv", ROWS), models, tmp_path / "out", finetune="true")
    printed = capsys.readouterr().out
    assert "60 rows" in printed and str(tmp_path / "out") not in printed


def test_a_head_that_an_earlier_version_wrote_without_its_encoder(models, tmp_path):
    head = shutil.copytree(models / "classify", tmp_path / "head")
    (head / "manifest.json").unlink()
    safetensors.write(head / "model.safetensors", {"classifier.bias": np.zeros(3, np.float32)})
    config = json.loads((head / "config.json").read_text())
    (head / "config.json").write_text(json.dumps(config | {"linked_encoder": {"path": "../encoder"}}))
    line = error_of(ernie_m.load, head)
    assert f"{head / 'config.json'}: linked_encoder: " in line and "fit it again" in line


def test_an_output_that_exists(models, tmp_path, refused):
    table = write(tmp_path / "rows.csv", ROWS)
    assert f"--output {tmp_path}" in refused(lambda: run_fit(table, models, tmp_path))


def test_the_command_of_a_checkout(tmp_path):
    """It starts from any folder."""
    command = [sys.executable, "-m", "ernie_m"]
    run = lambda *words: subprocess.run(  # noqa: E731
        [*command, *words], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
    )
    usage = run("--help")
    assert usage.returncode == 0 and "  fit " in usage.stdout
    for word, instead in (("fitt", "did you mean fit?"), ("frobnicate", "fit, train, predict")):
        process = run(word)
        assert process.returncode == 2 and process.stderr.startswith(f"error: '{word}' ")
        assert instead in process.stderr
    (tmp_path / "my.csv").write_text("text\na\n")
    process = run("predict", "--input", "my.csv", "--model", "none", "--output", "my.csv")
    assert process.returncode == 2 and process.stderr.startswith("error: --output my.csv: ")
