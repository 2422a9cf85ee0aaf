"""Two processes and one, the same global batch: the same losses, the same tables, the same predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.finetune import toy
from tests.launching import launch, run_script

SCRIPT = Path(__file__).with_name("processes_script.py")


def start(toy_folder, folder, processes, **changes):
    """20 steps; returns their losses."""
    folder.mkdir(exist_ok=True)
    config = {**toy.CONFIG, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    # 89 examples in batches of 8: the last batch of an epoch leaves the second process without any.
    toy.write_tsv(folder / "train.tsv", toy.rows(89, seed=1))
    line = toy.flags(
        toy_folder, folder / "out", ernie_config_path=folder / "config.json", train_set=folder / "train.tsv",
        max_steps=20, save_steps=10, keep_checkpoints=5, batch_size=8 // processes, **changes,
    )  # fmt: skip
    command = [SCRIPT, *line]
    done = run_script(command, folder) if processes == 1 else launch(command, folder, processes)
    assert done.returncode == 0, done.stderr
    losses = json.loads((folder / "losses.0.json").read_text())
    assert len(losses) == (10 if "init_checkpoint" in changes else 20)
    return losses


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
    assert json.loads((tmp_path / "two" / "losses.1.json").read_text()) == two
    assert results(tmp_path / "two")["tables"] == results(tmp_path / "one")["tables"]
    assert results(tmp_path / "two")["selected"] == results(tmp_path / "one")["selected"]
    for name, value in final(tmp_path / "one").items():
        np.testing.assert_allclose(final(tmp_path / "two")[name], value, rtol=0, atol=1e-9, err_msg=name)
    predicted = sorted(path.name for path in (tmp_path / "one").glob("predicted.*"))
    assert len(predicted) == 3
    for name in predicted:
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert (tmp_path / "two" / "log" / "job.log.1").is_file()


def test_a_run_of_two_processes_is_resumed_by_one(toy_folder, tmp_path):
    options = {"dtype": "float64", "do_val": "false"}
    two = start(toy_folder, tmp_path / "two", 2, **options)
    rest = start(
        toy_folder, tmp_path / "one", 1, init_checkpoint=tmp_path / "two" / "out" / "step_10", **options
    )
    assert rest == pytest.approx(two[10:], abs=1e-9, rel=0)
    for name, value in final(tmp_path / "two").items():
        np.testing.assert_allclose(final(tmp_path / "one")[name], value, rtol=0, atol=1e-9, err_msg=name)


def test_float32(toy_folder, tmp_path):
    one = start(toy_folder, tmp_path / "one", 1, do_val="false")
    two = start(toy_folder, tmp_path / "two", 2, do_val="false")
    assert two == pytest.approx(one, abs=1e-5, rel=0)
