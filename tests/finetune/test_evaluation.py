"""Predictions in the official form, evaluation without training, official checkpoints."""

import json

import numpy as np
import pytest

from finetune.metrics import accuracy
from model.checkpoint.formats.fluid import write_fluid
from model.checkpoint.read import open_checkpoint
from tests.finetune import toy
from tests.launching import ROOT, run_script


@pytest.fixture(scope="module")
def trained(toy_folder, tmp_path_factory):
    """A folder with `best/` of a model that knows the task, made once."""
    folder = tmp_path_factory.mktemp("trained")
    line = toy.flags(toy_folder, folder, **toy.LEARNS)
    completed = run_script([ROOT / "run_classifier.py", *line], folder)
    assert completed.returncode == 0, completed.stderr
    return folder


def predicted(path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_predictions_of_the_selected_step(classify, toy_folder, tmp_path):
    """Not the last one's: at a rate of 0 nothing changes, so the first of equal evaluations is selected."""
    results = classify(
        do_test="true",
        test_set=f"{toy_folder}/test.%s.tsv",
        test_save="predicted/test.%s.tsv",
        learning_rate=0,
        validation_steps=7,
    )
    assert results["selected"]["1"]["step"] == 7
    for language in toy.LANGUAGES:
        lines = predicted(tmp_path / "predicted" / f"test.{language}.tsv.0.7")
        assert [line[0] for line in lines] == [str(100 + i) for i in range(33)]  # qids, in the file's order
        for _, label, *probabilities in lines:
            values = [float(value) for value in probabilities]
            assert sum(values) == pytest.approx(1.0, abs=2e-6)
            assert int(label) == int(np.argmax(values))


def test_evaluate_and_predict_without_training(classify, trained, toy_folder, tmp_path):
    """From best/ alone: tokenizer, config and head are there. The report of the training stays."""
    before = (trained / "results.json").read_bytes()
    results = classify(
        out=trained,
        do_train="false",
        do_test="true",
        train_set=None,
        ernie_config_path=None,
        piece_model_path=None,
        init_checkpoint=trained / "best",
        dev_set=f"{toy_folder}/heldout.%s.tsv",
        test_set=f"{toy_folder}/heldout.%s.tsv",
        test_save="predicted.%s",
    )
    assert (trained / "results.json").read_bytes() == before
    assert results["tables"][0]["mean"]["avg"] >= 95
    for language in toy.LANGUAGES:
        rows = toy.rows(35, seed=40 + toy.LANGUAGES.index(language))
        labels = [toy.LABELS[row[3]] for row in rows]
        predictions = [int(line[1]) for line in predicted(tmp_path / f"predicted.{language}.0.0")]
        assert accuracy(predictions, labels) == results["tables"][0]["mean"][language]
        readable = (tmp_path / f"predicted.{language}.0.0.jsonl").read_text(encoding="utf-8")
        for line, row, prediction in zip(readable.splitlines(), rows, predictions, strict=True):
            answer = json.loads(line)
            assert answer["text_a"] == row[1] and toy.LABELS[answer["label"]] == prediction


def test_equal_names_and_labels_in_another_order(refused, trained, toy_folder, tmp_path):
    twice = {"do_test": "true", "test_set": f"{toy_folder}/test.%s.tsv,{toy_folder}/heldout.%s.tsv"}
    for names in ("a.%s,b", "a.%s,a.%s"):
        assert "several test files would get the same name" in refused(**twice, test_save=names)
    (path := tmp_path / "labels.json").write_text('{"tool": 0, "drink": 1, "animal": 2}')
    line = refused(do_train="false", init_checkpoint=trained / "best", label_map_config=path)
    best = f"{trained}/best"
    assert f"{path}: the labels are tool, drink, animal, but those of {best} are animal, drink, tool" in line


def test_the_papers_figures_stand_beside_the_last_pattern(classify, trained, toy_folder):
    """They are of test sets, which --dev_set names after the development sets."""
    results = classify(
        do_train="false",
        init_checkpoint=trained / "best",
        dev_set=f"{toy_folder}/dev.%s.tsv,{toy_folder}/heldout.%s.tsv",
        paper="xnli_cross_lingual_transfer",
    )
    dev, heldout = results["tables"]
    assert "paper" not in dev and "paper" in heldout


def test_batch_size_changes_no_score(classify, trained):
    options = {"do_train": "false", "init_checkpoint": trained / "best"}
    single = classify(out="a", predict_batch_size=1, **options)
    many = classify(out="b", predict_batch_size=64, **options)
    by_tokens = classify(out="c", predict_batch_size=90, in_tokens="true", batch_size=64, **options)
    assert single["tables"] == many["tables"] == by_tokens["tables"]


def test_an_official_fine_tuned_directory_is_weights_only(classify, trained, toy_folder, tmp_path):
    """Written as docs/checkpoints.md says."""
    checkpoint = open_checkpoint(trained / "best")
    write_fluid(tmp_path / "official", checkpoint.tensors, checkpoint.config.to_dict(), head="classification")
    (tmp_path / "official" / "params").rename(tmp_path / "step_9")
    options = {"do_train": "false", "dev_set": f"{toy_folder}/heldout.%s.tsv"}
    expected = classify(out="a", init_checkpoint=trained / "best", **options)
    official = classify(out="b", init_checkpoint=tmp_path / "step_9", **options)
    assert expected["tables"] == official["tables"]
    classify(out="c", init_checkpoint=tmp_path / "step_9", max_steps=2, do_val="false")
    assert "step: 2/2" in (tmp_path / "log" / "job.log.0").read_text()


def test_pretrained_weights_come_without_their_head(classify, trained, tmp_path):
    """A rate of 0: what is saved is what was loaded, but for the fresh head."""
    classify(init_pretraining_params=trained / "best", learning_rate=0, max_steps=1, do_val="false")
    before, after = (
        open_checkpoint(trained / "best").tensors,
        open_checkpoint(tmp_path / "out" / "step_1").tensors,
    )
    for name in before:
        same = np.array_equal(before[name], after[name])
        assert same == (not name.startswith("classifier.")), name
