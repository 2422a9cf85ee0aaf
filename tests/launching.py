"""Call a function or start a script: in this process, in one of its own, or in several as `fleetrun` does."""

import contextlib
import io
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest

from ernie_m.utils import logging as run_log
from ernie_m.utils.errors import UserError, run
from tests.helpers.files import write_file

ROOT = Path(__file__).resolve().parent.parent


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a fresh shell, with `more`: no variables of a launcher, no GPU, one thread.

    The modules of the repository can be imported.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PADDLE_")}
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return {**environment, **fixed, **more}


class Started(subprocess.Popen):
    """A process that does not outlive a test that fails within its `with` statement."""

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        if kind:
            self.kill()
        super().__exit__(kind, *exception)


def start_python(code: str, *arguments: object) -> Started:
    """`python -c code` in a process of its own, with pipes."""
    return Started(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Takes the locks that its arguments name, and holds them until its input ends.
HOLDER = """
import sys
from contextlib import ExitStack
from ernie_m.utils.output_lock import lock_output
from ernie_m.utils.files import lock_for_writing
with ExitStack() as locks:
    for argument in sys.argv[1:]:
        kind, path = argument.split(":", 1)
        locks.enter_context({"run": lock_output, "writer": lock_for_writing}[kind](path))
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process_writes(*locations: object) -> Iterator[subprocess.Popen]:
    """Hold locks in a process of its own, as commands do: "run:folder" and "writer:file or folder"."""
    with start_python(HOLDER, *locations) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def as_flags(values: dict) -> list[str]:
    """`--name value` for each; None as a value leaves the flag out."""
    flags = [(f"--{name}", str(value)) for name, value in values.items() if value is not None]
    return [word for flag in flags for word in flag]


def read_log(folder: Path) -> str:
    """What the commands that ran in a folder have logged."""
    return (folder / "log" / "job.log.0").read_text()


def read_masked_log(folder: Path, **folders: Path) -> str:
    """What the commands that ran in a folder have logged, without dates, command lines and the CPU.

    # stands for a number of the clock or the weights, and RUN and the names of `folders` for their paths.
    What only good or bad weights log is left out.
    """
    log = re.sub(r"^\S+ \S+ (?=INFO |WARNING )", "", read_log(folder), flags=re.MULTILINE)
    some = "INFO (cpu|command|new .*): |INFO bfloat16 available|WARNING .* not above the majority baseline"
    log = re.sub(f"^({some}).*\n", "", log, flags=re.MULTILINE)
    for name, path in {**folders, "RUN": folder}.items():
        log = log.replace(str(path), name)
    return re.sub(r" +(?=[ \n])", "", re.sub(r"(?<![\w.])-?\d+\.\d+(e-\d+)?|\d+:\d+:\d+", "#", log))


def call_main(script: ModuleType, line: list[str]) -> None:
    """Run `ernie-m <script> line` in this process, and put back loggers and Paddle's default type."""
    import paddle

    try:
        with mock.patch.object(sys, "argv", [script.__name__.rpartition(".")[2], *line]):
            script.main()
    finally:
        paddle.set_default_dtype("float32")
        run_log._replace_handlers([])  # removes the handlers that the script has added


def give_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Let standard input hold these bytes."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(data))))


def one_error(main: Callable[[], object], capsys) -> str:
    """Run a command that must end with exit code 2, and return its one line of error."""
    with pytest.raises(SystemExit) as raised:
        run(main)
    assert raised.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return error


def error_of(call: Callable[..., object], /, *arguments, **options) -> str:
    """Call a function that must end with a `UserError`, and return its lines: one for each error."""
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    line = str(error.value)
    first, *more = line.split("\n")
    assert first and all(text.startswith("  ") for text in more)
    return line


def check_error(error: str, *words: str, start: str = "") -> None:
    """The line of an error has these words, and this at its start."""
    assert error.startswith(start) and all(word in error for word in words), error


def check_refusal(process: subprocess.CompletedProcess) -> str:
    """The one line with which a command has ended, with exit code 2."""
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    return line


def check_success(process: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """Return a process that has ended with exit code 0, as it must."""
    assert process.returncode == 0, f"{process.stdout}{process.stderr}"
    return process


def stand_in_for_launch(folder: Path) -> Path:
    """Make a folder whose launch.py prints its arguments, with a Python that starts fast (-S) in .venv."""
    python = folder / ".venv/bin/python"
    write_file(python, f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    (folder / "launch.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    return folder


def run_script(arguments: list, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run `python arguments` in one process, in `cwd`. `environment`: variables to add."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def launch(arguments: list, cwd: Path, processes: int = 2, **environment: str) -> subprocess.CompletedProcess:
    """Run `python arguments` in the processes that `fleetrun` would start, and wait for all of them.

    When a process fails, the others are killed. `environment`: variables to add.

    Returns:
        stdout of rank 0, stderr of all, and the first return code that is not 0.
    """
    command = [sys.executable, *map(str, arguments)]
    endpoints = [f"127.0.0.1:{port}" for port in free_ports(processes)]
    running = []
    for rank, endpoint in enumerate(endpoints):
        variables_of_rank = {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": str(processes),
            "PADDLE_CURRENT_ENDPOINT": endpoint,
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_DISTRI_BACKEND": "gloo",
        }
        variables = clean_environment(**variables_of_rank, **environment)
        with open(cwd / f"stdout.{rank}", "w") as out, open(cwd / f"stderr.{rank}", "w") as err:
            running.append(subprocess.Popen(command, cwd=cwd, env=variables, stdout=out, stderr=err))
    code = 0
    try:
        for process in running:
            code = process.wait(timeout=300)
            if code:
                break
    finally:
        for process in running:
            process.kill()
            process.wait()
    errors = [f"\n--- rank {rank}\n{(cwd / f'stderr.{rank}').read_text()}" for rank in range(processes)]
    return subprocess.CompletedProcess(arguments, code, (cwd / "stdout.0").read_text(), "".join(errors))


def free_ports(count: int) -> list[int]:
    """Ports that nothing uses, drawn from below those that systems give to connections.

    One of those could be taken by another program's connection before it is used.
    """
    ports = []
    for port in random.SystemRandom().sample(range(10_000, 30_000), 1000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError("no port is free")
