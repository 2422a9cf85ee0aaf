"""Several runs of the project's programs, a few at a time with one core each, taken up where they stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.logging import LOG_DIR


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        name: stands before its lines.
        command: a program of the project and its flags, without the Python that runs it.
        result: the file that it writes last; with it there, the run is not started again.
        log: folder of its job.log.0; None: where the program puts it.
    """

    name: str
    command: Sequence[str]
    result: Path
    log: Path | None = None

    def finished(self) -> bool:
        return self.result.is_file()


def as_line(flags: Mapping[str, object]) -> list[str]:
    """Flags and their values as parts of a command line."""
    return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]


def carry_out(jobs: Sequence[Job], at_once: int) -> None:
    """Run every job that is not finished. SIGTERM and Ctrl-C ask those that are going on to save and end.

    Raises:
        UserError: some are not finished; names them.
    """
    with _Processes() as processes, ThreadPoolExecutor(at_once) as pool:
        for job in jobs:
            pool.submit(processes.run, job)
    unfinished = [job.name for job in jobs if not job.finished()]
    if unfinished:
        raise UserError(f"not finished: {', '.join(unfinished)}; the same command goes on with them")


class _Processes:
    """Those that are going on."""

    def __init__(self):
        self.started: list[subprocess.Popen] = []
        self.stopped = False

    def __enter__(self) -> "_Processes":
        self.before = {number: signal.signal(number, self.stop) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def stop(self, *_) -> None:
        """Start no more, and ask those that are going on to end."""
        self.stopped = True
        for process in self.started:
            if process.poll() is None:
                process.terminate()

    def run(self, job: Job) -> None:
        """One job from where it stands to its end; its lines are printed with its name before them."""
        if self.stopped:
            return
        if job.finished():
            # One write with its line end: two jobs print side by side.
            print(f"{job.name}: finished before\n", end="", flush=True)
            return
        process = subprocess.Popen(
            [sys.executable, *job.command],
            env={"OMP_NUM_THREADS": "1", **os.environ, **({LOG_DIR: str(job.log)} if job.log else {})},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.started.append(process)
        if self.stopped:  # meanwhile
            process.terminate()
        for line in process.stdout:
            print(f"{job.name}: {line}", end="", flush=True)
        process.wait()
