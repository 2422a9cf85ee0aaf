"""User errors: reported in one line with exit code 2, without a traceback."""

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
from typing import IO, Any, TextIO

LONGEST_MESSAGE = 2000  # characters
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk or quota full, or file too large
# Unicode categories that would break a line or are invisible: control characters, marks such as those that
# change the writing direction, lone surrogates, line and paragraph separators.
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # of category Cf, but needed in Persian and Hindi


class UserError(Exception):
    """An error that the user can fix. The message is one line: where, what is wrong, what to do.

    The message may quote arbitrary text of a file: control characters are escaped, and the middle of a very
    long message is omitted.

    Args:
        more: messages of further errors, one line each.
    """

    def __init__(self, message: str, *more: str):
        super().__init__("\n  ".join(map(_shorten, (message, *more))))

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython and Jupyter show instead of a traceback."""
        return f"{type(self).__name__}: {self}".splitlines()


def _shorten(message: str) -> str:
    """Escape control characters in a message, and omit its middle beyond LONGEST_MESSAGE characters."""
    message = escape_control_characters(message)
    if len(message) <= LONGEST_MESSAGE:
        return message
    half = LONGEST_MESSAGE // 2
    return f"{message[:half]} [...] {message[-half:]}"


def escape_control_characters(text: str, keep: str = "") -> str:
    """Escape control characters and line breaks, which could affect a terminal.

    Args:
        keep: characters not to escape.
    """
    for character in {*text} - {*keep, *JOINERS}:
        if unicodedata.category(character) in _ESCAPED:
            text = text.replace(character, character.encode("unicode_escape").decode())
    return text


def say(*texts: object, sep: str = "\n", file: TextIO | None = None) -> None:
    """Print texts with control characters escaped; all commands print by this function.

    If the reader of a pipe closes it, as `head` does, the command continues without printing.
    """
    stream = file or sys.stdout
    with ignore_broken_pipe(stream):
        print(
            *(escape_control_characters(str(text), keep="\n\t") for text in texts),
            sep=sep,
            file=stream,
            flush=True,
        )


def join_items(items: Sequence[str], limit: int = 20) -> str:
    """Join items for a message: the first `limit`, and the number of remaining ones."""
    text = ", ".join(items[:limit])
    if len(items) > limit:
        text += f" and {len(items) - limit} more"
    return text


def format_value(value: object) -> str:
    """Format a value from a file for a message, in one line of at most 80 characters."""
    return escape_control_characters(value if isinstance(value, str) else ascii(value))[:80]


def get_install_command(extra: str) -> str:
    """Return the command that installs an extra of pyproject.toml, for a message.

    In the .venv of a checkout it is scripts/setup.sh; in any other environment, pip.
    """
    checkout = Path(__file__).resolve().parents[2]
    own_environments = (checkout / ".venv", Path(sys.base_prefix).resolve())  # the latter: no environment
    if Path(sys.prefix).resolve() in own_environments and (checkout / "scripts" / "setup.sh").is_file():
        return f"sh scripts/setup.sh {extra}"
    return f'pip install "ernie-m[{extra}]"'


def get_command_name() -> str:
    """Return the command that starts `ernie-m`, for a message; its path if it is not on the PATH."""
    executable = str(Path(sys.executable).with_name("ernie-m"))  # in a checkout, not on the PATH
    if shutil.which("ernie-m") or not os.path.exists(executable):
        return "ernie-m"
    return min(os.path.relpath(executable), executable, key=len)  # the shorter one


def get_command_line() -> list[str]:
    """Return the command line of this process: python run_mrc.py ..., or ernie-m run_mrc ..."""
    return ["python" if sys.argv[0].endswith(".py") else "ernie-m", *sys.argv]


def run(main: Callable[[], None]) -> None:
    """Run the main function of a command: exit with 2 after a `UserError`, and with 130 after Ctrl-C.

    Errors are printed in one line, and written to the log file, if any.
    """
    log = logging.getLogger("ernie_m")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, and the next file would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console without UTF-8 shows escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        except OSError as error:
            if "temporary directory" in str(error.strerror):  # the wording of Python's tempfile
                raise UserError(f"{error.strerror}. Set a folder: TMPDIR=FOLDER ernie-m ...") from error
            if error.errno != errno.ENAMETOOLONG:  # also raised when checking whether the file exists
                raise
            raise UserError(f"{error.filename}: {error.strerror}. Choose another one") from error
    except UserError as error:
        with ignore_write_errors(sys.stderr):
            say(f"error: {error}", file=sys.stderr)
        if log.handlers:
            log.error("%s", error, extra={"console": False})  # stderr has it already
        try:
            sys.stdout.flush()
        except OSError:  # must not change the exit code
            redirect_to_null(sys.stdout)
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception:
        if log.handlers:
            log.error("the run failed", exc_info=True, extra={"console": False})
        raise


def open_in_place(path: str | os.PathLike, mode: str, **options: Any) -> IO:
    """Open a lock, a log or another file that is written under its final name. Links are not followed.

    Whoever may write in a shared folder could otherwise choose which file of the user is emptied.

    Args:
        mode, options: for `open`.

    Raises:
        UserError: the path is a symbolic link.
        OSError: the file cannot be opened.
    """

    def open_without_links(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    try:
        return open(path, mode, opener=open_without_links, **options)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path}: a symbolic link, which is not followed. Remove it") from error


def redirect_to_null(stream: TextIO) -> None:
    """Redirect a stream to /dev/null, so that flushing buffered output at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def ignore_broken_pipe(stream: TextIO) -> Iterator[None]:
    """Within a `with` block, discard output after the reader of a pipe has closed it, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        redirect_to_null(stream)


@contextmanager
def ignore_write_errors(stream: TextIO) -> Iterator[None]:
    """Within a `with` block, ignore failures of writing to a stream: full disk, closed terminal or pipe."""
    try:
        with ignore_broken_pipe(stream):
            yield
    except OSError as error:
        if error.errno not in (*FULL, errno.EIO):
            raise
