"""What protects a run: one run at a time in a folder, a polite end, a word about work that does not end."""

import atexit
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from training import distributed
from utils.errors import UserError
from utils.files import unwritable_is_a_user_error
from utils.logging import logger

LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PATIENCE = 1.0  # seconds that the main thread has to hear of a second Ctrl-C


@contextmanager
def only_run_in(folder: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of an output folder on the main process; the other processes of the run need none.

    It is an flock on the file `.lock`: the kernel drops it with the process, however that ends, so nothing
    has to be cleared away after a kill. The file stays and tells who was there last.

    Args:
        folder: made where it is missing.

    Raises:
        UserError: another run holds it (the line names its process and host), or the folder cannot be
            written.
    """
    if not distributed.is_main():
        yield
        return
    path = Path(folder, LOCK)
    with unwritable_is_a_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # not inherited by the reader process
    try:
        _take(file, path)
        yield
    finally:
        os.close(file)


def _take(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"{path.parent}: another run is at work there ({_holder(file)}); wait until it has ended, end "
            "it, or choose another output folder"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: this file system has no locks: see that no second run writes there", path.parent)
        return
    with unwritable_is_a_user_error(path):
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _holder(file: int) -> str:
    try:
        who = json.loads(os.pread(file, 1000, 0))
        return f"process {who['process']} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just come and not signed yet
        return "its process is not known yet"


class StopSignal:
    """SIGTERM and Ctrl-C as requests: within a `with` statement they set `received`; the run ends itself.

    A thread answers each request in the log within a second. The main thread hears of a signal only between
    two instructions of Python, and a step, a sum over processes or the reading of a file may take longer.

    SIGTERM may come any number of times: launchers send it several times within a second. A second Ctrl-C
    raises KeyboardInterrupt, and where the main thread does not hear that either, the process ends.

    Enter it in the main thread, as early as possible: it needs no Paddle. `utils.runtime.prepare` sees to it
    that Paddle, which handles SIGTERM as a crash, does not take the signal away.

    Attributes:
        received: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._interrupts = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignal":
        self._left = threading.Event()
        self._hear, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        self._listener = threading.Thread(target=self._listen, name="stop-signal", daemon=True)
        self._listener.start()
        self._told_before = signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._told_before)
        self._left.set()
        os.write(self._tell, b"\0")
        self._listener.join()
        os.close(self._hear)
        os.close(self._tell)
        if self.received:
            # The run is about to end well; one more SIGTERM must not make it end badly. A function and not
            # SIG_IGN, which child processes would inherit; but Python takes functions back when it ends.
            signal.signal(signal.SIGTERM, lambda *_: None)
            atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)

    def __bool__(self) -> bool:
        return self.received is not None

    def anywhere(self) -> bool:
        """Whether any process of the run was asked to stop; call it on all of them at the same place."""
        return distributed.all_sum([float(bool(self))])[0] > 0

    def exit_as_asked(self) -> None:
        """Call it when the state is saved: ends the process with 130 after Ctrl-C, as shells expect.

        After SIGTERM, and without a signal, it returns, so that the process ends with 0.
        """
        if self.received == signal.SIGINT:
            sys.exit(130)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        """In a thread: what Python's own handler, in C, writes the number of each signal to."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # they are the main thread's
        interrupts, said = 0, False
        while number := os.read(self._hear, 1)[0]:
            if number in _SIGNALS and not said:
                said = True
                _say(signal.Signals(number))
            interrupts += number == signal.SIGINT
            if interrupts > 1 and not self._left.wait(_PATIENCE):
                os._exit(130)


def _say(received: signal.Signals) -> None:
    name, ends = ("Ctrl-C", "again") if received == signal.SIGINT else (received.name, "twice")
    line = f"{name} received: the run saves its state and ends; Ctrl-C {ends} ends it at once"
    if logger.handlers:
        logger.warning("%s", line)
    elif distributed.is_main():  # the log is not set up yet
        os.write(2, f"{line}\n".encode())


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Around work of which nothing has to be saved: SIGTERM ends the process at once, with 0.

    Ctrl-C does so anyway, with 130. A `StopSignal` within takes both over for as long as it lasts.
    """

    def end(*_) -> None:
        logger.info("SIGTERM received: the run ends; there is nothing to save")
        sys.exit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StallWatch:
    """Says in the log when a piece of work has gone on for `seconds`, twice that, four times, ...

    It ends nothing. Every process has one and says it in its own log (log/job.log.<rank>): where several wait
    for one, that one's log is silent.

    Args:
        seconds: what is not yet too long.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._doing: tuple[str, float] | None = None
        self._said_after = 0.0  # seconds, of the work that is going on; 0: nothing was said
        self._end = threading.Event()

    def __enter__(self) -> "StallWatch":
        threading.Thread(target=self._look, name="stall-watch", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Around work of which `what` is the name."""
        self._said_after, self._doing = 0.0, (what, time.monotonic())
        try:
            yield
        finally:
            doing, self._doing = self._doing, None
            if self._said_after:
                logger.info("%s ended after %.0f s", what, time.monotonic() - doing[1])

    def _look(self) -> None:
        while not self._end.wait(min(self.seconds / 4, 5.0)):
            doing = self._doing
            if doing is None:
                continue
            lasted = time.monotonic() - doing[1]
            if lasted >= max(self.seconds, 2 * self._said_after) and doing is self._doing:
                self._said_after = lasted
                logger.warning(
                    "%s has gone on for %.0f s: it is slow, or a process of the run stands still (one whose "
                    "log does not say this), or a disk or the network does",
                    doing[0],
                    lasted,
                )
