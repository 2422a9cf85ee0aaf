"""A user's mistake is reported in one line with exit code 2, never as a traceback."""

import errno
import io
import logging
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

LONGEST_MESSAGE = 2000  # characters
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk or the user's quota is full, the file too large
# Unicode categories that would break a line or cannot be seen: control characters, marks such as those that
# turn the direction of writing, lone surrogates, line and paragraph separators.
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # of category Cf, but letters of Persian and Hindi look otherwise without them


class UserError(Exception):
    """A mistake that the user can correct. The message is one line: what, where, and what to do.

    The message may quote any bytes of a file: control characters are escaped, and the middle of a very long
    message is left out.

    Args:
        more: further lines, where a file has several errors.
    """

    def __init__(self, message: str, *more: str):
        super().__init__("\n  ".join(map(_shortened, (message, *more))))

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show instead of the traceback."""
        return f"{type(self).__name__}: {self}".splitlines()


def _shortened(message: str) -> str:
    """Return a message in one line; the middle of one that is longer than LONGEST_MESSAGE is left out."""
    message = printable(message)
    if len(message) <= LONGEST_MESSAGE:
        return message
    half = LONGEST_MESSAGE // 2
    return f"{message[:half]} [...] {message[-half:]}"


def printable(text: str, keep: str = "") -> str:
    """Return a text in one line, with control characters escaped, which could do something to a terminal.

    Args:
        keep: those that stay.
    """
    for character in {*text} - {*keep, *_JOINERS}:
        if unicodedata.category(character) in _ESCAPED:
            text = text.replace(character, character.encode("unicode_escape").decode())
    return text


def say(*texts: object, sep: str = "\n", file: TextIO | None = None) -> None:
    """Print texts for a person. All that a program prints goes through it, whoever's files they quote.

    Their reader may have had enough, as `head` has: then the program goes on without it.
    """
    stream = file or sys.stdout
    with reader_may_leave(stream):
        print(*(printable(str(text), keep="\n\t") for text in texts), sep=sep, file=stream, flush=True)


def listed(items: Sequence[str], most: int = 20) -> str:
    """Return the first items and the number of the others, for a message."""
    text = ", ".join(items[:most])
    if len(items) > most:
        text += f" and {len(items) - most} more"
    return text


def shown(value: object) -> str:
    """Return a value from a file for a message: in one short line."""
    return printable(value if isinstance(value, str) else ascii(value))[:80]


def install_command(extra: str) -> str:
    """Return the command that adds the packages of an extra (pyproject.toml), for the end of a message.

    scripts/setup.sh adds to the .venv of its checkout; any other environment is the user's, who has installed
    the package there.
    """
    checkout = Path(__file__).resolve().parents[2]
    own_environments = (checkout / ".venv", Path(sys.base_prefix).resolve())  # the latter: it is in none
    if Path(sys.prefix).resolve() in own_environments and (checkout / "scripts" / "setup.sh").is_file():
        return f"sh scripts/setup.sh {extra}"
    return f'pip install "ernie-m[{extra}]"'


def command_name() -> str:
    """How this shell starts `ernie-m`."""
    beside = str(Path(sys.executable).with_name("ernie-m"))  # in a checkout it is not on the PATH
    if shutil.which("ernie-m") or not os.path.exists(beside):
        return "ernie-m"
    return min(os.path.relpath(beside), beside, key=len)  # the shorter one


def command_words() -> list[str]:
    """Return the words that started this process: python run_mrc.py ..., or ernie-m run_mrc ..."""
    starter = "python" if sys.argv[0].endswith(".py") else "ernie-m"
    return [starter, *sys.argv]


def run(main: Callable[[], None]) -> None:
    """Call `main()`. A `UserError` is printed as one line and ends the process with 2, Ctrl-C with 130.

    The reason is also written to the run's log file, if `ernie_m.utils.logging.setup` has opened one.
    """
    log = logging.getLogger("ernie_m")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed, and the next file would have its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that is not UTF-8 shows escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        except OSError as error:
            if "temporary directory" in str(error.strerror):  # as Python's tempfile has it
                raise UserError(f"{error.strerror}. Set a folder: TMPDIR=FOLDER ernie-m ...") from error
            if error.errno != errno.ENAMETOOLONG:  # also where one asks whether the file is there
                raise
            raise UserError(f"{error.filename}: {error.strerror}. Choose another one") from error
    except UserError as error:
        with lines_may_be_lost(sys.stderr):
            say(f"error: {error}", file=sys.stderr)
        if log.handlers:
            log.error("%s", error, extra={"console": False})  # stderr has it already
        try:
            sys.stdout.flush()
        except OSError:  # it must not change the exit code
            discard(sys.stdout)
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception:
        if log.handlers:
            log.error("the run failed", exc_info=True, extra={"console": False})
        raise


def discard(stream: TextIO) -> None:
    """Discard what is still to be written, or Python would fail when it flushes the stream at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def reader_may_leave(stream: TextIO) -> Iterator[None]:
    """Allow the reader of a stream to have left, as `head` does: what is written to it is discarded."""
    try:
        yield
    except BrokenPipeError:
        discard(stream)


@contextmanager
def lines_may_be_lost(stream: TextIO) -> Iterator[None]:
    """Allow a stream to be a file on a full disk, a terminal that was closed, or a pipe that nobody reads."""
    try:
        with reader_may_leave(stream):
            yield
    except OSError as error:
        if error.errno not in (*FULL, errno.EIO):
            raise
