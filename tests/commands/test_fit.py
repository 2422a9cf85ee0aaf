"""ernie-m fit and ernie-m predict: a classifier from a table with its scores, and a table with labels."""

import csv
import gzip
import json
import os
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import fit, predict, run_mrc, run_sequence_labeling
from ernie_m.finetune import hyperparameters, mrc
from ernie_m.fit import fit_model, tags_and_answers
from ernie_m.fit.tags_and_answers import write_official_tags
from ernie_m.inference.tasks.encode import EmbeddingPredictor
from ernie_m.model.checkpoint import safetensors
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.reader.files.find_files import NamedFile
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.labels import read_label_map, write_indices
from ernie_m.reader.tag_schemes import JOINT
from tests import toys
from tests.helpers.checkpoints import save_model
from tests.launching import as_flags, call_main, check_error, error_of
from tests.toys import HIDDEN_SIZE, sentences, write_lines

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


@pytest.mark.parametrize(("name", "mark"), [("rows.csv.gz", ","), ("excel.csv", ";")])
def test_a_table_goes_in_and_comes_out(models, tmp_path, capsys, refused, name, mark):
    """Scores by label and language; the classifier is that of `Model.fit`; all columns come out again.

    Of --test each file is scored.
    """
    table = write(tmp_path / name, ROWS, mark)
    fewer = [row for row in ROWS[1:] if row[2] != "3"]  # labels
    second = write(tmp_path / "second.csv", [ROWS[0], *fewer, ["7", "en", "other", "a label of no row"]])
    run_fit(table, models, tmp_path / "classifier", test=f"{table},{second}", on_error="skip")
    printed = capsys.readouterr().out
    next_command = shlex.split(printed.splitlines()[-1].rpartition("Next: ")[2])
    assert shutil.which(next_command[0])  # also in a checkout whose .venv is not on the PATH
    texts = [" ".join(row[3].split()) for row in ROWS[1:]]
    expected = ernie_m.load(models / "encode").fit(texts, LABELS, languages=[row[1] for row in ROWS[1:]])
    lines = [line.split() for line in printed.splitlines() if line]
    of_table = [line[3] for line in lines if line[1:3] == ["(60", "rows)"]]  # cross-validation, and the test
    assert of_table[0] == f"{expected.scores['accuracy']:.1f}" and "5-fold cross-validation" in printed
    assert {"3", "news", "question", "de", "en"} <= {line[0] for line in lines}
    output = tmp_path / "labeled.csv"
    flags = {"task": "classification", "input": table, "model": tmp_path / "classifier", "output": output}
    call_main(predict, as_flags(flags | {"target_accuracy": 0.01}))
    assert output.read_bytes().startswith(b"\xef\xbb\xbf") == (name == "excel.csv")
    with open(output, encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file, delimiter=mark)
    assert header[:6] == [*ROWS[0], "predicted_label", "predicted_probability"]
    predicted = [answer["label"] for answer in expected.classify(texts)]
    assert [[*row[:3], row[4]] for row in rows] == [
        [*row[:3], label] for row, label in zip(ROWS[1:], predicted)
    ]
    right = sum(label == other for label, other in zip(predicted, LABELS))
    accuracy = f"{100 * right / 60:.1f}"
    said = [
        f"accuracy {accuracy} %: {right} of 60 labeled rows ('label')",
        f"probability >= {min(float(row[5]) for row in rows)}: accuracy {accuracy} % on 60 rows",
    ]
    assert capsys.readouterr().err.splitlines()[1:] == said and of_table[1] == accuracy
    right_of_fewer = sum(label == other != "3" for label, other in zip(predicted, LABELS))
    assert f"{second} (40 rows)  {100 * right_of_fewer / 40:.1f} ± " in printed
    written = output.read_bytes()
    assert f"--output {output} already" in refused(lambda: call_main(predict, as_flags(flags)))
    assert output.read_bytes() == written


def test_a_folder_is_scored_on_its_dev_and_test_files(models, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    rows = {"train": 60, "dev": 20, "test": 10}
    for split, count in rows.items():
        write(tmp_path / "data" / f"{split}.de.csv", ROWS[: count + 1])
    run_fit(tmp_path / "data", models, tmp_path / "classifier")
    printed = capsys.readouterr().out
    assert all(f"{tmp_path}/data/{split}.de.csv ({rows[split]} rows)" in printed for split in ("dev", "test"))


def test_cross_validate_without_leakage(encoder, tmp_path, monkeypatch):
    """Embeddings that only name their text teach nothing about another one: no answer of a group is right."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(TEXTS[:20]))}
    as_chosen = lambda self, texts: 9 * np.eye(HIDDEN_SIZE, dtype="f")[[numbers[text] for text in texts]]  # noqa: E731
    monkeypatch.setattr(EmbeddingPredictor, "encode_texts", as_chosen)
    texts = [text for text in TEXTS[:20] for _ in range(2)]
    scores = encoder.fit(texts, ["a", "a", "b", "b"] * 10).scores
    assert scores["accuracy"] <= 50  # 100, if the other row of the text were trained on
    assert encoder.fit(TEXTS[:20], ["a", "b"] * 10, groups=[*range(10)] * 2).scores["accuracy"] <= 50


def test_scores_separable_labels_with_100(models, monkeypatch):
    random = np.random.default_rng(1)
    embeddings = np.eye(HIDDEN_SIZE)[np.arange(60) % 3] * 4 + random.normal(size=(60, HIDDEN_SIZE)) * 0.3
    monkeypatch.setattr(EmbeddingPredictor, "encode_texts", lambda self, texts: embeddings.astype("f"))
    assert ernie_m.load(models / "encode").fit(TEXTS, LABELS).scores["accuracy"] == 100


def test_translations_are_scored_together(models, tmp_path, capsys, monkeypatch):
    """Labels drawn for each sentence cannot be predicted from others: about half of the answers are right."""
    random = np.random.default_rng(1)
    drawn = random.choice(["yes", "no"], 24)
    of_sentences = random.normal(size=(24, HIDDEN_SIZE)) * 5
    of_languages = {language: random.normal(size=HIDDEN_SIZE) * 5 for language in ("en", "de")}
    rows = [
        (f"{language} {text}", language, number)
        for language in of_languages
        for number, text in enumerate(TEXTS[:24])
    ]
    table = [["text", "language", "label"], *([*row[:2], drawn[row[2]]] for row in rows)]
    embeddings = {text: of_sentences[number] + of_languages[language] for text, language, number in rows}
    as_chosen = lambda self, texts: np.array([embeddings[text] for text in texts], np.float32)  # noqa: E731
    monkeypatch.setattr(EmbeddingPredictor, "encode_texts", as_chosen)
    run_fit(write(tmp_path / "rows.csv", table), models, tmp_path / "classifier")
    accuracy = float(capsys.readouterr().out.partition("(48 rows)")[2].split()[0])
    assert 25 < accuracy < 75  # within two and a half standard errors of 24 sentences


@pytest.mark.parametrize(
    ("rows", "location"),
    [
        ([["text", "label"], *([f"t {n}", "x"] for n in range(4))], "rows.csv, line 2: all 4 rows"),
        ([["text", "label"], *([f"t {n}", "xy"[n > 2]] for n in range(4))], "rows.csv, line 5: "),
        ([["text", "label"], *(["t", "xy"[n > 2]] for n in range(4))], "rows.csv, line 2: all rows have"),
        ([["a", "b", "c"], *([f"t {n}", "xy"[n % 2], "uv"[n % 2]] for n in range(8))], "rows.csv, line 1: "),
        (
            [["text", "label"], *([f"t {n}", str(n)] for n in range(10_000))],
            "rows.csv, line 2: ambiguous label '0'",
        ),
        ([["text", "score"], *([f"t {n}", "0.5"] for n in range(8))], "rows.csv, line 2: all 8 rows"),
    ],
)
def test_reject_what_no_model_can_learn_and_write_nothing(models, tmp_path, refused, rows, location):
    table = write(tmp_path / "rows.csv", rows)
    for more in ({}, {"finetune": "true"}):
        assert location in refused(lambda more=more: run_fit(table, models, tmp_path / "new", **more))
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize(
    ("number", "code", "flags"),
    [
        (signal.SIGINT, 130, {"finetune": "true"}),
        (signal.SIGTERM, None, {"finetune": "true"}),
        (signal.SIGTERM, None, {"text": "text", "text_b": "id"}),  # pairs are fine-tuned
    ],
)
def test_a_training_that_is_asked_to_stop(models, tmp_path, monkeypatch, capsys, number, code, flags):
    """Ctrl-C is the exit code, as shells expect; after SIGTERM no model is named."""
    stops = []  # the last argument of each call
    monkeypatch.setattr(
        fit_model, "fit_model", lambda *given: stops.append(given[-1]) or os.kill(os.getpid(), number)
    )
    ended = 0
    try:
        run_fit(write(tmp_path / "rows.csv", ROWS), models, tmp_path / "out", **flags)
    except SystemExit as error:
        ended = error.code
    printed = capsys.readouterr().out
    assert (
        ended == (code or 0)
        and stops[0].received == number
        and "60 rows" in printed
        and str(tmp_path / "out") not in printed
    )


@pytest.fixture
def words(models, tmp_path, in_tmp_path, monkeypatch):
    """Words with tags, as CoNLL and in the official format, and questions; trainings are short."""
    monkeypatch.setattr(hyperparameters, "_AMOUNTS", toys.SHORT_AMOUNTS)
    for name, seed in (("train", 1), ("test", 2)):
        texts = sentences(20, seed)
        tagged = [[(word, ["O", "B-LOC"][len(word) % 2]) for word in text.split()] for text in texts]
        write_lines(
            tmp_path / f"{name}.conll", [line for row in tagged for line in (*map(" ".join, row), "")]
        )
        official = ["\t".join(JOINT.join(column) for column in zip(*row)) for row in tagged]
        write_lines(tmp_path / f"{name}.tsv", ["text_a\tlabel", *official])
        paragraphs = [
            {"context": text, "qas": [{"id": f"{name}{number}", "question": "which", "answers": [answer]}]}
            for number, text in enumerate(sentences(12, seed))
            for answer in [{"text": text.split()[0], "answer_start": 0}]
        ]
        Path(f"{name}.de.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    write_indices("labels.json", ["B-LOC", "I-LOC", "O"])
    config = replace(
        ErnieMConfig.from_json(models / "encode/config.json"),
        max_position_embeddings=202,  # two are never used
    )
    save_model(Path("initial"), ErnieMModel(config), config, piece_model_path=models / "piece.model")
    return {"model": "initial", "output": "out"}


@pytest.mark.parametrize(
    ("command", "ending", "official"),
    [(run_sequence_labeling, "conll", "tsv"), (run_mrc, "de.json", "de.json")],
)
def test_fit_tags_and_answers_as_their_commands_do(words, capsys, command, ending, official):
    """The same weights and scores; the model is the output."""
    call_main(fit, [f"train.{ending}", "--test", f"test.{ending}", *as_flags(words)])
    assert not Path("out.training").exists() and not Path("out/training_state").exists()
    assert "Next: " in capsys.readouterr().out
    flags = {
        "train_set": f"train.{official}",
        "dev_set": f"test.{official}",
        "do_test": "false",
        "init_pretraining_params": words["model"],
        "auto_hyperparameters": "true",
        "official_compat": "false",
        "checkpoints": "run",
        "select_on": "last",
        "max_seq_len": 200,
    }
    flags |= {"label_map_config": "labels.json", "num_labels": 3} if official == "tsv" else {}
    call_main(command, as_flags(flags))
    one, other = (safetensors.read(f"{folder}/model.safetensors") for folder in ("out", "run/best"))
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("is_of_entities", "labels"), [(True, ["B-PER", "I-PER", "O"]), (False, ["B-PER", "O"])]
)
def test_tags_that_were_not_learned(tmp_path, is_of_entities, labels):
    """Of a test, by its line; as parts of speech, tags are what they are."""
    paths = [write_lines(tmp_path / f"{tag}.conll", ["a O", "", f"b {tag}"]) for tag in ("B-PER", "B-LOC")]
    files = [NamedFile(Path(path), "train", "en") for path in paths]
    given = LabelOptions(), tmp_path / "new"
    check_error(
        error_of(write_official_tags, files, *given, is_of_entities), "B-LOC", start=f"{paths[1]}, line 3: "
    )
    _, flags = write_official_tags(files[:1], *given, is_of_entities)
    assert [*read_label_map(flags["label_map_config"])] == labels


def test_flags_of_tags_and_the_advice_without_a_test(words, monkeypatch, capsys):
    trained = mock.Mock(return_value=True)
    monkeypatch.setattr(tags_and_answers, "fit_tags_or_answers", trained)
    call_main(fit, ["train.conll", "--amp", "bf16", *as_flags(words)])
    (kind, training, tests, _, output), options = trained.call_args
    assert (kind, training.path, tests, output) == (
        "token-classification",
        Path("train.conll"),
        [],
        Path("out"),
    )
    assert options == {"init_pretraining_params": words["model"], "amp": "bf16"}
    assert "\nno scores: pass --test FILE\n" in f"\n{capsys.readouterr().out}"
    call_main(fit, ["train.conll", "--task", "parts-of-speech", *as_flags({**words, "output": "other"})])
    assert trained.call_args.args[0] == "parts-of-speech"


def test_score_answers_by_language_rules(words, monkeypatch):
    names = []
    monkeypatch.setattr(
        mrc,
        "score_answers",
        lambda rows, name, rules: names.append(name) or {"f1": 1, "em": 0},
    )
    call_main(fit, ["train.de.json", "--test", "test.de.json", *as_flags(words)])
    assert {*names} == {"test.de.json"}
