"""Runs the units of a build in processes of this machine or on a Ray cluster.

A unit writes its result under a temporary name and renames it. So a unit that is started again, because its
worker or machine died, leaves the same result.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Self, TypeVar

from ernie_m.utils.child_processes import never_received
from ernie_m.utils.errors import UserError, install_command

Result = TypeVar("Result")

_SPARE_TASKS = 4  # tasks that wait beside those in progress; each holds its text, so there are few
_RETRIES = 4  # how often a unit is started again after its Ray worker died


class LocalWorkers:
    """Spawned processes, used in a `with` statement. With `number` 1 this process does the work.

    Args:
        number: the number of processes; 0: one per core.
    """

    def __init__(self, number: int):
        self.num_workers = number or len(os.sched_getaffinity(0))
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.num_workers > 1:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(self.num_workers, context, initializer=_follow_parent)
        return self

    def __exit__(self, *_) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable[..., Result], *task: Any) -> Future:
        """Start a task; without a pool, complete it."""
        if self.pool is not None:
            with never_received((signal.SIGINT,)):  # the parent decides when a worker ends
                return self.pool.submit(function, *task)
        future = Future()
        future.set_result(function(*task))
        return future

    def run(self, function: Callable[..., Result], tasks: Iterable[tuple]) -> Iterator[Result]:
        """Call `function` with the arguments of every task. Results come in any order.

        Raises:
            UserError: a task raised it, or a worker died.
        """
        # The tasks that run and those that wait for a worker.
        most_submitted = self.num_workers + min(self.num_workers, _SPARE_TASKS)
        tasks = iter(tasks)
        running: set[Future] = set()
        try:
            while True:
                for task in tasks:  # goes on where the last round stopped
                    running.add(self.submit(function, *task))
                    if len(running) >= most_submitted:
                        break
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (killed, or out of memory?); run the same command again to go on from "
                "where it was, with fewer --workers if memory was short"
            ) from error


class RayWorkers(LocalWorkers):
    """Workers of a Ray cluster.

    Args:
        number: the number of units at a time; 0: one per core of the cluster.
        address: host:port of the cluster's head, or "auto" for the cluster of this machine; None: start a
            cluster on this machine for this build.
    """

    def __init__(self, number: int, address: str | None):
        self.num_workers = number
        self.address = address
        self.remote: dict[Callable, Any] = {}  # function -> its form on the cluster

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
        try:
            import ray
        except ImportError as error:
            raise UserError(f"Ray is not installed: {install_command('ray')}") from error
        cluster: dict[str, Any] = {"address": self.address}
        if self.address is None:  # a new cluster on this machine
            cluster = {"address": "local", "num_cpus": self.num_workers or len(os.sched_getaffinity(0))}
        package = Path(__file__).resolve().parents[2]
        try:
            ray.init(
                **cluster,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"py_modules": [str(package)]},
            )
        except Exception as error:  # a busy machine that needs more than Ray's 30 seconds raises just that
            raise UserError(f"Ray: no cluster at {cluster['address']}: {_last_line(error)}") from error
        if self.num_workers == 0:  # one for each core of the cluster
            self.num_workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        return self

    def __exit__(self, *_) -> None:
        import ray

        ray.shutdown()

    def submit(self, function: Callable[..., Result], *task: Any) -> Future:
        """Start a task. Ray starts it again if its worker dies."""
        import ray

        if function not in self.remote:
            self.remote[function] = ray.remote(max_retries=_RETRIES, num_cpus=1)(function)
        return self.remote[function].remote(*task).future()

    def run(self, function: Callable[..., Result], tasks: Iterable[tuple]) -> Iterator[Result]:
        """See `LocalWorkers.run`."""
        import ray

        try:
            yield from super().run(function, tasks)
        except ray.exceptions.RayTaskError as error:
            # Ray adds its traceback to the worker's exception.
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise UserError(
                f"a work unit's worker died {_RETRIES + 1} times (out of memory?): {_last_line(error)}; "
                "run the same command again to go on from where it was"
            ) from error


def _follow_parent() -> None:
    """Let a worker end with its parent, even if that is killed."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Wait for the end of the parent process, then end this one."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _last_line(error: BaseException) -> str:
    """The last line of an error's message, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
