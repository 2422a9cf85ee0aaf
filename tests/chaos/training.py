"""A small training that can be struck: its processes, its files, and how it ended."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.launching import ROOT, clean_environment
from tests.pretrain.tiny_run import flags

MARK = "CHAOS_TRAINING"  # environment: what this harness started, however deep, and where
STEPS = 96
PATIENCE = 300  # seconds; what takes longer hangs
OPTIONS = {
    "optimizer__steps": STEPS, "run__save_steps": 9, "run__log_steps": 4, "run__eval_steps": 40,
    "run__eval_sequences": 4, "run__trace": True, "run__stall_seconds": 2.0,
}  # fmt: skip
# Where the number of processes changes: dropout depends on it, and the order of additions does.
ELASTIC = {
    "model__hidden_dropout_prob": 0.0, "model__attention_probs_dropout_prob": 0.0, "run__dtype": "float64",
}  # fmt: skip


class Hang(Exception):
    """Something that should have come did not."""


@dataclass(frozen=True)
class Process:
    """One process of the training."""

    pid: int
    rank: int
    reader: bool

    def kill(self, number: int) -> bool:
        """Send a signal; False: it has gone."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


class Training:
    """`run_pretrain.py` in a folder of its own, on a copy of the corpus; use it in a `with` statement.

    Args:
        folder: made; gets out/ and corpus/.
        corpus: stays whole.
        processes: of the next start.
        options: of the run, beside `OPTIONS`.
    """

    def __init__(self, folder: Path, corpus: Path, processes: int, options: dict):
        self.folder, self.whole_corpus, self.processes = folder, corpus, processes
        self.output, self.corpus, self.options = folder / "out", folder / "corpus", OPTIONS | options
        shutil.copytree(corpus, self.corpus)
        self.process: subprocess.Popen | None = None
        self._log_begins = 0

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_) -> None:
        self.end()

    def command(self, *more: str, logs: Path | None = None) -> list[str]:
        """What a user would type; `logs` where a second launcher must not write into the first one's."""
        line = [str(ROOT / "run_pretrain.py"), *flags(self.corpus, self.output, **self.options), *more]
        if self.processes > 1:
            logs = logs or self.output / "log"
            launcher = ["--nproc_per_node", str(self.processes), "--split_log_path", str(logs)]
            line = [str(ROOT / "launch.py"), *launcher, *line]
        return [sys.executable, *line]

    def start(self, *more: str) -> None:
        """The command, once more."""
        self._log_begins = len(self.log())
        with open(self.folder / "stderr", "w") as errors:
            self.process = subprocess.Popen(
                self.command(*more), cwd=self.folder, env=clean_environment(**{MARK: str(self.folder)}),
                stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def refused(self, *more: str) -> str:
        """The error line of the command, which must be refused.

        Raises:
            AssertionError: it was not.
        """
        code, line = self.attempt(*more)
        assert code != 0, "a command that had to be refused was not"
        return line

    def attempt(self, *more: str) -> tuple[int, str]:
        """The command once more beside what runs already: its exit code and its error line."""
        done = subprocess.run(
            self.command(*more, logs=self.folder / "log"), cwd=self.folder,
            env=clean_environment(**{MARK: str(self.folder)}), capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        return done.returncode, error_line(done.stderr)

    def wait(self) -> int:
        """Until it ends by itself; its exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Hang(f"no end after {PATIENCE} s") from error

    def wait_for(self, what: Callable[[], object], seconds: float = PATIENCE) -> bool:
        """Until `what()` is true; False: the training ended before, or `seconds` passed."""
        end = time.monotonic() + seconds
        while not what():
            if self.process.poll() is not None:
                return bool(what())
            if time.monotonic() > end:
                if seconds < PATIENCE:
                    return False
                raise Hang(f"step {self.steps()} for {PATIENCE} s")
            time.sleep(0.01)
        return True

    def end(self) -> None:
        """Kill whatever is left of it."""
        while left := _marked(str(self.folder)):
            for pid in left:
                Process(pid, 0, False).kill(signal.SIGKILL)
            time.sleep(0.02)
            if self.process is not None:
                self.process.poll()

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def find(self, rank: int, reader: bool = False) -> Process | None:
        """The training process of a rank, or its reader; None: it is not there (yet, any more)."""
        for pid in _marked(str(self.folder)):
            found = _who(pid, self.processes)
            if found is not None and (found.rank, found.reader) == (rank, reader):
                return found
        return None

    def steps(self) -> int:
        """Steps behind it, of this life and those before that still count."""
        path = self.output / "trace.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def checkpoints(self) -> list[Path]:
        """Its step folders, oldest first."""
        found = (self.output / "checkpoints").glob("step_*")
        return sorted(
            (path for path in found if path.name[5:].isdigit()), key=lambda path: int(path.name[5:])
        )

    def log(self, rank: int = 0) -> str:
        """What a rank has written to its log, in all lives."""
        path = self.output / "log" / f"job.log.{rank}"
        return path.read_text(errors="replace") if path.exists() else ""

    def error(self) -> str:
        """The error that ended the last life."""
        return error_line((self.folder / "stderr").read_text(errors="replace"))

    def went_on(self) -> str:
        """Where this life began, once it has: waits for that."""

        def said() -> str:
            return self.log()[self._log_begins :]

        self.wait_for(lambda: "configuration:" in said())
        found = re.search(r"going on from \S*/(step_\d+)", said())
        if found:
            return found[1]
        return "the beginning" if "configuration:" in said() else "nowhere yet"


def error_line(text: str) -> str:
    """The `error: ...` line of what a program wrote, without that word; else its last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1].removeprefix("error: ")


def read_trace(output: Path) -> dict[int, list[str]]:
    """Step -> the samples that it read, as it stands in trace.jsonl."""
    found: dict[int, list[str]] = {}
    for line in (output / "trace.jsonl").read_text().splitlines():
        record = json.loads(line)
        found.setdefault(record["step"], []).extend(" ".join(map(str, one)) for one in record["samples"])
    return found


def _marked(mark: str) -> list[int]:
    wanted = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has gone, or is another user's
            continue
    return found


def _who(pid: int, processes: int) -> Process | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        environment = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return None
    variables = dict(entry.partition("=")[::2] for entry in environment)
    if processes > 1 and "PADDLE_TRAINER_ID" not in variables:
        return None  # the launcher
    rank = int(variables.get("PADDLE_TRAINER_ID", 0))
    if any("spawn_main" in word for word in words):
        return Process(pid, rank, reader=True)
    if any(word.endswith("run_pretrain.py") for word in words[1:3]):
        return Process(pid, rank, reader=False)
    return None
