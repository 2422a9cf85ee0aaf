"""A process that runs a generator ahead of the training step, so that tokenising never stalls it."""

import contextlib
import logging
import multiprocessing
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Generic, TypeVar

from utils.errors import UserError

T = TypeVar("T")

_ITEM, _USER_ERROR, _FAILURE, _END, _DEAD, _STOPPED = range(6)
# How often the consumer looks whether the worker still lives while it waits. A closed pipe tells it at once
# as a rule.
_POLL_SECONDS = 0.5
_SLOW_SECONDS = 60.0
# No more than one line about a slow worker in so many times the wait that is called slow.
_QUIET_WAITS = 10

log = logging.getLogger(__name__)


class Prefetch(Generic[T]):
    """Iterates over what `make_iterator()` yields, computed in a process of its own; made by `prefetch`.

    Use it as a context manager, or call `close`: the worker ends then, at the latest with this process.
    Breaking off half way, an error or Ctrl-C in the loop are fine.
    """

    def __init__(self, make_iterator: Callable[[], Iterator[T]], ahead: int, slow_seconds: float):
        self._slow_seconds, self._next_line = slow_seconds, 0.0
        # spawn: a fork of a process with threads (BLAS, GPU) may hang.
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_work, args=(sender, make_iterator), name="reader", daemon=True
        )
        with _deaf_to_signals():
            self._process.start()
        # The worker alone can write now: when it dies, reading ends instead of waiting for ever.
        sender.close()
        self._items: queue.Queue = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_receive, args=(receiver, self._items, self._stop), name="reader-pipe", daemon=True
        )
        self._thread.start()
        self._done = False
        # multiprocessing's own finalizer: at exit it runs before multiprocessing sends SIGTERM to daemons and
        # waits for them, which a worker that is deaf to it would make endless.
        self._finalizer = Finalize(
            self, _shut_down, (self._process, self._thread, self._items, self._stop), exitpriority=10
        )

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self._next(stop=False)

    def next_unless(self, stop: object) -> T | None:
        """The next item; None as soon as `stop` is true, if the item is not there by then.

        Raises:
            StopIteration: there are no more items.
        """
        return self._next(stop)

    def _next(self, stop: object) -> T | None:
        if self._done:
            raise StopIteration
        kind, value = self._take(stop)
        if kind == _STOPPED:
            return None
        if kind == _ITEM:
            return value
        if kind == _DEAD:
            self._process.join(1)  # so that the exit code is its own
        self.close()
        if kind == _USER_ERROR:
            raise UserError(value)
        if kind == _FAILURE:
            raise RuntimeError(f"the reader process failed:\n{value}")
        if kind == _DEAD:
            raise UserError(
                f"the reader process {_how_it_ended(self._process.exitcode)} before its work was done; "
                "resume from the last checkpoint"
            )
        raise StopIteration

    def _take(self, stop: object) -> tuple[int, object]:
        began = time.monotonic()
        poll = min(_POLL_SECONDS, self._slow_seconds)
        while True:
            try:
                return self._items.get(timeout=poll)
            except queue.Empty:
                if stop:
                    return _STOPPED, None
                if not self._process.is_alive() and not self._thread.is_alive() and self._items.empty():
                    return _DEAD, None
                now = time.monotonic()
                if now - began >= self._slow_seconds and now >= self._next_line:
                    self._next_line = now + _QUIET_WAITS * self._slow_seconds
                    log.warning(
                        "the step has waited %.0f s for the reader process %d: it is slow, or stands still "
                        "(a disk, the processor, the memory); no further line for %.0f s",
                        now - began, self._process.pid, _QUIET_WAITS * self._slow_seconds,
                    )  # fmt: skip

    def close(self) -> None:
        """End the worker. Safe to call at any time, more than once."""
        self._done = True
        self._finalizer()

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def prefetch(
    make_iterator: Callable[[], Iterator[T]], ahead: int = 8, slow_seconds: float = _SLOW_SECONDS
) -> Prefetch[T]:
    """Run `make_iterator()` in a process of its own, up to `ahead` items ahead.

    Args:
        make_iterator: can be pickled (a function of a module, a `functools.partial` of a method); called
            once, there.
        ahead: items that wait at most, besides the one being made and what the pipe holds.
        slow_seconds: a line in the log where an item is waited for longer.

    Returns:
        an iterator to use in a `with` statement.

    Raises (from the iterator):
        UserError: raised there, raised again here; or the process was killed, noticed at once.
        RuntimeError: another exception there, with its traceback.

    The worker imports the module that Python was started with again, as spawned processes do. An entry point
    therefore imports paddle inside its functions, never at the top.
    """
    return Prefetch(make_iterator, ahead, slow_seconds)


@contextlib.contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """What is started meanwhile never hears Ctrl-C and SIGTERM; this process hears them afterwards.

    Both go to the whole group of processes, and launchers send them so too. The parent decides what becomes
    of the worker: it may want a few batches more before it saves and ends.
    """
    resource_tracker.ensure_running()  # started with the worker, it would open the ears again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(sender: Connection, make_iterator: Callable[[], Iterator]) -> None:
    try:
        try:
            for item in make_iterator():
                sender.send((_ITEM, item))
            sender.send((_END, None))
        except UserError as error:
            sender.send((_USER_ERROR, str(error)))
        except BrokenPipeError:
            raise
        except Exception:  # reported in the parent, which has the log
            sender.send((_FAILURE, traceback.format_exc()))
    except BrokenPipeError:
        pass  # the parent has gone, there is no one left to work for


def _receive(receiver: Connection, items: queue.Queue, stop: threading.Event) -> None:
    kind = _ITEM
    while kind == _ITEM:
        try:
            kind, value = receiver.recv()
        except (EOFError, OSError):
            kind, value = _DEAD, None
        while not stop.is_set():
            try:
                items.put((kind, value), timeout=_POLL_SECONDS)
                break
            except queue.Full:
                pass
        if stop.is_set():
            break
    receiver.close()


def _shut_down(
    process: multiprocessing.Process, thread: threading.Thread, items: queue.Queue, stop: threading.Event
) -> None:
    stop.set()
    with contextlib.suppress(queue.Empty):
        items.get_nowait()  # the thread may wait for room
    process.kill()  # it is deaf to SIGTERM
    process.join()
    thread.join(2)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        why = {
            signal.SIGKILL: " (perhaps for want of memory)",
            signal.SIGBUS: " (a file that it read was cut short, or its disk failed)",
        }
        return f"was killed by signal {-code}{why.get(-code, '')}"
    return f"ended with code {code}"
