"""Signals that ask a command to exit, child processes that end with their parent, threads and forks."""

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


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a command to save its state and exit: SIGTERM, SIGINT (Ctrl-C) and SIGHUP.

    Closing a terminal or an ssh connection sends SIGHUP. Under `nohup` it stays ignored. A signal whose
    handler was not set from Python keeps it, as in a program that embeds Python.
    """
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in signals}
    return [
        number
        for number, handler in handlers.items()
        if handler is not None and (number, handler) != (signal.SIGHUP, signal.SIG_IGN)
    ]


@contextmanager
def stop_signals_handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the `stop_signals` with `handler` in this context."""
    before = {number: signal.signal(number, handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextmanager
def exits_at_sigterm() -> Iterator[None]:
    """Make an unhandled SIGTERM end the process as `sys.exit` does, in this context.
    So this context and those within it are cleaned up. The exit code is that of shells, 143.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def never_received(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Make a process that is spawned in this context never receive the signals.

    Terminals and launchers send them to the whole process group.
    """
    resource_tracker.ensure_running()  # it would unblock the signals if started with the process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(signal_number: int) -> None:
    """In a new process, on Linux: receive a signal when the parent dies, even if it is killed.

    It is called between fork and exec: `Popen(..., preexec_fn=partial(end_with_parent, signal.SIGTERM))`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal_number)


def cache_until_fork(make: Callable[P, T]) -> Callable[P, T]:
    """Cache like `functools.cache`, but remake the value in a forked process, which has no threads."""
    cached = cache(make)
    os.register_at_fork(after_in_child=cached.cache_clear)
    return cached  # type: ignore[return-value]  # `cache` loses the parameters
