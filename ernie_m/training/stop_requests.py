"""Handling of requests to stop, and a watchdog that ends a process that waits too long for another."""

import atexit
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ernie_m.utils.child_processes import stop_signals
from ernie_m.utils.logging import logger
from ernie_m.utils.paddle_settings import world_size

_END = 0  # what `ShutdownHandler` writes to its pipe on exit, instead of a signal number


class ShutdownHandler:
    """Turns SIGTERM, SIGHUP and Ctrl-C into requests: in its `with` statement they set `received`.

    The run then saves its state and stops. After Ctrl-C the end of the statement exits with 130, as shells
    expect. SIGHUP keeps its effect if it is ignored, as under `nohup`.

    A thread acknowledges the first request in the log, and ends the process at a second Ctrl-C, because the
    main thread may be in a long call, such as a sum over processes that waits for a dead one.
    SIGTERM and SIGHUP may arrive repeatedly, because launchers and shells send them repeatedly.

    Enter it in the main thread, as early as possible; it does not need Paddle.
    `ernie_m.utils.paddle_settings.prepare` keeps Paddle from installing its own handler of SIGTERM.

    Args:
        active: False: the signals keep their usual effect, for work without state to save.

    Attributes:
        received: the first signal received, or None.
    """

    def __init__(self, active: bool = True) -> None:
        self.active = active
        self.received: signal.Signals | None = None
        # The handlers that `__exit__` restores.
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "ShutdownHandler":
        """Handle the signals, and start the thread that listens to them."""
        if not self.active:
            return self
        self._signals = stop_signals()
        self._reading_end, self._writing_end = os.pipe()
        os.set_blocking(self._writing_end, False)  # required by `set_wakeup_fd`
        self._listener = threading.Thread(target=self._listen, name="stop-signal", daemon=True)
        self._listener.start()
        # Python then writes the number of each signal there immediately, whatever the main thread does.
        self._wakeup_before = signal.set_wakeup_fd(self._writing_end, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if not self.active:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.write(self._writing_end, bytes([_END]))
        self._listener.join()
        os.close(self._reading_end)
        os.close(self._writing_end)
        if self.received:
            # The process is about to end, and another SIGTERM or SIGHUP must not change its exit code. The
            # handler is a function without effect, because child processes would inherit SIG_IGN. At exit
            # Python removes handlers that are functions, so from `atexit` on the signal is ignored.
            for number in self._signals:
                if number != signal.SIGINT:
                    signal.signal(number, lambda *_: None)
                    atexit.register(signal.signal, number, signal.SIG_IGN)
        if self.received == signal.SIGINT and kind is None:
            sys.exit(130)

    def __bool__(self) -> bool:
        return self.received is not None

    def anywhere(self) -> bool:
        """Return whether any process of the run received a request to stop. Call it on every process."""
        # A command enters `ShutdownHandler` before it imports Paddle.
        from ernie_m.training import distributed

        (requests,) = distributed.all_sum([float(bool(self))])  # number of processes with a request
        return requests > 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal, in the main thread."""
        self.received = self.received or signal.Signals(number)

    def _listen(self) -> None:
        """Run in the thread: read signal numbers, which Python's C handler writes to the pipe, up to _END."""
        # The system must deliver them to the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        requests = 0
        interrupts = 0
        while True:
            (number,) = os.read(self._reading_end, 1)
            if number == _END:
                return
            if number not in self._signals:  # another signal with a Python handler
                continue
            requests += 1
            if number == signal.SIGINT:
                interrupts += 1
            if requests == 1:
                _acknowledge(number)
            if interrupts == 2:
                os._exit(130)


def _acknowledge(number: int) -> None:
    """Log that a signal was received, and its effect."""
    if number == signal.SIGINT:
        line = "Ctrl-C received: saving the state before exit; press Ctrl-C again to exit immediately"
    else:
        name = signal.Signals(number).name
        line = f"{name} received: saving the state before exit; press Ctrl-C twice to exit immediately"
    if logger.handlers:
        logger.warning("%s", line)
    else:  # no log yet, and Paddle's import redirects Python's stderr
        with suppress(OSError):  # stderr may be closed
            os.write(2, f"{line}\n".encode())


class StallWatchdog:
    """Ends this process, of several, when an operation takes longer than `seconds`.

    Otherwise it would wait forever for a dead process on another machine. Exit code 1, one line.

    Args:
        seconds: 0: never.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds if seconds > 0 and world_size() > 1 else math.inf
        self._work = ("", math.inf)  # the operation and its start, in time.monotonic()
        self._end = threading.Event()

    def __enter__(self) -> "StallWatchdog":
        threading.Thread(target=self._look, name="stall-watch", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Watch an operation as a context manager; `name` is its name in the log."""
        self._work = (name, time.monotonic())
        yield
        self._work = ("", math.inf)

    def _look(self) -> None:
        """Run in the thread: check the operation repeatedly until the watchdog ends."""
        while not self._end.wait(min(self.seconds / 4, 5.0)):
            name, began = self._work
            if time.monotonic() - began >= self.seconds:
                line = (
                    f"{name} exceeded stall_ends_seconds ({self.seconds:.0f} s); exiting. If another process "
                    "or machine has died, run the same commands again"
                )
                logger.error("%s", line)
                with suppress(OSError):
                    os.write(2, f"error: {line}\n".encode())
                os._exit(1)  # the main thread is in a call that does not return
