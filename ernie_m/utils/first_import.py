"""The first import of every command, which reports missing packages and Ctrl-C during imports in one line.

A command imports `ernie_m.utils.errors.run` from here, so that nothing else is imported before.
"""

import signal
import sys
from importlib.util import find_spec
from types import FrameType

from ernie_m.utils.errors import run, say

__all__ = ["run"]

if missing := [name for name in ("numpy", "yaml", "sentencepiece") if not find_spec(name)]:
    say(
        f"error: {sys.executable}: missing packages {', '.join(missing)}. Run sh scripts/setup.sh "
        "once, then use .venv/bin/python",
        file=sys.stderr,
    )
    sys.exit(2)


def _handle_interrupt(signum: int, frame: FrameType | None) -> None:
    """Signal handler of Ctrl-C: raise KeyboardInterrupt, and report any uncaught exception in one line.

    A C library that is being imported may turn KeyboardInterrupt into another exception.
    """
    sys.excepthook = _report_interrupt
    signal.default_int_handler(signum, frame)


def _report_interrupt(*_exception: object) -> None:
    """Exception hook: print one line instead of a traceback, and exit with code 130."""
    say("interrupted", file=sys.stderr)
    sys.exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as under nohup
    signal.signal(signal.SIGINT, _handle_interrupt)
