"""Two processes and one, with the same global batch, have equal losses, tables, weights and predictions."""

import json
import re
from pathlib import Path

import pytest

from tests import command_lines, toys
from tests.finetune.processes import assert_close, losses, recorded, start
from tests.launching import as_flags, read_log
from tests.toys import write_lines

WITHOUT_DROPOUT = {**toys.TASK_CONFIG, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# A metric of labels, tags and answers.
METRIC = """
def right(predictions, targets):
    pairs = zip(predictions, targets, strict=True)
    rows = [prediction == target or prediction in target for prediction, target in pairs]
    return {"right": 100 * sum(rows) / len(rows)}
"""
EXACT = {"dtype": "float64", "save_steps": 100}  # 100: only the last step is saved


def dev_losses(folder):
    """The mean loss of each evaluated dev file, in the order of the log."""
    losses_logged = re.findall(r"\[dev evaluation\] ave loss: ([\d.]+)", read_log(folder))
    return [float(loss) for loss in losses_logged]


def every_task(folder, data, corpus, pairs, processes):
    """A command (script, folder to run it in, flags) for each task.

    The global batch is the same for any number of processes.

    Args:
        folder: in it each command gets a folder: "classify", "tag", "answer", "train" and "search".
        data: where the toys are.
        corpus: for "train", the training for retrieval.
        pairs: the bitexts that "search" searches with the model of "train".
    """
    exact = {**EXACT, "ernie_config_path": data / "without_dropout.json", "batch_size": 8 // processes}
    tested = {"do_test": "true", "test_save": "predicted.%s", "metric": f"{folder}/my.py:right"}
    folder.mkdir()
    (folder / "my.py").write_text(METRIC)
    # 57 examples in batches of 8: the last batch of an epoch leaves the second process without any.
    toys.write_labeled_texts(folder / "train.tsv", toys.labeled_texts(57, seed=1))
    classify = command_lines.classification(
        data,
        "out",
        max_steps=8,
        train_set=folder / "train.tsv",
        test_set=f"{data}/test.%s.tsv",
        **exact,
        **tested,
    )
    # In 16 tokens, so that some sentences are split.
    tag = command_lines.tagging(
        data / "tag",
        "out",
        max_steps=3,
        max_seq_len=16,
        **exact,
        **tested,
        test_set=f"{data}/tag/test.%s.tsv",
    )
    answer = command_lines.answering(
        data / "answer",
        "out",
        dtype="float64",
        max_steps=3,
        max_seq_len=40,
        max_query_length=8,
        doc_stride=12,
        train_set=data / "answer" / "dev.en.json",
        epoch=9,
        test_set=f"{data}/answer/dev.%s.json",
        **tested,
        batch_size=6 // processes,
    )
    # Its batch is that of all processes, which encode 4 and 5 pairs.
    train = command_lines.retrieval(
        corpus,
        "out",
        dtype="float64",
        ernie_config_path=corpus.parent / "without_dropout.json",
        max_steps=4,
        batch_size=9,
        learning_rate=1e-3,
        save_steps=100,
        validation_steps=2,
        skip_steps=1,
    )
    search = as_flags(
        {
            "init_pretraining_params": "../train/out/best",
            "pairs": pairs,
            "checkpoints": "out",
            "dtype": "float64",
            "max_seq_len": 32,
            "use_cuda": "false",
        }
    )
    commands = [
        ("run_classifier", folder / "classify", classify),
        ("run_sequence_labeling", folder / "tag", tag),
        ("run_mrc", folder / "answer", answer),
        ("run_retrieval", folder / "train", train),
        ("run_retrieval", folder / "search", search),
    ]
    for _, place, _ in commands:
        place.mkdir()
    return commands


@pytest.mark.slow
def test_every_task(tmp_path, corpus):
    """Losses, weights, evaluations, reports and predictions of two processes are those of one."""
    data = tmp_path / "data"
    pairs = tmp_path / "pairs"
    for folder in (data / "tag", data / "answer", pairs):
        folder.mkdir(parents=True)
    toys.make_classification(data)
    toys.make_tagging(data / "tag")
    toys.make_answering(data / "answer")
    (data / "without_dropout.json").write_text(json.dumps(WITHOUT_DROPOUT))
    # Both sides of a bitext have the same text: only that the results are equal matters here.
    for language, seed in (("de", 3), ("fr", 4)):
        for side in (language, "en"):
            write_lines(pairs / f"{language}-en.{side}", [row.text_a for row in toys.labeled_texts(9, seed)])
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        start(tmp_path, every_task(folder, data, corpus, pairs, processes), processes)
    single = tmp_path / "1"
    double = tmp_path / "2"
    for task in ("classify", "tag", "answer", "train"):
        assert losses(single / task) == pytest.approx(losses(double / task), abs=1e-9, rel=0), task
        # A process knows the loss of the whole step, not only that of its share.
        assert losses(double / task) == losses(double / task, rank=1), task
        (path,) = (single / task / "out").glob("step_*/model.safetensors")
        assert_close(path, double / path.relative_to(single))
    reports = [f"{task}/out/results.json" for task in ("classify", "tag", "answer")]
    for report in [*reports, "search/out/retrieval.json"]:
        expected = json.loads((single / report).read_text())
        assert json.loads((double / report).read_text())["tables"] == expected["tables"], report
        assert (expected.get("metric") == "right") == (report in reports)
    for task in ("classify", "tag", "answer"):
        expected = dev_losses(single / task)
        # They are logged with six digits.
        assert expected and expected == pytest.approx(dev_losses(double / task), abs=2e-6), task
    predicted = sorted(path.relative_to(single) for path in single.glob("*/*predicted.*"))
    # Classification: 3 languages. Tagging: 2. Answers: 2, and nbest_*.
    assert len(predicted) == 3 + 2 + 2 * 2
    for path in [*predicted, Path("search/out/predictions/tatoeba/test-de.tsv")]:
        assert (double / path).read_text() == (single / path).read_text(), path
    assert (double / "classify" / "log" / "job.log.1").is_file()


@pytest.mark.slow
def test_two_processes_then_one_then_two(toy_folder, tmp_path):
    """No sample is lost and none is repeated; SIGTERM ends each part with exit code 0.

    An epoch of 41 rows has 5 whole batches of 8 and a batch of 1, so the 10 steps are of two epochs.
    """
    (tmp_path / "config.json").write_text(json.dumps(WITHOUT_DROPOUT))
    toys.write_labeled_texts(tmp_path / "train.tsv", toys.labeled_texts(41, seed=1))
    # The run "one" is not interrupted. "mixed" is stopped in steps 4 and 7, and goes on with other processes.
    parts = [("one", 1, 0), ("mixed", 2, 4), ("mixed", 1, 7), ("mixed", 2, 0)]
    for name, processes, stop_at in parts:
        (tmp_path / name).mkdir(exist_ok=True)
        line = command_lines.classification(
            toy_folder,
            "out",
            ernie_config_path=tmp_path / "config.json",
            train_set=tmp_path / "train.tsv",
            max_steps=10,
            batch_size=8 // processes,
            do_val="false",
            **EXACT,
        )
        start(tmp_path, [("run_classifier", tmp_path / name, line)], processes, stop_at)
    samples: dict[str, dict[int, list[int]]] = {}  # run -> step -> the numbers of its examples
    for name in ("one", "mixed"):
        samples[name] = {}
        for rank in (0, 1):
            for step, runs in recorded(tmp_path / name, rank).items():
                for _, indices in runs:
                    samples[name].setdefault(step, []).extend(indices)
        for indices in samples[name].values():
            indices.sort()
    assert sorted(samples["one"]) == list(range(1, 11))
    assert samples["mixed"] == samples["one"]
    assert losses(tmp_path / "mixed") == pytest.approx(losses(tmp_path / "one"), abs=1e-9, rel=0)
    weights = "out/step_10/model.safetensors"
    assert_close(tmp_path / "one" / weights, tmp_path / "mixed" / weights)
