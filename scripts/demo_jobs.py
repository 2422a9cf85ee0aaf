"""Commands of the demo side by side: one core each, progress lines with a name, all ended together."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from utils.errors import UserError

AT_ONCE = 2
# What a training program says of how far it is; the rest stands in its log.
PROGRESS = ("step ", "epoch: ", "[held-out] retrieval")


class Jobs:
    """Runs commands of the project; in a `with` statement nothing outlives it, whatever ends it.

    Args:
        logs: folder for the complete output of each command.
    """

    def __init__(self, logs: Path):
        self.logs = logs
        self._processes: list[subprocess.Popen] = []
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> "Jobs":
        self.logs.mkdir(parents=True, exist_ok=True)
        # As Ctrl-C does: an exception in the main thread, so that __exit__ ends the children.
        self._before = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(self, *_) -> None:
        self.stop()
        signal.signal(signal.SIGTERM, self._before)

    def side_by_side(self, chains: Sequence[Callable[[], None]]) -> None:
        """Call the chains in the order given, `AT_ONCE` at a time; the first that fails ends all."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures = [pool.submit(chain) for chain in chains]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self.stop()
                raise

    def call(self, name: str, *command: object) -> None:
        """Run a command with this Python on one core, its progress shown after `name`.

        Raises:
            UserError: it failed; names its log and quotes its last line.
        """
        log = self.logs / f"{name.replace(' ', '-')}.log"
        with self._lock:
            if self._stopped:
                return
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            self._processes.append(process)
        last = ""
        with open(log, "w", encoding="utf-8") as file:
            for last in process.stdout:
                file.write(last)
                if last.startswith(PROGRESS):
                    # One write with its line end: two jobs print side by side.
                    print(f"{name}: {last}", end="", flush=True)
        if process.wait() and not self._stopped:
            raise UserError(f"the demo stopped at {name} ({log}): {last.strip()}")

    def stop(self) -> None:
        """Start no more, and end those that are going on."""
        with self._lock:
            self._stopped = True
            running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def _interrupt(*_) -> None:
    raise KeyboardInterrupt
