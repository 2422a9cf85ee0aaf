"""What can happen to a training: each fault strikes once and sees the training through to its next life."""

import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.training import Training

BEFORE_THE_FIRST_STEP = 0.15  # of the kills and SIGTERMs: while the run starts
FULL_AT = (0, 64 << 10)  # bytes that a file may have: fails at the next record; at the next checkpoint


@dataclass(frozen=True)
class Struck:
    """What became of a fault.

    Args:
        noticed: how the training, or the operator, noticed.
        went_on: from where, or that nothing was lost.
    """

    noticed: str
    went_on: str


Fault = Callable[[Training, random.Random], Struck]


def _restart(training: Training, noticed: str) -> Struck:
    training.start()
    return Struck(noticed, f"from {training.went_on()}")


def _ended(training: Training, codes: tuple[int, ...], line: str = "") -> str:
    """Wait for the end; how it ended, which must be with one of `codes` and an error that has `line`."""
    code = training.wait()
    error = training.error() if code not in (0, -signal.SIGKILL, -signal.SIGTERM) else ""
    assert code in codes or not codes, f"ended with {code}: {error}"
    assert code == 0 or line in error, f"ended with {code}: {error!r}, without {line!r}"
    return f"ended with {code}" + (f": {_short(error, training)}" if error else "")


def _short(line: str, training: Training) -> str:
    return line.replace(f"{training.folder}/", "")[:150]


def _terminate(training: Training) -> str:
    begun = training.steps() > 0 and training.find(0, reader=True) is not None
    training.process.terminate()
    # While it starts it dies of the signal; from its first step on it saves.
    noticed = _ended(training, (0,) if begun and training.processes == 1 else ())
    training.end()
    return noticed


def _rank(training: Training, draw: random.Random) -> int:
    return draw.randrange(training.processes)


def kill_main(training: Training, draw: random.Random) -> Struck:
    """kill -9 of the training process, of any rank."""
    rank = _rank(training, draw)
    found = training.find(rank)
    if found is None:  # it has not started yet: then what starts it
        training.process.kill()
    else:
        found.kill(signal.SIGKILL)
    noticed = _ended(training, ())
    training.end()  # the other ranks, where the launcher itself was killed
    return _restart(training, noticed)


def kill_reader(training: Training, draw: random.Random) -> Struck:
    """kill -9 of the reader process, of any rank."""
    rank = _rank(training, draw)
    training.wait_for(lambda: training.find(rank, reader=True))
    if found := training.find(rank, reader=True):
        found.kill(signal.SIGKILL)
    return _restart(training, _ended(training, _user_error(training), "the reader process was killed by"))


def terminate(training: Training, draw: random.Random) -> Struck:
    """SIGTERM to what the user started."""
    return _restart(training, _terminate(training))


def stop_rank(training: Training, draw: random.Random) -> Struck:
    """SIGSTOP of the training process of any rank; then SIGCONT, or kill -9."""
    rank = _rank(training, draw)
    training.wait_for(lambda: training.find(rank, reader=True))
    if (found := training.find(rank)) is None or not found.kill(signal.SIGSTOP):
        return Struck("it was over", "it was over")
    if training.processes == 1:
        time.sleep(draw.uniform(0.1, 1.0))
        noticed = "not: it is the only process"
    else:
        others = [other for other in range(training.processes) if other != rank]
        before = {other: len(training.log(other)) for other in others}
        noticing = lambda: [n for n in others if "has gone on for" in training.log(n)[before[n] :]]  # noqa: E731
        assert training.wait_for(noticing), "no rank noticed that another one stands still"
        noticed = f"log of rank {noticing()[0]}"
    if draw.random() < 0.5:
        found.kill(signal.SIGCONT)
        return Struck(noticed, "it went on after SIGCONT")
    found.kill(signal.SIGKILL)
    training.wait()
    return _restart(training, f"{noticed}; kill -9")


def stop_reader(training: Training, draw: random.Random) -> Struck:
    """SIGSTOP of the reader process of any rank; then SIGCONT, or kill -9."""
    rank = _rank(training, draw)
    training.wait_for(lambda: training.find(rank, reader=True))
    before = len(training.log(rank))
    if (found := training.find(rank, reader=True)) is None or not found.kill(signal.SIGSTOP):
        return Struck("it was over", "it was over")
    noticing = lambda: "has waited" in training.log(rank)[before:]  # noqa: E731
    if not training.wait_for(noticing):
        return Struck("not: everything was read already", "it came to its end")
    if draw.random() < 0.5:
        found.kill(signal.SIGCONT)
        return Struck(f"log of rank {rank}", "it went on after SIGCONT")
    found.kill(signal.SIGKILL)
    noticed = _ended(training, _user_error(training), "the reader process was killed by")
    return _restart(training, f"log of rank {rank}; kill -9: {noticed}")


def fill_disk(training: Training, draw: random.Random) -> Struck:
    """No file of the main process can grow any more, or none past 64 KiB; then there is room again."""
    found = training.find(0)
    if found is None:
        return Struck("it was over", "it was over")
    limit = draw.choice(FULL_AT)
    hard = resource.prlimit(found.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(found.pid, resource.RLIMIT_FSIZE, (limit, hard))
    # Its stderr is a file, too, which may be as full.
    said = "no space left" if limit else ""
    return _restart(training, _ended(training, _user_error(training), said))


def flip_shard(training: Training, draw: random.Random) -> Struck:
    """One bit of a shard; then the operator puts the shard back."""
    path = _shard(training, draw, ".ids.npy")  # of the other files some are read at the start only
    flip(path, draw)
    name = str(path.relative_to(training.corpus))
    if not training.wait_for(lambda: not training.runs, seconds=8):
        kill_and_wait(training)  # the page was not read yet: look at all of them
    if training.process.returncode == 0:
        noticed = "not: the run ended before it read there"
    elif "differ from their checksum" in training.error():
        noticed = f"ended with {training.process.returncode}: {_short(training.error(), training)}"
    else:
        line = training.refused("--data.verify", "true")
        assert name in line and "SHA-256" in line, line
        noticed = f"data.verify: {_short(line, training)}"
    assert name.rsplit(".", 2)[0] in noticed or "not:" in noticed, f"{name}: {noticed}"
    shutil.copyfile(training.whole_corpus / name, path)
    return _restart(training, noticed)


def remove_shard(training: Training, draw: random.Random) -> Struck:
    """A shard's file is deleted and the run killed; then the operator puts the shard back."""
    path = _shard(training, draw, ".npy")
    path.unlink()
    kill_and_wait(training)
    line = training.refused()
    assert f"{path}: missing" in line, line
    shutil.copyfile(training.whole_corpus / path.relative_to(training.corpus), path)
    return _restart(training, f"refused at the start: {_short(line, training)}")


def flip_checkpoint(training: Training, draw: random.Random) -> Struck:
    """The run is killed, and one bit of its newest checkpoint is another one."""
    return _damage_checkpoint(training, draw, lambda path: flip(path, draw))


def cut_checkpoint(training: Training, draw: random.Random) -> Struck:
    """The run is killed, and a file of its newest checkpoint is gone."""
    return _damage_checkpoint(training, draw, Path.unlink)


def second_run(training: Training, draw: random.Random) -> Struck:
    """The same command while the run goes on."""
    code, line = training.attempt()
    if code == 0:
        assert not training.runs, "two runs at a time in one folder"
        return Struck("not: the first one had ended", "the first one was not disturbed")
    assert "another run is at work there" in line, line
    return Struck(f"refused: {_short(line, training)}", "the first one was not disturbed")


def change_processes(training: Training, draw: random.Random) -> Struck:
    """SIGTERM, and another number of processes from there on."""
    noticed = _terminate(training)
    training.processes = 3 - training.processes
    struck = _restart(training, noticed)
    return Struck(struck.noticed, f"{struck.went_on}, as {training.processes}")


KINDS: dict[str, Fault] = {
    "kill -9, training process": kill_main,
    "kill -9, reader": kill_reader,
    "SIGTERM": terminate,
    "SIGSTOP, training process": stop_rank,
    "SIGSTOP, reader": stop_reader,
    "full disk": fill_disk,
    "flipped bit, shard": flip_shard,
    "removed file, shard": remove_shard,
    "flipped bit, checkpoint": flip_checkpoint,
    "removed file, checkpoint": cut_checkpoint,
    "second run in the folder": second_run,
}
CHANGE = "number of processes"
AT_ANY_TIME = ("kill -9, training process", "SIGTERM")  # while the run starts, too


def kill_and_wait(training: Training) -> None:
    """kill -9 of rank 0, and what that leaves."""
    if found := training.find(0):
        found.kill(signal.SIGKILL)
    training.wait()
    training.end()


def flip(path: Path, draw: random.Random) -> None:
    """Turn one bit of a file, in place."""
    place, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def _damage_checkpoint(training: Training, draw: random.Random, damage: Callable[[Path], None]) -> Struck:
    kill_and_wait(training)
    *earlier, newest = training.checkpoints()
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.name != "README.md")
    path = draw.choice(files)
    damage(path)
    struck = _restart(training, f"passed over: {path.relative_to(newest)} of {newest.name}")
    assert struck.went_on == f"from {earlier[-1].name}" or path.name == "manifest.json", struck
    return struck


def _shard(training: Training, draw: random.Random, ending: str) -> Path:
    return draw.choice(sorted(training.corpus.glob(f"*/*/train-*{ending}")))


def _user_error(training: Training) -> tuple[int, ...]:
    # What paddle's launcher makes of a process that ended with 2 is its own affair. 0: the run was over.
    return (0, 2) if training.processes == 1 else ()
