"""Predictions in the official format, evaluation without training, official checkpoints."""

import json
import re
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ernie_m.finetune import evaluate
from ernie_m.finetune.classifier import Classification
from ernie_m.finetune.evaluate import LanguageFile, get_output_paths
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.metrics import accuracy
from ernie_m.finetune.mrc import QuestionAnswering
from ernie_m.finetune.reuse_head import find_fine_tuned
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.reader.tokenization import Tokenizer
from tests import command_lines, toys
from tests.foreign import write_as_official
from tests.helpers.checkpoints import changed_copy, stored
from tests.launching import error_of, read_log


def read_cells(path) -> list[list[str]]:
    """The cells of each line of a file of predictions: possibly a qid, the label's id, the probabilities."""
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_predict_with_the_selected_step(classify, toy_folder, tmp_path, models_in_memory):
    """Not with the last step: at a learning rate of 0 all scores are equal, so the first one is selected.

    Each model is freed before the next one is made.
    """
    results = classify(
        do_test="true",
        test_set=f"{toy_folder}/test.%s.tsv",
        test_save="predicted/test.%s.tsv",
        learning_rate=0,
        validation_steps=7,
    )
    assert results["selected"]["1"]["step"] == 7 and models_in_memory == [0, 0]
    for language in toys.LANGUAGES:
        rows = read_cells(tmp_path / "predicted" / f"test.{language}.tsv.0.7")  # epoch 0, step 7
        # All 33 rows of a test file, in its order.
        assert [qid for qid, *_ in rows] == [str(100 + i) for i in range(33)]
        table = np.array(rows, float)[:, 1:]  # labels, and three probabilities that are rounded to 1e-6
        np.testing.assert_allclose(table[:, 1:].sum(1), 1, atol=2e-6)
        np.testing.assert_array_equal(table[:, 1:].argmax(1), table[:, 0])


def test_each_pattern_has_its_own_name():
    """The second pattern of --test_set has the second name of --test_save, also where the first is empty.

    Files of a phase that does not run are neither looked for nor compared.
    """
    flags = FinetuneFlags(
        init_checkpoint="best",
        do_train=False,
        train_set="data/xnli/train/train.en.tsv",
        do_val=False,
        test_set=",a.%s ,b.%s",
        test_save=",c.%s, d.%s",
    )
    flags.check()
    files = [LanguageFile(pattern, "en", Path(pattern), None) for pattern in ("a.%s", "b.%s")]
    assert [*get_output_paths(files, flags.test_set, flags.test_save)] == ["c.en", "d.en"]
    assert "--test_save x,c,c: " in error_of(get_output_paths, files, flags.test_set, "x,c,c")
    flags.test_save = "x.%s,,d.%s"
    assert f"--test_save {flags.test_save}: " in error_of(flags.check)
    replace(flags, do_val=True, dev_set="dev", do_test=False, test_save="x").check()


def test_evaluate_and_predict_without_training(classify, trained, toy_folder, tmp_path):
    """Tokenizer, config and head are all in best/. The report of the training is not touched."""
    before = (trained / "results.json").read_bytes()
    results = classify(
        **command_lines.FOLDER_ALONE,
        out=trained,
        do_test="true",
        init_checkpoint=trained / "best",
        auto_hyperparameters="true",
        dev_set=f"{toy_folder}/heldout.%s.tsv",
        test_set=f"{toy_folder}/heldout.%s.tsv",
        test_save="predicted.%s",
    )
    assert (trained / "results.json").read_bytes() == before
    assert results["tables"][0]["mean"]["avg"] >= 95 and "selected" not in results
    assert [*results["tables"][0]["seeds"]] == ["1"]
    selected = json.loads((trained / "selected.json").read_text())
    assert f"epoch: {selected['epoch']}, steps: {selected['step']}\n" in read_log(tmp_path)
    # Without a label map the labels are those of the checkpoint.
    alone = {
        **command_lines.FOLDER_ALONE,
        "do_val": "false",
        "init_checkpoint": trained / "best",
        "label_map_config": None,
        "num_labels": None,
    }
    tests = {"do_test": "true", "test_set": f"{toy_folder}/heldout.%s.tsv", "test_save": "alone.%s"}
    classify(out="alone", **alone, **tests)
    for i, language in enumerate(toys.LANGUAGES):
        # The rows are those of heldout.<language>.tsv.
        labels = [toys.KINDS[row.label] for row in toys.labeled_texts(35, seed=40 + i)]
        path = tmp_path / f"predicted.{language}.0.0"
        assert (tmp_path / f"alone.{language}.0.0").read_bytes() == path.read_bytes()
        predictions = [int(label) for _, label, *_ in read_cells(path)]
        assert accuracy(predictions, labels) == results["tables"][0]["mean"][language]


SINGLE = {"do_val": "false", "do_test": "true", "test_set": "single.tsv", "test_save": "answers"}


@pytest.mark.parametrize(
    ("flags", "location"),
    [
        ({"label_map_config": None, "num_labels": 2}, "--num_labels 2: "),
        ({"label_map_config": "labels.json"}, "labels.json: labels tool, drink, animal "),
        (
            {"label_map_config": None, "num_labels": None, "lang_map_config": None, **SINGLE},
            "single.tsv: ",  # after pairs
        ),
    ],
)
def test_reject_flags_that_contradict_the_checkpoint(refused, trained, tmp_path, flags, location):
    (tmp_path / "labels.json").write_text('{"tool": 0, "drink": 1, "animal": 2}')
    (tmp_path / "single.tsv").write_text("text_a\nthe cat\n")
    assert location in refused(do_train="false", init_checkpoint=trained / "best", **flags)


def test_checkpoint_trained_without_a_label_map_has_ids(trained):
    flags = FinetuneFlags(init_checkpoint=str(trained / "best"))
    tokenizer = Tokenizer(None, trained / "best" / "piece.model")
    trained_on_ids = replace(open_checkpoint(trained / "best"), labels=["0", "1", "2"])
    task = Classification.from_flags(flags, tokenizer, trained_on_ids)
    assert task.labels == ["0", "1", "2"] and not task.has_label_names


def test_map_unnamed_labels_by_position_with_a_warning(classify, trained, toy_folder, tmp_path):
    """As a model of transformers has LABEL_0, LABEL_1 and LABEL_2. Alone it gives their numbers."""
    best = changed_copy(trained / "best", tmp_path / "unnamed", labels=None)
    classify(out="out", init_checkpoint=best, **command_lines.FOLDER_ALONE)
    (line,) = [
        line for line in read_log(tmp_path).splitlines() if f"{toy_folder}/label_map.json assigns" in line
    ]
    assert f"{best}: " in line and "0: animal, 1: drink" in line


def test_batch_size_changes_no_score(classify, trained, tmp_path, monkeypatch):
    """And no mean loss, which is logged. On a clock that each batch of a process moves by a second."""
    options = {"do_train": "false", "init_checkpoint": trained / "best"}
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=count().__next__))
    single = classify(out="a", predict_batch_size=1, **options)
    many = classify(out="b", predict_batch_size=64, **options)  # of 31 rows: all at once
    by_tokens = classify(out="c", predict_batch_size=90, in_tokens="true", batch_size=64, **options)
    assert single["tables"] == many["tables"] == by_tokens["tables"]
    facts = re.findall(r"evaluation\] ave loss: ([\d.]+), .*, elapsed time: ([\d.]+) s", read_log(tmp_path))
    losses, seconds = np.array(facts, float).reshape(3, 3, 2).transpose(2, 0, 1)  # of each command and file
    np.testing.assert_allclose(losses, losses[[0, 0, 0]], atol=2e-6)
    assert seconds[:2].tolist() == [[31] * 3, [1] * 3]


def test_an_official_fine_tuned_directory_is_weights_only(classify, trained, toy_folder, tmp_path):
    """A directory of official parameters, with a classifier, is evaluated, and begins a new training.

    Its name, step_9, is that of a checkpoint, but a run is not resumed from it.
    """
    checkpoint = open_checkpoint(trained / "best")
    write_as_official(tmp_path / "official", checkpoint.tensors, checkpoint.config, head="classification")
    (tmp_path / "official" / "params").rename(tmp_path / "step_9")
    options = {"do_train": "false", "dev_set": f"{toy_folder}/heldout.%s.tsv"}
    expected = classify(out="a", init_checkpoint=trained / "best", **options)
    official = classify(out="b", init_checkpoint=tmp_path / "step_9", **options)
    assert [table["mean"] for table in expected["tables"]] == [table["mean"] for table in official["tables"]]
    classify(out="c", init_checkpoint=tmp_path / "step_9", max_steps=2, do_val="false")
    assert "step: 2/2" in read_log(tmp_path)
    # The official function reads every parameter whose name is there.
    still = {"learning_rate": 0, "max_steps": 1, "do_val": "false"}
    classify(out="d", init_pretraining_params=tmp_path / "step_9", **still)
    head = open_checkpoint(tmp_path / "d" / "step_1").tensors["classifier.weight"]
    np.testing.assert_array_equal(head, checkpoint.tensors["classifier.weight"])


LABELS = ["animal", "drink", "tool"]  # of the toy task
# What the start of --init_pretraining_params has -> whether its classifier is read.
STARTS = {
    "as it is": ({}, True),
    "no names of labels": ({"labels": None}, True),
    "labels in another order": ({"labels": LABELS[1:] + LABELS[:1]}, True),
    "other labels": ({"labels": ["a", "b", "c"]}, False),
    "another task": ({"task": "tagging", "architecture": "TokenClassifier"}, False),
    "several labels a text": ({"pipeline": stored(multi_label=True)}, False),
    "a prompt": ({"pipeline": stored(prompts={"default": "q: "}, default_prompt="default")}, False),
}


@pytest.mark.parametrize("case", STARTS)
def test_load_head_from_pretrained_weights(classify, trained, tmp_path, case):
    """A rate of 0: what is saved is what was loaded, in the order of the labels, but for a fresh head."""
    changes, is_read = STARTS[case]
    start = changed_copy(trained / "best", tmp_path / "initial", **changes)
    classify(init_pretraining_params=start, learning_rate=0, max_steps=1, do_val="false")
    order = [0, 1, 2]
    if case == "labels in another order":
        order = [changes["labels"].index(label) for label in LABELS]
    before = open_checkpoint(start).tensors
    after = open_checkpoint(tmp_path / "out" / "step_1").tensors
    for name in before:
        is_of_head = name.startswith("classifier.")
        expected = before[name][..., order] if is_of_head else before[name]
        assert np.array_equal(expected, after[name]) == (is_read or not is_of_head), name
    said = "loading its classifier" if is_read else "ignoring its classifier"
    log = read_log(tmp_path)
    assert f"{start}: {said}" in log and ("by index" in log) == (case == "no names of labels")


def test_skip_head_if_num_labels_differs(trained, toy_folder, tmp_path, caplog):
    """It has no names of labels, which would tell."""
    start = open_checkpoint(changed_copy(trained / "best", tmp_path / "initial", labels=None))
    task = Classification(Tokenizer(None, toy_folder / "piece.model"), ["animal", "drink"], 16)
    assert find_fine_tuned(task, start) is None
    assert f"{tmp_path}/initial: ignoring its classifier" in caplog.text
    caplog.clear()
    encoder = {name: start.tensors[name] for name in start.tensors if not name.startswith("classifier.")}
    assert find_fine_tuned(task, replace(start, tensors=Weights.from_arrays(encoder))) is None
    assert not caplog.messages  # nobody expects a classifier there


def test_load_head_of_answers_without_names_of_labels(tmp_path):
    """Start and end are all that it can predict."""
    folder = changed_copy(toys.make_models(tmp_path) / "answer", tmp_path / "initial", labels=None)
    start = open_checkpoint(folder)
    tokenizer = Tokenizer(None, folder / "piece.model")
    task = QuestionAnswering.from_pipeline_config(start.pipeline_config, tokenizer, max_seq_len=32, n_best=1)
    assert find_fine_tuned(task, start) is not None
