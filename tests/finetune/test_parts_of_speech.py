"""run_sequence_labeling.py --chunk_scheme NONE: tags without B- and I-."""

import io
import json
import re
import sys
from types import SimpleNamespace

import pytest

import predict
import run_sequence_labeling
from finetune.metrics import seqeval_scores
from tests.finetune import tagging_toy
from tests.launching import as_flags, call_main

NAMES = {"B-PER": "PROPN", "I-PER": "SYM", "B-LOC": "NOUN", "I-LOC": "X", "O": "SCONJ"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The toy's words, with parts of speech for its tags."""
    folder = tagging_toy.make(tmp_path_factory.mktemp("toy"))
    for path in [*folder.glob("*.tsv"), folder / "label_map.json"]:
        text = path.read_text(encoding="utf-8")
        for tag, name in NAMES.items():
            text = re.sub(rf'(?<=[\t\x02"]){tag}(?=[\n\x02"])', name, text)
        path.write_text(text, encoding="utf-8")
    return folder


def columns(path) -> list[list[str]]:
    """Sentences of the predicted file, each its gold and predicted tags."""
    sentences = path.read_text(encoding="utf-8").strip().split("\n\n")
    return [list(zip(*(line.split()[1:] for line in sentence.split("\n")))) for sentence in sentences]


def test_train_score_and_predict(folder, tmp_path):
    """XTREME's F1 and accuracy of the report are those of the predictions."""
    shared = {
        "chunk_scheme": "NONE",
        "do_test": "true",
        "test_set": f"{folder}/dev.%s.tsv",
        "test_save": f"{tmp_path}/%s",
    }
    call_main(run_sequence_labeling, tagging_toy.flags(folder, tmp_path / "out", max_steps=12, **shared))
    report = json.loads((tmp_path / "out/results.json").read_text())
    titles = [table["title"].split(",")[0] for table in report["tables"]]
    assert (report["metric"], titles) == ("f1", ["f1", "acc"])
    f1, accuracy = (table["seeds"]["1"] for table in report["tables"])
    for language in tagging_toy.LANGUAGES:
        (path,) = tmp_path.glob(f"{language}.*")
        gold, predicted = zip(*columns(path))
        assert f1[language] == seqeval_scores(gold, predicted).f1
        pairs = [pair for rows in zip(gold, predicted) for pair in zip(*rows)]
        assert accuracy[language] == pytest.approx(100 * sum(a == b for a, b in pairs) / len(pairs))
        assert {tag for tag, _ in pairs} <= set(NAMES.values())

    # The selected step, scored by a command of its own, as for the languages that have only a test file.
    flags = {"do_train": "false", "do_test": "false", "init_checkpoint": tmp_path / "out/best"}
    flags |= {"chunk_scheme": "NONE", "train_set": None}
    call_main(run_sequence_labeling, tagging_toy.flags(folder, tmp_path / "again", **flags))
    again = json.loads((tmp_path / "again/evaluation.json").read_text())
    assert again["tables"][0]["mean"] == pytest.approx(report["tables"][0]["mean"])


def test_predictions_have_tags_and_no_entities(folder, tmp_path, monkeypatch, capsys):
    flags = tagging_toy.flags(folder, tmp_path / "out", max_steps=2, chunk_scheme="NONE")
    call_main(run_sequence_labeling, flags)
    capsys.readouterr()
    request = json.dumps({"text": "anna walks now"}).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(request)))
    call_main(predict, as_flags({"task": "tag", "model": tmp_path / "out/best"}))
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["tags"]) <= set(NAMES.values()) and answer["entities"] == []


def test_such_tags_need_the_scheme(folder, tmp_path, refusal):
    line = refusal(lambda: call_main(run_sequence_labeling, tagging_toy.flags(folder, tmp_path / "out")))
    assert "label_map.json: the label 'PROPN': there must be B-<type> and I-<type> of each type" in line
    assert line.rstrip().endswith("for tags that mark no entities give --chunk_scheme NONE")
