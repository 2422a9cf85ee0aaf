"""Two processes and one, with the same global batch, have equal losses, tables, weights and predictions."""

import json
import re
from pathlib import Path

import pytest

from tests import command_lines, toys
from tests.finetune.processes import assert_close, losses, start
from tests.helpers.files import write_file
from tests.launching import as_flags, read_log
from tests.toys import write_lines

METRIC = """
def right(predictions, targets):
    pairs = zip(predictions, targets, strict=True)
    return {"right": 100 * sum(prediction == target for prediction, target in pairs) / len(targets)}
"""
EXACT = {"dtype": "float64", "save_steps": 100}  # 100: only the last step is saved


def dev_losses(folder):
    """The mean loss of each evaluated dev file, in the order of the log."""
    return [*map(float, re.findall(r"\[dev evaluation\] ave loss: ([\d.]+)", read_log(folder)))]


def classification_and_search(folder, data, pairs, processes):
    """The commands (script, folder to run it in, flags).

    The global batch is the same for any number of processes.

    Args:
        folder: in it each command gets a folder: "classify" and "search".
        data: where the toy is.
        pairs: the bitexts that "search" searches with the model of "classify".
    """
    exact = {**EXACT, "ernie_config_path": data / "without_dropout.json", "batch_size": 8 // processes}
    tested = {"do_test": "true", "test_save": "predicted.%s", "metric": f"{folder}/my.py:right"}
    write_file(folder / "my.py", METRIC)
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
    search = as_flags(
        {
            "init_pretraining_params": "../classify/out/best",
            "init_task": "classification",
            "pairs": pairs,
            "checkpoints": "out",
            "dtype": "float64",
            "max_seq_len": 32,
            "use_cuda": "false",
        }
    )
    commands = [
        ("run_classifier", folder / "classify", classify),
        ("run_retrieval", folder / "search", search),
    ]
    for _, directory, _ in commands:
        directory.mkdir()
    return commands


@pytest.mark.slow
def test_classification_and_search(tmp_path):
    """Losses, weights, evaluations, reports and predictions of two processes are those of one."""
    data = tmp_path / "data"
    pairs = tmp_path / "pairs"
    for folder in (data, pairs):
        folder.mkdir()
    toys.make_classification(data)
    (data / "without_dropout.json").write_text(json.dumps(toys.TASK_CONFIG | toys.WITHOUT_DROPOUT))
    # Both sides of a bitext have the same text: only that the results are equal matters here.
    for language, seed in (("de", 3), ("fr", 4)):
        for side in (language, "en"):
            write_lines(pairs / f"{language}-en.{side}", [row.text_a for row in toys.labeled_texts(9, seed)])
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        start(tmp_path, classification_and_search(folder, data, pairs, processes), processes)
    single = tmp_path / "1"
    double = tmp_path / "2"
    assert losses(single / "classify") == pytest.approx(losses(double / "classify"), abs=1e-9, rel=0)
    # A process knows the loss of the whole step, not only that of its share.
    assert losses(double / "classify") == losses(double / "classify", rank=1)
    assert_close(*(folder / "classify/out/step_8/model.safetensors" for folder in (single, double)))
    for report in ("classify/out/results.json", "search/out/retrieval.json"):
        expected = json.loads((single / report).read_text())
        assert json.loads((double / report).read_text())["tables"] == expected["tables"], report
    expected = dev_losses(single / "classify")
    # They are logged with six digits.
    assert expected and expected == pytest.approx(dev_losses(double / "classify"), abs=2e-6)
    predicted = sorted(path.relative_to(single) for path in single.glob("*/*predicted.*"))
    assert len(predicted) == 3  # languages
    for path in [*predicted, Path("search/out/predictions/tatoeba/test-de.tsv")]:
        assert (double / path).read_text() == (single / path).read_text(), path
    assert (double / "classify" / "log" / "job.log.1").is_file()
