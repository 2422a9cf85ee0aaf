"""Files and folders appear whole or not at all, and what killed processes leave is cleared."""

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ernie_m.commands import launch
from ernie_m.data import download
from ernie_m.inference.predict_files import write_predictions
from ernie_m.training.log import MetricsFile
from ernie_m.utils import files
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import Folder
from ernie_m.utils.logging import setup_logging
from ernie_m.utils.output_lock import lock_output
from tests.helpers.files import disk_full_after, names_in, write_file, write_files
from tests.helpers.processes import start_and_end
from tests.launching import another_process_writes, error_of


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_200_writers_with_one_process_id(tmp_path, monkeypatch, kind):
    """Threads stand for containers: each of their processes may have the id 1."""
    monkeypatch.setattr(files.os, "getpid", lambda: 1)

    def write(number: int) -> None:
        text = f"{number}\n" * 1000
        if kind == "file":
            with files.atomic_file(tmp_path / "out", "w") as file:
                file.write(text)
        else:
            with files.atomic_dir(tmp_path / f"out{number}") as folder:
                (folder / "out").write_text(text)

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(write, range(200)))
    written = list(tmp_path.rglob("out"))
    assert len(written) == (1 if kind == "file" else 200)
    assert all(len(set(path.read_text().split())) == 1 for path in written)
    assert len(list(tmp_path.iterdir())) == len(written)  # no temporary file is left


def test_read_json_with_bom_or_without_end(tmp_path):
    """A byte order mark is skipped, and a file without end is not read whole."""
    (tmp_path / "a.json").write_text("\ufeff[1]")
    assert files.read_json(tmp_path / "a.json") == [1]
    assert error_of(files.read_json, "/dev/zero").startswith("/dev/zero: larger than ")


def test_sha256_of_several_mebibytes(tmp_path):
    data = bytes(range(256)) * (3 << 12)
    (tmp_path / "x").write_bytes(data)
    assert files.compute_sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_a_file_that_was_renamed_before_it_is_locked(tmp_path, monkeypatch):
    """Its lock is free again then, but its name is that of another process's work, or of none."""
    path = tmp_path / "answers.part"
    flock = fcntl.flock

    def rename_and_lock(file, operation):
        path.rename(tmp_path / "answers")
        flock(file, operation)

    with open(path, "a") as file:
        assert files.try_lock(file)
    with open(path, "a") as file:
        monkeypatch.setattr(fcntl, "flock", rename_and_lock)
        assert not files.try_lock(file)


def test_lock_output_for_one_writer(tmp_path):
    """A second one is refused, whichever way it names the output; afterwards the next one may write."""
    output = tmp_path / "new" / "out"
    (tmp_path / "link").symlink_to(output)
    with files.lock_for_writing(output):
        for name in (output, tmp_path / "link"):
            with pytest.raises(UserError, match=f"^{output}: "), files.lock_for_writing(name):
                pytest.fail("two writers")
        output.mkdir()
    assert names_in(output.parent) == ["out"]
    with pytest.raises(KeyError), files.lock_for_writing(output):
        raise KeyError
    assert names_in(output.parent) == ["out"]
    (output.parent / ".out.lock").touch()  # a killed writer left it
    with files.lock_for_writing(output):
        pass
    with another_process_writes(f"writer:{output}") as process:
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert names_in(output.parent) == ["out"]


FILE_OF_PREDICTIONS = SimpleNamespace(formats=[], write=lambda predictions, file: list(predictions))
# What is written under its final name, or kept after an interruption -> the call that writes it.
WRITTEN_IN_PLACE = {
    ".lock": lambda folder: lock_output(folder).__enter__(),
    ".out.lock": lambda folder: files.lock_for_writing(folder / "out").__enter__(),
    "job.log.0": lambda folder: setup_logging(str(folder)),
    "metrics.jsonl": lambda folder: MetricsFile(folder / "metrics.jsonl").append({"step": 1}),
    "workerlog.1": lambda folder: launch.run_processes([["true"]] * 2, [{}] * 2, folder),
    "out.txt.part": lambda folder: write_predictions(None, [], FILE_OF_PREDICTIONS, str(folder / "out.txt")),
    "kept.part": lambda folder: download.download((folder / "kept").as_uri(), folder / "kept"),
    "kept.version": lambda folder: download.download((folder / "kept").as_uri(), folder / "kept"),
}


@pytest.mark.parametrize("name", WRITTEN_IN_PLACE)
def test_a_link_is_not_written_through(tmp_path, name):
    (tmp_path / "kept").write_text("of the user")
    (tmp_path / name).symlink_to("kept")
    assert error_of(WRITTEN_IN_PLACE[name], tmp_path).startswith(f"{tmp_path / name}: a symbolic link")
    assert (tmp_path / "kept").read_text() == "of the user"


@pytest.fixture
def events(monkeypatch):
    """The name of each file or folder that is synced, and "renamed" for each rename, in their order."""
    names = []
    replace = os.replace

    def fsync(descriptor: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def rename(source, target) -> None:
        names.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    return names


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, events):
    """A crash must not leave the name with half of the files. The rename is synced with the folder above."""
    with files.atomic_dir(tmp_path / "step_1") as folder:
        write_files(folder, dict.fromkeys(("config.json", "training_state/state.json"), "{}"))
    assert (sorted(events[:2]), events[2:]) == (["config.json", "state.json"], ["renamed", tmp_path.name])


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, events):
    with files.atomic_file(tmp_path / "results.json", "w") as file:
        file.write("{}")
        temporary = Path(file.name).name
    assert events == [temporary, "renamed", tmp_path.name]


def test_an_array_on_a_full_disk(tmp_path):
    """numpy's error has no number."""
    path = tmp_path / "vectors.npy"
    message = f"^{path}: no space left"
    with disk_full_after(1000), pytest.raises(UserError, match=message), files.atomic_file(path) as file:
        np.save(file, np.zeros(1000))
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_writing_is_not_a_full_disk():
    with pytest.raises(OSError, match="odd"), files.translate_write_errors("x"):
        raise OSError(errno.EINVAL, "odd")


def test_the_earlier_folder_is_put_back_if_the_new_one_cannot_have_its_name(tmp_path, monkeypatch):
    """It was moved aside before."""
    path = tmp_path / "best"
    write_file(path / "old", "old")
    replace = os.replace

    def rename(source, target) -> None:
        if Path(target) == path and ".tmp-" in Path(source).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(UserError, match="best: no space left"), files.atomic_dir(path) as folder:
        (folder / "new").write_text("new")
    assert [file.name for file in tmp_path.rglob("*")] == ["best", "old"]


@pytest.mark.parametrize("earlier", ["file", "folder"])
def test_a_folder_replaces_what_has_its_name(tmp_path, earlier):
    path = tmp_path / "step_20"
    if earlier == "file":
        path.write_text("old")
    else:
        write_file(path / "old", "old")
    with files.atomic_dir(path) as folder:
        (folder / "new").write_text("new")
    assert [file.name for file in tmp_path.rglob("*")] == ["step_20", "new"]  # no "old", no temporary folder


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_to_a_folder_stays(tmp_path, is_there):
    target = tmp_path / "elsewhere" / "step_20"
    if is_there:
        write_file(target / "old", "old")
    link = tmp_path / "current"
    link.symlink_to(target)
    with files.atomic_dir(link) as folder:
        (folder / "new").write_text("new")
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert link.is_symlink()
    assert names == ["current", "elsewhere", "elsewhere/step_20", "elsewhere/step_20/new"]


# What killed processes left


@pytest.fixture(params=["another process", "one with the id of this one"])
def ended(request):
    """The end of a temporary name of a process that does not run any more.

    In containers, its id is often that of this process.
    """
    process = start_and_end() if request.param == "another process" else os.getpid()
    return f"{process}-{files.get_host_name()}-0123abcd"


@pytest.fixture
def running():
    """The end of a temporary name of another process, which runs."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield f"{process.pid}-{files.get_host_name()}-0123abcd"
        process.kill()


def test_a_folder_lost_between_two_renames_is_put_back(tmp_path, ended):
    write_file(tmp_path / f".best.old-{ended}" / "model", "the older one")
    (tmp_path / f".best.tmp-{ended}").mkdir()
    files.remove_leftovers(tmp_path)
    assert names_in(tmp_path) == ["best"]
    assert (tmp_path / "best/model").read_text() == "the older one"


def test_clear_leftovers_from_killed_processes(tmp_path, ended, running):
    """What a running process writes stays, and so does every name that is not exactly ours."""
    cleared = [
        f".best.tmp-{ended}",
        f".best.old-{ended}",
        f".step_3.gone-{ended}",
        ".x.tmp-1-elsewhere-0123abcd",  # its process ran on another machine
    ]
    of_the_user = [".hidden", ".notes.old-2023", ".x.tmp-999", ".x.tmp-1-elsewhere-0a", ".x.tmp-y", "x.tmp-1"]
    stays = ["best", f".best.tmp-{running}", *of_the_user]
    for name in (*stays, *cleared):
        (tmp_path / name).mkdir()
    (tmp_path / "best" / "new").touch()
    (tmp_path / f".metrics.jsonl.tmp-{ended}").write_text("half")
    files.remove_leftovers(tmp_path)
    kept = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert sorted(kept) == sorted([*stays, "best/new"])


def test_detect_process_run_by_another_user(tmp_path, monkeypatch):
    """It may not be sent a signal, which says that it is there."""

    def refuse(process, number):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    name = f".best.tmp-1-{files.get_host_name()}-0123abcd"
    (tmp_path / name).mkdir()
    monkeypatch.setattr(os, "kill", refuse)
    files.remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [name]


def test_a_folder_that_does_not_exist_has_no_leftovers(tmp_path):
    files.remove_leftovers(tmp_path / "absent")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_removes_leftovers_of_a_killed_writer(tmp_path, running, kind):
    """Without a lock: of the same name, and of a process that ran on this machine."""
    ended = f"{start_and_end()}-{files.get_host_name()}-0123abcd"
    of_this_process = f"{os.getpid()}-{files.get_host_name()}-0123abcd"  # of another thread
    stays = [
        f".out.tmp-{running}",
        f".out.tmp-{of_this_process}",
        f".other.tmp-{ended}",
        ".out.tmp-1-elsewhere-0123abcd",
    ]
    for name in (*stays, f".out.tmp-{ended}"):
        (tmp_path / name).mkdir()
    with files.atomic_file(tmp_path / "out") if kind == "file" else files.atomic_dir(tmp_path / "out"):
        pass
    assert names_in(tmp_path) == sorted([*stays, "out"])


def test_lists_only_files_of_a_folder(tmp_path):
    """A link that leads nowhere, or to itself, must not hide the others."""
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_text("{}")
    for name, target in (("to a", "a"), ("loop", "loop"), ("nowhere", "b"), ("to below", "below")):
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    assert Folder(tmp_path).names == {"a", "to a"}
    assert (Folder(tmp_path / "b").names, Folder(tmp_path / "a").named) == (set(), "a")
