"""Checkpoints written while training goes on: the same bits, no step waits, nothing else is lost."""

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from model import checkpoint_writer
from pretrain.trainer import Trainer
from tests.launching import run_script
from tests.pretrain.tiny_run import assert_equal_runs, checkpoint, pretrain, records
from training import distributed
from utils.errors import UserError

ASYNC = {"run__async_checkpoint": True}
WRITE, STEP = checkpoint_writer._write, Trainer.step


@pytest.fixture(scope="module")
def straight(tiny_corpus, tmp_path_factory):
    """A run that writes its checkpoints between steps."""
    return pretrain(tiny_corpus, tmp_path_factory.mktemp("straight") / "out")


def steps_of(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def test_the_same_files_and_none_of_them_waited_for(straight, tiny_corpus, tmp_path, monkeypatch):
    """The files of step 4 are not written before step 6 is done: a step that waited would wait for ever."""
    six_done, seen = threading.Event(), []

    def write(*args):
        assert threading.current_thread() is not threading.main_thread()
        assert six_done.wait(60)
        WRITE(*args)

    def step(self, *args, **kwargs):
        done = STEP(self, *args, **kwargs)
        if self.engine.steps == 6:
            seen.append(steps_of(tmp_path / "out"))
            six_done.set()
        return done

    monkeypatch.setattr(checkpoint_writer, "_write", write)
    monkeypatch.setattr(Trainer, "step", step)
    out = pretrain(tiny_corpus, tmp_path / "out", **ASYNC)
    assert [name for name in seen[0] if not name.startswith(".")] == []
    assert_equal_runs(straight, out)
    assert_equal_runs(straight, out, 8)  # what was trained on while it was written is not in it
    assert steps_of(out) == steps_of(straight) == ["step_12", "step_8"]


def test_an_error_comes_out_at_a_later_step(straight, tiny_corpus, tmp_path, monkeypatch, refused):
    failed, after = threading.Event(), []

    def write(place, *args):
        if "step_8" in str(place):
            failed.set()
            raise OSError(28, "No space left on device", str(place))
        WRITE(place, *args)

    def step(self, *args, **kwargs):
        if self.engine.steps >= 8:
            assert failed.wait(60)
            after.append(self.engine.steps)
        return STEP(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_writer, "_write", write)
        patched.setattr(Trainer, "step", step)
        line = refused(**ASYNC)
    assert "step_8: no space left to write it" in line and after
    assert steps_of(tmp_path / "out") == ["step_4"]
    assert_equal_runs(straight, pretrain(tiny_corpus, tmp_path / "out", **ASYNC))


def test_an_error_of_another_process_ends_this_one_too(tmp_path, monkeypatch):
    """A stand-in for the other of two processes: it is done, and its part could not be written."""
    writer = checkpoint_writer.CheckpointWriter(background=False, written=lambda folder: None)
    sums = iter([[0.0, 2.0], [1.0, 2.0], [0.0]])  # both agree to begin; the other fails; both have stopped
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_sum", lambda values: next(sums))
    monkeypatch.setattr(distributed, "gather", lambda item: [item])
    files = checkpoint_writer.ModelFiles({"weight": np.ones(3, np.float32)}, {}, "", {})
    with pytest.raises(UserError, match="step_1: another process could not write its part; its log says why"):
        writer.start(tmp_path / "step_1", files, {"steps": 1}, part=0, parts=2)
    assert list(tmp_path.iterdir()) == []


def test_the_end_waits(straight, tiny_corpus, tmp_path, monkeypatch):
    """A stop at step 5, and step 4 not yet written."""
    asked = threading.Event()

    def write(*args):
        assert asked.wait(60)
        WRITE(*args)

    finish = checkpoint_writer.CheckpointWriter.finish

    def finish_later(self):
        asked.set()
        finish(self)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_writer, "_write", write)
        patched.setattr(checkpoint_writer.CheckpointWriter, "finish", finish_later)
        out = pretrain(tiny_corpus, tmp_path / "out", **ASYNC, run__stop_after_steps=5)
    assert steps_of(out) == ["step_4", "step_5"]
    assert checkpoint(out, 5)
    assert_equal_runs(straight, pretrain(tiny_corpus, out, **ASYNC))


def test_kill_9_while_it_is_written(straight, tiny_corpus, tmp_path):
    done = run_script([__file__, tiny_corpus, tmp_path / "out"], tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = steps_of(tmp_path / "out")
    assert [name for name in left if name.startswith("step_")] == ["step_4"]
    assert any(name.startswith(".step_8.tmp-") for name in left)
    assert [record["step"] for record in records(tmp_path / "out") if "loss" in record] == [3, 6, 9]
    out = pretrain(tiny_corpus, tmp_path / "out", **ASYNC)
    assert_equal_runs(straight, out)
    assert steps_of(out) == ["step_12", "step_8"]


def killed_at_step_10(corpus: Path, output: Path) -> None:
    """The process ends when step 10 is done and half of step 8's files are on the disk."""
    half = threading.Event()

    def write(place, files, *args):
        if "step_8" in str(place):
            files.write(place)
            half.set()
            threading.Event().wait()
        WRITE(place, files, *args)

    def step(self, *args, **kwargs):
        done = STEP(self, *args, **kwargs)
        if self.engine.steps == 10:
            assert half.wait(60)
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    checkpoint_writer._write, Trainer.step = write, step
    pretrain(corpus, output, **ASYNC)


if __name__ == "__main__":
    killed_at_step_10(Path(sys.argv[1]), Path(sys.argv[2]))
