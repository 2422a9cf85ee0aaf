"""Child processes that do not outlive their parent."""

import ctypes
import sys

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def end_with_parent(number: int) -> None:
    """In a new process, on Linux: receive this signal when the parent dies, even if it is killed.

    For `preexec_fn` of subprocess.Popen, with `functools.partial`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, number)
