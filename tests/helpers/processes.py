"""Processes of the machine."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait until `condition()` is true, at most so long. Return whether it is."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    _, _, after_name = line.rpartition(")")  # such as "12 (a name) S 1 ..."; the name may have any character
    state = after_name.split()[0]
    return state != "Z"  # a zombie has ended; its parent has not asked for the exit code
