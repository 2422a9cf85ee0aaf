"""Workers of a corpus build: processes on this machine, or tasks on a Ray cluster.

A task writes its file under a temporary name and renames it. So a task that is restarted, because its worker
or machine died, produces the same file.
"""

import functools
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Self, TypeVar

from ernie_m.utils.child_processes import block_signals_in_children
from ernie_m.utils.errors import UserError, get_install_command

Result = TypeVar("Result")

_SPARE_TASKS = 8  # queued tasks besides the running ones; few, because each holds its text
_RETRIES = 4  # retries of a task whose Ray worker died


class LocalWorkers:
    """Worker processes on this machine, within a `with` block.

    Args:
        num_workers: number of processes; 0: one per core; 1: all work is done in the current process.

    Attributes:
        died: exception that `Future.result` raises if a worker died.
    """

    died: type[Exception] = BrokenProcessPool

    def __init__(self, num_workers: int):
        self.num_workers = num_workers or len(os.sched_getaffinity(0))

    def __enter__(self) -> Self:
        spawn = multiprocessing.get_context("spawn")
        # It starts a process when there is a task for it.
        self.pool = ProcessPoolExecutor(self.num_workers, spawn, initializer=_exit_with_parent)
        return self

    def __exit__(self, *_) -> None:
        self.pool.shutdown(cancel_futures=True)

    def submit(self, function: Callable[..., Result], *task: Any) -> Future:
        """Submit a task to a worker process; with one worker, run it now."""
        if self.num_workers > 1:
            with block_signals_in_children((signal.SIGINT,)):  # the parent decides when a worker ends
                return self.pool.submit(function, *task)
        future: Future[Result] = Future()
        future.set_result(function(*task))
        return future

    def run(self, function: Callable[..., Result], tasks: Iterable[tuple]) -> Iterator[Result]:
        """Call `function` with the arguments of every task, and yield results in the order of tasks.

        Raises:
            UserError: a task has raised it, or a worker process died.
        """
        running: deque[Future] = deque()
        try:
            for task in tasks:
                running.append(self.submit(function, *task))
                # Run as many tasks as workers, and queue a few.
                if len(running) >= self.num_workers + min(self.num_workers, _SPARE_TASKS):
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except self.died as error:
            if hasattr(error, "cause"):  # Ray wraps the exception of a task
                raise error.cause from error
            raise UserError(
                f"a worker process died (killed or out of memory): {_get_last_line(error)}. Run the same "
                "command to resume, with fewer --workers if it ran out of memory"
            ) from error


class RayWorkers(LocalWorkers):
    """Workers on a Ray cluster, within a `with` block.

    Args:
        num_workers: maximum number of concurrent tasks; 0: one per core of the cluster.
        address: host:port of the head node of a cluster, or "auto" for the cluster of this machine; None:
            start a cluster on this machine.
    """

    def __init__(self, num_workers: int, address: str | None):
        self.num_workers = num_workers
        self.address = address

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray sends usage statistics
        try:
            import ray
        except ImportError as error:
            raise UserError(f"Ray is not installed: {get_install_command('ray')}") from error
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
        except Exception as error:  # a slow machine that exceeds Ray's 30 seconds raises it
            raise UserError(f"Ray: no cluster at {cluster['address']}: {_get_last_line(error)}") from error
        self.num_workers = self.num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.died = ray.exceptions.RayError
        return self

    def __exit__(self, *_) -> None:
        import ray

        ray.shutdown()

    def submit(self, function: Callable[..., Result], *task: Any) -> Future:
        """Submit a task to the cluster, which retries it if its worker dies."""
        return _make_remote_function(function).remote(*task).future()


@functools.cache  # otherwise Ray sends the function with each task, with a warning
def _make_remote_function(function: Callable) -> Any:
    """Wrap a function as a Ray remote function."""
    import ray

    return ray.remote(max_retries=_RETRIES, num_cpus=1)(function)


def _exit_with_parent() -> None:
    """Start a thread that ends this worker process when its parent ends, even if the parent is killed."""
    threading.Thread(target=_await_parent_exit, daemon=True).start()


def _await_parent_exit() -> None:
    """Wait until the parent process ends, then end this process with exit code 1."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def _get_last_line(error: BaseException) -> str:
    """Return the last line of an exception's message, at most 300 characters."""
    return str(error).strip().rpartition("\n")[2].strip()[:300] or type(error).__name__
