"""Two processes and one, the same global batch: the same losses, the same tables, the same predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.finetune import toy
from tests.launching import launch, run_script

SCRIPT = Path(__file__).with_name("processes_script.py")


def start(toy_folder, folder, processes, stop_at=0, **changes):
    """20 steps, or as far as `stop_at`; returns the loss of each step that was done in the folder."""
    folder.mkdir(exist_ok=True)
    config = {**toy.CONFIG, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    # 89 examples in batches of 8: the last batch of an epoch leaves the second process without any.
    toy.write_tsv(folder / "train.tsv", toy.rows(89, seed=1))
    line = toy.flags(
        toy_folder, folder / "out", ernie_config_path=folder / "config.json", train_set=folder / "train.tsv",
        max_steps=20, save_steps=10, keep_checkpoints=5, batch_size=8 // processes, **changes,
    )  # fmt: skip
    command, stop = [SCRIPT, *line], {"STOP_AT": str(stop_at)}
    done = (
        run_script(command, folder, **stop) if processes == 1 else launch(command, folder, processes, **stop)
    )
    assert done.returncode == 0, done.stderr
    steps = {int(step): runs for step, runs in recorded(folder, 0).items()}
    assert sorted(steps) == list(range(1, stop_at or 21)) and all(len(runs) == 1 for runs in steps.values())
    return [steps[step][0][0] for step in sorted(steps)]


def recorded(folder, rank):
    """step -> [[loss, samples], ...], each time that the step was done on a process."""
    path = folder / f"steps.{rank}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def samples(folder):
    """step -> the samples that any process worked on, sorted."""
    found = {}
    for rank in (0, 1):
        for step, runs in recorded(folder, rank).items():
            found.setdefault(step, []).extend(index for _, indices in runs for index in indices)
    return {step: sorted(indices) for step, indices in found.items()}


def results(folder):
    return json.loads((folder / "out" / "results.json").read_text())


def final(folder):
    return load_file(folder / "out" / "step_20" / "model.safetensors")


def test_float64(toy_folder, tmp_path):
    options = {"dtype": "float64", "do_test": "true", "test_save": "predicted.%s"}
    options |= {"test_set": f"{toy_folder}/test.%s.tsv"}
    one = start(toy_folder, tmp_path / "one", 1, **options)
    two = start(toy_folder, tmp_path / "two", 2, **options)
    assert two == pytest.approx(one, abs=1e-9, rel=0)
    assert [runs[0][0] for runs in recorded(tmp_path / "two", 1).values()] == two
    assert results(tmp_path / "two")["tables"] == results(tmp_path / "one")["tables"]
    assert results(tmp_path / "two")["selected"] == results(tmp_path / "one")["selected"]
    for name, value in final(tmp_path / "one").items():
        np.testing.assert_allclose(final(tmp_path / "two")[name], value, rtol=0, atol=1e-9, err_msg=name)
    predicted = sorted(path.name for path in (tmp_path / "one").glob("predicted.*"))
    assert len(predicted) == 3
    for name in predicted:
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert (tmp_path / "two" / "log" / "job.log.1").is_file()


def test_two_processes_then_one_then_two(toy_folder, tmp_path):
    """No sample is lost and none is repeated; SIGTERM ends each part with 0."""
    options = {"dtype": "float64", "do_val": "false"}
    straight = start(toy_folder, tmp_path / "one", 1, **options)
    for processes, stop_at in ((2, 7), (1, 13), (2, 0)):
        mixed = start(toy_folder, tmp_path / "mixed", processes, stop_at, **options)
    assert mixed == pytest.approx(straight, abs=1e-9, rel=0)
    assert samples(tmp_path / "mixed") == samples(tmp_path / "one")
    for name, value in final(tmp_path / "one").items():
        np.testing.assert_allclose(final(tmp_path / "mixed")[name], value, rtol=0, atol=1e-9, err_msg=name)
