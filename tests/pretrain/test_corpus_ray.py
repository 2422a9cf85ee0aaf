"""The Ray engine: the same bytes as the local one, through the death of a worker and of the whole build."""

import contextlib
import importlib.util
import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.corpus import workers as workers_module
from pretrain.corpus.inputs import file_status
from pretrain.corpus.workers import RayWorkers
from reader.corpus import MANIFEST
from tests.helpers.small_corpus import OPTIONS, ROOT, build, command, files_of
from utils.errors import UserError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: requirements-ray.txt"
)
WAIT = 120.0  # seconds, of a slow machine


def processes() -> dict[int, tuple[int, str]]:
    """Every process: its parent and its title."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if state != "Z":
                found[int(folder.name)] = int(parent), title
    return found


def below(pid: int) -> dict[int, str]:
    """The processes that descend from one, with their titles."""
    everyone, found = processes(), {}
    generation = {pid}
    while generation:
        generation = {child for child, (parent, _) in everyone.items() if parent in generation}
        found |= {child: everyone[child][1] for child in generation}
    return found


def wait_until(true, process: subprocess.Popen):
    deadline = time.monotonic() + WAIT
    while not (found := true()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def kill_a_worker(process: subprocess.Popen) -> None:
    """Kill one of the workers of a build while it works on a unit."""
    busy = wait_until(
        lambda: [pid for pid, title in below(process.pid).items() if "_unit" in title and "ray::" in title],
        process,
    )
    os.kill(busy[0], signal.SIGKILL)


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@needs_ray
@pytest.mark.slow
def test_a_worker_killed_then_the_build_killed_and_run_again(tmp_path, pieces, inputs):
    options = OPTIONS | {"near_duplicates": 0.8}
    build(tmp_path / "local", pieces, **inputs, **options)
    output = tmp_path / "ray"
    words = command(output, pieces, inputs, **options, engine="ray", workers=2)
    first = start(words)
    wait_until(lambda: len(list(output.rglob("scan/*-*"))) > 2, first)
    kill_a_worker(first)
    wait_until(lambda: len(list(output.rglob("tokens/*-*"))) > 2, first)
    first.kill()
    assert first.wait() == -signal.SIGKILL and not (output / MANIFEST).exists()
    second = start(words)
    said = second.communicate()[0]
    assert second.returncode == 0, said
    assert files_of(output) == files_of(tmp_path / "local")
    assert "ray" not in said, said  # it keeps quiet where all is well


@needs_ray
def test_what_comes_back_from_a_worker(tmp_path, monkeypatch):
    with RayWorkers(1, None, tmp_path) as workers:
        file = tmp_path / "text"
        file.write_text("four")
        assert [found.st_size for found in workers.run(file_status, [(str(file),)] * 3)] == [4, 4, 4]
        with pytest.raises(UserError, match=r"^\S*nowhere: cannot be read: No such file"):
            list(workers.run(file_status, [(str(tmp_path / "nowhere"),)]))
        monkeypatch.setattr(workers_module, "_RETRIES", 1)
        with pytest.raises(UserError, match="worker died 2 times .*run the same command again"):
            list(workers.run(lambda code: os._exit(code), [(1,)]))
        assert list(tmp_path.iterdir()) == [file]
        # A machine that reads something else there, or nothing, does not share the folder.
        monkeypatch.setattr(workers_module, "atomic_file", lambda *_: contextlib.nullcontext(io.StringIO()))
        with pytest.raises(UserError, match=r"does not see .*--output must lie on storage"):
            workers.check_machines()


@needs_ray
def test_addresses(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"127.0.0.1:{port}' does not answer .*ray start --head"):
            RayWorkers(1, f"127.0.0.1:{port}", tmp_path).__enter__()
    for address in ("somewhere", "ray://head:10001", "head:"):
        with pytest.raises(UserError, match=f"'{address}' does not answer"):
            RayWorkers(1, address, tmp_path).__enter__()


def test_without_ray(tmp_path, monkeypatch, pieces, inputs):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-ray\.txt"):
        build(tmp_path / "corpus", pieces, **inputs, engine="ray")


def test_the_local_engine_does_not_import_it():
    code = "import sys, pretrain.build_corpus; assert not {'ray', 'rensa'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
