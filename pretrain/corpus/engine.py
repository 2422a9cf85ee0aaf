"""Runs work units: a function of one picklable task, results in any order. On all cores, or on Ray."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from utils.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
Handle = TypeVar("Handle")

_SPARE_TASKS = 4  # waiting beside those being worked on; a task holds its text, so there are few


class Engine(Protocol):
    """What runs the units of a build. Entered before its first use.

    Attributes:
        number: how many units it works on at a time; known once it is entered.
    """

    number: int

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """`function` of every task, results as they come. Tasks are drawn only as workers become free.

        Raises:
            UserError: a task raised it, or no worker lives to do it.
        """
        ...


def open_engine(name: str, workers: int, address: str | None, shared: Path) -> AbstractContextManager[Engine]:
    """The engine that the options name.

    Args:
        name: "local" or "ray".
        workers: units at a time; 0: one per core.
        address: of a Ray cluster; None: one on this machine that lives as long as the build.
        shared: folder that every worker must see.
    """
    if name == "local":
        return Workers(workers or available_cores())
    # Ray takes a second to import, and it is not part of every installation.
    from pretrain.corpus.ray_engine import RayWorkers

    return RayWorkers(workers, address, shared)


def keep_busy(
    number: int,
    tasks: Iterable[Task],
    submit: Callable[[Task], Handle],
    wait_for: Callable[[list[Handle]], Iterable[Handle]],
) -> Iterator[Handle]:
    """Give tasks to `number` workers, a few ahead; the handles of those that are done, as they come.

    Args:
        submit: starts a task.
        wait_for: of handles, those that are done; at least one.
    """
    tasks = iter(tasks)
    running: set[Handle] = set()
    exhausted = False
    while True:
        while not exhausted and len(running) < number + min(number, _SPARE_TASKS):
            for task in tasks:
                running.add(submit(task))
                break
            else:
                exhausted = True
        if not running:
            return
        done = set(wait_for(list(running)))
        running -= done
        yield from done


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
        """See `Engine.run`."""
        if self._pool is None:
            yield from map(function, tasks)
            return
        pool = self._pool
        try:
            for future in keep_busy(
                self.number,
                tasks,
                lambda task: pool.submit(function, task),
                lambda futures: wait(futures, return_when=FIRST_COMPLETED).done,
            ):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (killed, or out of memory?); run the same command again to go on from "
                "where it was, with fewer --workers if memory was short"
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
