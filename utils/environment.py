"""The first import of every command: missing packages, and Ctrl-C during the other imports, are one line.

A command imports `utils.errors.run` from here, so that nothing else can be imported before.
"""

import signal
import sys
from importlib.util import find_spec
from types import FrameType, TracebackType

from utils.errors import run

__all__ = ["run"]

if missing := [name for name in ("numpy", "yaml", "sentencepiece") if not find_spec(name)]:
    print(
        f"error: {sys.executable} has no {', '.join(missing)}; run sh scripts/setup.sh once, then use "
        ".venv/bin/python",
        file=sys.stderr,
    )
    sys.exit(2)

_interrupts: list[int] = []


def _note(number: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C: raise KeyboardInterrupt, and remember it.

    A library in C that is being imported makes another exception of it.
    """
    _interrupts.append(number)
    signal.default_int_handler(number, frame)


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Report an exception that nothing has caught: after Ctrl-C as `run` does, otherwise as Python does."""
    if not _interrupts:
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    sys.exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is not ignored, as under nohup
    signal.signal(signal.SIGINT, _note)
    sys.excepthook = _report
