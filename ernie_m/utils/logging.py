"""What a run reports: the file log/job.log.<rank>, and the console of the main process.

`Progress` shows a bar on a terminal and in a notebook. Anywhere else it writes a line with the remaining time
now and then. At the end of the file: tables of text, aligned for the console, and in Markdown for files.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ernie_m.utils.errors import UserError, lines_may_be_lost, printable, say
from ernie_m.utils.paddle_settings import is_main

T = TypeVar("T")

# Environment variables that launch.py sets: the folder of the log files, and the prefix of job.log.<rank>.
LOG_DIR = "LOG_DIR"
LOG_PREFIX = "LOG_PREFIX"
SECONDS_BETWEEN_LINES = 10.0

logger = logging.getLogger("ernie_m")  # all modules write to it; Paddle writes to the root logger


def _escape(record: logging.LogRecord) -> bool:
    """Escape control characters of what a record quotes; a table, with its line ends, is in the message."""
    record.msg = printable(str(record.msg), keep="\n\t")
    if isinstance(record.args, tuple):
        record.args = tuple(
            printable(str(arg)) if isinstance(arg, str | Path) else arg for arg in record.args
        )
    return True


logger.addFilter(_escape)


# As `extra` of a line of the log: it is printed whatever `only_warnings` says, or is in the file alone.
ON_CONSOLE, IN_FILE = {"console": True}, {"console": False}


class _Console(logging.Handler):
    """Prints above a progress bar. `shown`: the lowest level of a line that does not say where it belongs."""

    shown = logging.INFO

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "console", record.levelno >= self.shown):
            with lines_may_be_lost(sys.stdout):
                tqdm.write(self.format(record), file=sys.stdout)
                sys.stdout.flush()


class _LogFile(logging.FileHandler):
    """A log file. If the disk is full, the run continues and the console says once that lines are missing."""

    complained = False

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # while it writes buffered lines
            self._complain()

    def handleError(self, record: logging.LogRecord) -> None:
        self._complain()

    def _complain(self) -> None:
        """Say once that lines are missing, within the handling of the error."""
        if not self.complained:
            self.complained = True
            with lines_may_be_lost(sys.stderr):
                say(f"{self.baseFilename}: log lines were lost: {sys.exc_info()[1]}", file=sys.stderr)


def setup(log_dir: str | None = None, rank: int = 0, is_copied: bool = False) -> Path:
    """Append the log of this project's modules to a file, and return its path.

    Rank 0 also prints the log on the console.

    Args:
        log_dir: the folder of the file. Default: the environment variable LOG_DIR, or "log". The variable
            LOG_PREFIX is put before the file's name.
        rank: the number of this process in the run.
        is_copied: whether `copy_log` follows. Rank 0 keeps all lines until then.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(
        log_dir or os.environ.get(LOG_DIR) or "log", f"{os.environ.get(LOG_PREFIX, '')}job.log.{rank}"
    )
    handlers: list[logging.Handler] = [_log_file(path)]
    if rank == 0:
        handlers.append(_Console())
        if is_copied:
            # It keeps all lines until it has a target, to which it then writes each at once.
            handlers.append(MemoryHandler(capacity=0, flushOnClose=False))
    _attach(handlers)
    return path


def copy_log(path: Path) -> None:
    """Also append the log of this process, from its first line on, to a second file. Call it on rank 0.

    If the launcher has put the log there already, there is no second file.

    Raises:
        UserError: the file cannot be written.
    """
    is_there = os.path.abspath(path) in [getattr(handler, "baseFilename", "") for handler in logger.handlers]
    file = logging.NullHandler() if is_there else _log_file(path)  # the former drops the lines
    for handler in logger.handlers:
        if isinstance(handler, MemoryHandler):
            handler.setTarget(file)


def _log_file(path: Path) -> _LogFile:
    """Return a handler that appends the log to a file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot write the log: {error.strerror}") from error
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return file


@contextmanager
def only_warnings() -> Iterator[None]:
    """Within it the console shows warnings, errors, and lines that are `ON_CONSOLE`."""
    _Console.shown = logging.WARNING
    try:
        yield
    finally:
        _Console.shown = logging.INFO


def setup_console() -> None:
    """Print the log of this project's modules on the console, for commands that leave no log file."""
    _attach([_Console()])


def _attach(handlers: list[logging.Handler]) -> None:
    """Replace the handlers of the project's logger, not of the root logger, which Paddle uses."""
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        logger.addHandler(handler)
    # A line that is handled here is not passed on to the root logger, which would print it a second time.
    logger.propagate = not handlers
    logger.setLevel(logging.INFO)


class Progress:
    """The progress of long work: a bar where one can be drawn, else a line every SECONDS_BETWEEN_LINES.

    The line is logged; in a program that never set the level of this log it goes to stderr.

    Args:
        total: number of units.
        description: what is being done.
        initial: units done before (in a resumed run). They count as done but not towards the speed.
        unit: the name of a unit.
        lines: False for work that logs its own lines and only needs `speed()`.
    """

    def __init__(self, total: int, description: str, initial: int = 0, unit: str = "it", lines: bool = True):
        self.total = total
        self.description = description
        self.unit = unit
        self.lines = lines
        self.initial = initial
        self.completed = initial
        self.started = time.monotonic()
        self.last_line = self.started  # when the last line was logged
        self.past_evaluations = 0
        self.evaluation_seconds = 0.0
        is_notebook = "ipykernel" in sys.modules
        shows_bar = is_main() and (is_notebook or sys.stderr.isatty())
        # tqdm.auto has the notebook's own bar; it takes longer to import.
        self.bar = import_module("tqdm.auto" if is_notebook else "tqdm").tqdm(
            total=total,
            desc=printable(description),
            initial=initial,
            unit=f" {unit}",
            unit_scale=unit == "bytes",
            leave=False,
            dynamic_ncols=True,
            disable=not shows_bar,
        )

    def update(self, count: int = 1, **values: Any) -> None:
        """Report `count` more units. The values appear next to the bar or in the line."""
        self.completed += count
        self.bar.set_postfix({name: str(value) for name, value in values.items()}, refresh=False)
        self.bar.update(count)
        now = time.monotonic()
        if self.bar.disable and self.lines and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            if logger.isEnabledFor(logging.INFO):
                logger.info("%s", self.line(values))
            elif logger.level == logging.NOTSET and is_main():
                say(self.line(values), file=sys.stderr)

    def line(self, values: Mapping[str, Any]) -> str:
        """Return the progress as a line for the log."""
        done = f"{self.description}: {self.completed:,} {self.unit} of {self.total:,}, {self.eta()} left"
        return ", ".join([done, *(f"{name} {value}" for name, value in values.items())])

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Use it as a context around one evaluation: its time does not count towards the speed."""
        began = time.monotonic()
        yield
        self.evaluation_seconds += time.monotonic() - began
        self.past_evaluations += 1

    def seconds(self) -> float:
        """Return the seconds since the start of this process's work, without the evaluations."""
        return time.monotonic() - self.started - self.evaluation_seconds

    def speed(self) -> float:
        """Units per second since the start of this process's work, without the evaluations."""
        return (self.completed - self.initial) / max(self.seconds(), 1e-9)  # never by 0

    def eta(self, evaluations: int = 0) -> str:
        """Return the remaining time at the mean speed so far, as h:mm:ss, or "?".

        Args:
            evaluations: number of evaluations to come. Before the first one their time is unknown, and the
                result is, for example, "0:12:30 + 3 evaluations".
        """
        if self.completed <= self.initial:
            return "?"
        seconds = max(self.total - self.completed, 0) / self.speed()
        if self.past_evaluations:
            seconds += evaluations * self.evaluation_seconds / self.past_evaluations
        elif evaluations:
            return f"{as_time(seconds)} + {evaluations} evaluation{'s' if evaluations > 1 else ''}"
        return as_time(seconds)

    def close(self) -> None:
        """Remove the bar from the screen."""
        self.bar.close()


def as_time(seconds: float) -> str:
    """Seconds as h:mm:ss, perhaps with days before."""
    return str(timedelta(seconds=round(seconds)))


def progress(
    items: Sequence[T], description: str, unit: str = "it", size: Callable[[T], int] = lambda item: 1
) -> Iterator[T]:
    """Yield `items` and show the progress. `size` is the number of units in an item."""
    bar = Progress(sum(size(item) for item in items), description, unit=unit)
    for item in items:
        yield item
        bar.update(size(item))
    bar.close()


def in_columns(lines: Sequence[Sequence[str]]) -> str:
    """Align lines of cells; each column is as wide as its widest cell. A cell is in one line."""
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def in_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Write lines of cells as a Markdown table; the first line is the header."""
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    right_aligned = "---:|" * (len(lines[0]) - 1)  # all columns but the first, which holds names
    return "\n".join([head, f"|---|{right_aligned}", *body])
