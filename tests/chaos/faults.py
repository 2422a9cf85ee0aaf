"""The faults: each strikes a running training."""

import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass

from ernie_m.utils.files import host_name
from tests.chaos.trainings import SAVE_STEPS, STEPS, Training, send

ROOM = 12 << 10  # the largest file on the full disk, in bytes: a log fits, a checkpoint does not


@dataclass(frozen=True)
class Fault:
    """A fault, and what it needs and causes.

    Attributes:
        strike: strikes a training, with a random generator. Returns False if the training has ended before.
        code: the exit code of a training of one process after the fault.
        checkpoints: how many the training must have before the fault; with one, the next start resumes.
        before: the fault strikes before this step.
    """

    strike: Callable[[Training, random.Random], bool]
    code: int
    checkpoints: int = 1
    before: int = STEPS - SAVE_STEPS


def kill(training: Training, draw: random.Random) -> bool:
    """Kill the training process of a rank."""
    return _kill(training, draw.randrange(training.kind.processes))


def kill_reader(training: Training, draw: random.Random) -> bool:
    """Kill the reader process of a rank."""
    return _kill(training, draw.randrange(training.kind.processes), reader=True)


def _kill(training: Training, rank: int, reader: bool = False) -> bool:
    """Wait for the process of a rank, or for its reader, and kill it."""
    training.until(lambda: training.find(rank, reader))
    return send(training.find(rank, reader), signal.SIGKILL)


def kill_command(training: Training, draw: random.Random) -> bool:
    """Kill the command. With several processes it is launch.py, and the processes must end by themselves."""
    return send(training.process.pid, signal.SIGKILL)


def terminate(training: Training, draw: random.Random) -> bool:
    """Send SIGTERM to the command."""
    return send(training.process.pid, signal.SIGTERM)


def interrupt(training: Training, draw: random.Random) -> bool:
    """Send SIGINT to every process of the command, as a terminal does after Ctrl-C."""
    os.killpg(training.process.pid, signal.SIGINT)
    return True


def fill_disk(training: Training, draw: random.Random) -> bool:
    """Limit the files of the main process to `ROOM`; the next start has no limit."""
    pid = training.find(rank=0)
    if pid is None:
        return False
    _, hard_limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (ROOM, hard_limit))
    return True


def damage_newest(training: Training, draw: random.Random) -> bool:
    """Kill the training; then flip a bit in a file of the newest checkpoint, truncate it or remove it."""
    if not kill(training, draw):
        return False
    training.wait()
    checkpoints = training.checkpoints()
    training.damaged = max(checkpoints)
    newest = checkpoints[training.damaged]
    path = draw.choice(sorted(newest.rglob("*.safetensors")))
    data = bytearray(path.read_bytes())
    position = draw.randrange(len(data))
    damage = draw.choice(["flip", "truncate", "remove"])
    if damage == "flip":
        data[position] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:position])
    else:
        path.unlink()
    return True


def leave_half_a_checkpoint(training: Training, draw: random.Random) -> bool:
    """Kill the training, and leave an unfinished checkpoint folder with a temporary name."""
    if not kill(training, draw):
        return False
    training.wait()
    checkpoints = training.checkpoints()
    newest = checkpoints[max(checkpoints)]
    # The name under which a later step, such as 89 after 8, would be written before it is renamed.
    unfinished = newest.with_name(f".{newest.name}9.tmp-{training.process.pid}-{host_name()}-0123abcd")
    shutil.copytree(newest, unfinished)
    for path in unfinished.rglob("*.safetensors"):
        os.truncate(path, path.stat().st_size // 2)
    return True


FAULTS = {
    "kill": Fault(kill, -signal.SIGKILL),
    # The reader is many of these small steps ahead. Later it has read all of them, and nobody needs it.
    "kill of the reader": Fault(kill_reader, 2, before=SAVE_STEPS + 2),
    "kill of the command": Fault(kill_command, -signal.SIGKILL),
    "SIGTERM": Fault(terminate, 0),
    "Ctrl-C": Fault(interrupt, 130),
    "full disk": Fault(fill_disk, 2),
    "damaged checkpoint": Fault(damage_newest, -signal.SIGKILL, checkpoints=2),
    "half a checkpoint": Fault(leave_half_a_checkpoint, -signal.SIGKILL),
}
