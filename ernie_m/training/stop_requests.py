"""Shutdown requests by signals, and a watchdog that ends a process that waits too long for another."""

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

from ernie_m.utils.child_processes import get_shutdown_signals
from ernie_m.utils.logging import logger
from ernie_m.utils.paddle_settings import world_size

_END = 0  # what `ShutdownHandler` writes to its pipe on exit, instead of a signal number


class ShutdownHandler:
    """Handler that turns SIGTERM, SIGHUP and Ctrl-C within its `with` block into shutdown requests.

    The run then saves its state and stops. After Ctrl-C, the end of the block exits with code 130, as shells
    expect. SIGHUP stays ignored under `nohup`.

    A thread logs the first request, and ends the process at a second Ctrl-C, because the main thread may be
    in a long call, such as an all-reduce that waits for a dead process. Repeated SIGTERM and SIGHUP do not
    end the process, because launchers and shells repeat them.

    Enter the block in the main thread, as early as possible; Paddle is not required.
    `ernie_m.utils.paddle_settings.prepare` prevents Paddle from installing its own SIGTERM handler.

    Args:
        is_active: False: the signals keep their usual effect, for work without state to save.

    Attributes:
        received: the first signal received; None: none yet.
    """

    def __init__(self, is_active: bool = True) -> None:
        self.active = is_active
        self.received: signal.Signals | None = None
        # The handlers that `__exit__` restores.
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "ShutdownHandler":
        """Install the signal handlers, and start the listening thread."""
        if not self.active:
            return self
        self._signals = get_shutdown_signals()
        self._reading_end, self._writing_end = os.pipe()
        os.set_blocking(self._writing_end, False)  # required by `set_wakeup_fd`
        self._listener = threading.Thread(target=self._listen, name="stop-signal", daemon=True)
        self._listener.start()
        # Python then writes the number of each signal there immediately, whatever the main thread does.
        self._wakeup_before = signal.set_wakeup_fd(self._writing_end, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handle_signal) for number in self._signals}
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

    def is_set_on_any_process(self) -> bool:
        """Return whether any process has received a shutdown request. Call this on every process."""
        # A command enters `ShutdownHandler` before it imports Paddle.
        from ernie_m.training import distributed

        (requests,) = distributed.all_reduce_sum([float(bool(self))])  # number of processes with a request
        return requests > 0

    def _handle_signal(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: record the first signal."""
        self.received = self.received or signal.Signals(signum)

    def _listen(self) -> None:
        """Main function of the listening thread: read the signal numbers that Python writes to the pipe."""
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
                _log_receipt(number)
            if interrupts == 2:
                os._exit(130)


def _log_receipt(signum: int) -> None:
    """Log the receipt of a signal, and how to exit immediately."""
    if signum == signal.SIGINT:
        line = "Ctrl-C received: saving the state before exit; press Ctrl-C again to exit immediately"
    else:
        name = signal.Signals(signum).name
        line = f"{name} received: saving the state before exit; press Ctrl-C twice to exit immediately"
    if logger.handlers:
        logger.warning("%s", line)
    else:  # no log yet, and Paddle's import redirects Python's stderr
        with suppress(OSError):  # stderr may be closed
            os.write(2, f"{line}\n".encode())


class StallWatchdog:
    """Watchdog that ends this process with exit code 1 if an operation takes longer than `seconds`.

    In multi-process training, a process would otherwise wait forever for a dead process on another machine.

    Args:
        seconds: maximum duration of an operation; 0: no limit. A single process has no limit.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds if seconds > 0 and world_size() > 1 else math.inf
        self._work = ("", math.inf)  # the operation and its start, in time.monotonic()
        self._end = threading.Event()

    def __enter__(self) -> "StallWatchdog":
        threading.Thread(target=self._watch_operation, name="stall-watch", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Watch the operation within a `with` block; `name` is its name in the log."""
        self._work = (name, time.monotonic())
        yield
        self._work = ("", math.inf)

    def _watch_operation(self) -> None:
        """Main function of the watchdog thread: check the duration of the operation repeatedly."""
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
