"""What a run says: log/job.log.<rank> always, the console on the main process, VisualDL curves.

`progress` shows a bar on a terminal and plain lines with the time that is left anywhere else.
"""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import UserError, lost_on_a_full_disk
from utils.processes import is_main

T = TypeVar("T")

LOG_DIR = "LOG_DIR"  # environment: the folder of the log files, set by launch.py --split_log_path
LOG_PREFIX = "LOG_PREFIX"  # environment: put before job.log.<rank>, set by launch.py --log_prefix
SECONDS_BETWEEN_LINES = 15.0

logger = logging.getLogger("ernie_m")
OURS = (
    "ernie_m", "model", "reader", "training", "pretrain", "finetune", "evaluation", "inference", "utils",
    "__main__",
)  # fmt: skip


class _Console(logging.Handler):
    """Writes through tqdm, so that a line does not tear the bar that is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        if not getattr(record, "console", True):
            return
        with lost_on_a_full_disk():
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


class _LogFile(logging.FileHandler):
    """A log file. On a full disk the run goes on, and the console says once that lines are missing."""

    said = False

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what it still held
            self.handleError(None)

    def handleError(self, record: logging.LogRecord | None) -> None:
        if not self.said:
            self.said = True
            error = sys.exc_info()[1]
            with lost_on_a_full_disk():
                line = f"{self.baseFilename}: lines of the log are missing: {error}"
                print(line, file=sys.stderr, flush=True)


def setup(log_dir: str | None = None, rank: int = 0, prefix: str | None = None) -> Path:
    """Send what our modules log to `<log_dir>/<prefix>job.log.<rank>` (appended); rank 0: to the console too.

    Args:
        log_dir: default: environment LOG_DIR, else "log".
        rank: number of this process.
        prefix: default: environment LOG_PREFIX, else nothing.

    Returns:
        The path of the log file.

    Raises:
        UserError: the file cannot be written.
    """
    folder = Path(log_dir or os.environ.get(LOG_DIR) or "log")
    path = folder / f"{os.environ.get(LOG_PREFIX, '') if prefix is None else prefix}job.log.{rank}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: the log cannot be written: {error.strerror}") from error
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    _attach([file, _Console()] if rank == 0 else [file])
    return path


def setup_console() -> None:
    """Send what our modules log to the console alone: for commands that leave no log file."""
    _attach([_Console()])


def _attach(handlers: list[logging.Handler]) -> None:
    """Give our modules' loggers these handlers, in place of those of an earlier call.

    Not the root logger: paddle writes to it in a form of its own, and every line would stand there twice.
    """
    for old in {handler for name in OURS for handler in logging.getLogger(name).handlers}:
        old.close()
    for name in OURS:
        ours = logging.getLogger(name)
        ours.handlers = list(handlers)
        ours.propagate = not handlers
        ours.setLevel(logging.INFO)


class Progress:
    """How far a long piece of work is: a bar on a terminal, else a line of the log now and then.

    Args:
        total: number of units, None if unknown.
        description: what is being done.
        initial: units done before (a resumed run); they count as done, not as speed.
        unit: the name of one unit.
        lines: without a terminal, log a line every SECONDS_BETWEEN_LINES; False for work that logs its own
            lines and only wants `eta()`.
    """

    def __init__(
        self,
        total: int | None,
        description: str,
        initial: int = 0,
        unit: str = "it",
        lines: bool = True,
    ):
        self.total, self.description, self.unit = total, description, unit
        self.done = self.initial = initial
        self.started = self.last_line = time.monotonic()
        self.lines, self.shown = lines, ""
        self.bar = None
        if is_main() and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                desc=description,
                initial=initial,
                unit=unit,
                leave=False,
                dynamic_ncols=True,
            )

    def update(self, count: int = 1, **shown: Any) -> None:
        """`count` more units are done; `shown` values stand beside the bar."""
        self.done += count
        if shown:
            self.shown = "".join(f", {key} {value}" for key, value in shown.items())
        if self.bar is not None:
            if shown:
                self.bar.set_postfix({key: str(value) for key, value in shown.items()}, refresh=False)
            self.bar.update(count)
        elif self.lines and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            of = f" of {self.total:,}, {self.eta()} left" if self.total else ""
            logger.info(
                "%s: %s %s%s%s",
                self.description,
                f"{self.done:,}",
                self.unit,
                of,
                self.shown,
            )

    def speed(self) -> float:
        """Units per second since the start of this process's work."""
        return (self.done - self.initial) / max(time.monotonic() - self.started, 1e-9)

    def eta(self) -> str:
        """The time that is left at the mean speed so far, as h:mm:ss; "?" where it cannot be known."""
        if not self.total or self.done <= self.initial:
            return "?"
        return as_time(max(self.total - self.done, 0) / self.speed())

    def close(self) -> None:
        """Take the bar from the screen."""
        if self.bar is not None:
            self.bar.close()


def as_time(seconds: float) -> str:
    """h:mm:ss."""
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def progress(items: Iterable[T], description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Hand on `items`, showing how far it is. `total` defaults to `len(items)` where there is one."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    shown = Progress(total, description, unit=unit)
    try:
        for item in items:
            yield item
            shown.update()
    finally:
        shown.close()


class Scalars:
    """Curves for `visualdl --logdir <folder>`, written by the main process only.

    VisualDL is imported with the first value, so that a run without curves starts without it.
    """

    def __init__(self, folder: str | os.PathLike | None):
        self.folder = folder if is_main() else None
        self.writer = None

    def add(self, step: int, values: dict[str, float]) -> None:
        """Put one value on each named curve at `step`. Nothing happens where no folder was given."""
        if self.folder is None:
            return
        if self.writer is None:
            from visualdl import LogWriter

            self.writer = LogWriter(logdir=str(self.folder))
        for name, value in values.items():
            self.writer.add_scalar(tag=name, step=step, value=float(value))

    def close(self) -> None:
        """Write out what is held back."""
        if self.writer is not None:
            try:
                self.writer.close()
            except OSError as error:  # a full disk; what ends the run says so itself
                logger.warning("%s: points of the curves are missing: %s", self.folder, error.strerror)
            self.writer = None
