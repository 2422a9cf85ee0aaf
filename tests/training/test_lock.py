"""Two runs in one folder: the second is refused by name, and nothing of a dead one stands in the way."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from tests.launching import ROOT, clean_environment
from training.guard import LOCK, only_run_in
from utils.errors import UserError

HOLDER = """
import sys, time
from training.guard import only_run_in
with only_run_in(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process at work in tmp_path/out."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_is_there_and_a_killed_one_does_not_block(tmp_path, holder):
    with pytest.raises(UserError) as told, only_run_in(tmp_path / "out"):
        raise AssertionError("both are in")
    assert str(told.value).startswith(f"{tmp_path / 'out'}: another run is at work there ")
    assert f"(process {holder.pid} on {socket.gethostname()})" in str(told.value)
    holder.kill()
    holder.wait()
    with only_run_in(tmp_path / "out"):
        assert str(os.getpid()) in (tmp_path / "out" / LOCK).read_text()


def test_it_ends_with_the_work_however_that_ends(tmp_path):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), only_run_in(tmp_path):
            raise ZeroDivisionError
    with only_run_in(tmp_path), only_run_in(tmp_path / "other"):
        with pytest.raises(UserError), only_run_in(tmp_path):
            pass
        with pytest.raises(UserError), only_run_in(tmp_path):  # the refused one took nothing away
            pass


def test_the_other_processes_of_a_run_take_no_lock(tmp_path, holder, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    with only_run_in(tmp_path / "out"):
        pass


def test_a_holder_that_has_not_signed_yet(tmp_path):
    with open(tmp_path / LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="its process is not known yet"), only_run_in(tmp_path):
            pass


def test_children_do_not_keep_it(tmp_path):
    """The reader process, and whatever a run starts, may outlive it for a moment."""
    with only_run_in(tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with only_run_in(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, caplog):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_run_in(tmp_path):
        pass
    assert f"{tmp_path}: this file system has no locks" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another place"), only_run_in(tmp_path / "file" / "out"):
        pass
