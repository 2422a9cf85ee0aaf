"""What happens to a training. Each fault returns whether there was anything to strike."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.chaos.trainings import Training, send

ROOM = 12 << 10  # bytes that a file may have on the full disk: enough for a log, not for a checkpoint


def _process(one: Training, draw: random.Random, reader: bool = False) -> int | None:
    rank = draw.randrange(one.kind.processes)
    one.until(lambda: one.find(rank, reader))
    return one.find(rank, reader)


def kill(one: Training, draw: random.Random, reader: bool = False) -> bool:
    """kill -9 of the training process, or the reader process, of any rank."""
    return send(_process(one, draw, reader), signal.SIGKILL)


def interrupt(one: Training, draw: random.Random) -> bool:
    """Ctrl-C: SIGINT to every process of the command, as a terminal sends it."""
    os.killpg(one.process.pid, signal.SIGINT)
    return True


def pause(one: Training, draw: random.Random) -> bool:
    """SIGSTOP of a training process or a reader, and SIGCONT after a second."""
    pid = _process(one, draw, reader=draw.random() < 0.5)
    return send(pid, signal.SIGSTOP) and (time.sleep(draw.uniform(0.5, 1.5)) or send(pid, signal.SIGCONT))


def fill_disk(one: Training, draw: random.Random) -> bool:
    """No file of the main process can grow past `ROOM`; for the next start there is room again."""
    if pid := one.find(0):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (ROOM, hard))
    return pid is not None


def damage_newest(one: Training, draw: random.Random) -> bool:
    """kill -9, and a file of the newest checkpoint has another bit, is cut short, or is gone."""
    if struck := kill(one, draw):
        one.wait()
        step, newest = list(one.checkpoints().items())[-1]
        path = draw.choice(sorted(newest.rglob("*.safetensors")))
        data = bytearray(path.read_bytes())
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        path.unlink()
        if draw.random() < 0.7:
            path.write_bytes(data[: draw.choice([place, len(data)])])
        one.damaged = step
    return struck


def half_written(one: Training, draw: random.Random) -> bool:
    """kill -9, which leaves a checkpoint folder with a part of its files and a temporary name."""
    if struck := kill(one, draw):
        one.wait()
        newest = list(one.checkpoints().values())[-1]
        half = newest.with_name(f".{newest.name}9.tmp-{one.process.pid}")
        shutil.copytree(newest, half)
        for path in half.rglob("*.safetensors"):
            os.truncate(path, path.stat().st_size // 2)
    return struck


class Fault(NamedTuple):
    """`code`: what one process ends with, None: it goes on; `checkpoints`: that have to be there before."""

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
