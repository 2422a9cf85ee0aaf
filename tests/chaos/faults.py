"""The faults. Each strikes a training, and returns whether there was a process to strike."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.chaos.trainings import Training, send

ROOM = 12 << 10  # the largest file on the full disk, in bytes: a log fits, a checkpoint does not


def _process(one: Training, draw: random.Random, reader: bool = False) -> int | None:
    rank = draw.randrange(one.kind.processes)
    one.until(lambda: one.find(rank, reader))
    return one.find(rank, reader)


def kill(one: Training, draw: random.Random, reader: bool = False) -> bool:
    """Kill the training process or the reader process of any rank."""
    return send(_process(one, draw, reader), signal.SIGKILL)


def interrupt(one: Training, draw: random.Random) -> bool:
    """Send SIGINT to every process of the command, as a terminal does after Ctrl-C."""
    os.killpg(one.process.pid, signal.SIGINT)
    return True


def pause(one: Training, draw: random.Random) -> bool:
    """Stop a training process or a reader for about a second."""
    pid = _process(one, draw, reader=draw.random() < 0.5)
    return send(pid, signal.SIGSTOP) and (time.sleep(draw.uniform(0.5, 1.5)) or send(pid, signal.SIGCONT))


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
    """A fault, the exit code after it (None: the training continues), and the checkpoints it needs."""

    strike: Callable[[Training, random.Random], bool]
    code: int | None
    checkpoints: int = 0


FAULTS = {
    "kill": Fault(kill, -signal.SIGKILL),
    "kill of the reader": Fault(lambda one, draw: kill(one, draw, reader=True), 2),
    "SIGTERM": Fault(lambda one, draw: send(one.process.pid, signal.SIGTERM), 0),
    "Ctrl-C": Fault(interrupt, 130),
    "pause": Fault(pause, None),
    "full disk": Fault(fill_disk, 2),
    "damaged checkpoint": Fault(damage_newest, -signal.SIGKILL, 2),
    "half a checkpoint": Fault(half_written, -signal.SIGKILL, 1),
}
