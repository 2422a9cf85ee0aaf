"""A user's mistake is one line and exit code 2, never a traceback."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Input that the user can put right. The message is one line: what, where, what to do."""


def run(main: Callable[[], None]) -> None:
    """Call `main()`. A `UserError` is printed as one line and ends the process with 2, Ctrl-C with 130.

    Why a run ended stands in its log file too, where there is one by then (`utils.logging.setup`).
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        _to_log_file(str(error))
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


def _to_log_file(line: str, exc_info: bool = False) -> None:
    log = logging.getLogger("ernie_m")
    if log.handlers:
        log.error("%s", line, exc_info=exc_info, extra={"console": False})  # stderr has it already
