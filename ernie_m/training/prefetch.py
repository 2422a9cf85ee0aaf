"""A reader process that runs an iterator ahead of training, so that steps rarely wait for data."""

import contextlib
import multiprocessing
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from types import ModuleType
from typing import Any, Final, Generic, Literal, Self, TypeVar, overload

from ernie_m.utils.child_processes import block_signals_in_children
from ernie_m.utils.errors import UserError

T = TypeVar("T")

START: Final = "spawn"  # start method of the worker; forking a process with threads may hang
_POLL_SECONDS = 0.5  # interval at which a waiting consumer checks for a request to stop
# A message is (item, None). The last one is (None, ending): the exception with which the iterator ends in the
# parent. If the worker dies without it, the receiving thread adds one with an EOFError.
_Message = tuple[Any, Exception | None]
# Possible causes of a signal that killed the worker.
_CAUSES: dict[int, str] = {
    signal.SIGKILL: " (possibly out of memory)",
    signal.SIGBUS: " (a file was truncated while being read, or a disk failed)",
}


class PrefetchIterator(Generic[T]):
    """Iterator over the items of `make_iterator()`, which runs in a reader process, within a `with` block.

    The reader process does not import the main module, which may be a user's script without a main guard.

    Args:
        make_iterator: a picklable function, which is called once, in the reader process.
        ahead: queue size: number of items to compute ahead.

    Raises (from the iterator):
        UserError: `make_iterator` has raised it, or the reader process was killed.
        RuntimeError: the reader process has raised another exception; the message contains its traceback.
    """

    def __init__(self, make_iterator: Callable[[], Iterator[T]], ahead: int = 8):
        self._is_closed = False
        context = multiprocessing.get_context(START)
        receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run_reader, args=(sender, make_iterator), name="reader", daemon=True
        )
        # The parent decides when the worker ends: it may need a few more items before it saves and exits.
        with block_signals_in_children((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)), _hide_main_module():
            self._process.start()
        sender.close()  # the worker has the only sender: if it dies, the receiver gets an EOFError
        self._items: queue.Queue[_Message] = queue.Queue(ahead)
        thread = threading.Thread(target=_receive, args=(receiver, self._items), daemon=True)
        thread.start()
        # At exit, this runs before multiprocessing sends SIGTERM to its daemons and joins them: the worker
        # ignores SIGTERM, so that would never return.
        self._finalizer = Finalize(self, _kill_reader, (self._process, thread, self._items), exitpriority=10)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self.next_unless_stopped(False)

    @overload
    def next_unless_stopped(self, stop: Literal[False]) -> T: ...

    @overload
    def next_unless_stopped(self, stop: object) -> T | None: ...

    def next_unless_stopped(self, stop: object) -> T | None:
        """Return the next item; None if `stop` becomes true before the item is ready.

        Raises:
            StopIteration: there are no more items.
        """
        while not self._is_closed:
            try:
                item, ending = self._items.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if stop:
                    return None
                continue
            if ending is None:
                return item
            if isinstance(ending, EOFError):
                ending = self._make_death_error()
            self.close()
            raise ending
        raise StopIteration

    def _make_death_error(self) -> UserError:
        """Return the error for a reader process that died. Call this before `close`, which kills it."""
        self._process.join(timeout=10)  # seconds
        exit_code = self._process.exitcode
        end = f"ended with code {exit_code}"
        if exit_code is not None and exit_code < 0:
            end = f"was killed by signal {-exit_code}{_CAUSES.get(-exit_code, '')}"
        return UserError(f"the reader process {end} before it finished. Run the same command to resume")

    def close(self) -> None:
        """End the reader process. May be called at any time and repeatedly."""
        self._is_closed = True
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


@contextlib.contextmanager
def _hide_main_module() -> Iterator[None]:
    """Prevent processes that are spawned within a `with` block from importing the main module."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run_reader(sender: Connection, make_iterator: Callable[[], Iterator]) -> None:
    """Main function of the reader process: send all items, and finally the exception that ends iteration."""
    ending: Exception = StopIteration()
    with contextlib.suppress(BrokenPipeError):  # the parent has ended
        try:
            for item in make_iterator():
                sender.send((item, None))
        except BrokenPipeError:
            raise  # not an error of the iterator; `suppress` catches it
        except UserError as error:
            ending = UserError(str(error))
        except Exception:  # the parent reports it in the log
            ending = RuntimeError(f"the reader process failed:\n{traceback.format_exc()}")
        sender.send((None, ending))


def _receive(receiver: Connection, items: queue.Queue) -> None:
    """Main function of the receiving thread: put the messages of the reader process into the queue."""
    ending = None
    while ending is None:
        try:
            message = receiver.recv()
        except (EOFError, OSError):
            message = (None, EOFError())
        items.put(message)
        _, ending = message
    receiver.close()


def _kill_reader(process: multiprocessing.Process, thread: threading.Thread, items: queue.Queue) -> None:
    """Kill the reader process, and wait until the process and the receiving thread have ended."""
    process.kill()  # SIGTERM is blocked
    process.join()
    # The thread may wait for space in the queue, once for each message that is still in the pipe.
    while thread.is_alive():
        with contextlib.suppress(queue.Empty):
            items.get(timeout=0.01)
