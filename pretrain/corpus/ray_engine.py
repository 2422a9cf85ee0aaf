"""Runs work units on a Ray cluster: one that is there, or one of this machine for the build alone.

A unit writes its result to the output folder under a temporary name and renames it, so one that Ray starts
again after a worker or a machine has died leaves what it would have left the first time.
"""

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pretrain.corpus.engine import Result, Task, available_cores, keep_busy
from utils.errors import UserError
from utils.files import atomic_file

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("pretrain", "reader", "utils")  # what a unit's work is made of; sent to the machines
_TRIES_AGAIN = 4  # of a unit whose worker died; one that always kills its worker must come to an end
_SECONDS_TO_ANSWER = 10.0
_PROBE = "seen-by-all"


class RayWorkers:
    """Workers of a Ray cluster; see `engine.Engine`.

    Args:
        number: units at a time; 0: one per processor of the cluster.
        address: host:port of the cluster's head, or "auto" for the one this machine is part of; None: a
            cluster of this machine alone, for this build alone.
        shared: folder that every machine must see.
    """

    def __init__(self, number: int, address: str | None, shared: Path):
        self.number = number
        self._address = address
        self._shared = shared

    def __enter__(self) -> "RayWorkers":
        ray = _import_ray()
        if self._address is None:
            where = {"address": "local", "num_cpus": self.number or available_cores()}
        else:
            _check_answers(self._address)
            where = {"address": self._address}
        try:
            ray.init(
                **where,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"py_modules": [str(_ROOT / name) for name in _PACKAGES]},
            )
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
            raise UserError(f"--engine ray: no cluster at {where['address']}: {_one_line(error)}") from error
        with contextlib.ExitStack() as stack:
            stack.callback(ray.shutdown)
            self._check_all_see_the_folder()
            self.number = self.number or max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """See `Engine.run`."""
        import ray

        work = ray.remote(_call).options(max_retries=_TRIES_AGAIN, num_cpus=1)
        try:
            for handle in keep_busy(
                self.number,
                tasks,
                lambda task: work.remote(function, task),
                lambda handles: ray.wait(handles)[0],
            ):
                yield _result(ray.get(handle))
        except ray.exceptions.RayTaskError:
            raise  # a fault of ours, with its traceback
        except ray.exceptions.RayError as error:
            raise UserError(
                f"a work unit's worker died {_TRIES_AGAIN + 1} times (out of memory?): {_one_line(error)}; "
                "run the same command again to go on from where it was"
            ) from error

    def _check_all_see_the_folder(self) -> None:
        """Let every machine read a file of the shared folder, and import what a unit's work needs."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        token = secrets.token_hex(8)
        probe = self._shared / _PROBE
        with atomic_file(probe, "w") as file:
            file.write(token)
        asked = {}
        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU"):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                handle = ray.remote(_sees).options(scheduling_strategy=there).remote(str(probe), token)
                asked[handle] = node["NodeManagerAddress"]
        for handle, machine in asked.items():
            try:
                seen = ray.get(handle)
            except (ray.exceptions.RayError, ImportError) as error:
                raise UserError(
                    f"--engine ray: {machine} cannot do the work ({_one_line(error)}); every machine needs "
                    "the same Python and requirements-common.txt"
                ) from error
            if not seen:
                raise UserError(
                    f"--engine ray: {machine} does not see {self._shared}; --output must lie on storage that "
                    "all machines of the cluster share under the same path"
                )
        probe.unlink()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs ray: pip install -r requirements-ray.txt") from error
    return ray


def _check_answers(address: str) -> None:
    """Ray itself tries an address that is dead for more than a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UserError(f"ray_address: '{address}' is neither host:port (as in 10.0.0.1:6379) nor auto")
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"ray_address: {address} does not answer ({error}); start the cluster with ray start --head, or "
            "leave the option out for one on this machine"
        ) from error


def _call(function: Callable[[Task], Result], task: Task) -> tuple[Result | None, str | None]:
    """Runs in a worker. What the user can put right comes back as a text, without Ray's traceback."""
    try:
        return function(task), None
    except UserError as error:
        return None, str(error)


def _result(answer: tuple[Any, str | None]) -> Any:
    result, fault = answer
    if fault is not None:
        raise UserError(fault)
    return result


def _sees(path: str, token: str) -> bool:
    """Runs on every machine."""
    import pretrain.corpus.units  # noqa: F401  all that a unit's work needs must be there

    try:
        return Path(path).read_text() == token
    except OSError:
        return False


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
