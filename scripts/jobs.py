"""Run several programs of the project side by side, each on one core."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.logging import LOG_DIR

# Lines that say how far a program is. The other lines go to the log of a quiet job alone.
PROGRESS = ("step ", "epoch: ", "[held-out] retrieval")


@dataclass(frozen=True)
class Job:
    """One run of a program.

    Attributes:
        name: printed before its lines.
        command: arguments of Python: a program of the project and its flags.
        result: the file that it writes last. If it exists, the run is not started again.
        log: folder for its job.log.0; by default the program decides.
        output: file for all lines; then only progress is printed.
        after: a file of another job that must be there before this one begins.
    """

    name: str
    command: Sequence[object]
    result: Path | None = None
    log: Path | None = None
    output: Path | None = None
    after: Path | None = None

    def finished(self) -> bool:
        return self.result is not None and self.result.is_file()


def as_line(flags: Mapping[str, object]) -> list[str]:
    """{"seed": 1} -> ["--seed", "1"]."""
    return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]


def carry_out_chains(chains: Sequence[Sequence[Job]], at_once: int) -> None:
    """Run chains of jobs, `at_once` at a time. SIGTERM, Ctrl-C or a failure ends them all; they save first.

    Raises:
        UserError: the jobs were stopped, or one failed; then it names the log and quotes the last line.
    """
    processes = _Processes()
    stopping = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, processes.stop) for number in stopping}
    try:
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(processes.run_chain, chains))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if processes.stopped:
        raise UserError(processes.failure or "stopped")


class _Processes:
    """The running processes of the jobs."""

    def __init__(self):
        self.failure = ""
        self.running: list[subprocess.Popen] = []
        self.stopped = False
        self.lock = threading.Lock()

    def stop(self, *_) -> None:
        """Start no more jobs, and ask the running ones to end."""
        self.stopped = True
        for process in tuple(self.running):
            process.terminate()

    def run_chain(self, chain: Sequence[Job]) -> None:
        for job in chain:
            if job.finished():
                # Text and line end in one write, because two jobs print side by side.
                print(f"{job.name}: finished before\n", end="", flush=True)
            elif not self.run(job):
                return

    def run(self, job: Job) -> bool:
        """Run one job to its end; False if it failed or was not started."""
        while job.after and not job.after.is_file() and not self.stopped:
            time.sleep(1)
        with self.lock:
            if self.stopped:
                return False
            process = subprocess.Popen(
                [sys.executable, *map(str, job.command)],
                env={"OMP_NUM_THREADS": "1", **os.environ, **({LOG_DIR: str(job.log)} if job.log else {})},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=_end_with_the_parent,
            )  # fmt: skip
            self.running.append(process)
        if self.stopped:  # the signal came meanwhile
            process.terminate()
        last = ""
        with open(job.output or os.devnull, "w", encoding="utf-8") as file:
            for last in process.stdout:
                file.write(last)
                if not job.output or last.startswith(PROGRESS):
                    print(f"{job.name}: {last}", end="", flush=True)
        failed = process.wait() != 0
        if failed and not self.stopped:
            self.failure = f"stopped at {job.name} ({job.output}): {last.strip()}"
            self.stop()
        return not failed


def _end_with_the_parent() -> None:
    """If the parent is killed, the job must not go on and hold the lock of its folder (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
