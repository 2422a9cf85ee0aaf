"""Kill small trainings and builds of a corpus at random moments, start them again, and compare the results.

The results must be those of an undisturbed run to the last bit, and a training must continue from its newest
checkpoint. Prints a line for each round, and a JSON line at the end. The exit code is 1 if a round failed.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ernie_m.utils.paddle_settings import prepare

prepare()  # before the toys import Paddle

from tests import command_lines, toys
from tests.helpers.processes import MARK, marked
from tests.launching import ROOT, clean_environment
from tests.pretrain import builds

# run_classifier.py with a bug: it finds no checkpoint, and begins from scratch.
FORGETFUL = """
from ernie_m.training import resume
from ernie_m.commands.run_classifier import main
from ernie_m.utils.errors import run
resume.read_last_checkpoint = lambda folder: None
run(main)
"""
OUTPUT = Path("out")  # relative, so that all runs write the same bytes
PATIENCE = 240  # seconds after which a command counts as hanging
TWO_PROCESSES = [str(ROOT / "launch.py"), "--nproc_per_node", "2", "--split_log_path", "log"]


def pretraining(folder: Path, processes: int) -> list[str]:
    """The command of a pre-training on a corpus of three made-up languages."""
    flags = command_lines.pretraining(
        toys.make_small_corpus(folder),
        OUTPUT,
        optimizer__steps=60,
        optimizer__batch_size=16,
        run__save_steps=4,
        run__eval_steps=10,
    )
    return [sys.executable, *TWO_PROCESSES * (processes > 1), str(ROOT / "run_pretrain.py"), *flags]


def finetuning(folder: Path, command: list[str]) -> list[str]:
    """The command of a fine-tuning on a made-up task."""
    data = toys.make_classification(folder, train=480)
    options = {"batch_size": 16, "save_steps": 4, "validation_steps": 10, "keep_checkpoints": 3}
    return [sys.executable, *command, *command_lines.classification(data, OUTPUT, **options)]


def corpus(folder: Path) -> list[str]:
    """The command of a build of a corpus in many units."""
    piece_model = toys.train_piece_model(folder / "piece.model")
    return builds.command(
        OUTPUT, piece_model, builds.make_inputs(folder), workers=2, chunk_mib=1 / 1024, held_out=20
    )


KINDS: dict[str, Callable[[Path], list[str]]] = {
    "pre-training": lambda folder: pretraining(folder, processes=1),
    "fine-tuning": lambda folder: finetuning(folder, [str(ROOT / "run_classifier.py")]),
    "corpus": corpus,
    "pre-training, two processes": lambda folder: pretraining(folder, processes=2),
}


class Failed(Exception):
    """A round did not end as it must."""


def start(command: list[str], folder: Path) -> subprocess.Popen:
    """Start a command in a folder. What it logs is added to log/job.log.0."""
    environment = clean_environment(LOG_DIR="log", **{MARK: str(folder)})
    with open(folder / "output.txt", "ab") as output:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)


def finish(command: list[str], folder: Path) -> None:
    """Run a command to its end.

    Raises:
        Failed: its exit code is not 0.
    """
    code = start(command, folder).wait(PATIENCE)
    if code:
        raise Failed(f"the command ended with {code}")


def kill_all(folder: Path) -> None:
    """Kill all processes that were started in a folder, until none is left."""
    while pids := [pid for pid, _, _ in marked(folder)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint of a run; 0 if it has none."""
    # Not `rglob`, which fails where a folder is renamed meanwhile.
    names = [name for _, folders, _ in os.walk(folder / OUTPUT) for name in folders]
    steps = [name.removeprefix("step_") for name in names if name.startswith("step_")]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def outcome(folder: Path) -> dict[str, object]:
    """What must be equal in every run: arrays, weights, states, manifests, and all records but the speed."""
    contents: dict[str, object] = {}
    for path in sorted((folder / OUTPUT).rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            contents[name] = [line | {"tokens_per_second": None, "teraflops": None} for line in lines]
        elif path.suffix in (".safetensors", ".npy") or path.name in ("state.json", "manifest.json"):
            contents[name] = path.read_bytes()
    return contents


def strike(command: list[str], folder: Path, moment: float, reference: Path, duration: float) -> int:
    """Kill a command at a moment, a share of an undisturbed run, and run it again to its end.

    Returns:
        The step of the checkpoint from which a training went on.

    Raises:
        Failed: it went on from another step than that of the newest checkpoint, or ended with an error.
    """
    last = newest_step(reference)  # 0: a corpus has no steps, and its moment is one of time
    end = time.monotonic() + (PATIENCE if last else moment * duration)
    process = start(command, folder)
    while process.poll() is None and time.monotonic() < end:
        if last and newest_step(folder) >= moment * last:
            break
        time.sleep(0.02)
    kill_all(folder)
    process.wait()
    newest = newest_step(folder)
    log = folder / "log" / "job.log.0"
    said = len(log.read_text()) if log.exists() else 0
    finish(command, folder)
    resumed = re.search(r"resuming from .*step_(\d+)", log.read_text()[said:]) if log.exists() else None
    if newest < last and int(resumed[1] if resumed else 0) != newest:
        raise Failed(f"the newest checkpoint was of step {newest}, it went on from {resumed and resumed[1]}")
    return newest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=40, help="number of rounds, with one kill each")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument(
        "--plant", action="store_true", help="strike a training that begins from scratch: must fail"
    )
    args = parser.parse_args()
    kinds = {"forgetful": lambda folder: finetuning(folder, ["-c", FORGETFUL])} if args.plant else KINDS
    began = time.monotonic()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        undisturbed: dict[str, tuple[list[str], float, dict[str, object]]] = {}
        for number in range(args.rounds):
            kind = list(kinds)[number % len(kinds)]
            reference = Path(root, f"undisturbed-{kind}")
            if kind not in undisturbed:
                data = Path(root, f"data-{kind}")
                data.mkdir()
                reference.mkdir()
                command = kinds[kind](data)
                started = time.monotonic()
                finish(command, reference)
                undisturbed[kind] = (command, time.monotonic() - started, outcome(reference))
            command, duration, expected = undisturbed[kind]
            moment = random.Random(f"{args.seed}/{number}").uniform(0.05, 0.8)
            folder = Path(root, "round")
            folder.mkdir()
            try:
                step = strike(command, folder, moment, reference, duration)
                result = (
                    f"resumed from step {step}, identical"
                    if outcome(folder) == expected
                    else "FAILED: other bits"
                )
            except Failed as failed:
                result = f"FAILED: {failed}"
            kill_all(folder)
            shutil.rmtree(folder)
            counts.update([result.partition(":")[0] if "FAILED" in result else "identical"])
            print(
                f"round {number + 1}, seed {args.seed} | {kind} | killed at {moment:.0%} | {result}",
                flush=True,
            )
    print(json.dumps({"rounds": args.rounds, **counts, "seconds": round(time.monotonic() - began)}))
    return int(counts["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
