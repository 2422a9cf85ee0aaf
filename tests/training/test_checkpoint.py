"""A checkpoint appears when all processes have written their parts, or not at all; it comes back exactly.

Only whole checkpoints are resumed from; a corrupt one is named and set aside.
"""

import errno
import itertools
import json
import logging
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.training import checkpoint, distributed
from ernie_m.training.checkpoint import (
    list_checkpoints,
    read_last_checkpoint,
    read_state,
    remove_old_checkpoints,
    write_checkpoint,
)
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import remove_leftovers
from tests.helpers.files import flip_last_bit, names_in
from tests.launching import check_error, error_of
from tests.training.toy_training import FILES, add_part


def make_step(folder, step, arrays=None):
    """Write a complete checkpoint, and return its path."""
    path = folder / f"step_{step}"
    files = ModelFiles({"weight": np.full(3, step, np.float32)}, {"hidden_size": 3}, "a card", {})
    write_checkpoint(path, files, {"moment": np.ones(9)} if arrays is None else arrays, {"step": step})
    return path


def bits(array):
    """What two arrays have in common only if all their bits are equal."""
    return array.dtype, array.shape, array.tobytes()


# What is written comes back


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int64", "bool"])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    tensor = (paddle.randn([5, 3]) * 100).astype(dtype)
    tensor.stop_gradient = dtype in ("int64", "bool")
    arrays = {"tensor": tensor, "zero_d": tensor.sum(), "transposed": np.arange(24.0).reshape(4, 6).T}
    loaded, _ = read_state(make_step(tmp_path, 1, arrays))
    np.testing.assert_array_equal(loaded["transposed"], arrays["transposed"])
    new_tensor = paddle.zeros([5, 3], dtype=dtype)
    new_tensor.set_value(loaded["tensor"])
    assert bits(new_tensor.numpy()) == bits(tensor.detach().numpy())
    assert loaded["zero_d"].shape == ()


def test_values_come_back_exactly(tmp_path):
    values = {
        "step": 2**63 + 1,
        "generator": {"state": 2**127 + 3, "words": ["α", "\ud800", 'a"b\n'], "none": None, "flag": True},
        "floats": [0.1, -0.0, 5e-324, 1e308, float("inf"), float("nan"), 1 / 3],
        "empty": {"dict": {}, "list": []},
    }
    write_checkpoint(tmp_path / "step_1", FILES, {}, values)
    # As text, because nan is not equal to nan.
    assert repr(read_state(tmp_path / "step_1")) == repr(({}, values))


# Several processes


@pytest.fixture
def two_parts(tmp_path):
    """A checkpoint as two processes write it. `tests/training/test_distributed.py` lets two write one."""
    step = make_step(tmp_path, 7, {"a/moment": np.zeros(3)})
    add_part(step, 1, {"b/moment": np.ones(3)})
    return step


PARTS = ["arrays.safetensors", "arrays-1.safetensors", "state.json", "manifest.json"]


DAMAGES_OF_A_PART = {
    "flipped": flip_last_bit,
    "removed": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGES_OF_A_PART)
@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_compared(two_parts, name, damage):
    path = two_parts / "training_state" / name
    DAMAGES_OF_A_PART[damage](path)
    assert f"{path.parent}/" in error_of(read_state, two_parts)


def test_reject_state_or_model_from_another_step(tmp_path):
    """Each is whole, but they are of two steps."""
    first = make_step(tmp_path, 1)
    second = make_step(tmp_path, 2)
    shutil.copytree(first / "training_state", second / "training_state", dirs_exist_ok=True)
    assert "step_2/manifest.json: corrupt" in error_of(read_state, second)
    assert read_state(first)[1] == {"step": 1}


def test_error_in_another_process_ends_this_one(tmp_path, monkeypatch):
    """The other of two processes, a stand-in, cannot write its part.

    The processes exchange (result, error) after each of three pieces of work: making the folder, writing the
    parts, and renaming the folder.
    """
    write_checkpoint(tmp_path / "step_1", FILES, {}, {"steps": 1})
    outcomes = []

    def gather(outcome):
        outcomes.append(outcome)
        error = UserError("step_1: no space left") if len(outcomes) == 2 else None  # of the writing
        return [outcome, (None, error)]

    monkeypatch.setattr(distributed, "gather", gather)
    assert "step_1: no space left" in error_of(write_checkpoint, tmp_path / "step_1", FILES, {}, {"steps": 2})
    assert names_in(tmp_path) == ["step_1"]
    assert read_state(tmp_path / "step_1") == ({}, {"steps": 1})


def test_a_part_that_cannot_be_written(tmp_path, monkeypatch):
    """Only a staged folder that this process does not find is blamed on a folder that is not shared."""

    def fail(*_):
        raise OSError(errno.ESTALE, "Stale file handle", "/disk/file")

    with monkeypatch.context() as patches:
        patches.setattr(checkpoint, "sync_file", fail)
        line = error_of(make_step, tmp_path, 1)
    assert line.startswith("/disk/file: Stale file handle") and "share" not in line
    monkeypatch.setattr(ModelFiles, "write", lambda files, location: (location / "training_state").rmdir())
    assert "all machines share" in error_of(make_step, tmp_path, 1)
    assert names_in(tmp_path) == []


# checkpoints


def test_step_folders_are_in_numeric_order_and_the_last_ones_are_kept(tmp_path):
    for step in (9, 100, 20, 3):
        make_step(tmp_path, step)
    not_steps = ["step_x", "step_5.bak", "last", f".step_7.tmp-{os.getpid()}"]
    for name in not_steps:
        (tmp_path / name).mkdir()
    assert [step for step, _ in list_checkpoints(tmp_path)] == [3, 9, 20, 100]
    path, _, values = read_last_checkpoint(tmp_path)
    assert (path, values) == (tmp_path / "step_100", {"step": 100})
    # The protected path is written in another way.
    remove_old_checkpoints(tmp_path, 2, protected_path=tmp_path / "step_100" / ".." / "step_3")
    assert names_in(tmp_path) == sorted(["step_3", "step_20", "step_100", *not_steps])


# Each damages a checkpoint.
DAMAGES = [
    lambda path: (path / "training_state/manifest.json").unlink(),
    lambda path: (path / "training_state/arrays.safetensors").write_bytes(b"half"),
    lambda path: (path / MANIFEST).unlink(),
    lambda path: flip_last_bit(path / "training_state/state.json"),
    lambda path: flip_last_bit(path / "model.safetensors"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_set_corrupt_checkpoint_aside(tmp_path, caplog, damage):
    """All of its files stay. If it is the only one, nothing changes, and the run is refused."""
    step = make_step(tmp_path, 2)
    damage(step)
    files = sorted(file.relative_to(step) for file in step.rglob("*"))
    check_error(error_of(read_last_checkpoint, tmp_path), "all of its 1 checkpoints are corrupt ", "step_2")
    make_step(tmp_path, 1)
    with caplog.at_level(logging.WARNING):
        path, _, values = read_last_checkpoint(tmp_path)
    assert (path.name, values) == ("step_1", {"step": 1})
    assert f"{step}" in caplog.text and "skipping step_2" in caplog.text
    aside = tmp_path / "step_2.corrupt"
    assert sorted(file.relative_to(aside) for file in aside.rglob("*")) == files
    # The next corrupt one replaces it.
    damage(make_step(tmp_path, 2))
    read_last_checkpoint(tmp_path)
    assert names_in(tmp_path) == ["step_1", "step_2.corrupt"]


def test_processes_that_see_different_folders(tmp_path, monkeypatch):
    make_step(tmp_path, 1)
    monkeypatch.setattr(distributed, "gather", lambda found: [found, str(tmp_path / "step_2")])
    assert "Choose a folder that all machines share" in error_of(read_last_checkpoint, tmp_path)


def save_in_a_child(folder, allowed_syncs):
    """Save step 2 in a forked process that kills itself after so many syncs; return how it ended.

    It calls nothing of Paddle, whose threads a fork does not have.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)  # -9: killed
    sync = os.fsync
    calls = itertools.count()

    def sync_or_die(descriptor):
        if next(calls) == allowed_syncs:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    try:
        os.fsync = sync_or_die
        write_checkpoint(folder / "step_2", FILES, {"a": np.ones(9)}, {"step": 2})
        os._exit(0)
    finally:
        os._exit(1)


def test_a_save_killed_at_any_file_is_never_taken_as_complete(tmp_path):
    """Killed after 0, 1, 2 ... syncs, until a save is not killed any more."""
    make_step(tmp_path, 1)
    outcomes = set()
    for allowed_syncs in range(30):
        status = save_in_a_child(tmp_path, allowed_syncs)
        newest, _, _ = read_last_checkpoint(tmp_path)
        outcomes.add((status, newest.name))
        if status == 0:
            break
    expected = {(-9, "step_1"), (0, "step_2")}
    assert expected <= outcomes <= expected | {(-9, "step_2")}
    remove_leftovers(tmp_path)
    remove_old_checkpoints(tmp_path, 1)
    assert names_in(tmp_path) == ["step_2"]


def test_a_manifest_that_names_no_model(tmp_path):
    """A state that does not belong to the model next to it is not loaded."""
    step = make_step(tmp_path, 1)
    path = step / "training_state" / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["files"]["../manifest.json"]
    path.write_text(json.dumps(manifest))
    assert "training_state/manifest.json: corrupt" in error_of(read_state, step)
