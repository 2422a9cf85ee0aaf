"""A disk that fills while a checkpoint is written: one clear line, and the previous checkpoint stands."""

import errno
from contextlib import nullcontext

import numpy as np
import pytest

from model.checkpoint import folder as checkpoint
from model.checkpoint.folder import load_from, model_weights, save_model, write_fluid
from model.checkpoint.formats import safetensors as safe
from model.ernie_m import ErnieMConfig
from model.heads import SequenceClassifier
from tests.helpers.full_disk import disk_full_after
from tests.helpers.official_layout import official_config
from utils.errors import UserError


def config():
    return ErnieMConfig.from_dict(official_config("tiny"))


def classifier():
    return SequenceClassifier(config(), 3)


def _break_half_way(monkeypatch, where):
    """A write that fills the disk: `where` writes half of its data, then reports ENOSPC."""
    if where == "weights":

        def write(path, arrays):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(safe, "write", write)
    elif where == "tokenizer":

        def copy(source, target):
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint.shutil, "copyfile", copy)


@pytest.mark.parametrize("where", ["weights", "tokenizer", "real limit"])
@pytest.mark.parametrize("step", ["over the last one", "new"])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, where, step):
    model, newer = classifier(), classifier()
    (tmp_path / "v").write_text("words")
    save_model(
        tmp_path / "run/step_1", model, config(), vocab_path=tmp_path / "v", training_state={"step": 1}
    )
    target = tmp_path / "run" / ("step_1" if step == "over the last one" else "step_2")
    _break_half_way(monkeypatch, where)
    limit = disk_full_after(4096) if where == "real limit" else nullcontext()
    with limit, pytest.raises(UserError, match=f"{target}: no space left"):
        save_model(target, newer, config(), vocab_path=tmp_path / "v", training_state={"step": 2})
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step_1"]
    assert checkpoint.load_newest(tmp_path / "run") == (tmp_path / "run/step_1", {"step": 1}, [])
    load_from(newer, tmp_path / "run/step_1")
    before, after = model_weights(model), model_weights(newer)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("limit", [100, 1000])
def test_a_full_disk_leaves_the_previous_official_directory(tmp_path, limit):
    write_fluid(tmp_path, model_weights(classifier()), config().to_dict())
    before = {path.name: path.read_bytes() for path in (tmp_path / "params").iterdir()}
    with disk_full_after(limit), pytest.raises(UserError, match="params: no space left"):
        write_fluid(tmp_path, model_weights(classifier()))
    assert {path.name: path.read_bytes() for path in (tmp_path / "params").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ernie_config.json", "params"]
