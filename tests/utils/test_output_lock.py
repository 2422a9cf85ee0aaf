"""The folder of work that can be interrupted: its lock, and whose work it holds."""

import errno
import fcntl
import json
import os
import socket
import subprocess

import pytest

from ernie_m.utils.errors import UserError
from ernie_m.utils.output_lock import LOCK, lock_output, write_fingerprint
from tests.helpers.files import disk_full_after
from tests.launching import another_process_writes, check_error, error_of


def test_a_full_disk_is_one_line(tmp_path):
    with disk_full_after(0), pytest.raises(UserError, match="no space left"), lock_output(tmp_path):
        pass


def test_the_second_run_is_refused_and_a_killed_one_does_not_block(tmp_path):
    folder = tmp_path / "out"
    with another_process_writes(f"run:{folder}") as holder:
        with pytest.raises(UserError) as refused, lock_output(folder):
            raise AssertionError("both hold the lock")
        process = f"(process {holder.pid} on {socket.gethostname()})"
        assert str(refused.value).startswith(f"{folder}: locked by another command {process}")
        holder.kill()
    with lock_output(folder):  # the lock names this process instead of the other
        assert (folder / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}"


def test_the_lock_ends_with_the_work(tmp_path):
    """Until then it is refused to this process as well. A process may have locks of several folders."""
    with lock_output(tmp_path), lock_output(tmp_path / "other"):
        for _ in range(2):  # a refused run does not release the lock
            with pytest.raises(UserError), lock_output(tmp_path):
                pass
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with lock_output(tmp_path):  # the child has inherited the open files, but not the lock
            pass
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog, number):
    def refuse(file, operation):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_output(tmp_path):
        pass
    assert f"{tmp_path / LOCK}: the file system does not support file locking" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Choose another path"), lock_output(tmp_path / "file" / "out"):
        pass


# Whose work it is


def test_a_folder_belongs_to_one_run(tmp_path):
    """A line names up to five keys that differ, and shows 12 digits of digests."""
    file = tmp_path / "run.json"
    fingerprint = {"data": {"digest": "0123456789ab" + 52 * "0"}, "seeds": (1, 2)}
    write_fingerprint(file, fingerprint, "choose another folder")
    write_fingerprint(file, fingerprint, "choose another folder")
    assert json.loads(file.read_text()) == {**fingerprint, "seeds": [1, 2]}
    others = {str(number): number for number in range(9)}
    other = {"data": {"digest": 64 * "f"}, "seeds": (1, 2), **others}
    line = error_of(write_fingerprint, file, other, "choose another folder")
    assert line.startswith(f"{tmp_path}: ") and line.endswith("; choose another folder")
    assert "(data.digest: 0123456789ab -> ffffffffffff; 0: " in line and "3: " in line and "4: " not in line


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_corrupt_fingerprint(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    error = error_of(write_fingerprint, tmp_path / "run.json", {}, "choose another folder")
    check_error(error, "run.json", "; choose another folder")
