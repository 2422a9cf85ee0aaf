"""Which run a folder belongs to, where that run resumes, its best model; with checkpoints made by hand."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import paddle
import pytest

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import ModelFiles, collect_model_files
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.training import distributed
from ernie_m.training.best_checkpoint import is_finished, read_selected, save_best, write_selected
from ernie_m.training.log import Evaluation
from ernie_m.training.output_dir import FolderRules, OutputDir
from ernie_m.training.resume import find_saved_run
from ernie_m.utils.checksums import write_digest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import get_host_name
from ernie_m.utils.output_lock import lock_output
from tests.helpers.files import names_in
from tests.helpers.processes import start_and_end
from tests.launching import check_error, error_of

WAYS_OUT = "choose another --checkpoints"
RULES = FolderRules(ways_out=WAYS_OUT, contents=(r"run\.json", r"step_\d+", "best"))
IDENTITY = {"lr": 1, "data": {"train": 0}}


@pytest.fixture(scope="module")
def model():
    paddle.seed(1)
    config = ErnieMConfig(vocab_size=5, hidden_size=2, num_hidden_layers=1, num_attention_heads=1)
    return ErnieMModel(config)


@pytest.fixture
def save(model):
    """A function that writes a checkpoint as `ernie_m.training.trainer.Trainer` does.

    Its arguments: the run folder; the step; the best step so far and the last evaluated step, if there are
    any; the identity of the run.
    """

    def write(
        folder: OutputDir, step: int, best: int | None = None, evaluated: int = -1, fingerprint=IDENTITY
    ):
        evaluation = {"step": best, "epoch": 0, "selected_by": 1.0, "scores": {}}
        trainer = {
            "position": [0, step],
            "evaluated": evaluated,
            "best": None if best is None else evaluation,
        }
        values = {"engine": {"steps": step}, "identity": fingerprint, "seed": 1, "trainer": trainer}
        saved = folder.save_step(step, make_model_files(model, step), {"moment": np.full(2, step)}, values)
        assert saved == folder.path / f"step_{step}"

    return write


def make_model_files(model: ErnieMModel, step: int) -> ModelFiles:
    """The files of a model after a step."""
    return collect_model_files(model, model.config, settings={"step": step})


@pytest.fixture
def folder(tmp_path):
    """A run folder that is not there yet, and will keep two steps."""
    return OutputDir(tmp_path / "out", RULES, keep_checkpoints=2)


@pytest.mark.parametrize("number", [2, None])
def test_reject_state_from_another_revision(folder, save, model, number):
    """This is not corruption: the folder keeps its name, and no earlier checkpoint replaces it."""
    save(folder, 2)
    folder.save_step(4, make_model_files(model, 4), {}, {"format": number})
    check_error(
        error_of(find_saved_run, folder, IDENTITY),
        "revision",
        start=f"{folder.path}/step_4/training_state/state.json: ",
    )
    assert names_in(folder.path) == ["step_2", "step_4"]


def test_resume_from_another_folder(folder, save, tmp_path, caplog, info_log):
    """`resume_from` names it. A run resumes from it only if its own folder has no step, or logs both."""
    save(folder, 2)
    save(folder, 4)
    second = OutputDir(tmp_path / "second", RULES, keep_checkpoints=1, resume_from=folder.path / "step_2")
    assert find_saved_run(second, IDENTITY).folder == folder.path / "step_2"
    save(second, 6)
    assert find_saved_run(second, IDENTITY).folder == second.path / "step_6"
    find_saved_run(
        OutputDir(folder.path, RULES, keep_checkpoints=1, resume_from=folder.path / "step_4"), IDENTITY
    )
    assert caplog.messages == [f"resuming from {second.path}/step_6, not from {folder.path}/step_2"]
    # If it is in the run's own folder, it is kept next to the newest one.
    same_folder = OutputDir(folder.path, RULES, keep_checkpoints=1, resume_from=folder.path / "step_2")
    save(same_folder, 8)
    assert names_in(folder.path) == ["step_2", "step_8"]


def test_the_best_model_comes_along_whole_or_not_at_all(folder, save, model, tmp_path, monkeypatch):
    """A run that resumes from a step of another folder copies that folder's best/."""
    save(folder, 4, best=2, evaluated=4)
    save_best(folder.path, make_model_files(model, 2))
    second = OutputDir(tmp_path / "second", RULES, keep_checkpoints=2, resume_from=folder.path / "step_4")
    copytree = shutil.copytree

    def fail(source, target, **options):
        copytree(source, target, **options)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", fail)
        assert "no space left" in error_of(find_saved_run, second, IDENTITY)
    assert not (second.path / "best").exists()
    assert find_saved_run(second, IDENTITY).values["trainer"]["best"]["step"] == 2
    assert open_checkpoint(second.path / "best").settings["step"] == 2


def test_best_model_from_another_step(folder, save, model):
    """The checkpoint knows step 2 as the best one, and the evaluation of step 4 as the last one.

    After a kill best/ may be of a later step, which the run will select again.
    """
    save(folder, 4, best=2, evaluated=4)
    for step, error in ((None, "missing"), (3, "contains step 3"), (4, "contains step 4")):
        if step is not None:
            save_best(folder.path, make_model_files(model, step))
        assert f"/best: {error}, but the run selected step 2 before step_4. " in error_of(
            find_saved_run, folder, IDENTITY
        )
    for step, best, evaluated in ((5, None, -1), (2, 2, 4)):
        save_best(folder.path, make_model_files(model, step))
        state = find_saved_run(folder, IDENTITY).values["trainer"]
        assert (state["best"] and state["best"]["step"], state["evaluated"]) == (best, evaluated)


def test_a_claimed_folder(folder, save):
    with folder.lock():
        folder.check_or_write_fingerprint(IDENTITY)
        # Nothing was trained yet, so this claim replaces the first.
        folder.check_or_write_fingerprint({**IDENTITY, "lr": 2})
        save(folder, 2)
        assert f"{folder.path}: made with other settings (lr: 2 -> 1); {WAYS_OUT}" in error_of(
            folder.check_or_write_fingerprint, IDENTITY
        )
        (folder.path / "run.json").unlink()
        assert f"no run.json; {WAYS_OUT}" in error_of(folder.check_or_write_fingerprint, IDENTITY)


def test_overwriting_keeps_files_of_the_user(folder, save, caplog):
    """What a run leaves is removed, with the rest of a killed process; files of the user stay."""
    save(folder, 2)
    for name in ("run.json", "notes.txt", "run.json.old", "step_2.txt"):
        (folder.path / name).write_text("{}")
    (folder.path / "best").symlink_to(folder.path.parent)  # the link is removed, but not what it leads to
    (folder.path / f".best.tmp-{start_and_end()}-{get_host_name()}-0123abcd").mkdir()
    again = OutputDir(folder.path, RULES, keep_checkpoints=2, overwrite=True)
    with again.lock():
        assert find_saved_run(again, IDENTITY) is None
        again.check_or_write_fingerprint({**IDENTITY, "lr": 2})
        save(again, 4)
        again.remove_old_run()  # does nothing: the old run is removed once
    OutputDir(folder.path / "new", RULES, keep_checkpoints=2, overwrite=True).remove_old_run()  # says nothing
    assert caplog.messages == [f"overwrite: removed the run in {folder.path} (run.json, step_2, best)"]
    assert names_in(folder.path) == [
        ".lock",
        "notes.txt",
        "run.json",
        "run.json.old",
        "step_2.txt",
        "step_4",
    ]
    assert json.loads((folder.path / "run.json").read_text())["lr"] == 2


@pytest.mark.parametrize("source", ["step_2", "step_2/model.safetensors", "../link/step_2", "best/of/mine"])
def test_overwriting_does_not_remove_what_the_run_reads(folder, save, source):
    """However deep it lies, and however its path is written."""
    (folder.path.parent / "link").symlink_to(folder.path)
    for step in (2, 4):
        save(folder, step)
    (folder.path / "best/of/mine").mkdir(parents=True)
    path = str(folder.path / source)
    again = OutputDir(folder.path, RULES, keep_checkpoints=2, overwrite=True, sources=["nowhere", path])
    assert error_of(again.check_or_write_fingerprint, IDENTITY).startswith(f"overwrite would remove {path}, ")
    assert names_in(folder.path) == ["best", "step_2", "step_4"]


def test_seeds_have_separate_folders(folder, save, model):
    folder.resume_from = folder.path.parent / "step_9"
    seed = folder.make_seed_dir(3)
    assert (seed.keep_checkpoints, seed.resume_from) == (2, folder.resume_from)
    folder.resume_from = None
    save(seed, 2)
    assert (folder.path / "seed_3" / "step_2").is_dir()
    assert find_saved_run(folder, IDENTITY) is None
    assert not is_finished(seed.path)
    score = np.float32(50.5)
    best = Evaluation(step=2, epoch=0, selected_by=score, scores={"dev.%s": {"en": {"acc": score}}})
    write_selected(seed.path, best)
    assert is_finished(seed.path)
    assert error_of(read_selected, seed.path).startswith(f"{seed.path / 'best'}: missing")
    save_best(seed.path, make_model_files(model, 4))
    assert error_of(read_selected, seed.path).startswith(f"{seed.path / 'best'}: contains step 4")
    save_best(seed.path, make_model_files(model, 2))
    assert read_selected(seed.path) == best
    path = seed.path / "selected.json"
    for content in (path.read_text().replace("50.5", "60.5"), "{}"):
        path.write_text(content)
        assert error_of(read_selected, seed.path).startswith(f"{path}: corrupt ")
        write_digest(path)
    assert error_of(read_selected, seed.path).startswith(f"{path}: unsupported format")
    path.with_name("selected.json.digest").unlink()
    assert error_of(read_selected, seed.path).startswith(f"{path}: corrupt ")


def test_clear_leftovers_in_seed_folders(folder):
    """It is cleared when the lock is taken."""
    leftover = folder.path / "seed_3" / ".step_2.tmp-1-elsewhere-0123abcd"
    leftover.mkdir(parents=True)
    with folder.lock():
        assert not leftover.exists()


def test_a_second_command_is_refused_on_all_processes(folder, monkeypatch):
    """The main process alone takes the lock, and tells the others."""
    gathered = []

    @contextmanager
    def locked_by_another_command():
        """Hold the lock; the block must be refused."""
        with lock_output(folder.path), pytest.raises(UserError, match="locked by another command"):
            yield

    with locked_by_another_command(), folder.lock():
        raise AssertionError("both hold the lock")

    def gather(item):
        gathered.append(item)
        return [item, (None, None)]

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather", gather)
    with locked_by_another_command(), folder.lock():
        raise AssertionError("both hold the lock")
    ((_, error),) = gathered
    assert "locked by another command" in str(error)
