"""Two programs that take turns, a step each: a change in the machine's load meets both within seconds.

Both hold their memory meanwhile. Before each turn there is a rest: threads of the other spin a while after
their work.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

NEXT = "ready for a turn"  # a worker's line, on a line of its own whatever was written before
TURNS = "BENCHMARK_TAKES_TURNS"  # is set for workers that are to wait for theirs
REST = 0.3  # seconds


def wait_for_turn() -> None:
    """In a worker, before each step. It returns at once where there is nobody to take turns with."""
    if TURNS in os.environ:
        print(f"\n{NEXT}", flush=True)
        sys.stdin.readline()


class Program:
    """A process that waits for its turns where TURNS is in its environment. `with` ends it.

    Attributes:
        last: the last line that it wrote: its result, if it ended well.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path):
        self.last = ""
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `__exit__` closes it
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):  # what it never read
                file.close()

    def start_turn(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, as `is_ready` will find
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def is_ready(self) -> bool:
        """Wait until its turn is over and it is ready for another; False: it has ended."""
        for line in self._process.stdout:
            if line.rstrip("\n") == NEXT:
                return True
            if line.strip():
                self.last = line
        return False

    def outcome(self) -> tuple[int, str]:
        """Its exit code and what it said of errors, once it has ended."""
        code = self._process.wait()
        self._errors.seek(0)
        return code, self._errors.read()


def alternate(programs: Sequence[Program]) -> None:
    """Give each a turn, when all are ready for their first, until all have ended."""
    working = [program for program in programs if program.is_ready()]
    while working:
        for program in tuple(working):
            time.sleep(REST)
            program.start_turn()
            if not program.is_ready():
                working.remove(program)
