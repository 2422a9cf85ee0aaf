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
from itertools import pairwise
from pathlib import Path

from tests import command_lines, toys
from tests.launching import ROOT, clean_environment

MARK = "CHAOS_TRAINING"  # an environment variable that every process of a training inherits
STEPS = 24
SAVE_STEPS = 4
BATCH = 16
PATIENCE = 240  # seconds after which a command counts as hanging
OUTPUT = Path("out")  # relative, so that all trainings write the same bytes


class Failed(Exception):
    """A training did something wrong."""


@dataclass(frozen=True)
class Kind:
    """A command and its log.

    Attributes:
        flags: of the script; the output folder is always `OUTPUT`.
        checkpoints: the folder of the `step_N`, below the output folder.
        resumed: a pattern in the log of a start that resumes; its group is the step from which it goes on.
        step: a pattern in the log of each step; its groups are the step and the text that must be the same in
            every run.
    """

    name: str
    processes: int
    script: str
    flags: list[str]
    checkpoints: str
    resumed: str
    step: str


def pretraining(processes: int, pseudo_choice: str, folder: Path) -> Kind:
    """run_pretrain.py on a corpus of three made-up languages."""
    line = command_lines.pretraining(
        toys.make_small_corpus(folder),
        OUTPUT,
        objectives__pseudo_choice=pseudo_choice,
        optimizer__steps=STEPS,
        optimizer__batch_size=BATCH,
        run__eval_steps=10,
        run__save_steps=SAVE_STEPS,
        run__log_steps=1,
        run__eval_sequences=4,
    )
    return Kind(
        name=f"pre-training, {processes}, {pseudo_choice}",
        processes=processes,
        script="run_pretrain.py",
        flags=line,
        checkpoints="checkpoints",
        resumed=r"going on from .*step_(\d+)",
        step=r"step (\d+) of \d+ \| (.*) \| [\d,]+ tokens/s",
    )


def finetuning(processes: int, folder: Path) -> Kind:
    """run_classifier.py on a made-up task."""
    line = command_lines.classification(
        toys.make_classification(folder, train=STEPS // 2 * BATCH),  # for two epochs
        OUTPUT,
        batch_size=BATCH // processes,
        skip_steps=1,
        save_steps=SAVE_STEPS,
        validation_steps=10,
        keep_checkpoints=3,
    )
    return Kind(
        name=f"fine-tuning, {processes}",
        processes=processes,
        script="run_classifier.py",
        flags=line,
        checkpoints="",
        resumed=r"going on from .*step_(\d+)",
        step=r"step: (\d+)/\d+, (ave loss: .*), speed:",
    )


# Functions that make a kind, with its data in a folder.
KINDS = [
    partial(pretraining, 1, "argmax"),
    partial(finetuning, 1),
    partial(pretraining, 2, "sample"),
    partial(finetuning, 2),
    partial(pretraining, 1, "sample"),
    partial(pretraining, 2, "argmax"),
]


@dataclass
class Start:
    """What the log says of one start of a training.

    Attributes:
        resumed_at: the step from which it went on; 0: it began from scratch.
        steps: step -> the text that must be the same in every run.
    """

    resumed_at: int
    steps: dict[int, str]


@dataclass
class Training:
    """A training in its own folder. Its `with` statement leaves no process behind.

    Attributes:
        struck_at: the step at which a fault struck.
        damaged: the step of the checkpoint that a fault damaged; 0: none.
        log_began: the length of the log at each start, in characters.
    """

    kind: Kind
    folder: Path
    process: subprocess.Popen | None = None
    struck_at: int = 0
    damaged: int = 0
    log_began: list[int] = field(default_factory=list)

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
        paths: dict[int, Path] = {}
        for path in (self.output / self.kind.checkpoints).glob("step_*"):
            number = path.name.removeprefix("step_")
            if number.isdigit() and int(number) != self.damaged:
                paths[int(number)] = path
        return dict(sorted(paths.items()))

    def start(self) -> None:
        """Start the command, which is always the same."""
        command = [sys.executable]
        if self.kind.processes > 1:
            command += [str(ROOT / "launch.py"), "--nproc_per_node", str(self.kind.processes)]
            command += ["--split_log_path", "log"]
        command += [str(ROOT / self.kind.script), *self.kind.flags]
        self.log_began.append(len(self._log()))
        with open(self.folder / "stderr", "a") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=errors,
                stderr=errors,
                env=clean_environment(**{MARK: str(self.folder), "LOG_DIR": "log"}),
                start_new_session=True,
            )

    def wait(self) -> int:
        """Wait for the end of all processes, and return the exit code of the command.

        Raises:
            Failed: they have not ended after `PATIENCE`.
        """
        end = time.monotonic() + PATIENCE
        self.until(lambda: self.process.poll() is not None)
        while any(marked(self.folder)):
            if time.monotonic() > end:
                raise Failed(f"processes are left after {PATIENCE} s")
            time.sleep(0.05)
        return self.process.wait()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` is true or the command has ended, at most `PATIENCE` seconds."""
        end = time.monotonic() + PATIENCE
        while not condition() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)

    def starts(self) -> list[Start]:
        """The starts so far."""
        log = self._log()
        starts = []
        for begin, end in pairwise([*self.log_began, len(log)]):
            resumed = re.search(self.kind.resumed, log[begin:end])
            resumed_at = int(resumed[1]) if resumed else 0
            steps = {int(step): text for step, text in re.findall(self.kind.step, log[begin:end])}
            starts.append(Start(resumed_at, steps))
        return starts

    def last_step(self) -> int:
        """The last step in the log of the current start."""
        return max(self.starts()[-1].steps, default=0)

    def _log(self) -> str:
        path = self.folder / "log" / "job.log.0"
        return path.read_text(errors="replace") if path.exists() else ""

    def find(self, rank: int, reader: bool = False) -> int | None:
        """The id of the training process of a rank, or of its reader; None if it does not run."""
        # A reader is started by multiprocessing, with a call of spawn_main.
        program = "spawn_main" if reader else self.kind.script
        for pid, environment, command in marked(self.folder):
            # The command of launch.py names the script, too, but it has no rank.
            rank_of_process = environment.get("PADDLE_TRAINER_ID")
            if self.kind.processes == 1:
                rank_of_process = "0"
            if rank_of_process == str(rank) and program in command:
                return pid
        return None

    def kill_all(self) -> None:
        """Kill all processes of this training."""
        while pids := [pid for pid, _, _ in marked(self.folder)]:
            for pid in pids:
                send(pid, signal.SIGKILL)
            self.process.poll()  # so that it does not remain as a zombie
            time.sleep(0.02)

    def outcome(self) -> dict[str, bytes | list]:
        """The files that must be equal in every run: weights, moments, the reader's state, the records."""
        contents: dict[str, bytes | list] = {}
        for folder in (Path(self.kind.checkpoints, f"step_{STEPS}"), "best", "full", "encoder"):
            for path in (self.output / folder).rglob("*"):
                if path.suffix == ".safetensors" or path.name == "state.json":
                    contents[str(path.relative_to(self.output))] = path.read_bytes()
        for metrics in self.output.glob("metrics.jsonl"):
            lines = metrics.read_text().splitlines()
            # All but the speed.
            contents[metrics.name] = [json.loads(line) | {"tokens_per_second": None} for line in lines]
        return contents


def send(pid: int | None, number: int) -> bool:
    """Send a signal; False if there is no such process."""
    if pid is None:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def marked(folder: Path) -> Iterator[tuple[int, dict[str, str], str]]:
    """Id, environment and command line of each running process that a training in `folder` has started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            entries = (path / "environ").read_text(errors="replace").split("\0")
            if f"{MARK}={folder}" in entries:
                environment = {}
                for entry in entries:
                    name, _, value = entry.partition("=")
                    environment[name] = value
                yield int(path.name), environment, (path / "cmdline").read_text(errors="replace")
        except OSError:  # the process has ended, or belongs to another user
            continue
