"""The process that reads the inputs. One that dies or hangs is started again behind the input that did it.

    python -m tests.fuzz.worker FOLDER SEED FIRST LIMIT TARGET ...

LIMIT: "300 inputs" or "20 seconds" for each target. In FOLDER lie: beat (which input is being read),
said.jsonl (what was found), and for each target a folder with the input itself. Started by `tests.fuzz.run`.
"""

import faulthandler
import json
import logging
import mmap
import os
import re
import resource
import signal
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.fuzz.attempt import Outcome, Target, attempt
from tests.fuzz.found import FOUND
from tests.fuzz.mutate import Mutator

BEAT = struct.Struct("<5q")  # target, input, accepted, refused, milliseconds
HARD_LIMIT = (
    6 << 30
)  # bytes of address space beyond what there is: a runaway must not take the machine with it
BYTES_A_BYTE = 64  # of memory for each byte of an input
SMALLER_SECONDS = 3.0
MOST_POOL = 400
STATUS = Path("/proc/self/status")  # of Linux
CLEAR = Path("/proc/self/clear_refs")
LONGEST_SEED = 1 << 15  # bytes of an input that others are made of


class Beat:
    """Numbers that the watching process sees at once."""

    def __init__(self, path: Path):
        with open(path, "r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), BEAT.size)

    def set(self, *numbers: int) -> None:
        BEAT.pack_into(self._bytes, 0, *numbers)


def main(arguments: list[str], targets: Mapping[str, Target]) -> None:
    folder, seed, first, limit, *names = arguments
    folder = Path(folder)
    _set_up(folder)
    beat = Beat(folder / "beat")
    with open(folder / "said.jsonl", "a", encoding="utf-8") as said:
        for number, name in enumerate(names):
            start = int(first) if number == 0 else 0
            done = Work(folder, number, name, targets[name], seed, beat, said).run(start, limit)
            print(json.dumps({"done": name, **done}), file=said, flush=True)


def _set_up(folder: Path) -> None:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    logging.disable(logging.CRITICAL)
    if STATUS.exists():
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + HARD_LIMIT, resource.RLIM_INFINITY))
    os.chdir(folder)


class Work:
    """The inputs of one reader."""

    def __init__(
        self, folder: Path, number: int, name: str, target: Target, seed: str, beat: Beat, said: IO[str]
    ):
        self.name, self.number, self.target, self.beat, self.said = name, number, target, beat, said
        beat.set(number, -1, 0, 0, 0)
        self.folder = folder / name
        self.path = self.folder / self.target.file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        pool = self.target.seeds(self.folder)
        pool += [data for data, _ in FOUND.get(name, {}).values() if len(data) <= LONGEST_SEED]
        self.mutator = Mutator(f"{seed} {name}", pool, self.target.words, self.target.edit)
        self.accepted = self.refused = 0
        self.places: set[tuple[str, ...]] = set()
        self.found: set[tuple] = set()
        for data in pool[:20]:  # what is imported and kept at the first use is no input's memory
            self.give(data)

    def run(self, first: int, limit: str) -> dict:
        """The inputs from number `first` on."""
        count, unit = int(limit.split()[0]), limit.split()[1]
        if unit == "inputs" and self.target.slow:
            count = -(-count // 10)
        started, index = time.monotonic(), first
        while True:
            passed = time.monotonic() - started
            if passed >= count if unit == "seconds" else index >= max(count, self.mutator.given):
                break
            self.beat.set(self.number, index, self.accepted, self.refused, int(1000 * passed))
            data = self.mutator.make(index)
            self.judge(data, self.give(data))
            index += 1
        return {
            "inputs": index - first, "seconds": round(passed, 3), "accepted": self.accepted,
            "refused": self.refused,
        }  # fmt: skip

    def give(self, data: bytes) -> Outcome:
        self.before = _forget_peak()
        self.path.write_bytes(data)
        return attempt(self.target, self.path, self.folder)

    def judge(self, data: bytes, outcome: Outcome) -> None:
        """Count it; keep an input that came to a new place of the code; tell of a fault, once each."""
        self.accepted += outcome.kind == "accepted"
        self.refused += outcome.kind == "refused"
        if outcome.is_fault:
            self.tell(data, outcome)
        elif outcome.place and outcome.place not in self.places and len(data) <= LONGEST_SEED:
            self.places.add(outcome.place)
            if len(self.mutator.pool) < MOST_POOL:
                self.mutator.pool.append(data)
        allowed = (self.target.mib << 20) + BYTES_A_BYTE * len(data)
        grown = _peak() - self.before
        if grown > allowed:
            self.tell(data, Outcome("memory", outcome.place[:1], f"{grown >> 20} MiB for {len(data)} bytes"))

    def tell(self, data: bytes, outcome: Outcome) -> None:
        key = outcome.kind, outcome.place[-2:]
        if key in self.found:
            return
        self.found.add(key)
        if outcome.kind != "memory":
            data = self.smaller(data, key)
        fault = {"fault": self.name, "kind": outcome.kind, "place": outcome.place, "report": outcome.report}
        print(json.dumps({**fault, "data": data.hex()}), file=self.said, flush=True)

    def smaller(self, data: bytes, key: tuple) -> bytes:
        """Leave out what the fault does not need, as far as that is quick."""
        until, size = time.monotonic() + SMALLER_SECONDS, len(data) // 2
        while size and time.monotonic() < until:
            place = 0
            while place < len(data) and time.monotonic() < until:
                fewer = data[:place] + data[place + size :]
                outcome = self.give(fewer)
                if (outcome.kind, outcome.place[-2:]) == key:
                    data = fewer
                else:
                    place += size
            size //= 2
        return data


def _status(name: str) -> int:
    """Bytes, as the system counts them."""
    return int(re.search(rf"{name}:\s*(\d+) kB", STATUS.read_text())[1]) << 10


def _forget_peak() -> int:
    """Let the peak begin anew, where the system allows it; bytes of memory that this process has now."""
    try:
        CLEAR.write_bytes(b"5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> int:
    """Bytes of memory that this process has had at most."""
    if STATUS.exists():  # the other number begins with that of the process that started this one
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    from tests.fuzz.targets import TARGETS

    main(sys.argv[1:], TARGETS)
