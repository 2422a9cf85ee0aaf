"""Start a script in this process, in a process of its own, or in several processes as `fleetrun` does."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

from utils import logging as run_log
from utils.errors import run

ROOT = Path(__file__).resolve().parent.parent


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a fresh shell: nothing of a launcher, one thread, the repository importable."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PADDLE_")}
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return {**environment, **fixed, **more}


def as_flags(values: dict) -> list[str]:
    """`--name value` for each; None as a value leaves the flag out."""
    flags = []
    for name, value in values.items():
        if value is not None:
            flags += [f"--{name}", str(value)]
    return flags


def call_main(script: ModuleType, line: list[str]) -> None:
    """`python <script>.py line` in this process; loggers and Paddle's default type are put back."""
    import paddle

    try:
        with mock.patch.object(sys, "argv", [f"{script.__name__}.py", *line]):
            script.main()
    finally:
        paddle.set_default_dtype("float32")
        run_log._attach([])


def one_error(run_it: Callable[[], object], capsys) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        run(run_it)
    assert ended.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    (line,) = [line for line in errors if line.startswith("error: ")]
    return line


def stand_in_for_launch(folder: Path) -> Path:
    """A folder whose launch.py prints its arguments, with a Python that starts fast."""
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    (folder / "launch.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    return folder


def run_script(arguments: list, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """`python arguments` in one process, in `cwd`."""
    command = [sys.executable, *map(str, arguments)]
    environment = clean_environment(**environment)
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def launch(arguments: list, cwd: Path, processes: int = 2, **environment: str) -> subprocess.CompletedProcess:
    """Start the processes that `fleetrun` starts, without its own process.

    Returns:
        stdout of rank 0, stderr of all, and the first return code that is not 0. One that fails takes the
        others with it.
    """
    command = [sys.executable, *map(str, arguments)]
    endpoints = [f"127.0.0.1:{port}" for port in _free_ports(processes)]
    running = []
    for rank, endpoint in enumerate(endpoints):
        place = {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": str(processes),
            "PADDLE_CURRENT_ENDPOINT": endpoint,
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_DISTRI_BACKEND": "gloo",
        }
        variables = clean_environment(**place, **environment)
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
    errors = ""
    for rank in range(processes):
        errors += f"\n--- rank {rank}\n{(cwd / f'stderr.{rank}').read_text()}"
    return subprocess.CompletedProcess(arguments, code, (cwd / "stdout.0").read_text(), errors)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            free = stack.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
        return ports
