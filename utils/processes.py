"""Child processes that do not outlive their parent."""

import ctypes
import sys

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def end_with_parent(signal_number: int) -> None:
    """In a new process, on Linux: receive a signal when the parent dies, even if the parent is killed.

    It is called between fork and exec: `Popen(..., preexec_fn=partial(end_with_parent, signal.SIGTERM))`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal_number)
