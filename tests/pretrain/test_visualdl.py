"""A run's log of VisualDL: one line of loss, also of a run that was broken off."""

import sys

import numpy as np
import pytest

from ernie_m.training.log.metrics_jsonl import Records
from ernie_m.training.log.visualdl_log import follow
from tests.command_lines import STEPS
from tests.launching import error_of
from tests.pretrain.tiny_run import pretrain, records


def curves_of(output):
    """The curves in the log of VisualDL: tag -> [(step, value)]."""
    from visualdl import LogReader

    reader = LogReader(file_path=str(output / "visualdl/vdlrecords.run.log"))
    tags = [
        tag.rpartition("/")[2].replace("%", "/") for tag, kind in reader.tags().items() if kind == "scalar"
    ]
    return {tag: [(point.id, point.value) for point in reader.get_data("scalar", tag)] for tag in tags}


def test_a_resumed_run_has_each_record_once(tiny_corpus, tmp_path):
    output = tmp_path / "out"
    flags = {"run__visualdl": "true", "run__log_steps": 1, "run__save_steps": 3}
    pretrain(tiny_corpus, output, **flags, run__stop_after_steps=3)
    with open(output / "metrics.jsonl", "a", encoding="utf-8") as file:  # of a step that a kill took away
        file.write('{"step": 4, "loss": 99.0, "lr": 1.0}\n')
    pretrain(tiny_corpus, output, **flags)
    curves = curves_of(output)
    losses = [(record["step"], np.float32(record["loss"])) for record in records(output) if "loss" in record]
    assert curves["loss"] == losses and len(losses) == STEPS
    assert len(curves["mmlm/loss"]) == STEPS and any(tag.startswith("held_out/") for tag in curves)


def test_the_numbers_of_a_record(tmp_path):
    """VisualDL takes no % in a name, as dev.%s.tsv has it."""
    log = Records(tmp_path / "metrics.jsonl")
    log.append({"step": 1, "dev.%s 50 %": 2.0})
    follow(log)
    log.append({"step": 3, "loss": None, "mmlm": {"loss": 2}, "held_out": {"de-en": [0.5, 1.0]}})
    expected = {"dev.* 50 ": [(1, 2.0)], "mmlm/loss": [(3, 2.0)]}
    assert curves_of(tmp_path) == expected | {"held_out/de-en/0": [(3, 0.5)], "held_out/de-en/1": [(3, 1.0)]}


@pytest.mark.parametrize("fault", ["package", "file", "folder"])
def test_a_log_that_cannot_be_written(tmp_path, monkeypatch, fault):
    """A package is not there, something has the name, or the folder cannot be written."""
    if fault == "package":
        monkeypatch.setitem(sys.modules, "visualdl", None)
    elif fault == "folder":
        (tmp_path / "visualdl").symlink_to("/proc/sys")  # where nobody makes a file
    else:
        (tmp_path / "visualdl").touch()
    named = "setup.sh pictures" if fault == "package" else str(tmp_path / "visualdl")
    assert named in error_of(follow, Records(tmp_path / "metrics.jsonl"))
