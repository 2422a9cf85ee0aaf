"""What a run reports: the file log/job.log.<rank>, and the console of the main process.

`Progress` shows a bar on a terminal. Anywhere else it logs a line with the remaining time now and then.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from utils.errors import UserError, lost_on_a_full_disk
from utils.runtime import is_main

T = TypeVar("T")

# Environment variables that launch.py sets: the folder of the log files, the prefix of job.log.<rank>, and
# the line that says how the recipe's total batch is kept.
LOG_DIR, LOG_PREFIX, RECIPE_BATCH = "LOG_DIR", "LOG_PREFIX", "RECIPE_BATCH"
SECONDS_BETWEEN_LINES = 15.0

logger = logging.getLogger("ernie_m")
OURS = (
    "ernie_m", "model", "reader", "training", "pretrain", "finetune", "evaluation", "inference", "utils",
    "__main__",
)  # fmt: skip


class _Console(logging.Handler):
    """Prints above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "console", True):
            with lost_on_a_full_disk():
                tqdm.write(self.format(record), file=sys.stdout)
                sys.stdout.flush()


class _LogFile(logging.FileHandler):
    """A log file. If the disk is full, the run continues and the console says once that lines are missing."""

    said = False

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # while it writes buffered lines
            self.handleError(None)

    def handleError(self, record: logging.LogRecord | None) -> None:
        if not self.said:
            self.said = True
            with lost_on_a_full_disk():
                line = f"{self.baseFilename}: lines of the log are missing: {sys.exc_info()[1]}"
                print(line, file=sys.stderr, flush=True)


def setup(log_dir: str | None = None, rank: int = 0) -> Path:
    """Append our modules' log to a file and return its path; rank 0 also prints it on the console.

    The folder is `log_dir`, the environment variable LOG_DIR, or "log"; LOG_PREFIX is put before the name.

    Raises:
        UserError: the file cannot be written.
    """
    folder = log_dir or os.environ.get(LOG_DIR) or "log"
    path = Path(folder, f"{os.environ.get(LOG_PREFIX, '')}job.log.{rank}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: the log cannot be written: {error.strerror}") from error
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    _attach([file, _Console()] if rank == 0 else [file])
    return path


def setup_console() -> None:
    """Print our modules' log on the console, for commands that leave no log file."""
    _attach([_Console()])


def _attach(handlers: list[logging.Handler]) -> None:
    """Replace the handlers of our modules' loggers; not of the root logger, to which Paddle writes too."""
    for old in {handler for name in OURS for handler in logging.getLogger(name).handlers}:
        old.close()
    for log in map(logging.getLogger, OURS):
        for old in list(log.handlers):
            log.removeHandler(old)
        for handler in handlers:
            log.addHandler(handler)
        log.propagate = not handlers
        log.setLevel(logging.INFO)


class Progress:
    """The progress of long work: a bar on a terminal, otherwise a log line every SECONDS_BETWEEN_LINES.

    Args:
        total: number of units; None if unknown.
        description: what is being done.
        initial: units done before (in a resumed run). They count as done but not towards the speed.
        unit: the name of a unit.
        lines: False for work that logs its own lines and only needs `speed()`.
    """

    def __init__(
        self, total: int | None, description: str, initial: int = 0, unit: str = "it", lines: bool = True
    ):
        self.total, self.description, self.unit, self.lines = total, description, unit, lines
        self.done = self.initial = initial
        self.started = self.last_line = time.monotonic()
        self.evaluating, self.evaluations = 0.0, 0  # seconds, number
        self.bar = tqdm(
            total=total, desc=description, initial=initial, unit=unit, leave=False, dynamic_ncols=True,
            disable=not (is_main() and sys.stderr.isatty()),
        )  # fmt: skip

    def update(self, count: int = 1, **shown: Any) -> None:
        """Report `count` more units; the values in `shown` appear beside the bar or in the line."""
        self.done += count
        self.bar.set_postfix({key: str(value) for key, value in shown.items()}, refresh=False)
        self.bar.update(count)
        if self.bar.disable and self.lines and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            of = f" of {self.total:,}, {self.eta()} left" if self.total else ""
            said = "".join(f", {key} {value}" for key, value in shown.items())
            logger.info("%s: %s %s%s%s", self.description, f"{self.done:,}", self.unit, of, said)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Use it as a context around one evaluation: its time does not count towards the speed."""
        began = time.monotonic()
        yield
        self.evaluating += time.monotonic() - began
        self.evaluations += 1

    def speed(self) -> float:
        """Units per second since the start of this process's work, without the evaluations."""
        return (self.done - self.initial) / max(time.monotonic() - self.started - self.evaluating, 1e-9)

    def eta(self, evaluations: int = 0) -> str:
        """The remaining time at the mean speed so far, as h:mm:ss, or "?".

        Args:
            evaluations: number of evaluations to come. Before the first one their time is unknown, and the
                result is, for example, "0:12:30 + 3 evaluations".
        """
        if not self.total or self.done <= self.initial:
            return "?"
        seconds = max(self.total - self.done, 0) / self.speed()
        if evaluations and not self.evaluations:
            return f"{as_time(seconds)} + {evaluations} evaluation{'s' if evaluations > 1 else ''}"
        return as_time(seconds + evaluations * self.evaluating / max(self.evaluations, 1))

    def close(self) -> None:
        """Remove the bar from the screen."""
        self.bar.close()


def as_time(seconds: float) -> str:
    """h:mm:ss."""
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def progress(items: Sequence[T], description: str, unit: str = "it") -> Iterator[T]:
    """Yield `items` and show the progress."""
    shown = Progress(len(items), description, unit=unit)
    for item in items:
        yield item
        shown.update()
    shown.close()
