"""Signal handling, and settings of child processes and forks."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import resource_tracker
from types import FrameType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def get_shutdown_signals() -> list[signal.Signals]:
    """Return the signals that request a shutdown: SIGTERM, SIGINT (Ctrl-C) and SIGHUP (a closed terminal).

    SIGHUP is omitted under `nohup`, which ignores it. A signal whose handler was not set from Python, as in
    an application that embeds Python, is also omitted.
    """
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in signals}
    return [
        number
        for number, handler in handlers.items()
        if handler is not None and (number, handler) != (signal.SIGHUP, signal.SIG_IGN)
    ]


@contextmanager
def handle_shutdown_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle shutdown signals with `handler` within a `with` block."""
    before = {number: signal.signal(number, handler) for number in get_shutdown_signals()}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Make SIGTERM raise SystemExit with code 143 within a `with` block, unless it has a handler.

    This lets context managers clean up, unlike SIGTERM's default action.
    """

    def exit_process(signum: int, _frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, exit_process)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is exit_process:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def block_signals_in_children(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Block signals in processes that are spawned within a `with` block.

    Terminals and launchers send signals to the whole process group.
    """
    resource_tracker.ensure_running()  # it would unblock the signals if started with the process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(signum: int) -> None:
    """Make the current process receive a signal when its parent dies, on Linux.

    Called between fork and exec: `Popen(..., preexec_fn=partial(end_with_parent, signal.SIGTERM))`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signum)


def cache_until_fork(function: Callable[P, T]) -> Callable[P, T]:
    """Cache like `functools.cache`, but drop the cache in a forked process, such as for thread pools."""
    cached = cache(function)
    os.register_at_fork(after_in_child=cached.cache_clear)
    return cached  # type: ignore[return-value]  # `cache` loses the parameters
