"""The first import of every command: missing packages, and Ctrl-C during the other imports, are one line.

A command imports `ernie_m.utils.errors.run` from here, so that nothing else can be imported before.
"""

import signal
import sys
from importlib.util import find_spec
from types import FrameType

from ernie_m.utils.errors import run, say

__all__ = ["run"]

if missing := [name for name in ("numpy", "yaml", "sentencepiece") if not find_spec(name)]:
    say(
        f"error: {sys.executable}: missing packages {', '.join(missing)}. Run sh scripts/setup.sh once, then "
        "use .venv/bin/python",
        file=sys.stderr,
    )
    sys.exit(2)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C: raise KeyboardInterrupt, and report whatever becomes of it in one line.

    A library in C that is being imported makes another exception of it.
    """
    sys.excepthook = _report_interrupt
    signal.default_int_handler(number, frame)


def _report_interrupt(*exception: object) -> None:
    """Say what `run` says after Ctrl-C, in place of the traceback of an exception that nothing has caught."""
    say("interrupted", file=sys.stderr)
    sys.exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is not ignored, as under nohup
    signal.signal(signal.SIGINT, _interrupt)
