"""Processes of the machine."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MARK = "TEST_FOLDER"  # an environment variable that every process of a command inherits


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait until `condition()` is true, at most so long. Return whether it is."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def start_and_end() -> int:
    """Start a process and wait for its end. Return its id."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    _, _, after_name = line.rpartition(")")  # such as "12 (a name) S 1 ..."; the name may have any character
    state = after_name.split()[0]
    return state != "Z"  # a zombie has ended; its parent has not asked for the exit code


def marked(folder: Path) -> Iterator[tuple[int, dict[str, str], str]]:
    """Id, environment and command line of each running process whose environment has `MARK=folder`."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            entries = (path / "environ").read_text(errors="replace").split("\0")
            if f"{MARK}={folder}" in entries:
                environment = dict(entry.partition("=")[::2] for entry in entries)
                yield int(path.name), environment, (path / "cmdline").read_text(errors="replace")
        except OSError:  # the process has ended, or belongs to another user
            continue
