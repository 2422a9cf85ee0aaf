"""The picture of a run and its log of VisualDL: one line of loss, also of a run that was broken off."""

import sys

import numpy as np
import pytest
from matplotlib.image import imread

from ernie_m.training.log.curves import losses, scalars
from ernie_m.training.log.metrics_jsonl import Records
from ernie_m.training.log.pictures import draw_losses, follow
from tests.command_lines import STEPS
from tests.pretrain.tiny_run import pretrain, records

pytestmark = pytest.mark.usefixtures("drawn")


def curves_of(output):
    """The curves in the log of VisualDL: tag -> [(step, value)]."""
    from visualdl import LogReader

    reader = LogReader(file_path=str(output / "visualdl/vdlrecords.run.log"))
    tags = [
        tag.rpartition("/")[2].replace("%", "/") for tag, kind in reader.tags().items() if kind == "scalar"
    ]
    return {tag: [(point.id, point.value) for point in reader.get_data("scalar", tag)] for tag in tags}


@pytest.fixture(scope="module")
def resumed(tiny_corpus, tmp_path_factory):
    """The folder of a run that was broken off after a checkpoint: its later records are written twice."""
    output = tmp_path_factory.mktemp("run") / "out"
    flags = {"run__visualdl": "true", "run__log_steps": 1, "run__save_steps": 3}
    pretrain(tiny_corpus, output, **flags, run__stop_after_steps=3)
    with open(output / "metrics.jsonl", "a", encoding="utf-8") as file:  # of a step that a kill took away
        file.write('{"step": 4, "loss": 99.0, "lr": 1.0}\n')
    pretrain(tiny_corpus, output, **flags)
    return output


def test_the_log_has_each_record_once(resumed):
    curves = curves_of(resumed)
    expected = {}
    for record in records(resumed):
        for tag, value in scalars(record):
            expected.setdefault(tag, []).append((record["step"], np.float32(value)))
    assert {*expected} <= {*curves} and "mmlm/loss" in expected and len(expected["loss"]) == STEPS
    for tag, points in expected.items():
        assert [step for step, _ in curves[tag]] == [step for step, _ in points], tag
        np.testing.assert_array_equal([value for _, value in curves[tag]], [value for _, value in points])


def test_the_picture_has_one_line_of_loss(resumed):
    picture = imread(resumed / "losses.png")
    assert picture.shape == (600, 1080, 4) and len(np.unique(picture[..., :3])) > 10  # it is not blank
    (axes,) = losses(records(resumed)).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert {"loss", "mmlm", "mmlm, held out"} <= {*lines}
    assert lines["loss"].get_xdata().tolist() == list(range(1, STEPS + 1))
    assert lines["loss"].get_ydata().tolist() == [
        record["loss"] for record in records(resumed) if "loss" in record
    ]


@pytest.mark.parametrize("fault", ["package", "file", "folder"])
def test_what_cannot_be_written_is_one_line(tmp_path, caplog, capfd, monkeypatch, fault):
    """A package is not there, something has the name, or the folder cannot be written. The records are."""
    of_run = Records(tmp_path / "metrics.jsonl")
    if fault == "package":
        monkeypatch.setitem(sys.modules, "visualdl", None)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    elif fault == "folder":
        (tmp_path / "visualdl").symlink_to("/proc/sys")  # where nobody makes a file
        (tmp_path / "losses.png").mkdir()
    else:
        (tmp_path / "visualdl").touch()
        (tmp_path / "losses.png").mkdir()
    follow(of_run)
    of_run.append({"step": 1, "loss": 2.0})
    draw_losses(of_run)
    assert of_run.read() == [{"step": 1, "loss": 2.0}]
    of_log, of_picture = caplog.messages
    assert capfd.readouterr().out == ""  # VisualDL prints what it cannot write
    assert f"{tmp_path / 'visualdl'}" in of_log and f"{tmp_path / 'losses.png'}" in of_picture
    assert ("pictures" in of_log) is (fault == "package")


def test_without_matplotlib_a_line_says_how_to_get_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("ernie_m.training.log.curves.find_spec", lambda name: None)
    with caplog.at_level("INFO", logger="ernie_m"):
        draw_losses(Records(tmp_path / "metrics.jsonl"))
    assert list(tmp_path.iterdir()) == []


def test_names_that_visualdl_refuses(tmp_path):
    log = Records(tmp_path / "metrics.jsonl")
    log.append({"step": 1, "dev 50 %": 2.0})
    follow(log)
    assert curves_of(tmp_path) == {"dev 50 ": [(1, 2.0)]}


def test_numbers_of_a_record():
    record = {"step": 3, "loss": None, "mmlm": {"loss": 2}, "held_out": {"retrieval": {"de-en": [0.5, 1.0]}}}
    expected = [("mmlm/loss", 2.0), ("held_out/retrieval/de-en/0", 0.5), ("held_out/retrieval/de-en/1", 1.0)]
    assert list(scalars(record)) == expected
