"""Strike small trainings with random faults, and compare their results with those of undisturbed trainings.

Prints one line for each round, and a JSON line at the end. The exit code is 1 if a round failed. See
docs/reliability.md.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.chaos.trainings import BATCH, KINDS, SAVE_STEPS, STEPS, Failed, Training, send

ROOM = 12 << 10  # the largest file on the full disk, in bytes: a log fits, a checkpoint does not


def kill(one: Training, draw: random.Random, reader: bool = False) -> bool:
    """Kill the training process or the reader process of any rank. False: it has ended."""
    rank = draw.randrange(one.kind.processes)
    one.until(lambda: one.find(rank, reader))
    return send(one.find(rank, reader), signal.SIGKILL)


def interrupt(one: Training, draw: random.Random) -> bool:
    """Send SIGINT to every process of the command, as a terminal does after Ctrl-C."""
    os.killpg(one.process.pid, signal.SIGINT)
    return True


def fill_disk(one: Training, draw: random.Random) -> bool:
    """Limit the files of the main process to `ROOM`; the next start has no limit."""
    if pid := one.find(0):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (ROOM, hard))
    return pid is not None


def damage_newest(one: Training, draw: random.Random) -> bool:
    """Kill the training; then flip a bit in a file of the newest checkpoint, truncate it or remove it."""
    if struck := kill(one, draw):
        one.wait()
        one.damaged, newest = list(one.checkpoints().items())[-1]
        path = draw.choice(sorted(newest.rglob("*.safetensors")))
        data = bytearray(path.read_bytes())
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        path.unlink()
        if draw.random() < 0.7:
            path.write_bytes(data[: draw.choice([place, len(data)])])
    return struck


def half_written(one: Training, draw: random.Random) -> bool:
    """Kill the training, and leave an unfinished checkpoint folder with a temporary name."""
    if struck := kill(one, draw):
        one.wait()
        newest = list(one.checkpoints().values())[-1]
        half = newest.with_name(f".{newest.name}9.tmp-{one.process.pid}")
        shutil.copytree(newest, half)
        for path in half.rglob("*.safetensors"):
            os.truncate(path, path.stat().st_size // 2)
    return struck


class Fault(NamedTuple):
    """A fault, the exit code after it, and the checkpoints it needs."""

    strike: Callable[[Training, random.Random], bool]
    code: int
    checkpoints: int = 0


FAULTS = {
    "kill": Fault(kill, -signal.SIGKILL),
    "kill of the reader": Fault(lambda one, draw: kill(one, draw, reader=True), 2),
    "SIGTERM": Fault(lambda one, draw: send(one.process.pid, signal.SIGTERM), 0),
    "Ctrl-C": Fault(interrupt, 130),
    "full disk": Fault(fill_disk, 2),
    "damaged checkpoint": Fault(damage_newest, -signal.SIGKILL, 2),
    "half a checkpoint": Fault(half_written, -signal.SIGKILL, 1),
}


def run_rounds(folder: Path, seed: int, rounds: int) -> Counter:
    """All rounds of a seed, with their files in `folder`: how often each fault and each result occurred."""
    undisturbed, found = [], Counter()
    for number, make in enumerate(KINDS[:rounds]):
        (data := folder / f"data-{number}").mkdir()
        with Training(make(data), folder / f"undisturbed-{number}") as one:
            one.start()
            code = one.wait()
            if code or sorted(one.lives()[0][1]) != list(range(1, STEPS + 1)):
                raise RuntimeError(f"an undisturbed training ended with {code}: see {one.folder}")
        undisturbed.append(one)
    for number in range(rounds):
        whole = undisturbed[number % len(KINDS)]
        draw, began = random.Random(f"{seed}/{number}"), time.monotonic()
        fault, why = draw.choice(list(FAULTS)), ""
        with Training(whole.kind, folder / f"round-{number + 1}") as one:
            try:
                in_time = strike(one, FAULTS[fault], draw)
                result = "identical" if in_time else "identical, the fault came too late"
                compare(whole, one)
                shutil.rmtree(one.folder)
            except Failed as failed:
                result, why = "FAILED", f": {failed} ({one.folder})"
        print(
            f"round {number + 1}, seed {seed} | {one.kind.name} | {fault} at step {one.struck_at} "
            f"| {result}{why} | {time.monotonic() - began:.0f} s", flush=True,
        )  # fmt: skip
        found.update([fault, result])
    return found


def strike(one: Training, fault: Fault, draw: random.Random) -> bool:
    """Start a training, strike it, and give the same command again.

    Returns:
        False if the training ended before the fault.

    Raises:
        Failed: the training did not continue as it must.
    """
    moment = draw.randrange(STEPS - 4)
    one.start()
    one.until(lambda: one.last_step() >= moment and len(one.checkpoints()) >= fault.checkpoints)
    time.sleep(draw.uniform(0, 0.1 if moment else 3))
    one.struck_at = one.last_step()
    struck = one.process.poll() is None and fault.strike(one, draw)
    code, last, newest = one.wait(), one.last_step(), max(one.checkpoints(), default=0)
    if not struck or (code == 0 and last == STEPS):
        return False
    # Before its first step a training may not handle signals yet, and a launcher has its own exit codes.
    if one.struck_at and one.kind.processes == 1 and code != fault.code:
        raise Failed(f"it ended with {code} instead of {fault.code}")
    one.start()
    code, (start, _) = one.wait(), one.lives()[-1]
    if start != newest:
        raise Failed(f"the newest checkpoint was of step {newest}, it went on from step {start}")
    if last - start > SAVE_STEPS * (2 if one.damaged else 1):
        raise Failed(f"steps {start + 1} to {last} were done twice, with a checkpoint every {SAVE_STEPS}")
    if code:
        raise Failed(f"the last start ended with {code}")
    return True


def compare(undisturbed: Training, one: Training) -> None:
    """Compare steps, losses and files with those of an undisturbed training.

    Raises:
        Failed: they differ.
    """
    (_, expected), lives = undisturbed.lives()[0], one.lives()
    # The steps of each start count up to the step from which the next start continues.
    ends = [start for start, _ in lives[1:]] + [STEPS]
    counted = Counter(step for (_, steps), end in zip(lives, ends) for step in steps if step <= end)
    lost, repeated = len(expected.keys() - counted.keys()), counted.total() - len(counted)
    if lost or repeated:
        raise Failed(f"{BATCH * lost} samples lost, {BATCH * repeated} repeated")
    for step, text in ((step, text) for _, steps in lives for step, text in steps.items()):
        if text != expected[step]:
            raise Failed(f"step {step} was '{text}' instead of '{expected[step]}'")
    ours, theirs = undisturbed.outcome(), one.outcome()
    if different := [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]:
        raise Failed(f"other contents: {', '.join(different)}")
    if left := [path.name for path in one.output.rglob(".*") if path.name != ".lock"]:
        raise Failed(f"left behind: {', '.join(left)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=50, help="number of rounds, with one fault each")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and their moments")
    args = parser.parse_args()
    folder, began = Path(tempfile.mkdtemp(prefix="chaos-")), time.monotonic()
    found = run_rounds(folder, args.seed, args.rounds)
    if not found["FAILED"]:
        shutil.rmtree(folder)
    print(json.dumps({"rounds": args.rounds, **found, "seconds": round(time.monotonic() - began)}))
    return int(found["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
