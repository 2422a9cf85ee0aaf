"""A user's mistake is one line and exit code 2, never a traceback."""

import errno
import logging
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST_MESSAGE = 2000  # characters
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Input that the user can put right. The message is one line: what, where, what to do.

    It may quote anything that a file holds: characters that are none of a line become escapes, and of a very
    long message the middle is left out.
    """

    def __init__(self, message: str):
        super().__init__(_one_line(message))


def _one_line(message: str) -> str:
    if not message.isprintable():
        message = "".join(
            c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
            for c in message
        )
    if len(message) > LONGEST_MESSAGE:
        half = LONGEST_MESSAGE // 2
        message = f"{message[:half]} [...] {message[-half:]}"
    return message


def run(main: Callable[[], None]) -> None:
    """Call `main()`. A `UserError` is printed as one line and ends the process with 2, Ctrl-C with 130.

    Why a run ended stands in its log file too, where there is one by then (`utils.logging.setup`).
    """
    try:
        main()
    except UserError as error:
        with lost_on_a_full_disk():
            print(f"error: {error}", file=sys.stderr, flush=True)
        _to_log_file(str(error))
        _let_go_of_stdout()
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    except Exception:
        _to_log_file("the run failed", exc_info=True)
        raise


@contextmanager
def pipe_may_close() -> Iterator[None]:
    """Around what prints an answer: who reads it may have had enough, as `head` has."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def lost_on_a_full_disk() -> Iterator[None]:
    """Around what is printed: stdout and stderr may be files on a full disk, which is to end nothing."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


def _let_go_of_stdout() -> None:
    """So that what it cannot write does not decide the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _to_log_file(line: str, exc_info: bool = False) -> None:
    log = logging.getLogger("ernie_m")
    if log.handlers:
        log.error("%s", line, exc_info=exc_info, extra={"console": False})  # stderr has it already
