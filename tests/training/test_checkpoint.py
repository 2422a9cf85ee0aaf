"""A checkpoint appears when all processes have written their parts, or not at all."""

import errno

import numpy as np
import pytest

from model.checkpoint.folder import ModelFiles
from model.checkpoint.training_state import load_training_state
from training import checkpoint, distributed
from training.checkpoint import write_checkpoint
from utils.errors import UserError

FILES = ModelFiles({"weight": np.ones(3, np.float32)}, {"hidden_size": 3}, "a card", {})


def test_a_checkpoint_replaces_an_older_one(tmp_path):
    for step in (1, 2):
        write_checkpoint(tmp_path / "step_1", FILES, {"steps": step})
        assert load_training_state(tmp_path / "step_1" / "training_state") == {"steps": step}
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_an_error_of_another_process_ends_this_one(tmp_path, monkeypatch):
    """The other of two processes, a stand-in, cannot write its part.

    The processes exchange (success, result) after each of three pieces of work: making the folder, writing
    the parts, and renaming the folder.
    """
    write_checkpoint(tmp_path / "step_1", FILES, {"steps": 1})
    outcomes = []

    def gather(outcome):
        outcomes.append(outcome)
        is_writing = len(outcomes) == 2
        outcome_of_other = (not is_writing, None)
        return [outcome, outcome_of_other]

    monkeypatch.setattr(distributed, "gather", gather)
    with pytest.raises(UserError, match="step_1: another process could not write its part; its log says why"):
        write_checkpoint(tmp_path / "step_1", FILES, {"steps": 2}, part=0, parts=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
    assert load_training_state(tmp_path / "step_1" / "training_state") == {"steps": 1}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ZeroDivisionError()])
def test_a_failed_part_leaves_nothing_behind(tmp_path, monkeypatch, error):
    """A full disk becomes a user error; an error of the program stays what it is."""
    write_checkpoint(tmp_path / "step_1", FILES, {"steps": 1})

    def fail(*_):
        raise error

    monkeypatch.setattr(checkpoint, "sync_files", fail)
    expected = UserError if isinstance(error, OSError) else ZeroDivisionError
    with pytest.raises(expected):
        write_checkpoint(tmp_path / "step_1", FILES, {"steps": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
    assert load_training_state(tmp_path / "step_1" / "training_state") == {"steps": 1}
