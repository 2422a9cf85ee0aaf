"""The trainings that the harness strikes: their commands, their processes, and what they leave."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.finetune import toy
from tests.launching import ROOT, clean_environment
from tests.pretrain.tiny_run import flags, make_corpus

MARK = "CHAOS_TRAINING"  # an environment variable that every process of a training inherits
STEPS, SAVE_STEPS, BATCH = 24, 4, 8
PATIENCE = 240  # seconds; a command that takes longer hangs
OUTPUT = Path("out")  # relative, so that all runs write the same bytes
INTERRUPTED = threading.Event()  # the harness was asked to end


class Failed(Exception):
    """A training did not do what it has to do."""


@dataclass(frozen=True)
class Kind:
    """A command and what its log says. `steps_in` is the folder of its `step_N`, below the output.

    The group of `went_on` is the step that it goes on from; those of `step` are the number of a step and what
    must be the same in every run.
    """

    name: str
    processes: int
    script: str
    flags: list[str]
    steps_in: str
    went_on: str
    step: str


def pretraining(processes: int, folder: Path) -> Kind:
    """run_pretrain.py on a corpus of three made-up languages."""
    line = flags(
        make_corpus(folder), OUTPUT, optimizer__steps=STEPS, optimizer__batch_size=BATCH, run__eval_steps=10,
        run__save_steps=SAVE_STEPS, run__log_steps=1, run__eval_sequences=4,
    )  # fmt: skip
    log = r"going on from .*step_(\d+)", r"step (\d+) of \d+ \| (.*) \| [\d,]+ tokens/s"
    return Kind(f"pre-training, {processes}", processes, "run_pretrain.py", line, "checkpoints", *log)


def finetuning(processes: int, folder: Path) -> Kind:
    """run_classifier.py on a made-up task."""
    line = toy.flags(
        toy.make(folder, train=STEPS // 2 * BATCH), OUTPUT, batch_size=BATCH // processes, skip_steps=1,
        save_steps=SAVE_STEPS, validation_steps=10, keep_checkpoints=3,
    )  # fmt: skip
    log = r"resumed from .*step_(\d+)", r"step: (\d+)/\d+, (ave loss: .*), speed:"
    return Kind(f"fine-tuning, {processes}", processes, "run_classifier.py", line, "", *log)


KINDS = [partial(make, processes) for processes in (1, 2) for make in (pretraining, finetuning)]


@dataclass
class Life:
    """What the log says of one start of the command: where it went on (0: anew), and its steps."""

    went_on: int
    steps: dict[int, str]


@dataclass
class Training:
    """One run in a folder of its own, in a `with` statement, which leaves no process behind."""

    kind: Kind
    folder: Path
    process: subprocess.Popen | None = None
    struck_at: int = 0
    damaged: int = 0  # the step of the checkpoint that a fault has damaged
    log_began: list[int] = field(default_factory=list)  # characters, at each start

    def __enter__(self) -> "Training":
        self.folder.mkdir()
        return self

    def __exit__(self, *_) -> None:
        self.kill_all()

    @property
    def output(self) -> Path:
        return self.folder / OUTPUT

    def checkpoints(self) -> dict[int, Path]:
        """Its `step_N`, oldest first, without the one that was damaged."""
        found = {path.name[5:]: path for path in (self.output / self.kind.steps_in).glob("step_*")}
        steps = sorted(int(step) for step in found if step.isdigit() and int(step) != self.damaged)
        return {step: found[str(step)] for step in steps}

    def start(self) -> None:
        """Give the command, the same each time."""
        line = [str(ROOT / self.kind.script), *self.kind.flags]
        if self.kind.processes > 1:
            launcher = ["--nproc_per_node", str(self.kind.processes), "--split_log_path", "log"]
            line = [str(ROOT / "launch.py"), *launcher, *line]
        self.log_began.append(len(self._log()))
        with open(self.folder / "stderr", "a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *line], cwd=self.folder, stdout=errors, stderr=errors,
                env=clean_environment(**{MARK: str(self.folder), "LOG_DIR": "log"}), start_new_session=True,
            )  # fmt: skip

    def wait(self) -> int:
        """The exit code of the command, once it and all that it started have ended."""
        self.until(lambda: self.process.poll() is not None)
        if self.process.poll() is None:
            raise Failed(f"no end after {PATIENCE} s")
        self.kill_all()  # the other ranks, where the launcher itself was killed
        return self.process.returncode

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for `condition`, but no longer than the command runs, or `PATIENCE`."""
        end = time.monotonic() + PATIENCE
        while not condition() and self.process.poll() is None and time.monotonic() < end:
            if INTERRUPTED.is_set():
                raise Failed("interrupted")
            time.sleep(0.05)

    def lives(self) -> list[Life]:
        """The log, start by start."""
        log, lives = self._log(), []
        for begin, end in zip(self.log_began, [*self.log_began[1:], len(log)]):
            found = re.search(self.kind.went_on, log[begin:end])
            steps = {int(step): text for step, text in re.findall(self.kind.step, log[begin:end])}
            lives.append(Life(int(found[1]) if found else 0, steps))
        return lives

    def last_step(self) -> int:
        """The last step that this start of the command has logged."""
        return max(self.lives()[-1].steps, default=0)

    def _log(self) -> str:
        path = self.folder / "log" / "job.log.0"
        return path.read_text(errors="replace") if path.exists() else ""

    def find(self, rank: int, reader: bool = False) -> int | None:
        """The training process of a rank, or its reader; None where it does not run (yet)."""
        wanted = "spawn_main" if reader else self.kind.script
        for pid, environment, words in marked(self.folder):
            # A launcher has no rank, though its command names the script.
            its = environment.get("PADDLE_TRAINER_ID", "0" if self.kind.processes == 1 else "")
            if its == str(rank) and wanted in words:
                return pid
        return None

    def kill_all(self) -> None:
        """End whatever is left of it."""
        while found := [pid for pid, _, _ in marked(self.folder)]:
            for pid in found:
                send(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.02)

    def outcome(self) -> dict[str, bytes | list]:
        """What must be the same in every run: weights, moments, the reader's state, the records."""
        found: dict[str, bytes | list] = {}
        for folder in (Path(self.kind.steps_in, f"step_{STEPS}"), "best", "full", "encoder"):
            for path in (self.output / folder).rglob("*"):
                if path.suffix == ".safetensors" or path.name == "state.json":
                    found[str(path.relative_to(self.output))] = path.read_bytes()
        metrics = self.output / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return found | {metrics.name: [json.loads(line) | {"tokens_per_second": None} for line in lines]}


def send(pid: int | None, number: int) -> bool:
    """Send a signal; False: there is no such process, or no more."""
    try:
        return pid is not None and os.kill(pid, number) is None
    except ProcessLookupError:
        return False


def marked(folder: Path) -> Iterator[tuple[int, dict[str, str], str]]:
    """Process, environment and command line of all that were started for a folder, however deep."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            entries = (path / "environ").read_text(errors="replace").split("\0")
            if f"{MARK}={folder}" in entries:
                environment = dict(entry.partition("=")[::2] for entry in entries)
                yield int(path.name), environment, (path / "cmdline").read_text(errors="replace")
        except OSError:  # it has gone, or is another user's
            continue
