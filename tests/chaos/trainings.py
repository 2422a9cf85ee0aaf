"""The trainings: their commands, processes, logs and files."""

import json
import os
import re
import signal
import subprocess
import sys
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
PATIENCE = 240  # seconds after which a command counts as hanging
OUTPUT = Path("out")  # relative, so that all trainings write the same bytes


class Failed(Exception):
    """A training did something wrong."""


@dataclass(frozen=True)
class Kind:
    """A command and its log."""

    name: str
    processes: int
    script: str
    flags: list[str]
    steps_in: str  # the folder of the `step_N`, below the output folder
    start: str  # a pattern; its group is the step from which a start continues
    step: str  # a pattern; its groups are a step and the text that must be the same in every run


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
    log = r"going on from .*step_(\d+)", r"step: (\d+)/\d+, (ave loss: .*), speed:"
    return Kind(f"fine-tuning, {processes}", processes, "run_classifier.py", line, "", *log)


KINDS = [partial(make, processes) for processes in (1, 2) for make in (pretraining, finetuning)]


@dataclass
class Training:
    """A training in its own folder. Its `with` statement leaves no process behind."""

    kind: Kind
    folder: Path
    process: subprocess.Popen | None = None
    struck_at: int = 0  # the step at which a fault struck
    damaged: int = 0  # the step of the checkpoint that a fault damaged
    log_began: list[int] = field(default_factory=list)  # the length of the log at each start

    def __enter__(self) -> "Training":
        self.folder.mkdir()
        return self

    def __exit__(self, *_) -> None:
        self.kill_all()

    @property
    def output(self) -> Path:
        return self.folder / OUTPUT

    def checkpoints(self) -> dict[int, Path]:
        """The undamaged `step_N`, oldest first."""
        paths = (self.output / self.kind.steps_in).glob("step_*")
        found = {int(path.name[5:]): path for path in paths if path.name[5:].isdigit()}
        return {step: found[step] for step in sorted(found) if step != self.damaged}

    def start(self) -> None:
        """Start the command, which is always the same."""
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
        """Wait for the end of all processes, and return the exit code of the command."""
        self.until(lambda: self.process.poll() is not None)
        if self.process.poll() is None:
            raise Failed(f"it has not ended after {PATIENCE} s")
        self.kill_all()  # the other ranks, if a fault killed the launcher
        return self.process.returncode

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for `condition` or the end of the command, at most `PATIENCE`."""
        end = time.monotonic() + PATIENCE
        while not condition() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)

    def lives(self) -> list[tuple[int, dict[int, str]]]:
        """The starts so far, from the log: the step from which each continues, and its steps."""
        log, lives = self._log(), []
        for begin, end in zip(self.log_began, [*self.log_began[1:], len(log)]):
            found = re.search(self.kind.start, log[begin:end])
            steps = {int(step): text for step, text in re.findall(self.kind.step, log[begin:end])}
            lives.append((int(found[1]) if found else 0, steps))
        return lives

    def last_step(self) -> int:
        """The last step in the log of the current start."""
        return max(self.lives()[-1][1], default=0)

    def _log(self) -> str:
        path = self.folder / "log" / "job.log.0"
        return path.read_text(errors="replace") if path.exists() else ""

    def find(self, rank: int, reader: bool = False) -> int | None:
        """The training process of a rank, or its reader; None if it does not run."""
        wanted = "spawn_main" if reader else self.kind.script
        for pid, environment, words in marked(self.folder):
            # The command of the launcher names the script, too, but it has no rank.
            its = environment.get("PADDLE_TRAINER_ID", "0" if self.kind.processes == 1 else "")
            if its == str(rank) and wanted in words:
                return pid
        return None

    def kill_all(self) -> None:
        """Kill all processes of this training."""
        while found := [pid for pid, _, _ in marked(self.folder)]:
            for pid in found:
                send(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.02)

    def outcome(self) -> dict[str, bytes | list]:
        """The files that must be equal in every run: weights, moments, the reader's state, the records."""
        found: dict[str, bytes | list] = {}
        for folder in (Path(self.kind.steps_in, f"step_{STEPS}"), "best", "full", "encoder"):
            for path in (self.output / folder).rglob("*"):
                if path.suffix == ".safetensors" or path.name == "state.json":
                    found[str(path.relative_to(self.output))] = path.read_bytes()
        for metrics in self.output.glob("metrics.jsonl"):
            lines = metrics.read_text().splitlines()
            found[metrics.name] = [json.loads(line) | {"tokens_per_second": None} for line in lines]
        return found


def send(pid: int | None, number: int) -> bool:
    """Send a signal; False if there is no such process."""
    try:
        return pid is not None and os.kill(pid, number) is None
    except ProcessLookupError:
        return False


def marked(folder: Path) -> Iterator[tuple[int, dict[str, str], str]]:
    """Process, environment and command line of all processes that a training in `folder` has started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            entries = (path / "environ").read_text(errors="replace").split("\0")
            if f"{MARK}={folder}" in entries:
                environment = dict(entry.partition("=")[::2] for entry in entries)
                yield int(path.name), environment, (path / "cmdline").read_text(errors="replace")
        except OSError:  # the process has ended, or belongs to another user
            continue
