"""Run several programs of the project side by side, each on one core."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ernie_m.utils.child_processes import end_with_parent, stop_signals_handled_by
from ernie_m.utils.errors import UserError

# Lines that say how far a program is. The other lines go to the log alone.
PROGRESS = ("step ", "epoch: ", "[held-out] retrieval")


@dataclass(frozen=True)
class Job:
    """One run of a program.

    Attributes:
        name: printed before its lines.
        command: arguments of Python: a program of the project and its flags.
        result: the file that it writes last; if it exists, the job is finished.
        output: the file for all its lines; only progress is printed.
    """

    name: str
    command: Sequence[object]
    result: Path | None = None
    output: Path = Path(os.devnull)

    def finished(self) -> bool:
        """Whether the job has a result, and it is there."""
        return self.result is not None and self.result.is_file()


def as_line(flags: Mapping[str, object]) -> list[str]:
    """{"seed": 1} -> ["--seed", "1"]."""
    line = []
    for name, value in flags.items():
        line += [f"--{name}", str(value)]
    return line


def carry_out_chains(chains: Sequence[Sequence[Job]], at_once: int) -> None:
    """Run chains of jobs, `at_once` at a time. A failure or a signal to stop asks all jobs to save and end.

    Raises:
        UserError: a job failed, or SIGTERM or SIGHUP came; names the log of the job and quotes its last line.
        KeyboardInterrupt: Ctrl-C came.
    """
    crew = _Crew()
    with stop_signals_handled_by(crew.stop_at), ThreadPoolExecutor(at_once) as pool:
        list(pool.map(crew.carry_out, chains))  # a list, so that an error of a thread is raised here
    if crew.failure:
        raise UserError(crew.failure)
    if crew.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if crew.stopped_by:
        raise UserError("stopped")


class _Crew:
    """Threads that carry out chains of jobs."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.stopped_by: int | None = None  # the first signal that came
        self.failure = ""  # why a job failed, for the user
        self.processes: list[subprocess.Popen] = []

    def stop_at(self, number: int, frame: object) -> None:
        """Handle a signal."""
        self.stopped_by = self.stopped_by or number
        self.stop()

    def stop(self) -> None:
        """Ask all jobs to save and end, and start no others."""
        self.stopping.set()
        for process in list(self.processes):
            process.terminate()

    def carry_out(self, chain: Sequence[Job]) -> None:
        """Run the jobs of a chain one after the other."""
        for job in chain:
            if not job.finished():
                self.run(job)

    def run(self, job: Job) -> None:
        """Run a job to its end, print its progress, and ask all to stop if it fails."""
        job.output.parent.mkdir(parents=True, exist_ok=True)
        process = self.start(job)
        if process is None:
            return
        last_line = ""
        with open(job.output, "w", encoding="utf-8") as file:
            for last_line in process.stdout:
                file.write(last_line)
                if last_line.startswith(PROGRESS):
                    # Text and line end in one write, because two jobs print side by side.
                    print(f"{job.name}: {last_line}", end="", flush=True)
        # A job that somebody else asked to stop has saved its state and ended with 0, without its result.
        succeeded = process.wait() == 0 and (job.result is None or job.finished())
        if not succeeded and not self.stopping.is_set():
            self.failure = f"stopped at {job.name} ({job.output}): {last_line.strip()}"
            self.stop()

    def start(self, job: Job) -> subprocess.Popen | None:
        """Start a job, or not if all are to stop."""
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        if self.stopping.is_set():
            return None
        process = subprocess.Popen(
            [sys.executable, *map(str, job.command)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A job that outlived this program would hold the lock of its folder.
            preexec_fn=partial(end_with_parent, signal.SIGKILL),
        )
        self.processes.append(process)
        if self.stopping.is_set():  # `stop` may have come before the line above
            process.terminate()
        return process
