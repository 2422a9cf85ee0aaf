"""The picture of a fine-tuning and its log of VisualDL, as tests/pretrain/test_pictures.py has them."""

import json
import sys

import numpy as np
import pytest

from ernie_m.training.engine import Engine
from ernie_m.training.log.curves import losses
from tests.finetune.test_runs import interrupt
from tests.launching import read_log
from tests.pretrain.test_pictures import curves_of

FLAGS = {"max_steps": 6, "save_steps": 2, "validation_steps": 3, "skip_steps": 1, "visualdl": "true"}
pytestmark = pytest.mark.usefixtures("drawn")


def records_in(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(params=["classify", "train_on_pairs"])
def resumed(request, tmp_path, monkeypatch):
    """The folder of a run that was stopped in step 4, and went on."""
    train = request.getfixturevalue(request.param)
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, Engine, "step", 3)
        with pytest.raises(SystemExit):
            train(out="out", **FLAGS)
    with open(output / "metrics.jsonl", "a", encoding="utf-8") as file:  # of a step that a kill took away
        file.write('{"step": 4, "loss": 99.0, "lr": 1.0}\n')
    train(out="out", **FLAGS)
    return output


def test_a_resumed_run_has_one_line_of_loss(resumed):
    of_steps = {record["step"]: record["loss"] for record in records_in(resumed) if "loss" in record}
    assert [*of_steps] == [1, 2, 3, 4, 5, 6] and 99.0 not in of_steps.values()
    curves = curves_of(resumed)
    assert [step for step, _ in curves["loss"]] == [*of_steps]
    np.testing.assert_array_equal([value for _, value in curves["loss"]], np.float32([*of_steps.values()]))
    # The evaluations are there, too, though VisualDL takes no name such as dev.%s.tsv.
    evaluated = [points for tag, points in curves.items() if tag.startswith("held_out/")]
    assert evaluated and all(points[-1][0] == 6 for points in evaluated)
    (axes,) = losses(records_in(resumed)).axes
    (line,) = axes.lines
    assert line.get_label() == "loss" and line.get_xdata().tolist() == [*of_steps]
    assert (resumed / "losses.png").stat().st_size > 10_000


def test_overwriting_removes_them(classify, tmp_path):
    classify(**FLAGS)
    output = tmp_path / "out"
    assert (output / "visualdl").exists() and (output / "losses.png").exists()
    classify(**{**FLAGS, "max_steps": 3, "visualdl": "false"}, overwrite="true")
    assert not (output / "visualdl").exists()
    assert max(record["step"] for record in records_in(output)) == 3


@pytest.mark.parametrize("fault", ["package", "folder"])
def test_the_run_goes_on_without_them(classify, tmp_path, monkeypatch, capfd, fault):
    """The package is not there, or nothing can be written into its folder: a line of the log says so."""
    (tmp_path / "out").mkdir()
    if fault == "package":
        monkeypatch.setitem(sys.modules, "visualdl", None)
    else:
        (tmp_path / "out" / "visualdl").symlink_to("/proc/sys")  # where nobody makes a file
    assert classify(**FLAGS)["tables"]
    named = [line for line in read_log(tmp_path).splitlines() if f"{tmp_path / 'out' / 'visualdl'}: " in line]
    assert len(named) == 1 and named[0].endswith("; the run goes on")
    assert "Writing data" not in capfd.readouterr().out  # VisualDL prints what it cannot write
    assert [record["step"] for record in records_in(tmp_path / "out") if "loss" in record] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
