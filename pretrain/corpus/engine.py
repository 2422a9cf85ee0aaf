"""Runs work units on all cores: a function of one picklable task, results in any order."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from utils.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

_SPARE_TASKS = 4  # waiting beside those being worked on; a task holds its text, so there are few


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


class Workers:
    """Worker processes, spawned so that they hold nothing but their work. One worker: this process.

    Args:
        number: of processes.
    """

    def __init__(self, number: int):
        self.number = number
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self.number > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.number, context, _follow_parent)
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """`function` of every task, results as they come. Tasks are drawn only as workers become free.

        Raises:
            UserError: a worker raised it, or died.
        """
        if self._pool is None:
            yield from map(function, tasks)
            return
        tasks = iter(tasks)
        running: set[Future] = set()
        exhausted = False
        try:
            while running or not exhausted:
                while not exhausted and len(running) < self.number + min(self.number, _SPARE_TASKS):
                    for task in tasks:
                        running.add(self._pool.submit(function, task))
                        break
                    else:
                        exhausted = True
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (killed, or out of memory?); run the same command again to go on from "
                "where "
                "it was, with fewer --workers if memory was short"
            ) from error


def _follow_parent() -> None:
    # Ctrl-C reaches the whole group, the parent alone answers it. A killed parent takes its workers along.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
