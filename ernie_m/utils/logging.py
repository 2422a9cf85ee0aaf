"""Logging to the file log/job.log.<rank>, and on the main process to the console; progress; tables."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ernie_m.utils.errors import UserError, escape_control_characters, ignore_write_errors, open_in_place, say
from ernie_m.utils.paddle_settings import is_main

T = TypeVar("T")

# Environment variables that launch.py sets: the folder of log files, and the prefix of job.log.<rank>.
LOG_DIR = "LOG_DIR"
LOG_PREFIX = "LOG_PREFIX"
_AT_ONCE = 256  # items between two updates of a progress bar
SECONDS_BETWEEN_LINES = 10.0

logger = logging.getLogger("ernie_m")  # for all modules; Paddle uses the root logger


def _escape_record(record: logging.LogRecord) -> bool:
    """Log filter: escape control characters, except newlines and tabs in the message itself, as in tables."""
    record.msg = escape_control_characters(str(record.msg), keep="\n\t")
    if isinstance(record.args, tuple):
        record.args = tuple(
            escape_control_characters(str(arg)) if isinstance(arg, str | Path) else arg for arg in record.args
        )
    return True


logger.addFilter(_escape_record)


# `extra` of a log line: always print it, regardless of `show_only_warnings`, or only write it to the file.
ON_CONSOLE, IN_FILE = {"console": True}, {"console": False}


class _ConsoleHandler(logging.Handler):
    """Console handler that prints above a progress bar.

    Attributes:
        shown: minimum level of log records without `ON_CONSOLE` or `IN_FILE`.
    """

    shown = logging.INFO

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "console", record.levelno >= self.shown):
            with ignore_write_errors(sys.stdout):
                tqdm.write(self.format(record), file=sys.stdout)
                sys.stdout.flush()


class _LogFileHandler(logging.FileHandler):
    """Log file handler. After a write error, such as a full disk, it prints once that lines were lost."""

    complained = False

    def _open(self) -> Any:
        return open_in_place(self.baseFilename, self.mode, encoding=self.encoding)

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # while writing buffered lines
            self._report_lost_lines()

    def handleError(self, record: logging.LogRecord) -> None:
        self._report_lost_lines()

    def _report_lost_lines(self) -> None:
        """Print once that log lines were lost, with the exception that is being handled."""
        if not self.complained:
            self.complained = True
            with ignore_write_errors(sys.stderr):
                say(f"{self.baseFilename}: log lines were lost: {sys.exc_info()[1]}", file=sys.stderr)


def setup_logging(log_dir: str | None = None, rank: int = 0, is_copied: bool = False) -> Path:
    """Log to a file, and on rank 0 also to the console; return the path of the file.

    Args:
        log_dir: folder of the file; None: the environment variable LOG_DIR, or "log". The environment
            variable LOG_PREFIX is a prefix of the file name.
        rank: rank of this process.
        is_copied: whether `copy_log` will be called; rank 0 buffers all log lines until then.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(
        log_dir or os.environ.get(LOG_DIR) or "log", f"{os.environ.get(LOG_PREFIX, '')}job.log.{rank}"
    )
    handlers: list[logging.Handler] = [_make_log_file_handler(path)]
    if rank == 0:
        handlers.append(_ConsoleHandler())
        if is_copied:
            # It buffers all lines until it has a target, and then writes each immediately.
            handlers.append(MemoryHandler(capacity=0, flushOnClose=False))
    _replace_handlers(handlers)
    return path


def copy_log(path: Path) -> None:
    """Also log to a second file, including all earlier lines of this process. Call this on rank 0.

    Does nothing if the log is already written to this file.

    Raises:
        UserError: the file cannot be written.
    """
    is_there = os.path.abspath(path) in [getattr(handler, "baseFilename", "") for handler in logger.handlers]
    # `NullHandler` drops the lines.
    file = logging.NullHandler() if is_there else _make_log_file_handler(path)
    for handler in logger.handlers:
        if isinstance(handler, MemoryHandler):
            handler.setTarget(file)


def _make_log_file_handler(path: Path) -> _LogFileHandler:
    """Make a log handler that appends to a file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _LogFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot write the log: {error.strerror}") from error
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return file


@contextmanager
def show_only_warnings() -> Iterator[None]:
    """Within a `with` block, print only warnings, errors and lines with `ON_CONSOLE` on the console."""
    _ConsoleHandler.shown = logging.WARNING
    try:
        yield
    finally:
        _ConsoleHandler.shown = logging.INFO


def setup_console() -> None:
    """Log to the console only, for commands without a log file."""
    _replace_handlers([_ConsoleHandler()])


def _replace_handlers(handlers: list[logging.Handler]) -> None:
    """Replace the handlers of the project's logger."""
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        logger.addHandler(handler)
    # A handled line is not passed on to the root logger, which would print it a second time.
    logger.propagate = not handlers
    logger.setLevel(logging.INFO)


class Progress:
    """Progress of long work: a bar on a terminal or in a notebook, otherwise a regular log line.

    The line is logged, or printed to stderr in an application that never set the level of this log.

    Args:
        total: number of units of work.
        description: name of the work.
        initial: number of units done before this process, which do not count in the speed.
        unit: name of a unit.
        lines: whether to log lines; False for work that logs its own lines.
    """

    def __init__(self, total: int, description: str, initial: int = 0, unit: str = "it", lines: bool = True):
        self.total = total
        self.description = description
        self.unit = unit
        self.lines = lines
        self.initial = initial
        self.completed = initial
        self.started = time.monotonic()
        self.last_line = self.started  # time of the last line
        self.past_evaluations = 0
        self.evaluation_seconds = 0.0
        is_notebook = "ipykernel" in sys.modules
        shows_bar = is_main() and (is_notebook or sys.stderr.isatty())
        # tqdm.auto includes the notebook's bar; its import is slower.
        self.bar = import_module("tqdm.auto" if is_notebook else "tqdm").tqdm(
            total=total,
            desc=escape_control_characters(description),
            initial=initial,
            unit=f" {unit}",
            unit_scale=unit == "bytes",
            leave=False,
            dynamic_ncols=True,
            disable=not shows_bar,
        )

    def update(self, count: int = 1, **values: Any) -> None:
        """Report `count` more units; `values` are shown next to the bar or in the log line."""
        self.completed += count
        self.bar.set_postfix({name: str(value) for name, value in values.items()}, refresh=False)
        self.bar.update(count)
        now = time.monotonic()
        if self.bar.disable and self.lines and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            if logger.isEnabledFor(logging.INFO):
                logger.info("%s", self.format_line(values))
            elif logger.level == logging.NOTSET and is_main():
                say(self.format_line(values), file=sys.stderr)

    def format_line(self, values: Mapping[str, Any]) -> str:
        """Format the progress as a log line."""
        done = f"{self.description}: {self.completed:,} {self.unit} of {self.total:,}, {self.eta()} left"
        return ", ".join([done, *(f"{name} {value}" for name, value in values.items())])

    @contextmanager
    def exclude_evaluation(self) -> Iterator[None]:
        """Exclude the time within a `with` block, an evaluation, from the speed."""
        began = time.monotonic()
        yield
        self.evaluation_seconds += time.monotonic() - began
        self.past_evaluations += 1

    def get_elapsed_seconds(self) -> float:
        """Return the seconds since this object was made, without evaluations."""
        return time.monotonic() - self.started - self.evaluation_seconds

    def speed(self) -> float:
        """Return the units per second since this object was made, without evaluations."""
        return (self.completed - self.initial) / max(self.get_elapsed_seconds(), 1e-9)  # avoid division by 0

    def eta(self, evaluations: int = 0) -> str:
        """Return the estimated remaining time as h:mm:ss, or "?".

        Args:
            evaluations: number of remaining evaluations. Before the first one their duration is unknown, and
                the result is, for example, "0:12:30 + 3 evaluations".
        """
        if self.completed <= self.initial:
            return "?"
        seconds = max(self.total - self.completed, 0) / self.speed()
        if self.past_evaluations:
            seconds += evaluations * self.evaluation_seconds / self.past_evaluations
        elif evaluations:
            return f"{format_duration(seconds)} + {evaluations} evaluation{'s' if evaluations > 1 else ''}"
        return format_duration(seconds)

    def close(self) -> None:
        """Close the progress bar."""
        self.bar.close()


def format_duration(seconds: float) -> str:
    """Format a duration in seconds as h:mm:ss, with days if needed."""
    return str(timedelta(seconds=round(seconds)))


def show_progress(
    items: Sequence[T], description: str, unit: str = "it", count_units: Callable[[T], int] = lambda item: 1
) -> Iterator[T]:
    """Iterate over items, and show the progress.

    Args:
        count_units: item -> number of units.
    """
    bar = Progress(sum(count_units(item) for item in items), description, unit=unit)
    for item in items:
        yield item
        bar.update(count_units(item))
    bar.close()


def iter_parts(inputs: Sequence[T], description: str, size: int | None = None) -> Iterable[Sequence[T]]:
    """Divide inputs into parts, whose iteration shows a progress bar if there are several.

    Args:
        description: the label of the progress bar.
        size: the size of a part; None: `_AT_ONCE`.
    """
    size = size or _AT_ONCE
    parts = [inputs[first : first + size] for first in range(0, len(inputs), size)]
    if len(parts) <= 1:
        return parts
    return show_progress(parts, description, "texts", count_units=len)


def format_columns(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of one-line cells as a table with aligned columns, for the console."""
    rows = [[escape_control_characters(cell) for cell in line] for line in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in rows)


def format_markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells as a Markdown table; the first row is the header."""
    head, *body = [f"| {' | '.join(line)} |" for line in rows]
    right_aligned = "---:|" * (len(rows[0]) - 1)  # all columns except the first, the names
    return "\n".join([head, f"|---|{right_aligned}", *body])
