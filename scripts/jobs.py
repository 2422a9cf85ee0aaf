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

# Lines that say how far a program is. The other lines go to the log alone.
PROGRESS = ("step ", "epoch: ", "[held-out] retrieval")


@dataclass(frozen=True)
class Job:
    """One run of a program."""

    name: str  # printed before its lines
    command: Sequence[object]  # arguments of Python: a program of the project and its flags
    result: Path | None = None  # the file that it writes last; if it exists, the run is not started again
    log: Path | None = None  # folder for its job.log.0; by default the program decides
    output: Path = Path(os.devnull)  # file for all lines; only progress is printed
    after: Path | None = None  # a file of another job that must be there before this one begins

    def finished(self) -> bool:
        return self.result is not None and self.result.is_file()


def as_line(flags: Mapping[str, object]) -> list[str]:
    """{"seed": 1} -> ["--seed", "1"]."""
    return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]


def carry_out_chains(chains: Sequence[Sequence[Job]], at_once: int) -> None:
    """Run chains of jobs, `at_once` at a time. A failure, SIGTERM and Ctrl-C ask all jobs to save and end.

    UserError: the jobs were stopped, or one failed; the message names its log and quotes the last line.
    """
    stopped, failures, lock = threading.Event(), [], threading.Lock()
    running: list[subprocess.Popen] = []

    def stop(*_) -> None:
        stopped.set()
        for process in tuple(running):
            process.terminate()

    def run_job(job: Job) -> None:
        while job.after and not job.after.is_file() and not stopped.is_set():
            time.sleep(1)
        with lock:
            if stopped.is_set():
                return
            process = subprocess.Popen(
                [sys.executable, *map(str, job.command)],
                env={"OMP_NUM_THREADS": "1", **os.environ, **({LOG_DIR: str(job.log)} if job.log else {})},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=_end_with_the_parent,
            )  # fmt: skip
            running.append(process)
        if stopped.is_set():  # the signal came meanwhile
            process.terminate()
        last = ""
        with open(job.output, "w", encoding="utf-8") as file:
            for last in process.stdout:
                file.write(last)
                if last.startswith(PROGRESS):
                    # Text and line end in one write, because two jobs print side by side.
                    print(f"{job.name}: {last}", end="", flush=True)
        # A job that somebody else asked to stop has saved its state and ended with 0, without its result.
        if (process.wait() or (job.result and not job.finished())) and not stopped.is_set():
            failures.append(f"stopped at {job.name} ({job.output}): {last.strip()}")
            stop()

    def run_chain(chain: Sequence[Job]) -> None:
        for job in chain:
            if not job.finished():
                run_job(job)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(run_chain, chains))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped.is_set():
        raise UserError(failures[0] if failures else "stopped")


def _end_with_the_parent() -> None:
    """If the parent is killed, the job must not go on and hold the lock of its folder (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
