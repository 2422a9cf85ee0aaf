"""Only complete step folders are resumed from; a damaged one is named and set aside."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint.step_folders import clear_leftovers, keep_last, load_newest, set_aside, step_folders
from model.checkpoint.training_state import load_training_state, save_training_state
from tests.helpers.damaged import flip_last_bit
from utils.errors import UserError
from utils.manifest import MANIFEST, write_manifest

ROOT = Path(__file__).parents[2]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def make_step(folder, step):
    """Write a complete step folder, and return its path."""
    path = folder / f"step_{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"w" * step)
    write_manifest(path / MANIFEST, ("model.safetensors",))
    save_training_state(path / "training_state", {"step": step, "a": np.ones(9)}, beside=(MANIFEST,))
    return path


def test_step_folders_are_in_numeric_order_and_the_last_ones_are_kept(tmp_path):
    for step in (9, 100, 20, 3):
        make_step(tmp_path, step)
    not_steps = ["step_x", "step_5.bak", "last", f".step_7.tmp-{os.getpid()}"]
    for name in not_steps:
        (tmp_path / name).mkdir()
    (tmp_path / "step_300").write_text("a file")
    assert [step for step, _ in step_folders(tmp_path)] == [3, 9, 20, 100]
    path, state, damaged = load_newest(tmp_path)
    assert (path, state["step"], damaged) == (tmp_path / "step_100", 100, [])
    keep_last(tmp_path, 2, keep=(tmp_path / "step_3",))
    assert names_in(tmp_path) == sorted(["step_3", "step_20", "step_100", "step_300", *not_steps])


def test_a_folder_that_does_not_exist_has_no_steps(tmp_path):
    assert step_folders(tmp_path / "absent") == []
    assert load_newest(tmp_path / "absent") is None


# Each damages a step folder.
DAMAGES = [
    lambda path: (path / "training_state/manifest.json").unlink(),
    lambda path: (path / "training_state/arrays.safetensors").write_bytes(b"half"),
    lambda path: (path / MANIFEST).unlink(),
    lambda path: flip_last_bit(path / "training_state/state.json"),
    lambda path: flip_last_bit(path / "model.safetensors"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_named_and_passed_over(tmp_path, caplog, damage):
    damage(make_step(tmp_path, 2))
    with pytest.raises(UserError, match="none of its 1 checkpoints is whole .*step_2"):
        load_newest(tmp_path)
    make_step(tmp_path, 1)
    with caplog.at_level(logging.WARNING):
        path, state, damaged = load_newest(tmp_path)
    assert (path.name, state["step"], damaged) == ("step_1", 1, [tmp_path / "step_2"])
    assert f"{tmp_path / 'step_2'}" in caplog.text
    assert "step_2 is passed over" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_set_aside_with_all_its_files(tmp_path, damage):
    make_step(tmp_path, 1)
    step = make_step(tmp_path, 2)
    damage(step)
    files = sorted(file.relative_to(step) for file in step.rglob("*"))
    _, _, damaged = load_newest(tmp_path)
    set_aside(damaged)
    assert step_folders(tmp_path) == [(1, tmp_path / "step_1")]
    aside = tmp_path / "step_2.damaged"
    assert sorted(file.relative_to(aside) for file in aside.rglob("*")) == files
    # The next damaged one takes its place.
    damage(make_step(tmp_path, 2))
    _, _, damaged = load_newest(tmp_path)
    set_aside(damaged)
    assert names_in(tmp_path) == ["step_1", "step_2.damaged"]


# Saves a step folder below its first argument, but kills itself when it has synced as many files as the
# second one says, and would sync one more.
PROGRAM = """
import os, sys
from pathlib import Path
import numpy as np
import utils.files
from model.checkpoint.training_state import save_training_state
syncs_left = int(sys.argv[2])
sync = os.fsync
def sync_or_die(descriptor):
    global syncs_left
    if syncs_left == 0:
        os.kill(os.getpid(), 9)
    syncs_left -= 1
    sync(descriptor)
os.fsync = sync_or_die
with utils.files.atomic_dir(Path(sys.argv[1]) / "step_2") as folder:
    (folder / "model.safetensors").write_bytes(b"ww")
    save_training_state(folder / "training_state", {"a": np.ones(9)}, beside=("model.safetensors",))
"""


def test_a_save_killed_at_any_file_is_never_taken_as_complete(tmp_path):
    """Killed after 0, 1, 2 ... syncs, until a save is not killed any more."""
    make_step(tmp_path, 1)
    outcomes = set()
    for allowed_syncs in range(12):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(allowed_syncs)]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode  # -9: killed
        newest, _, _ = load_newest(tmp_path)
        outcomes.add((status, newest.name))
        if status == 0:
            break
    assert {(-9, "step_1"), (0, "step_2")} <= outcomes
    killed_after_the_rename = (-9, "step_2")
    assert outcomes <= {(-9, "step_1"), killed_after_the_rename, (0, "step_2")}
    clear_leftovers(tmp_path)
    keep_last(tmp_path, 1)
    assert names_in(tmp_path) == ["step_2"]


@pytest.fixture(params=["another process", "one with the id of this one"])
def ended_process(request):
    """The id of a process that does not run any more. In containers, it is often that of this process."""
    if request.param == "one with the id of this one":
        return os.getpid()
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_folder_lost_between_two_renames_is_put_back(tmp_path, ended_process):
    make_step(tmp_path, 1).rename(tmp_path / f".best.old-{ended_process}")
    (tmp_path / f".best.tmp-{ended_process}").mkdir()
    clear_leftovers(tmp_path)
    assert names_in(tmp_path) == ["best"]
    assert load_training_state(tmp_path / "best/training_state")["step"] == 1


def test_leftovers_of_a_killed_process_are_cleared(tmp_path, ended_process):
    cleared = [f".best.tmp-{ended_process}", f".best.old-{ended_process}", f".step_3.gone-{ended_process}"]
    with subprocess.Popen(["sleep", "60"]) as running:
        # The first one belongs to a process that runs; the others have no temporary names of ours.
        stays = [f".best.tmp-{running.pid}", ".hidden", ".x.tmp-y", "best", "x.tmp-1"]
        cleared.append(f".x.tmp-{running.pid}-elsewhere-0a")  # its process ran on another machine
        for name in (*stays, *cleared):
            (tmp_path / name).mkdir()
        (tmp_path / "best" / "new").touch()
        (tmp_path / f".metrics.jsonl.tmp-{ended_process}").write_text("half")
        clear_leftovers(tmp_path)
        running.kill()
    assert names_in(tmp_path) == sorted(stays)
    assert (tmp_path / "best" / "new").exists()


def test_a_folder_that_does_not_exist_has_no_leftovers(tmp_path):
    clear_leftovers(tmp_path / "absent")
